"""Arguments of `VLM.generate`: prompts, and the images and clips that come with each."""

from collections.abc import Sequence
from typing import Any

from edge_lib.data.chat import Chat, ChatError
from edge_lib.data.messages import PLACEHOLDERS, ROLES, Messages

Prompt = str | Messages


def as_list(prompt: Prompt | Sequence[Prompt], **items: Any) -> tuple[list[Prompt], dict]:
    """A list of prompts, and for each kind of items a list with the items of each prompt.

    items: for one prompt, an item or a list of items; for several prompts, such a value or None for
    each. Raises ValueError if the numbers differ.
    """
    single = isinstance(prompt, str) or bool(prompt and isinstance(prompt[0], dict))
    prompts, lists = [prompt] if single else list(prompt), {}
    if not prompts:
        raise ValueError("no prompt")
    for name, value in items.items():
        if not (single or value is None or isinstance(value, list | tuple)):
            raise ValueError(
                f"{len(prompts)} prompts, but one {name}: give a list, with a value for each"
            )
        values = [value] * len(prompts) if single or value is None else list(value)
        if len(values) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {name} for {len(values)}")
        lists[name] = [_as_items(name, value) for value in values]
    return prompts, lists


def _as_items(name: str, value: Any) -> list:
    """The items of one prompt: none, one, or several."""
    if value is None:
        return []
    items = list(value) if isinstance(value, list | tuple) else [value]
    if any(item is None for item in items):
        raise ValueError(f"None in a list of {name}")
    if any(isinstance(item, list | tuple) for item in items):
        raise ValueError(f"a list inside the list of {name} for one prompt")
    return items


def as_messages(chat: Chat, prompt: Prompt, counts: dict[str, int]) -> Messages:
    """A prompt as messages. A text gets the placeholders that it lacks in front.

    counts: the number of items for each placeholder. Raises ChatError if the prompt has another
    number of placeholders, and for a message whose role is unknown or content no text.
    """
    if isinstance(prompt, str):
        absent = [name for name in counts if PLACEHOLDERS[name] not in prompt]
        marks = "".join(f"{PLACEHOLDERS[name]}\n" * counts[name] for name in absent)
        prompt = [{"role": "user", "content": marks + prompt}]
    for message in prompt:
        _check_message(message)
    for name, count in chat.count(prompt).items():
        if count != counts.get(name, 0):
            items = "1 item" if counts.get(name) == 1 else f"{counts.get(name, 0)} items"
            raise ChatError(f"the prompt has {count} <{name}> for {items}")
    return prompt


def _check_message(message: dict) -> None:
    if not {"role", "content"} <= message.keys():
        raise ChatError(f"a message needs role and content, got {', '.join(message)}")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise ChatError(f"the role of a message is one of {', '.join(ROLES)}, not {role!r}")
    if not isinstance(content, str):
        raise ChatError(f"the content of a message is a text, not a {type(content).__name__}")
