"""Arrays in files with a checksum, which NumPy's own format lacks: a ZIP archive of one member."""

from pathlib import Path

import numpy as np

from edge_lib.config import ConfigError
from edge_lib.runs.files import whole_file


def save_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, array=array)


def load_array(path: Path) -> np.ndarray:
    """ConfigError if the file is damaged."""
    try:
        with np.load(path) as file:
            return file["array"]
    except Exception as error:  # zipfile and NumPy raise many
        raise ConfigError(f"{path} is damaged: {error}; delete it") from None
