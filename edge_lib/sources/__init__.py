"""Sources of tables: `load_table` reads what the `data` section of a config names."""

from collections.abc import Sequence

from edge_lib.config import ConfigError, DataConfig
from edge_lib.config.registry import (
    CONVERSATION_SOURCES,
    QUESTION_SOURCES,
    SOURCES,
    load_registered,
)
from edge_lib.data.table import Table
from edge_lib.sources.instructions import add_instructions
from edge_lib.sources.source import Source
from edge_lib.sources.split import held_out, take_split
from edge_lib.sources.splits import CONVERSATIONS, QUESTIONS


def get_source(config: DataConfig) -> Source:
    """The source that `data.source` names."""
    return _load_source(SOURCES[config.source])


def splits(config: DataConfig) -> tuple[str, ...]:
    """Names of the splits that the source has."""
    return get_source(config).splits(config)


def kind_sets(config: DataConfig, kinds: Sequence[str]) -> dict[str, list[str]]:
    """Sets of kinds that are also scored as a whole: all, and those that the source defines."""
    source = _load_source(QUESTION_SOURCES[config.questions.source])
    return {"all": sorted(set(kinds)), **source.kind_sets(kinds)}


def load_table(config: DataConfig, split: str) -> Table:
    """The table of one of `splits`; "qa-train" for its questions, "chat-train" for its
    conversations.

    Raises ConfigError for a missing section, file or column.
    """
    if split.startswith(QUESTIONS):
        if config.questions is None:
            raise ConfigError("missing section data.questions")
        source = _load_source(QUESTION_SOURCES[config.questions.source])
        return source.load(config, split.removeprefix(QUESTIONS))
    if split.startswith(CONVERSATIONS):
        if config.conversations is None:
            raise ConfigError("missing section data.conversations")
        split = split.removeprefix(CONVERSATIONS)
        source = _load_source(CONVERSATION_SOURCES[config.conversations.source])
        return add_instructions(source.load(config, split), config, split)
    source = get_source(config)
    if config.split is None or split not in ("train", *held_out(config.split)):
        return source.load(config, split)
    return take_split(config, split, source.load(config, "train"))


def _load_source(path: str) -> Source:
    registered = load_registered(path)
    return registered if isinstance(registered, Source) else Source(registered)
