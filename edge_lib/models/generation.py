"""How a vision-language model answers: prompts and items in, texts out.

1. A prompt without places for its items gets them in front; prompts are padded on the left.
2. The language model's own `generate` goes on from the vectors that stand for the prompt.
3. An image may be read once, and its keys and values kept for all questions that begin with it.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from edge_lib.data.chat import Messages
from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.data.prompts import Prompt, as_list, as_messages
from edge_lib.data.vocabulary import pad
from edge_lib.models.prefix_sources import FUSED


@dataclass
class ImageCache:
    """The start of a conversation about an image, read once for all questions about it."""

    ids: list[int]  # S of them, up to the last soft token
    mask: Tensor  # (1, S) False where a soft token stands on padding
    cache: DynamicCache


class GenerationMixin:
    """The part of `VLM` that answers."""

    @property
    def fused(self) -> bool:
        """Whether `<image>` stands for an image fused with a clip."""
        return FUSED in self.config.streams.values()

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        images: Any = None,
        audio: Any = None,
        **how,
    ) -> str | list[str]:
        """The answer to a prompt, or to each of several.

        prompt: a text or messages; `<image>` and `<audio>` are put before a text without them.
        images, audio: PIL images and clips (n,) at 16 kHz, one or a list for each prompt; or for
        images what `remember` gave, for all prompts. Where both are fused, a clip to each image.
        how: of transformers' `generate`: num_beams, do_sample, temperature, top_k, top_p, ...;
        with num_return_sequences a list of so many answers to each prompt in turn.
        Raises ChatError for an over-long prompt or one of nothing, ValueError if places and items
        differ.
        """
        remembered = images if isinstance(images, ImageCache) else None
        shown = None if remembered else images
        known = {"image", "audio"} if self.fused else self.chat.soft
        for name, given in (("image", images), ("audio", audio)):
            if given is not None and name not in known:
                raise ValueError(f"{name} given, but the model has no <{name}>")
        prompts, items = as_list(prompt, image=shown, audio=audio)
        counts = [{name: len(some[n]) for name, some in items.items()} for n in range(len(prompts))]
        if self.fused:
            counts = [{"image": _pairs(**count)} for count in counts]
        if remembered:
            counts = [count | {"image": 1} for count in counts]
        pairs = zip(prompts, counts, strict=True)
        messages = [as_messages(self.chat, some, count) for some, count in pairs]
        flat = {name: list(chain.from_iterable(some)) for name, some in items.items()}
        answers = self.answer(messages, self._encode(flat), remembered, **how)
        return answers[0] if prompts == [prompt] and len(answers) == 1 else answers

    def _encode(self, items: dict[str, list]) -> dict[str, EncoderOutput | MultimodalOutput]:
        """Features for each placeholder that has items."""
        if self.fused:
            both = {"vision": items["image"], "audio": items["audio"]}
            return {"image": self.streams.encode(FUSED, **both)} if both["vision"] else {}
        streams = self.config.streams
        return {
            name: self.streams.encode(streams[name], **{streams[name]: some})
            for name, some in items.items()
            if some
        }

    @torch.no_grad()
    def answer(
        self,
        messages: Sequence[Messages],
        prefixes: dict[str, EncoderOutput | MultimodalOutput],
        remembered: ImageCache | None = None,
        **how,
    ) -> list[str]:
        """As `generate`, of B conversations and the features of all their items in order."""
        rows = [self.chat.prompt(m) for m in messages]
        head = remembered.ids if remembered else []
        if odd := [number for number, row in enumerate(rows) if row[: len(head)] != head]:
            hint = "put <image> first, or leave it out"
            raise ValueError(f"prompt {odd[0]} does not begin with the remembered image: {hint}")
        ids, mask = self._pad([row[len(head) :] for row in rows])
        embedded, mask = self.embed(ids, mask, prefixes)
        if remembered:
            # the cache stands for these places: nothing but their number is looked at
            before = embedded.new_zeros(len(rows), len(head), embedded.shape[2])
            embedded = torch.cat([before, embedded], 1)
            mask = torch.cat([remembered.mask.expand(len(rows), -1), mask], 1)
            cache = copy.deepcopy(remembered.cache)
            each = max(how.get("num_beams", 1), how.get("num_return_sequences", 1))
            cache.batch_repeat_interleave(len(rows) * each)
            how["past_key_values"] = cache
        how = {"max_new_tokens": self.config.max_new_tokens} | how
        found = self.language.generate(inputs_embeds=embedded, attention_mask=mask.long(), **how)
        texts = self.chat.tokenizer.batch_decode(found, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids (B, S) and mask (B, S), padded on the left, where nothing is generated."""
        there = pad([[1] * len(row) for row in rows], 0, left=True).bool().to(self.device)
        return pad(rows, self.chat.pad, left=True).to(self.device), there

    @torch.no_grad()
    def remember(self, image: Any, audio: Any = None) -> ImageCache:
        """Read an image (PIL, or features of one) once, for many questions that begin with it.

        audio: the clip (n,) at 16 kHz that it is fused with.
        """
        if isinstance(image, EncoderOutput | MultimodalOutput):
            features = image
        else:
            clips = [] if audio is None else [audio]
            if self.fused:
                _pairs(1, len(clips))
            elif clips:
                raise ValueError("audio given, but images are not fused with clips")
            features = self._encode({"image": [image], "audio": clips})["image"]
        ids = self.chat.prompt([{"role": "user", "content": "<image>\n?"}])
        token = self.chat.placeholders["image"]
        ids = ids[: len(ids) - ids[::-1].index(token)]
        embedded, mask = self.embed(*self._pad([ids]), {"image": features})
        cache = DynamicCache(config=self.language.config)
        self.read(embedded, mask, cache)
        return ImageCache(ids, mask, cache)


def _pairs(image: int, audio: int) -> int:
    """How many images are fused with a clip each."""
    if image != audio:
        raise ValueError(f"{image} images to fuse with {audio} clips")
    return image
