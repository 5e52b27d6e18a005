"""The structure of edge_lib: which room may import which, sizes, and names."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest

from edge_lib.config import ROOT

# A room may import rooms of its own level and of the levels above it in this list.
LEVELS = [
    {"config", "metrics"},
    {"data", "runs"},
    {"sources", "features", "nn", "training", "search"},
    {"models"},
    {"experiments"},
    {"plots", "serving", "export", "bench"},
    {"__init__", "__main__", "sweep"},  # entry points
]
LEVEL_OF = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}

# The embedded toy world: only these modules know it.
SCENES = r"edge_lib\.(sources\.scenes|experiments\.backbones|config\.(scenes|backbones|registry))\b"
SCENES_IMPORTS = r"edge_lib\.sources\.scenes\b|espeak"
SCENES_WORDS = r"(?i)digit|espeak|swap"
# what else a module mentions, and why it may
EXCEPTIONS = {
    "edge_lib.bench.store": "data.scenes.swap_size",  # a config key: its table stays small
    "edge_lib.bench.export": "data.scenes.swap_size",  # the same
    "edge_lib.bench.sweep": "data.scenes.swap_size",  # the same
    "edge_lib.config.base": "hex digits",  # of a digest
    "edge_lib.config.experiment": "hex digits",  # of a digest
    "edge_lib.config.language": "isdigit",  # of a device number
    "edge_lib.metrics.answers": "number words as digits",  # VQA's normal form
    "edge_lib.metrics.captions": "letter or digit",  # characters
    "edge_lib.nn.decoders.language": "digits lost",  # precision of 4-bit weights
}

UNCLEAR_NAMES = {"how", "about", "found", "asked", "said", "told"}

LIBRARY = ROOT / "edge_lib"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(LIBRARY.rglob("*.py"))
}


@cache
def parse(module):
    return list(ast.walk(ast.parse(FILES[module].read_text())))


@cache
def imports(module):
    """The modules that a module imports anywhere, also in a function or for type checking."""
    names = set()
    for node in parse(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            members = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names |= {full if full in FILES else node.module for full in members.values()}
    return names


def library_imports(module):
    return {name for name in imports(module) if name in FILES}


def room_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def assert_no_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def used_names(module):
    for node in parse(module):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.arg


def line_counts():
    return {str(path.relative_to(LIBRARY)): path.read_text().count("\n") for path in FILES.values()}


def test_imports_go_downward():
    upward = [
        f"{module} -> {name}"
        for module in FILES
        for name in library_imports(module)
        if LEVEL_OF[room_of(name)] > LEVEL_OF[room_of(module)]
    ]
    assert not upward, "\n".join(upward)


def test_modules_import_each_other_in_no_circle():
    assert_no_circle({module: library_imports(module) for module in FILES})


def test_rooms_import_each_other_in_no_circle():
    rooms = {room_of(module): set() for module in FILES}
    for module in FILES:
        rooms[room_of(module)] |= {room_of(name) for name in library_imports(module)}
    assert_no_circle({room: targets - {room} for room, targets in rooms.items()})


def test_only_entry_points_import_bench():
    importers = {m for m in FILES if any(room_of(name) == "bench" for name in library_imports(m))}
    assert {room_of(m) for m in importers} <= {"bench", *LEVELS[-1]}


def test_only_scenes_modules_import_scenes():
    others = [module for module in FILES if not re.match(SCENES, module)]
    importers = [m for m in others if any(re.search(SCENES_IMPORTS, n) for n in imports(m))]
    assert not importers, "\n".join(importers)


def test_only_scenes_modules_mention_scenes_content():
    mentions = []
    for module in FILES:
        if not re.match(SCENES, module):
            text = FILES[module].read_text().replace(EXCEPTIONS.get(module, "\0"), "")
            lines = [line.strip() for line in text.splitlines() if re.search(SCENES_WORDS, line)]
            mentions += [f"{module}: {line}" for line in lines]
    assert not mentions, "\n".join(mentions)


def test_files_have_at_most_300_lines():
    assert {name: count for name, count in line_counts().items() if count > 300} == {}


def test_names_are_nouns():
    unclear = [f"{m}: {name}" for m in FILES for name in UNCLEAR_NAMES & set(used_names(m))]
    assert not unclear, "\n".join(unclear)


@pytest.mark.parametrize(
    "code",
    ["import edge_lib", "import runpy; runpy.run_module('edge_lib', run_name='__main__')"],
    ids=["import edge_lib", "python -m edge_lib --help"],
)
def test_entry_points_load_no_heavy_package(code):
    report = "set(sys.modules) & {'torch', 'transformers', 'pandas', 'accelerate', 'datasets'}"
    script = f"import atexit, sys; atexit.register(lambda: print({report} or 'light')); {code}"
    result = subprocess.run(
        [sys.executable, "-c", script, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "light"
