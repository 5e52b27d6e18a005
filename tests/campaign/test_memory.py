"""A day in small: 2,000 steps of each trainer, 2,000 requests and 200 points of a sweep. At the end
no more memory, files and threads are held than after the first quarter.
"""

import base64
import io
import json
from collections import deque
from threading import Thread

import httpx
import nbformat
import psutil
import pytest
from campaign.memory_targets import (
    KB_PER_TURN,
    growth,
    held,
    in_new_process,
    sweep_points,
    train_leaking,
    train_steps,
)
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from serving.processes import is_ready, server_process, wait_for

from edge_lib.bench.serve import build
from edge_lib.config import load_config
from edge_lib.experiments.align import train_aligner
from edge_lib.experiments.trimodal import train_fusions
from edge_lib.experiments.trm_qa import QA_SPLITS, train_decoder, vision_spec
from edge_lib.experiments.vlm import train_vlm
from edge_lib.experiments.vlm_checks import CHAT_SPLITS
from edge_lib.experiments.vlm_features import prefix_spec
from edge_lib.features.extract import write_features
from edge_lib.runs import Run

pytestmark = pytest.mark.campaign

STEPS, REQUESTS, POINTS = 2000, 2000, 200
OFTEN = "{0}.max_steps=2000 {0}.epochs=2000 {0}.eval_every=50 {0}.checkpoint_every=40 "
QA = (
    "data.questions.train_scenes=40 data.questions.val_scenes=6 data.questions.test_scenes=6 "
    "data.questions.per_scene=4 qa.plain.width=16 qa.trm.width=16 qa.plain.heads=2 qa.trm.heads=2 "
    "qa.plain.layers=2 qa.trm.inner_steps=2 qa.questions_per_image=4 qa.train.batch_size=32 "
    "qa.curriculum=null "
)
CHATS = (
    "data.conversations.train_scenes=20 data.conversations.val_scenes=6 "
    "data.conversations.test_scenes=8 data.conversations.per_scene=2 vlm.projector.tokens=2 "
    "vlm.language.lora.rank=4 vlm.max_length=400 "
    "vlm.stages.projector.batch_size=8 vlm.stages.lora.batch_size=8 "
)


def assert_steady(measured, turns):
    assert len(measured) == turns
    size, files, threads = growth(measured)
    print(f"{size:+.2f} KB a turn of {measured[-1][0] / 1e6:.0f} MB")
    assert size < KB_PER_TURN
    assert (files, threads) == (0, 0)


@pytest.fixture
def make_align(small_align, tmp_path):
    config = small_align(OFTEN.format("train"))
    write_features(config.data, config.feature_spec)
    return config, Run.create(config, "align", tmp_path / "run").folder


def test_aligner_holds_no_more_after_2000_steps(make_align):
    assert_steady(in_new_process(train_steps, train_aligner, *make_align), STEPS)


def test_measure_sees_a_leak(make_align):
    size, *_ = growth(in_new_process(train_leaking, train_aligner, *make_align))
    assert size > KB_PER_TURN


def test_fuser_holds_no_more_after_2000_steps(small_trimodal, tmp_path):
    config = small_trimodal("train.max_steps=20 " + OFTEN.format("fusion.train"))
    write_features(config.data, config.feature_spec)
    aligner = Run.create(config, "align", tmp_path / "aligner")
    in_new_process(train_aligner, config, aligner.folder)
    folders = {0: Run.create(config, "fusion", tmp_path / "fusion").folder}
    call = train_fusions, config, aligner.checkpoints / "best", folders
    assert_steady(in_new_process(train_steps, *call), STEPS)


@pytest.mark.parametrize("decoder", ["plain", "trm"])
def test_decoder_holds_no_more_after_2000_steps(decoder, aligner_folder, small_align, tmp_path):
    own = f"data.cache_dir={small_align('').data.cache_dir} aligner.config=null "
    own += f"aligner.folder={aligner_folder} {QA}{OFTEN.format('qa.train')}"
    config = load_config("params/tiny/trm_qa.yaml", own)
    write_features(config.data, vision_spec(config, aligner_folder), QA_SPLITS)
    run = Run.create(config, "qa", tmp_path / "run")
    call = train_decoder, config, decoder, aligner_folder, run.folder
    assert_steady(in_new_process(train_steps, *call), STEPS)


@pytest.mark.parametrize("stage", ["projector", "lora"])
def test_vlm_holds_no_more_after_2000_steps(
    stage, aligner_folder, language_folder, small_align, tmp_path
):
    own = f"data.cache_dir={small_align('').data.cache_dir} aligner.config=null {CHATS}"
    own += f"aligner.folder={aligner_folder} vlm.language.model={language_folder} "
    config = load_config("params/tiny/vlm.yaml", own + OFTEN.format(f"vlm.stages.{stage}"))
    write_features(config.data, prefix_spec(config, aligner_folder), CHAT_SPLITS)
    run = Run.create(config, "vlm", tmp_path / "run")
    call = train_vlm, config, stage, aligner_folder, run.folder
    assert_steady(in_new_process(train_steps, *call), STEPS)


def test_server_holds_no_more_after_2000_requests(tmp_path):
    build(tmp_path / "model")
    with server_process(tmp_path / "model") as (process, url):
        Thread(target=deque, args=(process.stderr, 0)).start()  # its lines would fill the pipe
        wait_for(lambda: is_ready(url), process)
        measured, statuses = [], {}
        with httpx.Client(base_url=url, timeout=60) as client:
            for number in range(REQUESTS):
                status = send(client, number)
                statuses[status] = statuses.get(status, 0) + 1
                measured.append(held(psutil.Process(process.pid)))
    assert statuses[200] > REQUESTS / 2
    assert not [status for status in statuses if status >= 500], statuses
    assert_steady(measured, REQUESTS)


def send(client, number):
    """One of a few kinds of request, of which some are refused; none repeats another's content."""
    text = f"a scene with {number} things"
    turn = {"role": "user", "content": text}
    if number % 10 == 4:
        turn["content"] = [{"type": "text", "text": text}, picture_part(number)]
    chat = {"messages": [turn], "max_tokens": 4}
    if number % 10 == 5:  # the client leaves in the middle
        with client.stream("POST", "/v1/chat/completions", json=chat | {"stream": True}) as answer:
            next(answer.iter_lines())
            return answer.status_code
    calls = {
        0: lambda: client.get("/metrics"),
        1: lambda: client.post("/v1/embeddings", json={"input": [text, text + "!"]}),
        6: lambda: client.post("/v1/chat/completions", content=b"{" + text.encode()),
        7: lambda: client.get(f"/{number}"),
        8: lambda: client.post("/v1/embeddings", json={"input": 5}),
    }
    ask = calls.get(number % 10, lambda: client.post("/v1/chat/completions", json=chat))
    return ask().status_code


def picture_part(number):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (number % 256, number // 256, 99)).save(buffer, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": uri}}


def test_sweep_holds_no_more_after_200_points(tmp_path):
    cell = 'config = overrides = run_dir = ""'
    code = 'import pathlib; (pathlib.Path(run_dir) / "metrics.json").write_text("{}")'
    cells = [new_code_cell(cell, metadata={"tags": ["parameters"]}), new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "point.ipynb")
    sweep = {"notebook": f"{tmp_path}/point.ipynb", "folder": f"{tmp_path}/points", "seeds": [0]}
    sweep["grids"] = {"a": {"train.lr": [n / 1000 for n in range(1, POINTS + 1)]}}
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps({"name": "small", "sweep": {**sweep, "workers": 2}}))
    assert_steady(in_new_process(sweep_points, path), POINTS)
