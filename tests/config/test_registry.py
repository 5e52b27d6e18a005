"""Registries: a config allows their names, and every name leads to code."""

from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from edge_lib.config import (
    MODALITIES,
    ConversationsConfig,
    DataConfig,
    LossConfig,
    ModalityConfig,
    QuestionsConfig,
    registry,
)
from edge_lib.config.fusion import FusionName
from edge_lib.config.modalities import ModalityName


def type_of(section, key):
    field = section.model_fields[key]
    return Annotated[field.annotation, *field.metadata]


TYPES = {
    "POOLERS": type_of(ModalityConfig, "pooler"),
    "LOSSES": type_of(LossConfig, "kind"),
    "FUSIONS": FusionName,
    "SOURCES": type_of(DataConfig, "source"),
    "QUESTION_SOURCES": type_of(QuestionsConfig, "source"),
    "CONVERSATION_SOURCES": type_of(ConversationsConfig, "source"),
}
REGISTRIES = {name: value for name, value in vars(registry).items() if name.isupper()}
MODALITY_PATHS = [
    path for m in MODALITIES.values() for path in (m.encoder, m.blank, m.decode) if path
]


@pytest.mark.parametrize("name", TYPES)
def test_config_allows_exactly_the_registered_names(name, monkeypatch):
    adapter, registered = TypeAdapter(TYPES[name]), REGISTRIES[name]
    assert [adapter.validate_python(key) for key in registered] == list(registered)
    with pytest.raises(ValidationError, match=f"allowed: {', '.join(registered)}"):
        adapter.validate_python("other")
    monkeypatch.setitem(registered, "other", "module:name")
    assert adapter.validate_python("other") == "other"


def test_config_allows_exactly_the_registered_modalities():
    adapter = TypeAdapter(ModalityName)
    assert [adapter.validate_python(name) for name in MODALITIES] == ["vision", "audio", "text"]
    with pytest.raises(ValidationError, match="allowed: vision, audio, text"):
        adapter.validate_python("depth")


PATHS = {path for paths in REGISTRIES.values() for path in paths.values()} | {*MODALITY_PATHS}


@pytest.mark.parametrize("path", sorted(PATHS))
def test_registered_path_leads_to_code(path):
    registry.load_registered(path)


@pytest.mark.parametrize(
    ("override", "key", "nearest", "allowed"),
    [
        ("vision.pooler=percever", "vision.pooler", "perceiver", "pooled, mean, cls"),
        ("loss.kind=infonce", "loss.kind", "info_nce", "info_nce"),
        ("fusion.strategies=[gate]", "fusion.strategies.0", "gated", "concat, cross_attention"),
        ("fusion.target=texts", "fusion.target", "text", "vision, audio, text"),
        ("data.source=commonvoice", "data.source", "common_voice", "scenes, folder"),
        ("data.questions.source=gqua", "data.questions.source", "gqa", "scenes, captions"),
        ("data.conversations.source=lava", "data.conversations.source", "llava", "scenes, llava"),
    ],
)
def test_unknown_name_suggests_the_nearest(message, plain, override, key, nearest, allowed):
    text = message(plain, f"vision.encoder=a {override}")
    expected = f"overrides: {key}: unknown name; did you mean {nearest!r}? allowed: {allowed}"
    assert text.startswith(expected)
    assert len(text.splitlines()) == 1
