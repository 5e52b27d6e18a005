"""The vision-language experiment as functions that `launch` can run and a notebook can call."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed

from edge_lib.align import open_features, open_stores
from edge_lib.answers import score_answers
from edge_lib.bench.tools import seconds
from edge_lib.config import ConfigError, ExperimentConfig
from edge_lib.data.batches import Features
from edge_lib.data.chat import ChatError, Messages
from edge_lib.data.chat_batches import ChatBatches
from edge_lib.data.scene_chats import things_in
from edge_lib.data.sources import CONVERSATIONS, load_table
from edge_lib.data.table import Table
from edge_lib.encoded import Encoded, Together
from edge_lib.features import store_folder
from edge_lib.models import Aligner, Fuser, read_about
from edge_lib.models.streams import FUSED, Streams
from edge_lib.models.vlm import VLM
from edge_lib.pretrained import locate
from edge_lib.runs import Run
from edge_lib.train import fit

SPLITS = tuple(f"{CONVERSATIONS}{split}" for split in ("train", "val", "test"))


class PicturesByRow:
    """Features of rows' pictures, which they may share."""

    def __init__(self, vision: Features, pictures: np.ndarray):
        """pictures: (N,) the number of each row's."""
        self.vision, self.pictures = vision, pictures
        self.ok = vision.ok[pictures]

    def gather(self, rows) -> Encoded:
        return self.vision.gather(self.pictures[rows])


class FusedFeatures:
    """Features of rows' pictures and of clips, as one stream."""

    def __init__(self, vision: Features, audio: Features, clips: np.ndarray):
        """vision: by row; clips: (N,) the row whose clip goes with each row's picture."""
        self.vision, self.audio, self.clips = vision, audio, clips
        self.ok = vision.ok & audio.ok[clips]

    def gather(self, rows) -> Together:
        heard = self.audio.gather(self.clips[rows])
        return Together({"vision": self.vision.gather(rows), "audio": heard})


def stream_config(config: ExperimentConfig, aligner_folder: Path) -> ExperimentConfig:
    """What it takes to encode the conversations' images and clips: the aligner's modalities."""
    about = config.vlm.language
    locate(about.model, about.weights)  # a name of nothing stops here, and not after encoding
    aligner, _ = read_about(aligner_folder)
    named = set(config.vlm.streams.values())
    wanted = {"vision", "audio"} if FUSED in named else named
    if missing := sorted(wanted - set(aligner.modalities)):
        raise ConfigError(f"{aligner_folder}: an aligner without {missing}, which vlm.streams name")
    if config.vlm.streams.get("audio") and aligner.audio.pooler == "tokens":
        raise ConfigError(f"{aligner_folder}: hands on as many vectors as a clip is long (pooler)")
    update = {"data": config.data, "features": config.features, "launch": config.launch}
    others = {name: None for name in aligner.modalities if name not in wanted}
    return aligner.model_copy(update=update | others | {"fusion": None})


def find_streams(config: ExperimentConfig, aligner_folder: Path) -> Streams:
    """The aligner, and the fusion that its experiment (02) trained, if one is named."""
    aligner = Aligner.from_pretrained(aligner_folder)
    if config.vlm.fusion is None:
        return Streams(aligner)
    found = sorted(aligner_folder.parents[1].glob("fusion-*/checkpoints/best"))
    strategies = aligner.config.fusion.strategies if aligner.config.fusion else []
    if not found or config.vlm.fusion not in strategies:
        raise ConfigError(f"{aligner_folder}: no {config.vlm.fusion} fusion was trained beside it")
    fuser = Fuser.from_pretrained(found[0], aligner, aligner.config)
    return Streams(aligner, fuser.fusions[config.vlm.fusion])


