"""docs/serving.md: its commands and its Python answer as a real server does; its flags exist."""

import re
import subprocess

import pytest
from serving.browser import RED
from serving.fakes import FakeEmbedder, fake_service
from serving.live import live_server

from edge_lib.config import ROOT
from edge_lib.serving.settings import ServeSettings

TEXT = (ROOT / "docs/serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
CURLS = re.findall(r"^    (curl .*)$", TEXT, re.MULTILINE)
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


class Embedder(FakeEmbedder):
    dims = [64, 256]

    def _vector(self, modality, item):
        return range(256)


@pytest.fixture(scope="module")
def url():
    service = fake_service(embedder=Embedder())
    service.name = "vlm"
    with live_server(service) as address:
        yield address


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "scene.png").write_bytes(RED)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", CURLS)
def test_curl_command_of_the_docs_is_answered(command, url, folder):
    fail = command.replace(ADDRESS, url).replace("curl", "curl --silent --fail-with-body", 1)
    done = subprocess.run(["sh", "-c", fail], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r'\{"(id|model|hits)":', done.stdout)


def test_python_of_the_docs_streams_an_answer(url, folder, capsys):
    names = {}
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
