"""The Makefile: how uv, where it is on the path, and pip build the environment."""

import os
import shutil
import subprocess

import pytest

from edge_lib.config import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# in place of uv and of python: writes down its name, arguments and settings
RECORD = """#!/bin/sh
[ "$*" = "-m pip config get install.cert" ] && echo /own/ca.pem
[ "$*" = "-m pip config get global.cert" ] && echo /other/ca.pem
case "$*" in *config*) exit;; esac
mkdir -p .venv
echo "$(basename $0) $*|$UV_FIND_LINKS|$UV_NO_INDEX|$UV_INDEX|$SSL_CERT_FILE" >> calls
"""


@pytest.fixture
def build(tmp_path):
    """Makes the environment with pip's settings; the recorded calls, each split at its bars."""

    def build(*arguments, **settings):
        for name in ("pyproject.toml", "constraints.txt"):
            (tmp_path / name).touch()
        for name in ("uv", "snake"):
            (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "bin" / name).write_text(RECORD)
            (tmp_path / "bin" / name).chmod(0o755)
        others = {k: v for k, v in os.environ.items() if k[:3] not in ("PIP", "UV_", "SSL", "MAK")}
        env = others | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"} | settings
        command = ["make", "-f", str(ROOT / "Makefile"), ".venv/ready", "PYTHON=snake", *arguments]
        subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
        return [line.split("|") for line in (tmp_path / "calls").read_text().splitlines()]

    return build


def test_uv_gets_the_python_as_a_path_and_settings_of_pip_in_its_own_form(build, tmp_path):
    calls = build(PIP_FIND_LINKS="/wheels /more", PIP_NO_INDEX="1", PIP_EXTRA_INDEX_URL="a b")
    (created, *settings), *installs = calls
    assert created == f"uv venv --allow-existing --seed --python {tmp_path}/bin/snake .venv"
    assert settings == ["/wheels,/more", "1", "a b", "/own/ca.pem"]
    assert [call.split()[:3] for call, *_ in installs] == [["uv", "pip", "install"]] * 2


def test_settings_of_uv_precede_those_of_pip(build):
    calls = build(PIP_FIND_LINKS="/wheels", UV_FIND_LINKS="/own", SSL_CERT_FILE="/mine.pem")
    assert {tuple(settings) for _, *settings in calls} == {("/own", "", "", "/mine.pem")}


def test_pip_is_used_instead_of_uv_on_request(build, tmp_path):
    folder = tmp_path / ".venv/bin"
    folder.mkdir(parents=True)
    shutil.copy2(shutil.which("true"), folder / "python")
    assert [call for call, *_ in build("UV=")] == ["snake -m venv .venv"]
