"""Claims: one process a part, and what happens to those of processes that died or hang."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_lib.features import claims
from edge_lib.features.claims import Claims


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_claim(folder, age=0, **changes):
    """A claim of part "a" by this process, with changes of its owner."""
    path = folder / ".claim-a.0"
    path.write_text(json.dumps({"pid": os.getpid(), **claims._machine(), **changes}))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def can_take_over(folder):
    return Claims(folder).take("a", take_over=True) is not None


def test_claim_is_held_by_one(tmp_path):
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a")
    assert second.take("a") is None  # it had listed the folder before
    assert Claims(tmp_path).take("a") is None
    assert not can_take_over(tmp_path)
    assert Claims(tmp_path).take("b")


@pytest.mark.parametrize(
    ("age", "changes", "void"),
    [
        (0, {}, False),
        (0, {"host": "other"}, False),
        (claims.LEASE_SECONDS - 5, {"host": "other"}, False),
        (claims.LEASE_SECONDS + 5, {"host": "other"}, True),
        (claims.LEASE_SECONDS + 5, {}, True),
        (-5, {"host": "other"}, False),
        (-3600, {"host": "other"}, True),
    ],
    ids=["own", "other host", "renewed", "not renewed", "suspended", "ahead", "clock set back"],
)
def test_claim_of_living_process_is_void_after_lease(tmp_path, age, changes, void):
    write_claim(tmp_path, age, **changes)
    assert can_take_over(tmp_path) is void


@pytest.mark.parametrize(
    ("changes", "void"),
    [
        ({}, True),
        ({"host": "other"}, False),
        ({"boot": "before a restart"}, False),
        ({"namespace": "pid:[1]"}, False),
    ],
    ids=["this machine", "other host", "other boot", "other container"],
)
def test_claim_of_dead_process_is_void_at_once_on_its_machine(tmp_path, dead_pid, changes, void):
    write_claim(tmp_path, pid=dead_pid, **changes)
    assert can_take_over(tmp_path) is void


@pytest.mark.parametrize("text", ["", "{", "{}"], ids=["empty", "cut off", "no owner"])
def test_claim_without_owner_is_void_after_lease(tmp_path, text):
    path = write_claim(tmp_path)
    path.write_text(text)
    assert not can_take_over(tmp_path)
    os.utime(path, (0, 0))
    assert can_take_over(tmp_path)


def test_claim_of_another_users_process_holds(tmp_path, monkeypatch):
    def kill(pid, number):
        raise PermissionError(1, "Operation not permitted")

    write_claim(tmp_path)
    monkeypatch.setattr(os, "kill", kill)
    assert not can_take_over(tmp_path)


def test_void_claim_is_taken_over_by_one(tmp_path, dead_pid):
    write_claim(tmp_path, pid=dead_pid)
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take("a") is None  # others come first
    assert first.take("a", take_over=True)
    assert second.take("a", take_over=True) is None
    assert not can_take_over(tmp_path)


def test_claim_ends_with_its_context(tmp_path):
    with Claims(tmp_path).take("a"):
        assert not can_take_over(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_claim_after_error_is_left_to_those_who_take_over(tmp_path):
    with pytest.raises(ValueError, match="broken"), Claims(tmp_path).take("a"):
        raise ValueError("broken")
    assert Claims(tmp_path).take("a") is None
    assert can_take_over(tmp_path)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_claim_after_interrupt_is_free(tmp_path, kind):
    with pytest.raises(kind), Claims(tmp_path).take("a"):
        raise kind
    assert Claims(tmp_path).take("a")


def test_claim_that_was_taken_over_ends_without_the_other(tmp_path):
    with Claims(tmp_path).take("a") as late:
        os.utime(late.path, (0, 0))
        other = Claims(tmp_path).take("a", take_over=True)
    assert [*tmp_path.iterdir()] == [other.path]


@pytest.mark.parametrize(
    ("stall", "renewed"), [(60, True), (0, False)], ids=["progress", "no progress"]
)
def test_claim_is_renewed_while_there_is_progress(tmp_path, monkeypatch, stall, renewed):
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(claims, "STALL_SECONDS", stall)
    with Claims(tmp_path).take("a") as claim:
        os.utime(claim.path, (0, 0))
        deadline = time.monotonic() + (10 if renewed else 0.2)
        while claim.path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert bool(claim.path.stat().st_mtime) is renewed


def test_claim_that_vanished_ends_without_error(tmp_path):
    with Claims(tmp_path).take("a") as claim:
        claim.path.unlink()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE], ids=["ENOENT", "ESTALE"])
def test_claim_that_vanishes_while_it_is_read_is_void(tmp_path, monkeypatch, number):
    def vanish(self, mode="r"):
        if mode == "r":
            raise OSError(number, "of a network file system")
        return open(self, mode)

    write_claim(tmp_path)
    monkeypatch.setattr(Path, "open", vanish)
    assert can_take_over(tmp_path)


def test_claims_name_their_holders(tmp_path):
    write_claim(tmp_path, pid=12, host="node7")
    (tmp_path / ".claim-b.0").touch()
    assert Claims(tmp_path).holders() == ["a (process 12 on node7)", "b (unknown process)"]


def test_claims_follow_the_newest_of_many_takeovers(tmp_path):
    for number in range(11):
        (tmp_path / f".claim-a.{number}").touch()
        os.utime(tmp_path / f".claim-a.{number}", (0, 0))
    assert Claims(tmp_path).take("a", take_over=True).path.name == ".claim-a.11"
