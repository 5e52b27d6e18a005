"""No file is unpickled: a pickle runs code, and data, weights and checkpoints come from others."""

import ast
import json
import pickle
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from line_targets import fit_line
from pickles import write_touch

from edge_lib.config import ROOT, LanguageConfig, ModalityConfig
from edge_lib.features.encoder import load_encoder
from edge_lib.nn.decoders.language import load_language
from edge_lib.runs import Run
from edge_lib.training.checkpoints import DIGESTS, newest_checkpoint

FILES = [*sorted((ROOT / "edge_lib").rglob("*.py")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
# messages between the processes of one launch, and its results
MESSAGES = {f"edge_lib/training/{name}.py" for name in ("worker", "node", "launch_slurm")}
MESSAGES |= {"edge_lib/runs/nodes.py"}
UNSAFE_MODULES = {"cloudpickle", "dill", "jsonpickle", "marshal", "shelve"}
UNSAFE = {
    "pickle": {"load", "loads", "Unpickler"},
    "joblib": {"load"},
    "pandas": {"read_pickle"},
    "torch.jit": {"load"},
    "yaml": {"full_load", "load", "load_all", "unsafe_load"},
}
FORMS = "pickle", "torch"
SHORT = {"np": "numpy", "pd": "pandas"}


def code_of(file):
    if file.suffix == ".py":
        return file.read_text()
    cells = json.loads(file.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def unsafe_reads(code):
    """The calls and imports by which a file could be unpickled."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = {alias.name for alias in node.names}
            yield from names & UNSAFE_MODULES | ({module} & UNSAFE_MODULES)
            yield from (f"{module}.{name}" for name in names & UNSAFE.get(module, set()))
        elif isinstance(node, ast.Call):
            yield from unsafe_call(node)


def unsafe_call(node):
    module, _, name = ast.unparse(node.func).rpartition(".")
    options = {word.arg: ast.unparse(word.value) for word in node.keywords}
    module = SHORT.get(module, module)
    if name in UNSAFE.get(module, ()):
        yield f"{module}.{name}"
    if (module, name) == ("torch", "load") and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    trusting = {"allow_pickle", "trust_remote_code"} & options.keys()
    yield from (f"{name}={options[name]}" for name in trusting if options[name] != "False")
    if name in ("add_safe_globals", "safe_globals"):
        yield name


@pytest.mark.parametrize(
    "code",
    [
        "import torch; torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, 'cpu', weights_only=trusted)",
        "import pickle; pickle.load(file)",
        "from pickle import Unpickler",
        "pickle.Unpickler(file).load()",
        "np.load(file, allow_pickle=True)",
        "pd.read_pickle(file)",
        "import dill as d",
        "from shelve import open",
        "joblib.load(file)",
        "torch.jit.load(file)",
        "yaml.load(text, yaml.Loader)",
        "torch.serialization.add_safe_globals([set])",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_check_sees_unsafe_reads(code):
    assert [*unsafe_reads(code)]


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(file, 'meta', weights_only=True)",
        "np.load(file)",
        "json.load(file)",
        "yaml.safe_load(text)",
        "pickle.dumps(results)",
    ],
)
def test_check_passes_safe_reads(code):
    assert not [*unsafe_reads(code)]


def test_library_and_notebooks_unpickle_no_file():
    names = {file: str(file.relative_to(ROOT)) for file in FILES}
    reads = {names[file]: [*unsafe_reads(code_of(file))] for file in FILES}
    reads = {name: calls for name, calls in reads.items() if calls}
    assert {name for name in reads if name not in MESSAGES} == set(), reads
    assert {call for calls in reads.values() for call in calls} == {"pickle.loads"}


@pytest.fixture
def run(tmp_path, fresh_accelerate):
    for part in ("checkpoints", "logs"):
        (tmp_path / part).mkdir()
    return Run(tmp_path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["optimizer.bin", "random_states_0.pkl", *(f"custom_checkpoint_{n}.pkl" for n in "012")]
)
def test_resumed_run_runs_no_code_of_a_checkpoint(name, form, run, tmp_path):
    fit_line(run, epochs=1, ema=0.9)
    newest = newest_checkpoint(run.checkpoints)
    assert sum(file.suffix in (".bin", ".pkl", ".pt") for file in newest.iterdir()) == 5
    (newest / DIGESTS).unlink()  # as who changes a file on purpose would do
    write_touch(newest / name, tmp_path / "touched", form)
    with suppress(Exception):
        fit_line(run, epochs=2, ema=0.9)
    assert not (tmp_path / "touched").exists()


def test_resumed_run_refuses_a_checkpoint_with_code(run, tmp_path):
    fit_line(run, epochs=1)
    newest = newest_checkpoint(run.checkpoints)
    (newest / DIGESTS).unlink()
    write_touch(newest / "custom_checkpoint_1.pkl", tmp_path / "touched")
    with pytest.raises(pickle.UnpicklingError, match=r"custom_checkpoint_1\.pkl is no checkpoint"):
        fit_line(run, epochs=2)


def test_resumed_run_keeps_a_best_score_of_numpy(run):
    options = {"ema": 0.9, "evaluate": lambda _: {"score": np.float64(0.5)}}
    fit_line(run, epochs=1, **options)
    (run.checkpoints / "best/w.pt").unlink()
    fit_line(run, epochs=2, **options)  # no better
    assert not (run.checkpoints / "best/w.pt").exists()


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_encoder_runs_no_code_of_its_weights(modality, request, tmp_path):
    folder = copy_with_pickle(request.getfixturevalue(f"tiny_{modality}"), tmp_path)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_encoder(modality, ModalityConfig(encoder=str(folder)).encoder_config)
    assert not (tmp_path / "touched").exists()


def test_language_model_runs_no_code_of_its_weights(language_folder, tmp_path):
    folder = copy_with_pickle(language_folder, tmp_path)
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_language(LanguageConfig(model=str(folder)))
    assert not (tmp_path / "touched").exists()


def test_written_pickle_runs_code(tmp_path):
    """Otherwise the tests above would show nothing."""
    for form in FORMS:
        write_touch(tmp_path / form, tmp_path / f"{form} touched", form)
    torch.load(tmp_path / "torch", weights_only=False)
    pickle.loads((tmp_path / "pickle").read_bytes())
    assert sorted(tmp_path.glob("*touched")) == [tmp_path / f"{form} touched" for form in FORMS]


def copy_with_pickle(folder, tmp_path):
    """A copy of a model with weights that make tmp_path/touched, in the form of old checkpoints."""
    copy = shutil.copytree(folder, tmp_path / "model")
    (weights,) = copy.rglob("model.safetensors")
    write_touch(weights.with_name("pytorch_model.bin"), tmp_path / "touched")
    weights.unlink()
    return copy
