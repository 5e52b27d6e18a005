"""The question-answering experiment as functions that `launch` can run and a notebook can call."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed

from edge_lib.config import ConfigError, ExperimentConfig
from edge_lib.data.qa_batches import QABatches, questions_by_image
from edge_lib.data.table import Table
from edge_lib.data.vocabulary import Vocabulary
from edge_lib.features.extract import extract_features
from edge_lib.features.online import open_features
from edge_lib.features.store import FeatureStore, open_store, store_folder
from edge_lib.metrics.answers import by_kind, score_answers
from edge_lib.models import Aligner, QAModel, read_about
from edge_lib.runs import Run
from edge_lib.runs.files import replace_text
from edge_lib.sources import load_table
from edge_lib.sources.scenes.questions import BASIC
from edge_lib.sources.splits import QUESTIONS
from edge_lib.training.device import local_device
from edge_lib.training.fit import fit

SPLITS = tuple(f"{QUESTIONS}{split}" for split in ("train", "val", "test"))


def vision_config(config: ExperimentConfig, aligner_folder: Path) -> ExperimentConfig:
    """What it takes to encode the questions' images: the aligner's vision on this data."""
    aligner, _ = read_about(aligner_folder)
    if aligner.vision is None:
        raise ConfigError(f"{aligner_folder}: an aligner without vision, which questions need")
    update = {"data": config.data, "features": config.features, "launch": config.launch}
    alone = {"audio": None, "text": None, "fusion": None}
    return aligner.model_copy(update=update | alone)


def train_decoder(
    config: ExperimentConfig, arm: str, aligner_folder: Path, run_folder: Path
) -> dict[str, float]:
    """Train one of `config.qa.arms` on the train questions; keep the best exact match on val."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    train, val = load_table(config.data, "qa-train"), load_table(config.data, "qa-val")
    vision = vision_config(config, aligner_folder)
    vocabulary = learn_vocabulary(config, train)
    lr = config.qa.arms[arm].lr or config.qa.train.lr
    how = config.qa.train.model_copy(update={"lr": lr})
    features = open_features(vision, train)["vision"]
    batches = QABatches(train, features, vocabulary, config, how, rank, world_size)
    store = open_store(vision, "vision", val)
    run = Run(run_folder)
    weights = (aligner_folder / "model.safetensors").read_bytes()
    run.ensure_unchanged("aligner", hashlib.sha256(weights).hexdigest())
    run.ensure_unchanged("features", [store_folder(vision, "vision", table).name for table in (train, val)])
    set_seed(config.seed)
    model = QAModel.new(Aligner.from_pretrained(aligner_folder), arm, config, vocabulary)

    def evaluate(model: QAModel) -> dict[str, float]:
        scores = by_kind(answer_table(model, val, store, config), val.groups, kind_sets(val))
        em = scores[scores.measure == "em"].set_index("kind")["value"]
        score = em.get("basic", em["all"])
        return {**{f"val.em.{kind}": value for kind, value in em.items()}, "score": score}

    metrics = fit(model, batches, how, run, evaluate, config.seed)
    total = sum(p.numel() for p in model.decoder.parameters())
    return metrics | {"parameters": total, "parameters.core": model.decoder.core_parameters()}


def learn_vocabulary(config: ExperimentConfig, train: Table) -> Vocabulary:
    """The words of the train questions and of all their answers."""
    asked = train.questions
    texts = [*asked.texts, *(answer for answers in asked.answers for answer in answers)]
    return Vocabulary.learn(texts, config.qa.vocab_size)


def kind_sets(table: Table) -> dict[str, list[str]]:
    """Names for several kinds of question together: all, and of scenes, basic and chained."""
    kinds = sorted(set(table.questions.kinds))
    chained = [kind for kind in kinds if kind.startswith("chain")]
    if not set(kinds) & set(BASIC):
        return {"all": kinds}
    return {"all": kinds, "basic": [k for k in kinds if k in BASIC], "chained": chained}


