"""The tables of a config, from the sources that it names."""

from collections.abc import Sequence

from edge_lib.config import ConfigError, DataConfig, HeldOutConfig
from edge_lib.config.registry import (
    CONVERSATION_SOURCES,
    QUESTION_SOURCES,
    SOURCES,
    load_registered,
)
from edge_lib.data.table import Table
from edge_lib.sources.conversation_files import add_instructions
from edge_lib.sources.source import Source
from edge_lib.sources.split import held_out, take_split
from edge_lib.sources.split_names import CONVERSATIONS, QUESTIONS


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
        section, split = config.questions, split.removeprefix(QUESTIONS)
        if section is None:
            raise ConfigError("missing section data.questions")
        return _load_split(QUESTION_SOURCES[section.source], config, section.split, split)
    if split.startswith(CONVERSATIONS):
        section, split = config.conversations, split.removeprefix(CONVERSATIONS)
        if section is None:
            raise ConfigError("missing section data.conversations")
        table = _load_split(CONVERSATION_SOURCES[section.source], config, section.split, split)
        return add_instructions(table, config, split)
    return _load_split(SOURCES[config.source], config, config.split, split)


def _load_split(path: str, config: DataConfig, shares: HeldOutConfig | None, split: str) -> Table:
    """A split of a registered source: its own, or taken from train."""
    source = _load_source(path)
    if shares is None or split not in ("train", *held_out(shares)):
        return source.load(config, split)
    return take_split(shares, split, source.load(config, "train"), config.cache_dir)


def _load_source(path: str) -> Source:
    registered = load_registered(path)
    return registered if isinstance(registered, Source) else Source(registered)
