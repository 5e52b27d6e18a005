"""Notebook 03 and the points of its sweeps: train and test a decoder on questions about images."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed

from edge_lib.config import ConfigError, ExperimentConfig, FeatureSpec
from edge_lib.data.qa_batches import QABatches, questions_by_image
from edge_lib.data.table import Table
from edge_lib.data.vocabulary import Vocabulary
from edge_lib.experiments.checks import check_experiment
from edge_lib.features.extract import write_features
from edge_lib.features.online import open_features
from edge_lib.features.store import FeatureStore, open_store, store_names
from edge_lib.metrics.answers import by_kind, score_answers
from edge_lib.models import Aligner, QAModel
from edge_lib.models.saving import model_digest
from edge_lib.runs import Run
from edge_lib.runs.files import replace_text
from edge_lib.sources import kind_sets, load_table
from edge_lib.sources.split_names import QUESTIONS, SPLITS
from edge_lib.training.device import local_device, process_rank
from edge_lib.training.fit import fit

ANSWERS = "answers.csv"
QA_SPLITS = tuple(f"{QUESTIONS}{split}" for split in SPLITS)


def vision_spec(config: ExperimentConfig, aligner_folder: Path) -> FeatureSpec:
    """All that is needed to encode the questions' images, by the saved aligner's vision encoder."""
    aligner = Aligner.untrained(aligner_folder)
    if "vision" not in aligner.modalities:
        raise ConfigError(f"{aligner_folder}: the aligner has no vision, which questions need")
    return aligner.feature_spec(config.features, config.data.cache_dir, ["vision"])


def check_encoded(config: ExperimentConfig, spec: FeatureSpec) -> None:
    """ConfigError if no question of val or test is about an encoded image: no training should find
    that out at its end.
    """
    for table in (load_table(config.data, split) for split in QA_SPLITS[1:]):
        valid = open_store(spec, "vision", table).valid
        if not questions_by_image(table, valid).counts.any():
            reasons = [f"{len(ids)} {reason}" for reason, ids in table.skipped.items() if ids]
            reasons.append(f"{np.count_nonzero(~valid)} images could not be encoded")
            raise ConfigError(f"{table.name}: no question can be asked: {'; '.join(reasons)}")


def train_decoder(
    config: ExperimentConfig, decoder: str, aligner_folder: Path, run_folder: Path
) -> dict[str, float]:
    """Train one of `config.qa.decoders` on the train split; keep the best exact match on val."""
    train, val = load_table(config.data, "qa-train"), load_table(config.data, "qa-val")
    spec, run = vision_spec(config, aligner_folder), Run(run_folder)
    qa, seed = config.qa, config.seed
    vocabulary = learn_vocabulary(train, qa.vocab_size)
    features, store = open_features(spec, train)["vision"], open_store(spec, "vision", val)
    batches = QABatches(train, features, vocabulary, qa, seed, *process_rank())
    run.ensure_unchanged("aligner", model_digest(aligner_folder))
    run.ensure_unchanged("features", store_names(spec, train, val))
    set_seed(seed)
    aligner = Aligner.from_pretrained(aligner_folder)
    model = QAModel(aligner, decoder, qa.decoders[decoder], vocabulary, qa.vision)

    def evaluate(model: QAModel) -> dict[str, float]:
        answers = answer_table(model, val, store, qa.max_answer)
        scores = by_kind(answers, val.groups, kind_sets(config.data, val.questions.kinds))
        em = scores[scores.measure == "em"].set_index("kind")["value"]
        score = em.get("basic", em["all"])
        return {**{f"val.em.{kind}": value for kind, value in em.items()}, "score": score}

    metrics = fit(model, batches, qa.train_config(decoder), run, evaluate, seed)
    total = sum(p.numel() for p in model.decoder.parameters())
    return metrics | {"parameters": total, "parameters.core": model.decoder.core_parameters()}


def learn_vocabulary(table: Table, size: int) -> Vocabulary:
    """The vocabulary of a table's questions and all their answers."""
    questions = table.questions
    answers = (answer for answers in questions.answers for answer in answers)
    return Vocabulary.learn([*questions.texts, *answers], size)


@torch.no_grad()
def answer_table(
    model: QAModel,
    table: Table,
    store: FeatureStore,
    max_tokens: int,
    shuffle: bool = False,
    batch_size: int = 128,
) -> pd.DataFrame:
    """`score_answers` of the model's greedy answers to all questions of a table.

    shuffle: a control in which each question is about the image of another; there is none for the
    questions of a single image.
    """
    questions, by_image = table.questions, questions_by_image(table, store.valid)
    counts = np.array([len(numbers) for numbers in by_image])
    images = np.argsort(counts, kind="stable")
    images = images[counts[images] > 0]
    images = images[:0] if shuffle and len(images) == 1 else images
    shown = np.roll(images, 1) if shuffle else images
    answers = {}
    for count in np.unique(counts[images]):  # images with equally many questions form batches
        places = np.flatnonzero(counts[images] == count)
        for part in np.split(places, range(batch_size, len(places), batch_size)):
            numbers = np.concatenate([by_image[image] for image in images[part]])
            texts = [questions.texts[number] for number in numbers]
            features = store.gather(shown[part]).to(model.device)
            answers |= zip(numbers, model.answer(features, texts, max_tokens), strict=True)
    kept, columns = sorted(answers), (answers, questions.answers, questions.kinds)
    return score_answers(*([column[i] for i in kept] for column in columns), questions.rows[kept])