def open_streams(
    streams: dict[str, str], about: ExperimentConfig, table: Table, training: bool = False
) -> dict[str, Features]:
    """Features for each placeholder, by the table's rows; about: of `stream_config`.

    What is fused with a picture is a row's own clip or, where it has none, that of the row which
    holds the picture.
    """
    found: dict[str, Features] = (open_features if training else open_stores)(about, table)
    if "vision" in found:
        found["vision"] = PicturesByRow(found["vision"], table.pictures)
    if FUSED in streams.values():
        holders = table.picture_rows[table.pictures]
        clips = np.where(table.has("audio"), np.arange(len(table)), holders)
        found[FUSED] = FusedFeatures(found["vision"], found["audio"], clips)
    return {name: found[stream] for name, stream in streams.items()}


def train_vlm(
    config: ExperimentConfig,
    stage: str,
    aligner_folder: Path,
    run_folder: Path,
    start: Path | None = None,
) -> dict[str, float]:
    """One stage of `config.vlm.stages` on the train conversations; keep the best loss on val.

    start: the folder of an earlier stage's VLM, to go on from.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    how, streams = config.vlm.stages[stage], config.vlm.streams
    train, val = (load_table(config.data, split) for split in SPLITS[:2])
    about = stream_config(config, aligner_folder)
    features = open_streams(streams, about, train, training=True)
    run = Run(run_folder)
    digests = [_digest(path) for path in (aligner_folder, start) if path]
    run.remember("started from", digests)
    stores = [(name, table) for table in (train, val) for name in about.modalities]
    used = [store_folder(about, *store).name for store in stores]
    run.remember("features", used)
    set_seed(config.seed)
    if start:
        vlm = VLM.from_pretrained(start, config.vlm.language)
    else:
        examples = {n: f.gather(np.flatnonzero(f.ok)[:1]) for n, f in features.items()}
        vlm = VLM.new(find_streams(config, aligner_folder), config.vlm, examples)
    vlm.train_adapters(stage == "lora")
    # text alone tells a projector nothing
    talks = train.conversations.with_items() if stage == "projector" else train.conversations
    ranks = {"rank": rank, "world_size": world_size, "accumulation": how.accumulation}
    batches = ChatBatches(talks, train, features, vlm.chat, how.batch_size, config.seed, **ranks)
    unseen, share = open_streams(streams, about, val), how.batch_size // world_size
    judged = ChatBatches(val.conversations, val, unseen, vlm.chat, share, config.seed)

    def evaluate(vlm: VLM) -> dict[str, float]:
        loss, tokens = mean_loss(vlm, judged)
        return {"val.loss": loss, "val.tokens": tokens, "score": -loss}

    metrics = fit(vlm, batches, how, run, evaluate, config.seed)
    trained = sum(p.numel() for p in vlm.parameters() if p.requires_grad)
    total = sum(p.numel() for p in vlm.parameters())
    return metrics | {"parameters.trained": trained, "parameters": total}


@torch.no_grad()
def mean_loss(vlm: VLM, batches: ChatBatches) -> tuple[float, float]:
    """Cross-entropy (nats) a token of what assistants say, whose exponential is the perplexity; and
    the number of tokens.
    """
    device = next(vlm.projectors.parameters()).device
    total = tokens = 0.0
    for batch in batches.once():
        batch = batch.to(device)
        total += vlm(batch).item() * batch.tokens
        tokens += batch.tokens
    return total / tokens, tokens


@torch.no_grad()
def talk_table(
    vlm: VLM,
    table: Table,
    features: dict[str, Features],
    seen: str = "own",
    batch_size: int = 64,
    **how,
) -> pd.DataFrame:
    """`score_answers` of what the model says first in each of a table's conversations, by a row's
    `answers` where it has some; one that it refuses, or whose items could not be encoded, is left
    out.

    seen: the "own" images, "another" conversation's (where one has as many), or "none": controls.
    how: of `VLM.generate`.
    """
    asked = [*_first_turns(vlm, table, features)]
    if seen == "another":
        asked = _exchange_pictures(asked)
    if seen == "none":
        for one in asked:
            one.messages = [_without_image(message) for message in one.messages]
            one.items["image"] = []
    answers = []
    for start in range(0, len(asked), batch_size):
        some, prefixes = asked[start : start + batch_size], {}
        for name, found in features.items():
            if wanted := [item for one in some for item in one.items[name]]:
                prefixes[name] = found.gather(wanted)
        answers += vlm.answer([one.messages for one in some], prefixes, **how)
    references, kinds = [one.references for one in asked], [one.kind for one in asked]
    return score_answers(answers, references, kinds, [one.row for one in asked])


@dataclass
class _Asked:
    """A conversation up to its first answer."""

    row: int
    kind: str
    messages: list[dict]
    items: dict[str, list[int]]  # of each placeholder
    references: list[str]


def _first_turns(vlm: VLM, table: Table, features: dict[str, Features]) -> Iterator[_Asked]:
    talks = table.conversations
    columns, answers = (talks.kinds, talks.messages, talks.pictures), table.column("answers")
    for row, kind, messages, pictures in zip(talks.rows.tolist(), *columns, strict=True):
        place = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        before = messages[:place]
        try:
            vlm.chat.prompt(before)
        except ChatError as error:
            table.skip("refused by the chat", row, error)
            continue
        count = vlm.chat.count(before)
        items = {"image": pictures[: count["image"]], "audio": [row] * count["audio"]}
        if all(found.ok[items[name]].all() for name, found in features.items()):
            references = answers[row] or [messages[place]["content"]]
            yield _Asked(row, kind, before, items, references)


def _exchange_pictures(asked: list[_Asked]) -> list[_Asked]:
    """Each gets the pictures of one half of all conversations further on with as many; one that is
    alone with its number of them is left out.
    """
    counts = Counter(len(one.items["image"]) for one in asked)
    asked = [one for one in asked if counts[len(one.items["image"])] > 1]
    for count in counts:
        alike = [one for one in asked if len(one.items["image"]) == count]
        shown = [one.items["image"] for one in alike]
        half = len(alike) // 2
        for one, pictures in zip(alike, [*shown[half:], *shown[:half]], strict=True):
            one.items["image"] = pictures
    return asked


def _without_image(message: dict) -> dict:
    """The text alone; where there is none, a question mark."""
    return {**message, "content": message["content"].replace("<image>", "").strip() or "?"}


def talking_costs(
    vlm: VLM, messages: Sequence[Messages], prefixes: dict[str, Encoded], new_tokens: int = 32
) -> dict[str, float]:
    """What the language model's weights take, and how fast it answers a batch of conversations."""
    how = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    took = [seconds(lambda: vlm.answer(messages, prefixes, **how)) for _ in range(3)]
    return {
        "weights MB": vlm.language.get_memory_footprint() / 1e6,
        "tokens a second": new_tokens * len(messages) / min(took),
    }


def caption_facts(scored: pd.DataFrame) -> dict[str, float]:
    """Of the captions in a `talk_table`: the share of things named with digit, colour and place
    right (recall), and of those named that are there (precision). Nothing where captions are not
    of scenes.
    """
    pairs = _things(scored)
    right = sum(len(there & named) for there, named in pairs)
    there, named = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    if not there:
        return {}
    shares = {"recall": right / there, "precision": right / max(named, 1)}
    return shares | {"things": there, "named": named}


def things_wrong(scored: pd.DataFrame) -> np.ndarray:
    """(N,) things that each caption in a `talk_table` leaves out or makes up."""
    return np.array([len(there ^ named) for there, named in _things(scored)])


def _things(scored: pd.DataFrame) -> list[tuple[set, set]]:
    """Those that are there, and those that each caption names."""
    pairs = zip(scored.reference, scored.answer, strict=True)
    return [(things_in(reference), things_in(answer)) for reference, answer in pairs]


def _digest(folder: Path) -> str:
    """Of all weights in a saved model's folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
