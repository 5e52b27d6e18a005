"""The vision-language model: soft tokens from a frozen aligner, for a frozen language model.

1. `Chat` turns messages into token ids; an `<image>` becomes as many ids as it has soft tokens.
2. `embed` looks up the words and puts projected vectors in place of `<image>` and `<audio>`.
3. Projectors and adapters are trained; a checkpoint holds them and leaves out what is frozen.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

from edge_lib.config import ConfigError, VLMModelConfig
from edge_lib.config.language import LanguageConfig
from edge_lib.config.vlm import INPUT_KINDS
from edge_lib.data.chat import Chat
from edge_lib.data.chat_batches import ChatBatch
from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.features.weights import check_weights, weights_digest
from edge_lib.models.card import Backbone, count_parameters
from edge_lib.models.generation import GenerationMixin
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.models.saving import PretrainedModel, read_weights
from edge_lib.nn.decoders.language import load_language, load_tokenizer, supervised_loss
from edge_lib.nn.projectors import Projector
from edge_lib.runs.tensors import save_tensors

TRAINING = {"language": {"gradient_checkpointing"}}  # keys that a trained model does not need
Prefixes = dict[str, EncoderOutput | MultimodalOutput]


class VLM(PretrainedModel, GenerationMixin, nn.Module):
    """Frozen sources, a projector for each placeholder, a language model with adapters.

    Example:
        >>> model = VLM.from_pretrained("runs/06_vlm-tiny-1a2b3c4d/lora/checkpoints/best")
        >>> model.generate("where is the red three?", image)
        'top-left'
    """

    FILE, TASK = "vlm.json", "image-text-to-text"
    example = "model.generate(prompt, image)  # str"

    def __init__(
        self,
        prefix_sources: PrefixSources,
        config: VLMModelConfig,
        shapes: dict[str, tuple[int, int]],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        """shapes: number (L) and width (D) of each placeholder's vectors."""
        super().__init__()
        self.config, self.shapes, self.prefix_sources = config, shapes, prefix_sources
        self.language = load_language(config.language)
        self.language_digest = weights_digest(*_backbone(config.language))
        words = self.language.get_input_embeddings().weight
        scale = words.float().std().item()
        projectors = {
            name: Projector.from_config(config.projector, width, words.shape[1], scale)
            for name, (_, width) in shapes.items()
        }
        self.projectors = nn.ModuleDict(projectors)
        counts = {name: n * self.projectors[name].num_tokens for name, (n, _) in shapes.items()}
        tokenizer = tokenizer or load_tokenizer(config.language)
        self.chat = Chat(tokenizer, counts, config.max_length, config.system)
        if config.language.device_map is not None:
            self.prefix_sources.to(self.device)
            self.projectors.to(self.device)
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_expect_no_frozen)

    @classmethod
    def new(
        cls, prefix_sources: PrefixSources, config: VLMModelConfig, examples: Prefixes
    ) -> "VLM":
        """An untrained model. examples: features of at least one item for each placeholder, from
        which the shapes are taken.
        """
        input_kind, sources = INPUT_KINDS[config.projector.kind], config.prefix_sources
        vectors = {
            name: prefix_sources.vectors(sources[name], input_kind, features)[0]
            for name, features in examples.items()
        }
        return cls(
            prefix_sources, config, {name: tuple(x.shape[1:]) for name, x in vectors.items()}
        )

    @property
    def device(self) -> torch.device:
        """The device of the word embeddings, where token ids must be."""
        return self.get_input_embeddings().weight.device

    @property
    def _no_split_modules(self) -> list[str]:
        """Class names of layers that are sharded as one (Accelerate reads this)."""
        return [*self.language._no_split_modules]

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings, which may be tied to the head (Accelerate reads both)."""
        return self.language.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    def to(self, *args, **options) -> "VLM":
        """Move to a device, unless `device_map` spread the language model over several."""
        if len(set(getattr(self.language, "hf_device_map", {}).values())) > 1:
            return self
        return super().to(*args, **options)

    def train_adapters(self, trained: bool) -> None:
        """Whether the adapters are trained, in addition to the projectors."""
        for name, parameter in self.language.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(trained)

    def forward(self, batch: ChatBatch) -> Tensor:
        """Mean cross-entropy () of the assistant tokens; logits are computed for no others."""
        embedded, mask = self.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
        inputs = self.language_inputs(embedded, mask)
        loss = supervised_loss(self.language, batch.labels, **inputs)
        # DDP expects a gradient of every projector, although a batch may have no image or no clip
        unused = [
            parameter.sum()
            for name, projector in self.projectors.items()
            if name not in batch.prefixes
            for parameter in projector.parameters()
        ]
        return (loss.to(self.device) + 0 * sum(unused)) / batch.tokens

    def embed(self, ids: Tensor, mask: Tensor, prefixes: Prefixes) -> tuple[Tensor, Tensor]:
        """Token ids (B, S), mask (B, S) False on padding, and the features of the placeholders'
        items, in order -> vectors (B, S, W), mask (B, S) that is False on padded soft tokens too.
        """
        soft = {name: self.soft_tokens(name, features) for name, features in prefixes.items()}
        return self.embed_soft_tokens(ids, mask, soft)

    def embed_soft_tokens(
        self, ids: Tensor, mask: Tensor, soft: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """`embed`, for the items' soft tokens (N, T, W) and their mask (N, T) by placeholder."""
        positions = {name: ids == token for name, token in self.chat.placeholders.items()}
        words = ids.masked_fill(torch.stack([*positions.values()]).any(0), 0)
        embedded = self.get_input_embeddings()(words)
        for name, position in positions.items():
            if not position.any() and name not in soft:
                continue
            if name not in soft:
                raise ValueError(f"<{name}> without {name}")
            tokens, valid = soft[name]
            if valid.numel() != position.sum():
                count = int(position.sum()) // valid.shape[1]
                raise ValueError(f"{len(valid)} of {name} for {count} placeholders <{name}>")
            embedded = embedded.masked_scatter(position[..., None], tokens.to(embedded))
            mask = mask.masked_scatter(position, valid.to(mask.device))
        return embedded, mask

    def soft_tokens(
        self, name: str, features: EncoderOutput | MultimodalOutput
    ) -> tuple[Tensor, Tensor]:
        """Features of N items -> soft tokens (N, T, W) and their mask (N, T)."""
        projector, source = self.projectors[name], self.config.prefix_sources[name]
        vectors, mask = self.prefix_sources.vectors(source, projector.input_kind, features)
        missing = self.shapes[name][0] - vectors.shape[1]
        if missing < 0:
            raise ValueError(
                f"{vectors.shape[1]} vectors for <{name}>, at most {self.shapes[name][0]} fit"
            )
        vectors, mask = F.pad(vectors, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        tokens = projector(vectors.to(next(projector.parameters()).dtype))
        return tokens, mask.repeat_interleave(projector.num_tokens, 1)

    def language_inputs(
        self, embedded: Tensor, mask: Tensor, cache: DynamicCache | None = None
    ) -> dict:
        """Arguments of the language model for vectors (B, S, W) and mask (B, S)."""
        return {
            "inputs_embeds": embedded,
            "attention_mask": mask,
            # masked tokens take no position, as in `generate`
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
            "past_key_values": cache,
            "use_cache": cache is not None,
        }

    @property
    def title(self) -> str:
        placeholders = " and ".join(f"<{name}>" for name in self.shapes)
        return f"A language model with {placeholders}"

    def backbones(self) -> dict[str, Backbone]:
        name, revision, _ = _backbone(self.config.language)
        language = Backbone(name, revision, self.language_digest)
        return self.prefix_sources.aligner.backbones() | {"language": language}

    def facts(self) -> dict[str, str]:
        counts = {
            f"soft tokens of <{name}>": str(n) for name, n in self.chat.num_soft_tokens.items()
        }
        trained = {"trained parameters of the projectors": count_parameters(self.projectors)}
        if lora := self.config.language.lora:
            trained["adapters"] = f"LoRA, rank {lora.rank}, alpha {lora.alpha}"
        return {"projector": self.config.projector.kind, **counts, **trained}

    def _write(self, folder: Path) -> dict[str, Any]:
        self.prefix_sources.save(folder)
        self.chat.tokenizer.save_pretrained(folder / "tokenizer")
        # parameters rather than state_dict(): that would be sharded again under FSDP
        save_tensors(dict(self.projectors.named_parameters()), folder / "projectors.safetensors")
        if self.config.language.lora:
            save_tensors(self._adapters(), folder / "adapters.safetensors")
        config = self.config.model_dump(mode="json", exclude=TRAINING)
        return {"config": config, "shapes": self.shapes, "language_digest": self.language_digest}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        language: LanguageConfig | None = None,
        **hub,
    ) -> "VLM":
        """Load what `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        language: how to load the language model instead, such as in 4 bits; its adapters stay those
        of the folder. hub: as in `PretrainedModel.from_pretrained`. Raises ConfigError if
        `language` names other adapters, or if the language model has other weights than when the
        model was saved.
        """
        return super().from_pretrained(pretrained_model_name_or_path, language=language, **hub)

    @classmethod
    def _read(
        cls, folder: Path, metadata: dict[str, Any], language: LanguageConfig | None
    ) -> "VLM":
        shapes = {name: tuple(shape) for name, shape in metadata["shapes"].items()}
        config = VLMModelConfig.model_validate(metadata["config"])
        if language:
            lora = config.language.lora
            if "lora" in language.model_fields_set and language.lora != lora:
                raise ConfigError(f"{folder} has other adapters: {lora}, not {language.lora}")
            language = language.model_copy(update={"lora": lora})
            config = config.model_copy(update={"language": language})
        # those that an older version saved are not known
        check_weights(metadata.get("language_digest", ""), *_backbone(config.language))
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        model = cls(PrefixSources.load(folder), config, shapes, tokenizer)
        model.projectors.load_state_dict(read_weights(folder / "projectors.safetensors"))
        if config.language.lora:
            model._load_adapters(folder / "adapters.safetensors")
        return model

    def _adapters(self) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict  # takes seconds to import

        return get_peft_model_state_dict(self.language, dict(self.language.named_parameters()))

    def _load_adapters(self, path: Path) -> None:
        """ConfigError for those of other layers, which peft leaves out without a word."""
        from peft import set_peft_model_state_dict

        adapters = read_weights(path)
        if adapters.keys() != self._adapters().keys():
            raise ConfigError(f"{path} has not the adapters of this model")
        set_peft_model_state_dict(self.language, adapters)


def _backbone(config: LanguageConfig) -> tuple[str, str | None, str]:
    """The arguments of `weights_digest`."""
    return config.model, config.revision, config.weights


def _drop_frozen(module: nn.Module, state: dict, prefix: str, _) -> None:
    """Leave frozen weights out of checkpoints: they may be 1,000 times as large."""
    trained = {prefix + name for name, p in module.named_parameters() if p.requires_grad}
    for name in [n for n in state if n.startswith(prefix) and n not in trained]:
        del state[name]


def _expect_no_frozen(module: nn.Module, incompatible) -> None:
    """Report only trained weights as missing: checkpoints leave out frozen ones."""
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    missing = [n for n in incompatible.missing_keys if n.removeprefix("module.") in trained]
    incompatible.missing_keys[:] = missing
