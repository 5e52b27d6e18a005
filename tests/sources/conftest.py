"""Fixtures of several sources: a config that reads LLaVA's JSON."""

import json

import pytest

from edge_lib.config import ConversationsConfig


@pytest.fixture
def llava(tmp_path, encode_image):
    """llava([entry, ...]) -> a config that reads these entries; images a, b and c exist."""
    (tmp_path / "images").mkdir()
    for seed, name in enumerate("abc"):
        content = encode_image(seed, "JPEG", size=(10 + seed, 8))
        (tmp_path / "images" / f"{name}.jpg").write_bytes(content)

    def make(entries, **changes):
        (tmp_path / "llava.json").write_text(json.dumps(entries))
        files = {"train": str(tmp_path / "llava.json")}
        section = {"files": files, "images": str(tmp_path / "images")}
        return ConversationsConfig(source="llava", llava={**section, **changes})

    return make
