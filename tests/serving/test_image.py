"""Dockerfile, compose.yaml and .dockerignore; the image for exports, built and run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from serving.image_helpers import (
    CHROOT,
    build_image,
    buildah,
    container,
    has_image,
    image_config,
    make_base,
)
from serving.processes import free_port, is_ready, wait_for

from edge_lib.config import ROOT
from edge_lib.config.flags import flags_of
from edge_lib.serving.settings import ServeSettings

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
IMAGE = "edge-glass-test:onnx"
OFFLINE = """
import sys
sys.modules |= dict.fromkeys({blocked!r})
import edge_lib.serving.remote, edge_lib.serving.server
from edge_lib.__main__ import main
from edge_lib.serving.app import create_app
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.service import load_service
from edge_lib.serving.settings import ServeSettings
settings = ServeSettings()
create_app(lambda: None, settings)
print(load_service({folder!r}, settings, Metrics()).embedder.dims)
"""


def instructions(name):
    """The arguments of each instruction of this name."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_image_serves_with_flags_that_exist_as_a_user_of_its_own():
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["edge-glass"]
    command, run, *options = json.loads(instructions("CMD")[0])
    assert (command, run) == ("serve", "/model")
    assert set(options[::2]) <= flags_of(ServeSettings).keys()
    assert options[options.index("--port") + 1] in instructions("EXPOSE")
    (user,) = instructions("USER")
    assert f"--create-home {user} " in DOCKERFILE


def test_build_context_has_what_is_copied_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert all((ROOT / name).exists() for name in allowed)
    copies = [shlex.split(line) for line in instructions("COPY") if "--from" not in line]
    assert {source for copy in copies for source in copy[:-1]} == allowed


def test_compose_publishes_to_this_machine_only_and_waits_for_what_runs():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["edge-glass"]
    assert service["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > ServeSettings().shutdown_timeout
    mounts = [mount.split(":")[-2] for mount in service["volumes"][:1]] + [
        mount.split(":")[-1] for mount in service["volumes"][1:]
    ]
    assert mounts == json.loads(instructions("VOLUME")[0])


def test_compose_refuses_requests_for_other_names():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["edge-glass"]
    command = json.loads(instructions("CMD")[0])
    assert service["command"] == [*command, "--allow-hosts", "localhost"]


def test_packages_of_the_image_for_exports_are_all_that_a_server_of_one_imports(exported):
    listed = next(run for run in instructions("RUN") if "onnxruntime" in run)
    installed = closure(listed.partition("constraints.txt ")[2].split())
    blocked = {
        module
        for module, owners in packages_distributions().items()
        if not installed & {*map(canonicalize_name, owners)} and module != "edge_lib"
    }
    assert {"torch", "transformers", "pandas"} <= blocked
    script = OFFLINE.format(blocked=[*blocked], folder=str(exported))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "[8, 16]\n", result.stderr


def closure(names):
    """These packages and all that they need."""
    waiting, seen = [*names], set()
    while waiting:
        if (name := canonicalize_name(waiting.pop())) not in seen:
            seen.add(name)
            needed = map(Requirement, requires(name) or [])
            waiting += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return seen


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Built for exports, of the base image that is there, else of a stand-in."""
    if not shutil.which("buildah"):
        pytest.skip("buildah is not installed")
    base = instructions("ARG")[0].removeprefix("BASE=")
    if not has_image(base):
        if not shutil.which("debootstrap"):
            pytest.skip(f"neither {base} nor debootstrap is there")
        make_base(base, tmp_path_factory.mktemp("base"))
    build_image(ROOT, "onnx", IMAGE)
    return IMAGE


@pytest.mark.packages
def test_image_serves_an_export_as_a_user_without_rights(image, exported):
    config, port = image_config(image), free_port()
    command = [*config["Entrypoint"], *config["Cmd"][:-1], str(port)]
    check = [word.replace("8000", str(port)) for word in config["Healthcheck"]["Test"][1:]]
    with container(image) as name:
        run = ["run", "--user", config["User"], "--volume", f"{exported}:/model:ro", name, "--"]
        assert buildah(*run, "id", "--user") == "1000\n"
        process = subprocess.Popen(["buildah", *run, *command], env=CHROOT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: is_ready(url), process)
            buildah(*run, *check)
            answer = httpx.post(f"{url}/embed", json={"texts": ["a red three"], "dim": 8}).json()
            assert sum(x * x for x in answer["texts"][0]) == pytest.approx(1, abs=1e-3)
            assert httpx.get(f"{url}/").is_success
        finally:
            process.terminate()
            process.wait()
        with pytest.raises(subprocess.CalledProcessError):
            buildah(*run, *check)
