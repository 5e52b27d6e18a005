"""Fixtures of several test modules: encoded images, small tables, tiny checkpoints, configs."""

import io
import json
import multiprocessing
import os

os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # speech without processes that import the library first

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from fake_hub import TOKEN, FakeHub
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from edge_lib.config import (
    DataConfig,
    DecoderConfig,
    ExperimentConfig,
    FusionConfig,
    ModalityConfig,
    QAConfig,
    TrainConfig,
    VLMConfig,
    load_config,
)
from edge_lib.data.table import SCHEMA, Table
from edge_lib.experiments.align import train_aligner
from edge_lib.experiments.backbones.language import learn_tokenizer
from edge_lib.features.extract import write_features
from edge_lib.features.weights import MINILM
from edge_lib.runs import Run
from edge_lib.runs.relay import RelayedBar
from edge_lib.training.launch import launch

# a trained model does not need these keys
RENAMED = (
    (TrainConfig, "lr"),
    (DataConfig, "hard_negatives"),
    (ModalityConfig, "augment"),
    (FusionConfig, "modality_dropout"),
    (DecoderConfig, "lr"),
)

PRELOADED = ["edge_lib.experiments.align", "edge_lib.experiments.trimodal"]
PRELOADED += ["edge_lib.experiments.trm_qa", "edge_lib.experiments.vlm"]
PRELOADED += ["edge_lib.sources.download.url_download"]


def pytest_configure(config):
    if config.option.markexpr != "gpu":  # the same tests on a machine with GPUs
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    config.collected_ids = [item.nodeid for item in items]  # before any is deselected
    if "campaign" not in config.option.markexpr:
        for item in items:
            if "campaign" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="runs with -m campaign"))


@pytest.fixture(scope="session", autouse=True)
def _processes_fork_from_a_server():
    """Launched processes are forks of one that has imported the library, which takes seconds.

    tests/training/test_launch.py spawns them, as users do.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_lib.training.node.START_METHOD", "forkserver")
        yield


@pytest.fixture(autouse=True)
def _threads_stay_the_same():
    """Benchmarks set torch's threads: forks made by a later test would wait for those for ever."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps the state of a training run for the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """A FakeHub that huggingface_hub uses, with a cache of its own, logged in with TOKEN."""
    with FakeHub().serve() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        constants = "huggingface_hub.constants."
        monkeypatch.setattr(f"{constants}ENDPOINT", hub.url)
        monkeypatch.setattr(f"{constants}HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(f"{constants}HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="session")
def encode_image():
    """encode_image(seed, format, mode) -> the bytes of a small noisy image."""

    def encode(seed=0, format="PNG", mode="RGB", size=(12, 10)):
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(buffer, format)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def make_table():
    """make_table([{column: value}, ...]) -> a Table; other columns are null."""

    def make(rows):
        return Table(Dataset(pa.Table.from_pylist(rows, schema=SCHEMA)), "small", "fingerprint")

    return make


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory):
    """A folder with a random two-layer CLIP vision checkpoint and its image processor."""
    folder = tmp_path_factory.mktemp("checkpoints") / "vision"
    torch.manual_seed(0)
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    ).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_audio(tmp_path_factory):
    """A folder with a random two-layer Whisper encoder (2 s, a token each 40 ms)."""
    folder = tmp_path_factory.mktemp("checkpoints") / "audio"
    torch.manual_seed(0)
    WhisperEncoder(
        WhisperConfig(
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            num_mel_bins=20,
            max_source_positions=50,
        )
    ).save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=20, hop_length=320, chunk_length=2)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory):
    """A folder with a random two-layer BERT with MiniLM's tokenizer, at most 60 tokens."""
    folder = tmp_path_factory.mktemp("text")
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertModel(BertConfig(**shape, num_hidden_layers=2)).save_pretrained(folder / "bert")
    AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=60)
    model = SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory):
    """A folder with a random two-layer Qwen2 and a tokenizer with a small vocabulary."""
    folder = tmp_path_factory.mktemp("checkpoints") / "language"
    texts = [
        "user assistant system",
        " what is in the image ? where is it",
        " a red three yes no two",
    ]
    tokenizer = learn_tokenizer(texts, 400)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def aligner_folder(small_align, tmp_path_factory):
    """The folder of a small trained aligner with 3 latents for each image."""
    config = small_align("vision.pooler=perceiver vision.num_latents=3")
    run = Run.create(config, "align", tmp_path_factory.mktemp("aligner"))
    write_features(config.data, config.feature_spec)
    launch(train_aligner, config, run.folder)
    return run.checkpoints / "best"


@pytest.fixture(scope="session")
def small_trimodal(tiny_vision, tiny_audio, tmp_path_factory):
    """small_trimodal("key=value ...") -> a tiny trimodal config that runs in seconds; one cache."""
    cache = tmp_path_factory.mktemp("cache")
    small = (
        f"vision.encoder={tiny_vision} audio.encoder={tiny_audio} data.cache_dir={cache} "
        "data.scenes.train_size=96 data.scenes.val_size=16 data.scenes.test_size=16 "
        "data.scenes.swap_size=2 data.scenes.degraded_size=32 loss.dims=[16,8] "
        "vision.width=16 audio.width=16 text.width=16 train.batch_size=16 train.epochs=2 "
        "train.eval_every=4 train.checkpoint_every=2 fusion.width=16 fusion.train.batch_size=16 "
        "fusion.train.epochs=2 fusion.train.eval_every=4 fusion.train.checkpoint_every=2 "
        "features.precision=fp32 "
    )
    return lambda overrides="": load_config("params/tiny/trimodal.yaml", small + overrides)


@pytest.fixture(scope="session")
def small_align(tiny_vision, tmp_path_factory):
    """small_align("key=value ...") -> a tiny alignment config that runs in seconds; one cache."""
    cache = tmp_path_factory.mktemp("cache")
    small = (
        f"vision.encoder={tiny_vision} data.cache_dir={cache} data.scenes.train_size=96 "
        "data.scenes.val_size=16 data.scenes.test_size=16 data.scenes.swap_size=2 "
        "vision.num_latents=2 vision.width=16 text.width=16 loss.dims=[16,8] "
        "train.batch_size=16 train.epochs=2 train.eval_every=4 train.checkpoint_every=2 "
        "features.precision=fp32 "
    )
    return lambda overrides="": load_config("params/tiny/align.yaml", small + overrides)


@pytest.fixture
def rename_keys():
    """rename_keys() renames the keys of RENAMED until the test ends, as a later version might."""

    def swap(old, new):
        for section, key in RENAMED:
            fields = section.__pydantic_fields__
            fields[new(key)] = fields.pop(old(key))
        for section in (*dict(RENAMED), FusionConfig, QAConfig, VLMConfig, ExperimentConfig):
            section.model_rebuild(force=True)

    def keep(key):
        return key

    def rename(key):
        return f"new_{key}"

    yield lambda: swap(keep, rename)
    if "new_lr" in TrainConfig.__pydantic_fields__:
        swap(rename, keep)


@pytest.fixture
def relayed_states(tmp_path, monkeypatch):
    """relayed_states() -> the states of this process's bars that a notebook would draw."""
    file = tmp_path / "relayed bars"
    file.touch()
    monkeypatch.setattr(RelayedBar, "file", file)
    return lambda: [json.loads(line) for line in file.read_text().splitlines()]
