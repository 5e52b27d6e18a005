"""The pins of constraints.txt: exact, complete, and agreeing with one another."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge_lib.config import ROOT

LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(name): version for name, version in (x.split("==") for x in LINES)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TRACKERS = {canonicalize_name(name) for name in EXTRAS["track"]}  # of which one is installed
SYSTEMS = [  # values of markers, where the pins are installed
    {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "x86_64"},
    {"platform_system": "Darwin", "sys_platform": "darwin", "platform_machine": "arm64"},
]
PLATFORM = re.compile(r"nvidia-|cuda-|triton$|pip$|setuptools$|edge-glass$")  # torch chooses these


def needed(system):
    """(package, requirement) of all that ours need on a system, directly or not, as it is installed
    here.
    """
    own = [*PROJECT["dependencies"], *chain(*EXTRAS.values())]
    waiting, seen = [("edge-glass", Requirement(text)) for text in own], set()
    while waiting:
        package, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (package, str(requirement)) in seen or name in TRACKERS or PLATFORM.match(name):
            continue
        seen.add((package, str(requirement)))
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # an extra that is not installed
        extras = ["", *requirement.extras]
        others = map(Requirement, lines)
        waiting += [
            (name, other)
            for other in others
            if not other.marker or any(other.marker.evaluate({"extra": e} | system) for e in extras)
        ]
    return sorted(seen)


def test_pins_are_exact_sorted_and_single():
    assert [line for line in LINES if not re.fullmatch(r"[\w.-]+==\d[\w.!+]*", line)] == []
    assert len(PINS) == len(LINES)


def test_installed_packages_have_the_pinned_versions():
    installed = {}
    for name in PINS:
        try:
            installed[name] = distribution(name).version.partition("+")[0]  # +cpu, of torch
        except PackageNotFoundError:
            continue
    assert installed.items() <= PINS.items()
    assert len(installed) > 0.8 * len(PINS)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system["platform_system"])
def test_pins_meet_all_requirements(system):
    requirements = [(package, Requirement(text)) for package, text in needed(system)]
    missing = {r.name for _, r in requirements if canonicalize_name(r.name) not in PINS}
    assert missing == set()
    unmet = [
        f"{package} needs {requirement}, pinned is {PINS[canonicalize_name(requirement.name)]}"
        for package, requirement in requirements
        if not requirement.specifier.contains(PINS[canonicalize_name(requirement.name)], True)
    ]
    assert unmet == []
