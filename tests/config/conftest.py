"""Small configs, and the message of the error that one raises."""

import pytest

from edge_lib.config import ConfigError, load_config

FULL = """
name: full
vision: {encoder: tiny-resnet, pooler: perceiver}
text: {encoder: all-MiniLM-L6-v2}
data: {source: parquet, parquet: {train: [a.parquet], val: [b.parquet], test: [c.parquet]}}
loss: {dims: [8, 4], weights: [1, 0.5]}
backbones: {vision: {output: /somewhere/else}}
"""


@pytest.fixture
def write(tmp_path):
    """write(name, text) -> the path of a file in tmp_path."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def plain(write):
    return write("plain.yaml", "name: plain\n")


@pytest.fixture
def full(write):
    """A config with values in most sections."""
    return write("full.yaml", FULL)


@pytest.fixture
def message():
    """message(path, overrides) -> the text of the ConfigError."""

    def message(path, overrides=""):
        with pytest.raises(ConfigError) as caught:
            load_config(path, overrides)
        return str(caught.value)

    return message
