"""Arrays on disk: what was saved, or an error."""

import numpy as np
import pytest

from edge_lib.config import ConfigError
from edge_lib.runs.arrays import load_array, save_array

ARRAY = np.arange(12).reshape(4, 3)


def test_array_is_what_was_saved(tmp_path):
    save_array(tmp_path / "new/a.npz", ARRAY)
    loaded = load_array(tmp_path / "new/a.npz")
    np.testing.assert_array_equal(loaded, ARRAY)
    assert loaded.dtype == ARRAY.dtype
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_array_is_refused_or_right_with_a_bit_flipped(tmp_path):
    path, refused = tmp_path / "a.npz", 0
    save_array(path, ARRAY)
    content = path.read_bytes()
    for number in range(0, 8 * len(content), 7):
        changed = bytearray(content)
        changed[number // 8] ^= 1 << number % 8
        path.write_bytes(changed)
        try:
            np.testing.assert_array_equal(load_array(path), ARRAY)
        except ConfigError as error:
            refused += str(error).startswith(f"{path} is damaged: ")
    assert refused > ARRAY.nbytes


@pytest.mark.parametrize("length", [0, 1, 100, 300])
def test_array_that_is_cut_is_refused(tmp_path, length):
    path = tmp_path / "a.npz"
    save_array(path, ARRAY)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigError, match=r"a\.npz is damaged: .*; delete it$"):
        load_array(path)
