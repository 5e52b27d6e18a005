"""The exported folder without this library: in an environment without torch, and in node.

Both need packages from an index; they are kept under the system's temporary folder.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image

from edge_lib.config import ROOT

CACHE = Path(tempfile.gettempdir()) / "edge-glass-tests"
PACKAGES = ["numpy", "onnxruntime", "pillow", "tokenizers"]
TEXTS = ["a large red three at the top left", "two", "ä 日本 🙂"]
NODE = """
import { AutoTokenizer, CLIPTextModelWithProjection, env } from '@huggingface/transformers';
const [folder, name, texts] = process.argv.slice(2);
Object.assign(env, { allowRemoteModels: false, localModelPath: folder });
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await CLIPTextModelWithProjection.from_pretrained(name, { dtype: 'fp32' });
const inputs = tokenizer(JSON.parse(texts), { padding: true, truncation: true });
console.log(JSON.stringify((await model(inputs)).text_embeds.tolist()));
"""

pytestmark = pytest.mark.packages


def install(folder, *commands):
    """Run the commands once; skip the test if one fails, as without a network."""
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{folder.name}.lock"):
        if (folder / "ready").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        for command in commands:
            try:
                subprocess.run(command, capture_output=True, check=True, timeout=300)
            except subprocess.SubprocessError as error:
                pytest.skip(str(error))
        (folder / "ready").touch()


def test_search_script_runs_without_torch(aligner, exported, tmp_path):
    python = CACHE / "venv/bin/python"
    pip = [python, "-m", "pip", "install", "-c", ROOT / "constraints.txt", *PACKAGES]
    install(CACHE / "venv", [sys.executable, "-m", "venv", CACHE / "venv"], pip)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1
    colours = {tmp_path / f"{name}.png": name for name in ("red", "green", "blue")}
    for path, colour in colours.items():
        Image.new("RGB", (50, 40), colour).save(path)
    command = [python, exported / "search.py", TEXTS[0], *colours]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    embeddings = aligner.embed("vision", [Image.open(path) for path in colours])
    scores = F.cosine_similarity(embeddings, aligner.embed("text", TEXTS[0])).tolist()
    printed = {path: float(score) for score, path in (line.split("  ") for line in lines)}
    expected = {str(path): score for path, score in zip(colours, scores, strict=True)}
    assert printed == pytest.approx(expected, abs=6e-4)


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_text_graph_runs_in_node(aligner, exported):
    folder = CACHE / "node"
    npm = ["npm", "install", "--prefix", folder, "--ignore-scripts", "--no-audit"]
    install(folder, [*npm, "@huggingface/transformers@4.3.1"])
    (folder / "embed.mjs").write_text(NODE)
    arguments = [f"{exported.parent}/", exported.name, json.dumps(TEXTS)]
    command = ["node", "embed.mjs", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    embeddings = torch.tensor(json.loads(result.stdout.splitlines()[-1]))
    expected = F.normalize(aligner.embed("text", TEXTS), dim=1)
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)
