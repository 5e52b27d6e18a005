"""Tables from anywhere: `load_table` reads what the `data` section of a config names."""

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
from edge_lib.sources.splits import CONVERSATIONS, QUESTIONS


def get_source(config: DataConfig) -> Source:
    """The source that `data.source` names."""
    found = load_registered(SOURCES[config.source])
    return found if isinstance(found, Source) else Source(found)


def splits(config: DataConfig) -> tuple[str, ...]:
    """Names of the splits that the source has."""
    return get_source(config).splits(config)


def load_table(config: DataConfig, split: str) -> Table:
    """The table of one of `splits`; "qa-train" for its questions, "chat-train" for its
    conversations.

    Raises ConfigError for a missing section, file or column.
    """
    if split.startswith(QUESTIONS):
        if config.questions is None:
            raise ConfigError("missing section data.questions")
        load = load_registered(QUESTION_SOURCES[config.questions.source])
        return load(config, split.removeprefix(QUESTIONS))
    if split.startswith(CONVERSATIONS):
        if config.conversations is None:
            raise ConfigError("missing section data.conversations")
        load, split = CONVERSATION_SOURCES[config.conversations.source], split[len(CONVERSATIONS) :]
        return add_instructions(load_registered(load)(config, split), config.conversations, split)
    return get_source(config).load(config, split)
