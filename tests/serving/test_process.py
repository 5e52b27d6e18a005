"""`edge-glass serve` as a process: starts, answers curl, ends on signals and on wrong arguments."""

import json
import re
import shlex
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from serving.processes import SERVE, is_ready, server_process, wait_for

from edge_lib.bench.serve import build
from edge_lib.config import ROOT

CURL = re.findall(r"^    (curl .*)$", (ROOT / "docs/serving.md").read_text(), re.MULTILINE)
CURL = [command for command in CURL if "/search" not in command]  # that needs an index
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def url(model):
    with server_process(model) as (process, url):
        first = httpx.get(f"{url}/ready", timeout=30)
        assert first.status_code == 503  # the process lives before the model is loaded
        assert first.json()["error"]["code"]
        wait_for(lambda: is_ready(url), process)
        yield url


@pytest.fixture
def scene(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "scene.png")
    return tmp_path


def run_curl(folder, *arguments):
    command = ["curl", "--silent", "--show-error", "--max-time", "120", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout


@needs_curl
@pytest.mark.parametrize("command", CURL)
def test_curl_command_of_the_docs_gets_an_answer(url, scene, command):
    arguments = shlex.split(command.replace("http://127.0.0.1:8000", url))[1:]
    answer = json.loads(run_curl(scene, "--fail", *arguments))
    if "/embed" in command:
        assert len(answer["texts"][0]) == answer["dim"] == 64
    else:
        assert answer["choices"][0]["text"]
        assert answer["usage"]["completion_tokens"] > 0


@needs_curl
def test_curl_streams_the_answer_that_it_gets_at_once(url, scene):
    body = {"messages": [{"role": "user", "content": "Describe the image."}]}
    (scene / "body.json").write_text(json.dumps(body))
    (scene / "stream.json").write_text(json.dumps(body | {"stream": True}))
    chat = [f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d"]
    whole = json.loads(run_curl(scene, *chat, "@body.json"))["choices"][0]["message"]["content"]
    events = run_curl(scene, "--no-buffer", *chat, "@stream.json").split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    texts = [choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]]
    assert len(texts) > 3
    assert "".join(texts) == whole


@needs_curl
def test_curl_of_a_wrong_body_gets_an_error_and_the_id_that_it_sent(url, scene):
    sent = ["-H", "X-Request-Id: mine-1", "-H", "Content-Type: application/json", "-d", '{"n": 0']
    error = json.loads(run_curl(scene, f"{url}/generate", *sent))["error"]
    assert error["request_id"] == "mine-1"
    assert error["type"] == "invalid_request_error"


def test_sigterm_finishes_what_runs_and_takes_no_more(model):
    with server_process(model) as (process, url), ThreadPoolExecutor(3) as threads:
        wait_for(lambda: is_ready(url), process)
        answers = [threads.submit(ask, url, seed) for seed in range(3)]
        wait_for(lambda: generated_tokens(url) > 0, process)
        process.send_signal(signal.SIGTERM)
        assert [answer.result() for answer in answers] == [(200, 64)] * 3
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


def ask(url, seed):
    """Status and number of answers to a body of 64 prompts, which take a while."""
    prompts = [{"prompt": "Describe the image.", "temperature": 1, "seed": seed, "n": 1}] * 64
    response = httpx.post(f"{url}/generate", json=prompts, timeout=120)
    return response.status_code, len(response.json())


def generated_tokens(url):
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return float(re.search(r"^\w*generated_tokens_total (\S+)$", text, re.MULTILINE)[1])


def test_sigint_ends_quietly(model):
    with server_process(model) as (process, _):  # while it loads
        process.send_signal(signal.SIGINT)
        assert process.wait(120) in (0, 130, -signal.SIGINT)
        assert "Traceback" not in process.stderr.read()


def run_serve(*arguments):
    command = [*SERVE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_port_in_use_ends_the_process(url):
    result = run_serve("tiny-align", "--port", url.rpartition(":")[2])
    assert result.returncode == 2
    assert "--port" in result.stderr
    assert result.stderr.strip().endswith("Address already in use")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["{}"], "no saved model"), (["{}", "--port", "70000"], "65535")],
    ids=["empty folder", "port"],
)
def test_wrong_argument_ends_with_a_line_and_code_2(tmp_path, arguments, message):
    result = run_serve(*(a.format(tmp_path) for a in arguments))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1]
