"""Files of tensors have the permissions of other files."""

import os
import stat

import pytest
import torch
from safetensors import safe_open

from edge_lib.runs.tensors import save_tensors


@pytest.fixture
def umask():
    before = os.umask(0)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077], ids=oct)
@pytest.mark.parametrize("exists", [False, True])
def test_tensors_are_written_with_the_permissions_of_new_files(tmp_path, umask, mask, exists):
    umask(mask)
    path = tmp_path / "a.safetensors"
    if exists:
        path.write_bytes(b"old")
        path.chmod(0o400)
    save_tensors({"x": torch.arange(3.0)}, path, {"name": "x"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"name": "x"}
        assert file.get_tensor("x").tolist() == [0, 1, 2]
