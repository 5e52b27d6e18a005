"""The rival of the `align` benchmark: two towers in sentence-transformers' trainer."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset, Features, Image, Value
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.modules import InputModule
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer import losses

from edge_lib.config import ExperimentConfig
from edge_lib.data.table import Table
from edge_lib.features.encoder import load_encoder, run_encoder
from edge_lib.metrics.recall import recall_table
from edge_lib.models import Aligner
from edge_lib.sources import load_table
from edge_lib.training.device import local_device

GROUP = 4  # rows of the built-in data that are variants of one another
BOTH_WAYS = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


class Towers(InputModule):
    """Our frozen encoders and heads as one module, which embeds images or texts."""

    modalities = "text", "image"

    def __init__(self, config: ExperimentConfig, examples: dict[str, list]):
        super().__init__()
        self.encoders = {n: load_encoder(n, m.encoder_config) for n, m in config.modalities.items()}
        outputs = {n: self.encoders[n](**self.encoders[n].prepare(x)) for n, x in examples.items()}
        widths = {n: (x.tokens.shape[-1], x.pooled.shape[-1]) for n, x in outputs.items()}
        self.aligner = Aligner(config.modalities, config.loss.dims, widths)
        for encoder in self.encoders.values():
            encoder.to(local_device())
        self.precision = config.features.precision

    def preprocess(self, inputs: list, prompt: str | None = None, **_) -> dict:
        return self.encoders["text" if isinstance(inputs[0], str) else "vision"].prepare(inputs)

    def forward(self, features: dict, **_) -> dict:
        name = "vision" if "pixel_values" in features else "text"
        keys = ("pixel_values",) if name == "vision" else ("input_ids", "attention_mask")
        inputs = {key: features[key] for key in keys}
        output = run_encoder(self.encoders[name], inputs, self.precision)
        return features | {"sentence_embedding": self.aligner.embed_output(name, output)}

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Nothing is saved."""


class WholeGroups(DefaultBatchSampler):
    """Shuffled batches of whole groups of GROUP rows, which stand together in the data set."""

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        groups = torch.randperm(len(self.sampler) // GROUP, generator=generator)
        rows = (GROUP * groups[:, None] + torch.arange(GROUP)).flatten()
        return iter(rows[: len(self) * self.batch_size].view(-1, self.batch_size).tolist())

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size


class Recall(BaseEvaluator):
    """R@1 of both directions as ours computes it, given to `check`."""

    def __init__(self, val: Table, config: ExperimentConfig, check: Callable[[float], None]):
        super().__init__()
        self.val, self.config, self.check = val, config, check
        self.rows = np.arange(len(val))
        self.images = val.try_decode("vision", self.rows)

    def __call__(self, model: SentenceTransformer, *args, **kwargs) -> dict[str, float]:
        items = {"vision": self.images, "text": self.val.captions[:]}
        options = {"batch_size": 256, "convert_to_tensor": True, "show_progress_bar": False}
        embeddings = {name: model.encode(own, **options).cpu() for name, own in items.items()}
        labels = {name: self.val.item_labels(name, self.rows) for name in items}
        width, groups = max(self.config.loss.dims), self.val.groups
        rows, options = dict.fromkeys(items, self.rows), {"pairs": self.config.pairs}
        recall = recall_table(embeddings, rows, [width], [1], groups, labels=labels, **options)
        self.check(float(recall.recall.mean()))
        return {"r1": float(recall.recall.mean())}


def train_rival(config: ExperimentConfig, folder: Path, check: Callable[[float], None]) -> None:
    train, val = load_table(config.data, "train"), load_table(config.data, "val")
    set_seed(config.seed)
    examples = {"vision": val.try_decode("vision", [0]), "text": val.captions[:1]}
    model = SentenceTransformer(modules=[Towers(config, examples)])
    single = losses.MultipleNegativesRankingLoss(model, 1 / config.loss.temperature, **BOTH_WAYS)
    loss = losses.MatryoshkaLoss(model, single, config.loss.dims)
    evaluator, arguments = Recall(val, config, check), training_arguments(config, folder)
    options = {"train_dataset": pairs(train), "loss": loss, "evaluator": evaluator}
    SentenceTransformerTrainer(model, arguments, **options).train()


def pairs(table: Table) -> Dataset:
    """Images, decoded when they are read, and captions of a table with one of each a row."""
    images = [{"bytes": value} for value in table.cells("image", range(len(table)))]
    columns = {"image": images, "caption": table.captions[:]}
    return Dataset.from_dict(columns, Features({"image": Image(), "caption": Value("string")}))


def training_arguments(
    config: ExperimentConfig, folder: Path
) -> SentenceTransformerTrainingArguments:
    train = config.train
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=train.epochs,
        per_device_train_batch_size=train.batch_size,
        batch_sampler=WholeGroups,
        learning_rate=train.lr,
        adam_beta1=train.betas[0],
        adam_beta2=train.betas[1],
        weight_decay=train.weight_decay,
        warmup_steps=train.warmup,
        lr_scheduler_type="cosine",
        max_grad_norm=train.clip,
        eval_strategy="steps",
        eval_steps=train.eval_every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=config.seed,
    )