@torch.no_grad()
def answer_table(
    model: QAModel,
    table: Table,
    store: FeatureStore,
    config: ExperimentConfig,
    shuffle: bool = False,
    batch_size: int = 128,
) -> pd.DataFrame:
    """`score_answers` of the model's greedy answers to all of a table's questions.

    shuffle: a control that shows each question the picture of another.
    """
    asked, device = table.questions, model.decoder.head.weight.device
    owned = [(p, q) for p, q in enumerate(questions_by_image(table, store.valid)) if len(q)]
    # images with as many questions go together
    owned.sort(key=lambda pair: len(pair[1]))
    pictures = np.array([picture for picture, _ in owned])
    shown = np.roll(pictures, 1) if shuffle else pictures
    answers = [""] * len(asked.texts)
    counts = np.array([len(numbers) for _, numbers in owned])
    for count in np.unique(counts):
        places = np.flatnonzero(counts == count)
        for part in np.split(places, range(batch_size, len(places), batch_size)):
            numbers = np.concatenate([owned[i][1] for i in part])
            images = store.gather(shown[part]).to(device)
            texts = [asked.texts[number] for number in numbers]
            found = model.answer(images, texts, config.qa.max_answer)
            for number, text in zip(numbers, found, strict=True):
                answers[number] = text
    kept = np.sort(np.concatenate([numbers for _, numbers in owned]))
    columns = ([source[i] for i in kept] for source in (answers, asked.answers, asked.kinds))
    return score_answers(*columns, asked.rows[kept])


def majority_table(train: Table, test: Table) -> pd.DataFrame:
    """`score_answers` of a control that knows only each kind's most frequent answer in train."""
    known, asked = train.questions, test.questions
    given = pd.DataFrame({"kind": known.kinds, "answer": [a[0] for a in known.answers]})
    most = given.groupby("kind").answer.agg(lambda answers: answers.mode()[0])
    overall = given.answer.mode()[0]
    answers = [most.get(kind, overall) for kind in asked.kinds]
    return score_answers(answers, asked.answers, asked.kinds, asked.rows)


def measure_decoder(
    config: ExperimentConfig, arm: str, aligner_folder: Path, run_folder: Path
) -> dict[str, float]:
    """Encode what is missing, train an arm and answer the test questions: an experiment without its
    pictures, for sweeps.

    Its answers go to run_folder/answers.csv: what a comparison, scene by scene, is made of. flops:
    of a question and its answer, forward, the attention's own products aside.
    """
    vision = vision_config(config, aligner_folder)
    extract_features(vision, SPLITS)
    metrics = train_decoder(config, arm, aligner_folder, run_folder)
    test = load_table(config.data, "qa-test")
    store = open_store(vision, "vision", test)
    model = QAModel.from_pretrained(run_folder / "checkpoints/best").to(local_device())
    answers = answer_table(model, test, store, config)
    if os.environ["RANK"] == "0":
        replace_text(run_folder / "answers.csv", answers.to_csv(index=False))
    judged = Run(run_folder).history().filter(regex=r"^val\.em\.(?:basic|all)$").dropna()
    by = "val.em.basic" if "val.em.basic" in judged else "val.em.all"
    best = judged.loc[judged[by].idxmax()]
    scores = by_kind(answers, test.groups, kind_sets(test))
    found = qa_metrics(scores, arm) | {f"qa.{arm}.{k}": float(v) for k, v in best.items()}
    metrics["layer_tokens"] = layer_tokens(model, test, store, config.qa.questions_per_image)
    layer = metrics["parameters.core"] / config.qa.arms[arm].layers
    metrics["flops"] = 2 * layer * metrics["layer_tokens"]
    for steps in config.qa.test_steps if arm == "trm" else []:
        model.decoder.inner_steps = steps
        answers = answer_table(model, test, store, config)
        scores = qa_metrics(by_kind(answers, test.groups, kind_sets(test)), arm)
        found |= {f"{name}.steps{steps}": value for name, value in scores.items()}
    return found | {f"{name}.{arm}": value for name, value in metrics.items()}


def layer_tokens(model: QAModel, table: Table, store: FeatureStore, each: int) -> float:
    """Rows that pass through a layer for a question of average length and its answer, where `each`
    questions share a prefix; times a layer's parameters, and two, its FLOPs (attention aside).
    """
    words, asked = model.vocabulary.encode, table.questions
    question = np.mean([len(ids) for ids in words(asked.texts)])
    answer = np.mean([len(ids) + 1 for ids in words([a[0] for a in asked.answers])])
    image = store.gather(np.flatnonzero(store.valid)[:1]).to(model.decoder.head.weight.device)
    return model.decoder.layer_tokens(model.prefix(image)[0].shape[1] / each + question, answer)


def qa_metrics(scores: pd.DataFrame, arm: str) -> dict[str, float]:
    """Flat names: qa.trm.em (over basic kinds, or over all), qa.trm.em.sum, qa.trm.f1.chained."""
    metrics = {f"qa.{arm}.{r.measure}.{r.kind}": float(r.value) for r in scores.itertuples()}
    overall = "basic" if (scores.kind == "basic").any() else "all"
    for row in scores[scores.kind == overall].itertuples():
        metrics[f"qa.{arm}.{row.measure}"] = float(row.value)
    return metrics
