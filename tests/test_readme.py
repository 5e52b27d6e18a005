"""README.md and docs/: snippets run as printed; links, keys and commands exist."""

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pandas as pd
import pytest
from PIL import Image, ImageDraw

from edge_lib.config import ROOT, ExperimentConfig, load_config
from edge_lib.config.base import Section
from edge_lib.config.registry import DOWNLOADS
from edge_lib.data.table import SCHEMA
from edge_lib.runs import Run
from edge_lib.runs.points import make_points

README, DATA = ROOT / "README.md", ROOT / "docs/data.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLOURS = ("red", "green", "blue", "yellow", "white")
SHAPES = ("rectangle", "ellipse")
PLACES = {"left": 8, "centre": 24, "right": 40}
HEIGHTS = {"top": 8, "middle": 24, "bottom": 40}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the tracked files, with pictures."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if not name.startswith("runs/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    _draw_pictures(folder / "pictures")
    (folder / "runs").mkdir()
    return folder


def test_python_snippet_prints_what_the_readme_shows(checkout):
    printed = _run(checkout, sys.executable, "-c", _blocks(README, "python")[0])
    assert textwrap.indent(printed, "    ") in README.read_text()


def test_readme_lists_every_download():
    rows = [line.split("|")[1] for line in README.read_text().splitlines() if line[:3] == "| `"]
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert DOWNLOADS.keys() <= listed


@pytest.mark.notebook
def test_own_pictures_snippets_train_an_aligner(checkout):
    config = checkout / "params/mine.yaml"
    experiment, sweep = _blocks(README, "yaml")
    config.write_text(experiment)
    command = next(c for c in _commands(README) if "params/mine.yaml" in c and "papermill" in c)
    _run(checkout, *command.replace(".venv/bin", str(Path(sys.executable).parent)).split())
    run = Run(checkout / Run.of(load_config(config), "01_align").folder.relative_to(ROOT))
    assert 0 <= run.metrics()["test.text_to_vision.r1"] <= 1
    config.write_text(experiment + sweep)
    assert f"each of the {len(make_points(config))} points" in _prose(README).replace("\n", " ")


@pytest.mark.parametrize("snippet", FENCE.findall(DATA.read_text()), ids=lambda s: s[1].split()[1])
def test_data_snippet_is_a_valid_config(checkout, snippet):
    language, text = snippet
    path = checkout / text.split()[1]
    path.write_text(text)
    assert language == "yaml"
    assert load_config(path).name == path.stem.replace("_", "-")


def test_search_snippet_saves_an_index(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(_blocks(ROOT / "docs/benchmarks.md", "python")[0], {})
    assert (tmp_path / "index.safetensors").is_file()


def test_readme_has_at_most_200_lines():
    assert len(README.read_text().splitlines()) <= 200


@every_page
def test_links_lead_to_files_and_headings(page):
    targets = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", _prose(page))
    for target in (a or b for a, b in targets if not (a or b).startswith("http")):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


@every_page
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    rules = re.findall(r"^([\w. -]+):(?!=)", makefile, re.MULTILINE)
    named = re.findall(r"(?:`|^    )make ([\w-]+)(?!=)\b", page.read_text(), re.MULTILINE)
    assert set(named) <= set(" ".join(rules).split())


@every_page
def test_config_keys_exist(page):
    sections = "|".join(ExperimentConfig.model_fields)
    keys = re.findall(rf"(?<![\w./-])(?:{sections})(?:\.\w+)+", _prose(page))
    files = (".csv", ".tsv", ".json", ".md", ".py", ".yaml", ".ipynb")
    for key in keys:
        assert key.endswith(files) or _exists(ExperimentConfig, key.split(".")), key


@every_page
def test_python_snippets_import_existing_names(page):
    for block in _blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_benchmarks_exist():
    text = (ROOT / "docs/benchmarks.md").read_text()
    names = set(re.findall(r"edge-glass bench ([a-z]+)", text))
    assert len(names) >= 5
    assert all(find_spec(f"edge_lib.bench.{name}") for name in names)


def test_data_page_lists_the_columns_of_the_schema():
    section = DATA.read_text().partition("## The table")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == SCHEMA.names


def _draw_pictures(folder: Path) -> None:
    """90 pictures of a coloured shape, and metadata.csv."""
    folder.mkdir()
    captions = []
    for colour, shape, height, place in product(COLOURS, SHAPES, HEIGHTS, PLACES):
        image = Image.new("RGB", (64, 64))
        corner = PLACES[place], HEIGHTS[height]
        box = [*corner, *(x + 16 for x in corner)]
        getattr(ImageDraw.Draw(image), shape)(box, fill=colour)
        captions.append((f"{len(captions)}.png", f"a {colour} {shape} at the {height} {place}"))
        image.save(folder / captions[-1][0])
    table = pd.DataFrame(captions, columns=["file_name", "caption"])
    table.to_csv(folder / "metadata.csv", index=False)


def _run(folder: Path, *command: str) -> str:
    """The output of a command in a checkout, with its own edge_lib."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def _blocks(page: Path, language: str) -> list[str]:
    """Fenced code in one language."""
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def _prose(page: Path) -> str:
    """The page without fenced code."""
    return FENCE.sub("", page.read_text())


def _commands(page: Path) -> list[str]:
    """Indented shell commands."""
    return re.findall(r"^    (\.venv/bin/.*)$", _prose(page), re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _exists(annotation: Any, names: list[str]) -> bool:
    """Whether values of a type have a dotted key."""
    if not names:
        return True
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation.model_fields.get(names[0])
        return field is not None and _exists(field.annotation, names[1:])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return _exists(arguments[1], names[1:])
    nested = arguments if origin in (Union, UnionType) else arguments[: origin is Annotated]
    return any(_exists(argument, names) for argument in nested)
