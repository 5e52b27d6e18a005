"""/v1/models, through OpenAI's own client."""

import openai
import pytest

USER = [{"role": "user", "content": "hello"}]


def test_other_model_is_not_found(api):
    with pytest.raises(openai.NotFoundError) as caught:
        api.chat.completions.create(model="gpt-4o", messages=USER)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("gpt-4o")
    assert api.models.retrieve("tiny").id == "tiny"


def test_models_list_their_capabilities(api):
    [model] = api.models.list()
    assert model.id == "tiny"
    assert model.model_extra["capabilities"] == {
        "generate": ["audio", "image"],
        "caption": True,
        "multi_turn": True,
        "embed": ["text", "vision", "audio"],
        "dims": [2, 4],
        "search": True,
        "search_dims": [2, 4],
        "search_modalities": ["vision"],
    }
