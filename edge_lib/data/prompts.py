"""What a caller asks a VLM: prompts, and the images and clips that come with each."""

from collections.abc import Sequence
from typing import Any

from edge_lib.data.chat import Chat, ChatError, Messages
from edge_lib.data.messages import PLACEHOLDERS

Prompt = str | Messages


def as_list(prompt: Prompt | Sequence[Prompt], **items: Any) -> tuple[list[Prompt], dict]:
    """One prompt or several, each with its list of every kind of items.

    items: for one prompt an item or a list of them; for several one of these, or None, for each.
    Raises ValueError where there are not as many as prompts.
    """
    alone = isinstance(prompt, str) or bool(prompt and isinstance(prompt[0], dict))
    prompts, found = [prompt] if alone else list(prompt), {}
    if not prompts:
        raise ValueError("no prompt")
    for name, given in items.items():
        if not (alone or given is None or isinstance(given, list | tuple)):
            hint = "give a list, with one or a list for each"
            raise ValueError(f"{len(prompts)} prompts, but {name} for one: {hint}")
        each = [given] * len(prompts) if alone or given is None else list(given)
        if len(each) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {name} for {len(each)}")
        found[name] = [_listed(some) for some in each]
        if any(item is None for some in found[name] for item in some):
            raise ValueError(f"None in a list of {name}")
        if any(isinstance(item, list | tuple) for some in found[name] for item in some):
            raise ValueError(f"a list in the list of {name}: one prompt takes them one by one")
    return prompts, found


def _listed(some: Any) -> list:
    if some is None:
        return []
    return list(some) if isinstance(some, list | tuple) else [some]


def as_messages(chat: Chat, prompt: Prompt, given: dict[str, int]) -> Messages:
    """A prompt as messages; a text without places for what is given gets them in front.

    given: how many items of each placeholder. Raises ValueError if its places are more or fewer.
    """
    if isinstance(prompt, str):
        absent = [name for name in given if PLACEHOLDERS[name] not in prompt]
        places = "".join(f"{PLACEHOLDERS[name]}\n" * given[name] for name in absent)
        prompt = [{"role": "user", "content": places + prompt}]
    if odd := [message for message in prompt if not {"role", "content"} <= message.keys()]:
        raise ChatError(f"a message has role and content, not {', '.join(odd[0])}")
    for name, count in chat.count(prompt).items():
        if count != given.get(name, 0):
            raise ValueError(
                f"the prompt has {count} <{name}>, but {given.get(name, 0)} were given"
            )
    return prompt
