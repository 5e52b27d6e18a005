"""docs/serving.md: its Python runs; its flags exist and have the defaults that it shows."""

import re

import pytest
from serving.browser import RED
from serving.fakes import FakeEmbedder, fake_service
from serving.live import live_server

from edge_lib.config import ROOT
from edge_lib.serving.settings import ServeSettings

TEXT = (ROOT / "docs/serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


class Embedder(FakeEmbedder):
    dims = (64, 256)

    def _vector(self, modality, item):
        return range(256)


def test_python_of_the_docs_streams_an_answer(tmp_path, monkeypatch, capsys):
    (tmp_path / "scene.png").write_bytes(RED)
    monkeypatch.chdir(tmp_path)
    names = {}
    with live_server(fake_service(embedder=Embedder())) as url:
        exec(PYTHON[0].replace(ADDRESS, url), names)
    assert capsys.readouterr().out == "a red three"
    assert len(names["vectors"].data[0].embedding) == 64


def test_docs_name_flags_that_exist():
    flags = set(re.findall(r"`--([a-z-]+)", TEXT))
    assert flags <= {name.replace("_", "-") for name in ServeSettings.model_fields}


@pytest.mark.parametrize(
    ("flag", "shown"), re.findall(r"^\| `--([a-z-]+)` \| ([\d,]+)[^|]*\|", TEXT, re.MULTILINE)
)
def test_docs_show_the_default_of_a_flag(flag, shown):
    default = ServeSettings.model_fields[flag.replace("-", "_")].default
    assert int(shown.replace(",", "")) == default
