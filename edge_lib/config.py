"""Every parameter of an experiment, typed: YAML in, one validated `ExperimentConfig` out.

A config file may start from another (`extends: base.yaml`, relative to itself) and the command
line may change single keys (`overrides="train.lr=3e-4 vision.pooler=attention"`). OmegaConf reads
and merges; pydantic checks. Anything wrong raises one `ConfigError` that names the file, the dotted
key, what is allowed and the nearest spelling.
"""

import difflib
import hashlib
import shlex
from functools import reduce
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

ROOT = Path(__file__).resolve().parents[1]


class ConfigError(ValueError):
    """A config that cannot be used; the message says where and what is allowed."""


def from_root(path: str | Path) -> Path:
    """Resolve against the repository root: papermill and JupyterLab differ in working directory."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def relative_to_root(path: Path) -> str:
    """The portable spelling of a path, so that a config's hash is the same in every checkout."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


RepoPath = Annotated[Path, AfterValidator(from_root), PlainSerializer(relative_to_root)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the config; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class ScenesConfig(Section):
    """The embedded handwritten-digit scenes; sizes count rows, four twins to a group."""

    train_size: Positive = 8000
    val_size: Positive = 2000
    test_size: Positive = 2000
    swap_size: Positive = Field(500, description="pairs of the swap probe")
    max_objects: Annotated[int, Field(ge=1, le=9)] = 4
    seed: int = 0


class ParquetConfig(Section):
    """Parquet files in PixMo's shape: an image column (bytes or {bytes, path}) and a caption."""

    train: list[str]
    val: list[str]
    test: list[str]
    image_column: str = "image"
    caption_column: str = "caption"
    id_column: str | None = None


class DataConfig(Section):
    source: Literal["scenes", "parquet"] = "scenes"
    scenes: ScenesConfig = ScenesConfig()
    parquet: ParquetConfig | None = None
    cache_dir: RepoPath = Path("runs/cache")
    hard_negatives: bool = Field(False, description="training batches hold whole twin groups")

    @model_validator(mode="after")
    def _source_is_described(self):
        if self.source == "parquet" and self.parquet is None:
            raise ValueError("source 'parquet' needs a data.parquet section with its files")
        return self


class ModalityConfig(Section):
    """A frozen encoder and the head trained on it."""

    encoder: str = Field(description="a shipped name, a local folder, or a hub name")
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    augment: bool = Field(False, description="random crops; needs features.online")
    pooler: Literal["pooled", "mean", "cls", "attention", "perceiver"] = "pooled"
    num_latents: Positive = 8
    num_layers: Positive = 1
    num_heads: Positive = 4
    width: Positive = Field(256, description="of the pooler and of the MLP adapter")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.pooler in ("attention", "perceiver") and self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class LossConfig(Section):
    """Matryoshka InfoNCE: the largest dim is the width of the shared embedding."""

    dims: list[Positive] = [256, 128, 64, 32, 16, 8]
    weights: list[float] | None = None
    sample_single_dim: bool = False
    chunk: Positive | None = Field(None, description="rows of the similarity matrix at a time")
    temperature: Annotated[float, Field(gt=0)] = Field(0.07, description="initial 1/logit_scale")

    @model_validator(mode="after")
    def _dims_and_weights_agree(self):
        if not self.dims or len(set(self.dims)) != len(self.dims):
            raise ValueError("dims must be a list of different sizes")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"{len(self.weights)} weights for {len(self.dims)} dims")
        return self


class FeaturesConfig(Section):
    """How frozen encoders are run, and what of them is kept."""

    online: bool = Field(False, description="encode in every step instead of storing")
    batch_size: Positive = 128
    shard_rows: Positive = 4096
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    dtype: Literal["float16", "float32"] = "float16"
    num_workers: Count = 0
    max_gb: Annotated[float, Field(gt=0)] = Field(100.0, description="refuse larger token stores")
    on_device: bool = Field(False, description="keep the whole store in accelerator memory")


class TrainConfig(Section):
    """One loop for every model. `batch_size` counts rows over all processes."""

    epochs: Positive = 10
    max_steps: Positive | None = None
    batch_size: Annotated[int, Field(ge=2)] = 256
    lr: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup: Fraction = Field(0.05, description="share of all steps")
    clip: Annotated[float, Field(gt=0)] = 1.0
    accumulation: Positive = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eval_every: Positive = 100
    checkpoint_every: Positive = 100
    keep_checkpoints: Positive = 2
    log_every: Positive = 10
    num_workers: Count = 0
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"


class LaunchConfig(Section):
    num_processes: Positive = 1
    num_nodes: Positive = 1
    node_rank: Count = 0
    rdzv_endpoint: str = "localhost:0"


class EvaluateConfig(Section):
    ks: list[Positive] = [1, 5, 10]
    bootstrap: Positive = 1000
    tsne_rows: Positive = 400
    tsne_perplexity: Annotated[float, Field(gt=1)] = 30.0


