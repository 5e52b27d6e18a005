"""Helpers for tests of conversations: messages, and tables from a `conversations` section."""

from edge_lib.config import DataConfig
from edge_lib.sources import load_table


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def contents(messages, role):
    """The texts of one role."""
    return [message["content"] for message in messages if message["role"] == role]


def load_conversations(config, cache_dir, split):
    return load_table(DataConfig(conversations=config, cache_dir=cache_dir), f"chat-{split}")


def llava_turns(*texts):
    """LLaVA's turns, human and gpt alternately."""
    speakers = ("human", "gpt") * len(texts)
    pairs = zip(speakers, texts, strict=False)
    return [{"from": speaker, "value": text} for speaker, text in pairs]