def majority_table(train: Table, test: Table) -> pd.DataFrame:
    """`score_answers` of a control that gives each kind's most frequent answer in train."""
    known, questions = train.questions, test.questions
    first = pd.DataFrame({"kind": known.kinds, "answer": [a[0] for a in known.answers]})
    most_frequent = first.groupby("kind").answer.agg(lambda answers: answers.mode()[0])
    overall = first.answer.mode()[0]
    answers = [most_frequent.get(kind, overall) for kind in questions.kinds]
    return score_answers(answers, questions.answers, questions.kinds, questions.rows)


def measure_decoder(
    config: ExperimentConfig, decoder: str, aligner_folder: Path, run_folder: Path
) -> dict[str, float]:
    """A point of a sweep: check the config, encode what is missing, train a decoder, answer the
    test questions.

    The answers are written to run_folder/answers.csv, for paired comparisons. flops: of the forward
    pass of a question and its answer, without the products of attention.
    """
    check_experiment(config)
    spec, qa = vision_spec(config, aligner_folder), config.qa
    write_features(config.data, spec, QA_SPLITS)
    check_encoded(config, spec)
    trained = train_decoder(config, decoder, aligner_folder, run_folder)
    test = load_table(config.data, "qa-test")
    store, sets = open_store(spec, "vision", test), kind_sets(config.data, test.questions.kinds)
    model = QAModel.from_pretrained(run_folder / "checkpoints/best").to(local_device())

    def scores(answers: pd.DataFrame) -> dict[str, float]:
        return qa_metrics(by_kind(answers, test.groups, sets), decoder)

    answers = answer_table(model, test, store, qa.max_answer)
    if process_rank()[0] == 0:
        replace_text(run_folder / ANSWERS, answers.to_csv(index=False))
    validation = _best_validation(Run(run_folder)).items()
    metrics = scores(answers) | {f"qa.{decoder}.{name}": value for name, value in validation}
    trained["layer_tokens"] = layer_tokens(model, test, store, qa.questions_per_image)
    layer = trained["parameters.core"] / qa.decoders[decoder].layers
    trained["flops"] = 2 * layer * trained["layer_tokens"]
    for steps in qa.test_steps if decoder == "trm" else []:
        model.decoder.inner_steps = steps
        deeper = scores(answer_table(model, test, store, qa.max_answer))
        metrics |= {f"{name}.steps{steps}": value for name, value in deeper.items()}
    return metrics | {f"{name}.{decoder}": value for name, value in trained.items()}


def read_answers(folder: Path) -> pd.DataFrame:
    """The answers that `measure_decoder` wrote. A text may be NA, or hold a carriage return."""
    return pd.read_csv(folder / ANSWERS, keep_default_na=False, lineterminator="\n")


def _best_validation(run: Run) -> dict[str, float]:
    """The validation scores of the checkpoint that was kept."""
    scores = run.history().filter(regex=r"^val\.em\.(?:basic|all)$").dropna()
    by = "val.em.basic" if "val.em.basic" in scores else "val.em.all"
    best = scores.loc[scores[by].idxmax()]
    return {name: float(value) for name, value in best.items()}


def layer_tokens(
    model: QAModel, table: Table, store: FeatureStore, questions_per_image: int
) -> float:
    """Rows that pass through a layer for a question and answer of average length, where
    `questions_per_image` questions share a prefix. FLOPs are twice this times a layer's parameters.
    """
    encode, questions = model.vocabulary.encode, table.questions
    question = np.mean([len(ids) for ids in encode(questions.texts)])
    answer = np.mean([len(ids) + 1 for ids in encode([a[0] for a in questions.answers])])
    image = store.gather(np.flatnonzero(store.valid)[:1]).to(model.device)
    prefix = model.prefix(image)[0].shape[1] / questions_per_image
    return model.decoder.layer_tokens(prefix + question, answer)


def qa_metrics(scores: pd.DataFrame, decoder: str) -> dict[str, float]:
    """Flat names: qa.trm.em (over basic kinds, or over all), qa.trm.em.sum, qa.trm.f1.chained."""
    metrics = {f"qa.{decoder}.{r.measure}.{r.kind}": float(r.value) for r in scores.itertuples()}
    overall = "basic" if (scores.kind == "basic").any() else "all"
    for row in scores[scores.kind == overall].itertuples():
        metrics[f"qa.{decoder}.{row.measure}"] = float(row.value)
    return metrics
