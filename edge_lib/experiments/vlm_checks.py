"""Notebook 06: whether the conversations of all splits can be used, before anything is trained."""

from edge_lib.config import ConfigError, ExperimentConfig, FeatureSpec
from edge_lib.data.chat import Chat
from edge_lib.data.chat_store import open_tokenized
from edge_lib.data.encoder_output import Features
from edge_lib.data.step_dataset import StepDataset
from edge_lib.data.table import Table
from edge_lib.data.tokenized import TokenizedConversations
from edge_lib.experiments.vlm_answers import eval_prompts
from edge_lib.experiments.vlm_features import open_prefix_features
from edge_lib.models.prefix_sources import FUSED
from edge_lib.nn.decoders.language import load_tokenizer
from edge_lib.sources import load_table
from edge_lib.sources.split_names import CONVERSATIONS, SPLITS

CHAT_SPLITS = TRAIN, VAL, TEST = tuple(f"{CONVERSATIONS}{split}" for split in SPLITS)


def stage_conversations(
    conversations: TokenizedConversations, stage: str
) -> TokenizedConversations:
    """Those that a stage trains on."""
    # text-only rows give the projector no gradient
    return conversations.with_items() if stage == "projector" else conversations


def check_split(config: ExperimentConfig, split: str) -> None:
    """ConfigError for a split of CHAT_SPLITS without items or usable conversations, as far as is
    known before images and clips are encoded. Tokenises the conversations.
    """
    table = load_table(config.data, split)
    _count(config, split, table, {})
    for name, source in config.vlm.prefix_sources.items():
        for column in ("image", "audio") if source == FUSED else (name,):
            if not table.has(column).any():
                raise ConfigError(f"vlm.prefix_sources.{name}: no row of {table.name} has {column}")


def count_conversations(config: ExperimentConfig, spec: FeatureSpec) -> dict[str, dict[str, int]]:
    """Of each split, the conversations whose images and clips are encoded, and what is skipped.
    ConfigError if they are too few, which no training should find out at its end.
    """
    counts, sources = {}, config.vlm.prefix_sources
    for split in CHAT_SPLITS:
        table = load_table(config.data, split)
        features = open_prefix_features(sources, spec, table, split == TRAIN)
        count = _count(config, split, table, features)
        skipped = sum(map(len, table.skipped.values()))
        counts[split] = {"conversations": count, "skipped": skipped}
    return counts


def _count(
    config: ExperimentConfig, split: str, table: Table, features: dict[str, Features]
) -> int:
    """Usable conversations of a split; of test, those whose first answer can be generated."""
    vlm = config.vlm
    # with one soft token for each item: the number is not known before a model is made
    counts = dict.fromkeys(vlm.prefix_sources, 1)
    chat = Chat(load_tokenizer(vlm.language), counts, vlm.max_length, vlm.system)
    if split == TEST:
        count = sum(1 for _ in eval_prompts(chat, table, features))
        return check_count(count, table)
    conversations = open_tokenized(table, chat, config.data.cache_dir)
    conversations = conversations.with_features({n: f.valid for n, f in features.items()})
    count = check_count(len(conversations), table)
    for stage, train in vlm.stages.items() if split == TRAIN else ():
        kind = "conversations with an image or clip" if stage == "projector" else "conversations"
        own = len(stage_conversations(conversations, stage))
        name = f"vlm.stages.{stage}: {table.name}: {kind}"
        _ = StepDataset(name, own, train.batch_size, config.seed).steps_per_epoch
    return count


def check_count(count: int, table: Table) -> int:
    """The number of a table's usable conversations; ConfigError with the reasons if it is 0."""
    if not count:
        reasons = "; ".join(f"{len(ids)} {reason}" for reason, ids in table.skipped.items() if ids)
        raise ConfigError(f"{table.name}: no conversation can be used: {reasons or 'it has none'}")
    return count
