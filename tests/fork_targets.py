"""Functions that the tests of the fork server run in its processes, which import them by name."""

import os
import signal
import sys
from functools import partial


def prepare(folder):
    with (folder / "prepared").open("a") as file:
        file.write(f"{os.getpid()} {os.environ.get('FORK_TEST')}\n")


def report(folder, name):
    print(f"out of {name}")
    os.system(f"echo shell of {name} >&2")
    (folder / name).write_text(str(os.getppid()))


def end(code):
    os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)


def block(folder):
    signal.signal(signal.SIGTERM, partial(leave, folder))
    (folder / "blocked").write_text(str(os.getpid()))
    while True:
        signal.pause()


def leave(folder, *_):
    (folder / "left").touch()
    raise SystemExit
