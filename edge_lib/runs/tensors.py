"""Files of tensors that those may read who may read other files.

safetensors writes each with the permissions of a temporary file, for its owner alone: a group, or a
server in a container, could not read it.
"""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with the permissions of any new file."""
    path.unlink(missing_ok=True)
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def share_tensors(folder: Path) -> None:
    """Give safetensors files that a library wrote in a folder the permissions of any new file."""
    for path in folder.rglob("*.safetensors"):
        (new := path.with_suffix(".new")).touch()
        path.chmod(new.stat().st_mode)
        new.unlink()
