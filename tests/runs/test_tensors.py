"""Files of tensors have the permissions of other files."""

import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from edge_lib.runs.tensors import save_tensors, share_tensors


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


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077], ids=oct)
def test_tensors_that_a_library_wrote_get_the_permissions_of_new_files(tmp_path, umask, mask):
    umask(mask)
    (tmp_path / "part").mkdir()
    paths = [tmp_path / "model.safetensors", tmp_path / "part/model.safetensors"]
    for path in paths:
        save_file({"x": torch.arange(3.0)}, path)
        path.chmod(0o600)
    (script := tmp_path / "script").touch(0o700)
    share_tensors(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o666 & ~mask}
    assert stat.S_IMODE(script.stat().st_mode) == 0o700
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted([*paths, script])