class BackboneConfig(Section):
    """The tiny vision backbone that 00_backbones trains from scratch."""

    output: RepoPath = Path("edge_lib/assets/tiny-resnet")
    widths: list[Positive] = Field([32, 64, 128], description="channels, stage by stage")
    blocks: Positive = Field(1, description="residual blocks a stage")


class ExperimentConfig(Section):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    seed: Count = 0
    data: DataConfig = DataConfig()
    vision: ModalityConfig | None = None
    text: ModalityConfig | None = None
    backbone: BackboneConfig | None = None
    loss: LossConfig = LossConfig()
    features: FeaturesConfig = FeaturesConfig()
    train: TrainConfig = TrainConfig()
    launch: LaunchConfig = LaunchConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _store_or_online(self):
        for name, modality in self.modalities.items():
            if modality.augment and not self.features.online:
                raise ValueError(
                    f"{name}.augment changes pixels in every step, which a feature store cannot: "
                    "set features.online=true"
                )
        if self.train.num_workers and (self.features.online or self.features.on_device):
            raise ValueError(
                "train.num_workers must be 0 with features.online or features.on_device: "
                "batches are then made on the accelerator"
            )
        return self

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        """The modalities this experiment uses, by name."""
        named = {"vision": self.vision, "text": self.text}
        return {name: config for name, config in named.items() if config}

    def to_yaml(self) -> str:
        """The resolved config, less what differs between the nodes of one run."""
        ours = self.model_dump(mode="json", exclude={"launch": {"node_rank", "rdzv_endpoint"}})
        return yaml.safe_dump(ours, sort_keys=False)

    def digest(self) -> str:
        """Eight hex digits that name this config: equal configs share a run folder."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()[:8]


def load_config(path: str | Path, overrides: str = "") -> ExperimentConfig:
    """Read `path`, what it extends, and dotlist `overrides` on top. Raises ConfigError."""
    layers = _read_layers(from_root(path))
    if overrides:
        layers.append(("overrides", _parse_overrides(overrides)))
    merged = reduce(_merge, (OmegaConf.to_container(layer) for _, layer in layers))
    try:
        values = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except OmegaConfBaseException as error:  # a ${reference} that leads nowhere
        raise ConfigError(f"{layers[-1][0]}: {error.full_key}: {error.msg}") from None
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem, layers) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _read_layers(path: Path, seen: tuple[Path, ...] = ()) -> list:
    """[(file name, its content)], the most basic file first."""
    if path in seen:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(map(str, seen))}")
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; beside it: {siblings or 'nothing'}"
        raise ConfigError(f"{path}: no such config file{hint}")
    try:
        content = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{path}: expected keys and values at the top level")
    parent = content.pop("extends", None)
    if not isinstance(parent, str | None):
        raise ConfigError(f"{path}: extends: expected the name of one file, got {parent!r}")
    below = _read_layers((path.parent / parent).resolve(), (*seen, path)) if parent else []
    return [*below, (str(path), content)]


def _merge(below: dict, above: dict) -> dict:
    """Deep merge. Unlike OmegaConf's it lets a list replace a section, for pydantic to name it."""
    both = {k for k in below.keys() & above.keys() if isinstance(below[k], dict)}
    nested = {k: _merge(below[k], above[k]) for k in both if isinstance(above[k], dict)}
    return {**below, **above, **nested}


def _parse_overrides(overrides: str):
    try:
        words = shlex.split(overrides)
        for word in words:
            if "=" not in word:
                raise ValueError(f"{word!r} is not of the form dotted.key=value")
        return OmegaConf.from_dotlist(words)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"overrides: {error}") from None


def _explain(problem: dict, layers: list) -> str:
    """One line for one pydantic error: origin, dotted key, what is wrong, the nearest spelling."""
    *parents, last = problem["loc"] or ("",)
    key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
    files = [layer for layer in layers if layer[0] != "overrides"]
    holders = (name for name, layer in reversed(layers) if _has(layer, problem["loc"]))
    origin = next(holders, files[-1][0])
    if problem["type"] != "extra_forbidden":
        # a section's own check says what it minds; its whole content would drown that
        given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
        return f"{origin}: {key}: {problem['msg']}{given}"
    allowed = sorted(_section(parents).model_fields)
    near = difflib.get_close_matches(str(last), allowed, n=1)
    hint = f"did you mean {'.'.join([*map(str, parents), near[0]])!r}? " if near else ""
    return f"{origin}: {key}: unknown key; {hint}allowed here: {', '.join(allowed)}"


def _has(layer, loc: tuple) -> bool:
    for part in loc:
        if not OmegaConf.is_dict(layer) or part not in layer:
            return OmegaConf.is_list(layer)
        layer = layer[part]
    return True


def _section(path: list) -> type[Section]:
    """The section class that the dotted `path` leads to."""
    section = ExperimentConfig
    for part in path:
        kind = section.model_fields[part].annotation
        choices = (kind, *get_args(kind))
        section = next(c for c in choices if isinstance(c, type) and issubclass(c, Section))
    return section
