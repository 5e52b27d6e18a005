"""Generation by a vision-language model: prompts and items in, texts out.

1. A prompt without placeholders gets them in front; prompts are padded on the left.
2. The language model's own `generate` continues from the embedded prompt.
3. The keys and values of an image may be computed once, for all prompts that begin with it.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.data.messages import Messages
from edge_lib.data.prompts import Prompt, as_list, as_messages
from edge_lib.models.prefix_sources import FUSED
from edge_lib.nn.decoders.language import generate_texts, pad_left


@dataclass
class ImageCache:
    """Keys and values of the start of a conversation about an image."""

    ids: list[int]  # S token ids, up to the last soft token
    mask: Tensor  # (1, S) False where a soft token comes from padding
    cache: DynamicCache


class GenerationMixin:
    """The part of `VLM` that generates."""

    @property
    def fused(self) -> bool:
        """Whether `<image>` stands for an image fused with a clip."""
        return FUSED in self.config.prefix_sources.values()

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        images: Any = None,
        audio: Any = None,
        **generate_kwargs,
    ) -> str | list[str]:
        """The answer to a prompt, or to each of several.

        prompt: a text or messages; a text without `<image>` and `<audio>` gets them in front.
        images, audio: PIL images and clips (n,) at 16 kHz, one or a list for each prompt; or for
        images an `ImageCache`, for all prompts. If both are fused, a clip for each image.
        generate_kwargs: of transformers' `generate`: num_beams, do_sample, temperature, top_p, ...;
        with num_return_sequences the result has that many answers to each prompt in turn.
        Raises ChatError for a prompt that is empty or too long, ValueError if the numbers of
        placeholders and items differ.
        """
        image_cache = images if isinstance(images, ImageCache) else None
        images = None if image_cache else images
        accepted = {"image", "audio"} if self.fused else self.chat.num_soft_tokens
        for name, value in (("image", images), ("audio", audio)):
            if value is not None and name not in accepted:
                raise ValueError(f"the model takes no {name}")
        prompts, items = as_list(prompt, image=images, audio=audio)
        counts = self._placeholder_counts(len(prompts), items, image_cache is not None)
        pairs = zip(prompts, counts, strict=True)
        messages = [as_messages(self.chat, prompt, count) for prompt, count in pairs]
        flat = {name: list(chain.from_iterable(lists)) for name, lists in items.items()}
        answers = self.answer_batch(messages, self._encode(flat), image_cache, **generate_kwargs)
        return answers[0] if prompts == [prompt] and len(answers) == 1 else answers

    def _placeholder_counts(self, prompts: int, items: dict, has_cache: bool) -> list[dict]:
        """For each prompt, the number of placeholders of each name."""
        counts = [{name: len(lists[n]) for name, lists in items.items()} for n in range(prompts)]
        if self.fused:
            counts = [{"image": _check_pairs(**count)} for count in counts]
        return [count | {"image": 1} for count in counts] if has_cache else counts

    def _encode(self, items: dict[str, list]) -> dict[str, EncoderOutput | MultimodalOutput]:
        """Features for each placeholder that has items."""
        if self.fused:
            both = {"vision": items["image"], "audio": items["audio"]}
            return {"image": self.prefix_sources.encode(FUSED, **both)} if both["vision"] else {}
        sources = self.config.prefix_sources
        return {
            name: self.prefix_sources.encode(sources[name], **{sources[name]: values})
            for name, values in items.items()
            if values
        }

    @torch.no_grad()
    def answer_batch(
        self,
        messages: Sequence[Messages],
        prefixes: dict[str, EncoderOutput | MultimodalOutput],
        image_cache: ImageCache | None = None,
        **generate_kwargs,
    ) -> list[str]:
        """`generate`, for B conversations and the features of all their items in order."""
        rows = [self.chat.prompt(m) for m in messages]
        start = image_cache.ids if image_cache else []
        if wrong := [number for number, row in enumerate(rows) if row[: len(start)] != start]:
            raise ValueError(
                f"prompt {wrong[0]} does not begin with the cached image: put <image> first, or "
                "leave it out"
            )
        ids, mask = self._pad([row[len(start) :] for row in rows])
        embedded, mask = self.embed(ids, mask, prefixes)
        if image_cache:
            embedded, mask = self._prepend(image_cache, embedded, mask)
            generate_kwargs["past_key_values"] = self._copy_cache(
                image_cache, len(rows), generate_kwargs
            )
        options = {"max_new_tokens": self.config.max_new_tokens} | generate_kwargs
        return generate_texts(self.language, self.chat.tokenizer, embedded, mask, **options)

    def _prepend(
        self, image_cache: ImageCache, embedded: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Placeholders for the cached positions: of these only the number is used."""
        count, width = len(embedded), embedded.shape[2]
        cached = embedded.new_zeros(count, len(image_cache.ids), width)
        mask = torch.cat([image_cache.mask.expand(count, -1), mask], 1)
        return torch.cat([cached, embedded], 1), mask

    def _copy_cache(self, image_cache: ImageCache, prompts: int, options: dict) -> DynamicCache:
        cache = copy.deepcopy(image_cache.cache)
        sequences = max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
        cache.batch_repeat_interleave(prompts * sequences)
        return cache

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids (B, S) and mask (B, S), padded on the left: generation goes on at the right."""
        ids, mask = pad_left(rows, self.chat.pad)
        return ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def cache_image(self, image: Any, audio: Any = None) -> ImageCache:
        """Process an image (PIL, or its features) once, for many prompts that begin with it.

        audio: the clip (n,) at 16 kHz that the image is fused with.
        """
        if isinstance(image, EncoderOutput | MultimodalOutput):
            features = image
        else:
            clips = [] if audio is None else [audio]
            if self.fused:
                _check_pairs(1, len(clips))
            elif clips:
                raise ValueError("audio given, but the model does not fuse images with clips")
            features = self._encode({"image": [image], "audio": clips})["image"]
        ids = self.chat.prompt([{"role": "user", "content": "<image>\n?"}])
        token = self.chat.placeholders["image"]
        ids = ids[: len(ids) - ids[::-1].index(token)]
        embedded, mask = self.embed(*self._pad([ids]), {"image": features})
        cache = DynamicCache(config=self.language.config)
        self.language.base_model(**self.language_inputs(embedded, mask, cache))
        return ImageCache(ids, mask, cache)


def _check_pairs(image: int, audio: int) -> int:
    """The number of images that are fused with a clip each."""
    if image != audio:
        raise ValueError(f"{image} images to fuse with {audio} clips")
    return image
