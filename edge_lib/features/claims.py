"""Which process makes which part of a folder: claims, files that the processes of all machines see.

    <folder>/.claim-00012.0     part "00012": created by one process alone, then renewed
    <folder>/.claim-00012.1     created by the one that takes over, if the first claim is void

A claim is void if its process was on this machine and is gone, or if it was not renewed for
LEASE_SECONDS. A process that was only suspended may go on with a part that another has taken over:
what they write must be equal and appear whole.
"""

import contextlib
import errno
import json
import os
import socket
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

LEASE_SECONDS = 120  # several times as long as a network file system remembers a file's time
RENEW_SECONDS = 20
STALL_SECONDS = 1800  # without progress a process counts as hung, and renews no more


class Claim:
    """A part that this process makes. As a context it is renewed; afterwards it is free, or after
    an error left to those who take over, so that it does not end every process in turn.
    """

    def __init__(self, path: Path):
        self.path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self.report_progress()

    def report_progress(self) -> None:
        self._progress = time.monotonic()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            if time.monotonic() - self._progress < STALL_SECONDS:
                with contextlib.suppress(OSError):  # the next attempt may succeed
                    os.utime(self.path)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Claim":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self._ended.set()
        self._thread.join()
        if kind and issubclass(kind, Exception):
            with contextlib.suppress(OSError):
                os.utime(self.path, (0, 0))  # void
        else:
            self.release()


class Claims:
    """The claims in a folder, as they were when this was made."""

    def __init__(self, folder: Path):
        self.folder = folder
        names = (name for name in os.listdir(folder) if name.startswith(".claim-"))
        paths = sorted(map(folder.joinpath, names), key=_generation)
        self._newest = {path.stem.removeprefix(".claim-"): path for path in paths}

    def take(self, part: str, take_over: bool = False) -> Claim | None:
        """Claim a part unless another process has. take_over: also one whose claim is void."""
        held = self._newest.get(part)
        if held and not (take_over and self.is_void(held)):
            return None
        number = _generation(held) + 1 if held else 0
        path = self.folder / f".claim-{part}.{number}"
        try:
            with path.open("x") as file:
                json.dump({"pid": os.getpid(), **_machine()}, file)
        except FileExistsError:  # another process was faster
            return None
        return Claim(path)

    def is_void(self, path: Path) -> bool:
        try:
            with path.open() as file:  # opened, as a network file system then asks for its time
                text, renewed = file.read(), os.fstat(file.fileno()).st_mtime
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # its process has just let it go
                return True
            raise
        # in the future, if the clock was set back after its last renewal
        return _is_gone(_parse(text)) or abs(_now(self.folder) - renewed) > LEASE_SECONDS

    def holders(self) -> list[str]:
        """Who holds which part, in words."""
        return [f"{part} ({_holder(path)})" for part, path in sorted(self._newest.items())]


def _generation(path: Path) -> int:
    return int(path.suffix[1:])


def _parse(text: str) -> dict:
    """The owner of a claim; {} if it was killed before it wrote its name."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _holder(path: Path) -> str:
    try:
        owner = _parse(path.read_text())
    except OSError:
        owner = {}
    return f"process {owner['pid']} on {owner['host']}" if owner else "unknown process"


@cache
def _machine() -> dict[str, str]:
    """What tells apart machines, and containers whose process numbers are their own."""
    facts = {"host": socket.gethostname(), "boot": "", "namespace": ""}
    with contextlib.suppress(OSError):  # Linux only
        facts["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts["namespace"] = os.readlink("/proc/self/ns/pid")
    return facts


def _is_gone(owner: dict) -> bool:
    """Whether a process of this machine has ended."""
    if {**owner, "pid": 0} != {"pid": 0, **_machine()}:
        return False
    try:
        os.kill(owner["pid"], 0)
    except OSError as error:
        return error.errno == errno.ESRCH  # EPERM: it belongs to another user
    return False


def _now(folder: Path) -> float:
    """The time by the clock of the file system, as those of machines differ."""
    with tempfile.TemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.fstat(file.fileno()).st_mtime
