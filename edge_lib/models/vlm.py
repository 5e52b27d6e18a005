"""The vision-language model: soft tokens from a frozen aligner, read by a frozen language model.

1. `Chat` turns messages into token ids; an `<image>` is as many of them as it has soft tokens.
2. `embed` looks up the words, and puts projected vectors in the places of `<image>` and `<audio>`.
3. Projectors and adapters are trained; a checkpoint holds these, and leaves out what is frozen.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

from edge_lib.config import from_root
from edge_lib.config.vlm import LanguageConfig, VLMConfig
from edge_lib.data.chat import Chat, Messages
from edge_lib.data.chat_batches import ChatBatch
from edge_lib.data.prompts import Prompt, as_list, as_messages
from edge_lib.decoders.qwen import load_language, load_tokenizer, supervised_loss
from edge_lib.encoded import Encoded, Together
from edge_lib.models.streams import FUSED, Streams
from edge_lib.projectors import READS, Projector
from edge_lib.runs import whole_folder
from edge_lib.tokens import pad


@dataclass
class Remembered:
    """The start of a conversation about an image, read once for all questions about it."""

    ids: list[int]  # S of them, up to the last soft token
    mask: Tensor  # (1, S) False where a soft token stands on padding
    cache: DynamicCache


class VLM(nn.Module):
    """Frozen streams, a projector for each of `config.streams`, a language model with adapters."""

    def __init__(
        self,
        streams: Streams,
        config: VLMConfig,
        shapes: dict[str, tuple[int, int]],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        """shapes: of each placeholder's vectors, how many (L) and how wide (D)."""
        super().__init__()
        self.config, self.shapes, self.streams = config, shapes, streams
        self.language = load_language(config.language)
        words = self.language.get_input_embeddings().weight
        scale = words.float().std().item()
        self.projectors = nn.ModuleDict(
            {
                name: Projector(config.projector, width, words.shape[1], scale)
                for name, (_, width) in shapes.items()
            }
        )
        counts = {name: n * self.projectors[name].tokens for name, (n, _) in shapes.items()}
        tokenizer = tokenizer or load_tokenizer(config.language)
        self.chat = Chat(tokenizer, counts, config.max_length, config.system)
        if config.language.device_map is not None:
            self.streams.to(self.device)
            self.projectors.to(self.device)
        self.register_state_dict_post_hook(_keep_what_is_trained)
        self.register_load_state_dict_post_hook(_miss_nothing_frozen)

    @classmethod
    def new(cls, streams: Streams, config: VLMConfig, examples: dict[str, Encoded]) -> "VLM":
        """Untrained. examples: features of one item or more of each stream; they tell its shape."""
        reads = READS[config.projector.kind]
        vectors = {
            name: streams.vectors(config.streams[name], reads, found)[0]
            for name, found in examples.items()
        }
        return cls(streams, config, {name: tuple(x.shape[1:]) for name, x in vectors.items()})

    @property
    def device(self) -> torch.device:
        """Where token ids are looked up."""
        return self.get_input_embeddings().weight.device

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the layers that are a shard each (Accelerate asks for them)."""
        return [*self.language._no_split_modules]

    def get_input_embeddings(self) -> nn.Module:
        """The words', which may be the head's as well (Accelerate asks for both)."""
        return self.language.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    def to(self, *args, **how) -> "VLM":
        """Move, but for a language model that `device_map` spread over devices."""
        if len(set(getattr(self.language, "hf_device_map", {}).values())) > 1:
            return self
        return super().to(*args, **how)

    def train_adapters(self, trained: bool) -> None:
        """Whether the adapters are trained beside the projectors."""
        for name, parameter in self.language.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(trained)

    def forward(self, batch: ChatBatch) -> Tensor:
        """Mean cross-entropy of the assistants' tokens; the head is run on nothing else."""
        embedded, mask = self.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
        loss = supervised_loss(self.language, self.read(embedded, mask), batch.labels)
        # ranks wait for a gradient of every projector, though one may have met no image or no clip
        idle = [
            p.sum()
            for n, m in self.projectors.items()
            if n not in batch.prefixes
            for p in m.parameters()
        ]
        return (loss + 0 * sum(idle)) / batch.tokens

    def embed(
        self, ids: Tensor, mask: Tensor, prefixes: dict[str, Encoded | Together]
    ) -> tuple[Tensor, Tensor]:
        """Token ids (B, S), mask (B, S) False on padding, and the features of the items that the
        placeholders stand for, in order -> vectors (B, S, W), mask (B, S) False on theirs too.
        """
        places = {name: ids == token for name, token in self.chat.placeholders.items()}
        words = ids.masked_fill(torch.stack([*places.values()]).any(0), 0)
        embedded = self.get_input_embeddings()(words)
        for name, place in places.items():
            if not place.any() and name not in prefixes:
                continue
            if name not in prefixes:
                raise ValueError(f"<{name}> without {name}")
            soft, there = self.soft_tokens(name, prefixes[name])
            if there.numel() != place.sum():
                count = int(place.sum()) // there.shape[1]
                raise ValueError(f"{len(there)} of {name} for {count} places <{name}>")
            embedded = embedded.masked_scatter(place[..., None], soft.to(embedded))
            mask = mask.masked_scatter(place, there.to(mask.device))
        return embedded, mask

    def soft_tokens(self, name: str, encoded: Encoded | Together) -> tuple[Tensor, Tensor]:
        """Features of N items -> soft tokens (N, T, W) and their mask (N, T)."""
        projector = self.projectors[name]
        stream = self.config.streams[name]
        vectors, mask = self.streams.vectors(stream, projector.reads, encoded)
        missing = self.shapes[name][0] - vectors.shape[1]
        if missing < 0:
            raise ValueError(f"{vectors.shape[1]} vectors for <{name}>: {self.shapes[name][0]} fit")
        vectors, mask = F.pad(vectors, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        return projector(vectors), mask.repeat_interleave(projector.tokens, 1)

    def read(self, embedded: Tensor, mask: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Vectors (B, S, W) -> the language model's last states (B, S, W); a cache is filled."""
        # as `generate` counts them: masked places take no position
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        how = {"past_key_values": cache, "use_cache": cache is not None}
        return self.language.base_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, **how
        ).last_hidden_state

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
        images what `remember` gave, for all prompts.
        how: of transformers' `generate`: num_beams, do_sample, temperature, top_k, top_p, ...
        Raises ChatError for an empty or over-long prompt, ValueError if places and items differ.
        """
        remembered = images if isinstance(images, Remembered) else None
        shown = None if remembered else images
        known = {"image", "audio"} if FUSED in self.config.streams.values() else self.chat.soft
        for name, given in (("image", images), ("audio", audio)):
            if given is not None and name not in known:
                raise ValueError(f"{name} given, but the model has no <{name}>")
        prompts, items = as_list(prompt, image=shown, audio=audio)
        counts = [{name: len(some[n]) for name, some in items.items()} for n in range(len(prompts))]
        if remembered:
            counts = [count | {"image": 1} for count in counts]
        if FUSED in self.config.streams.values():  # a clip goes with each image
            counts = [{"image": count["image"]} for count in counts]
        pairs = zip(prompts, counts, strict=True)
        messages = [as_messages(self.chat, some, count) for some, count in pairs]
        flat = {name: list(chain.from_iterable(some)) for name, some in items.items()}
        answers = self.answer(messages, self._encode(flat), remembered, **how)
        return answers[0] if prompts == [prompt] else answers

    def _encode(self, items: dict[str, list]) -> dict[str, Encoded | Together]:
        """Features for each placeholder that has items."""
        if FUSED in self.config.streams.values():
            pictures, clips = items["image"], items["audio"]
            if len(pictures) != len(clips):
                raise ValueError(f"{len(pictures)} images to fuse with {len(clips)} clips")
            return (
                {"image": self.streams.encode(FUSED, vision=pictures, audio=clips)} if clips else {}
            )
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
        prefixes: dict[str, Encoded | Together],
        remembered: Remembered | None = None,
        **how,
    ) -> list[str]:
        """As `generate`, of B conversations and the features of all their items in order."""
        rows = [self.chat.prompt(m) for m in messages]
        head = remembered.ids if remembered else []
        if any(row[: len(head)] != head for row in rows):
            raise ValueError("a prompt does not begin as what was remembered")
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
    def remember(self, image: Any) -> Remembered:
        """Read an image (PIL, or features of one) once, for many questions that begin with it."""
        known = isinstance(image, Encoded | Together)
        features = image if known else self._encode({"image": [image], "audio": []})["image"]
        ids = self.chat.prompt([{"role": "user", "content": "<image>\n?"}])
        token = self.chat.placeholders["image"]
        ids = ids[: len(ids) - ids[::-1].index(token)]
        embedded, mask = self.embed(*self._pad([ids]), {"image": features})
        cache = DynamicCache(config=self.language.config)
        self.read(embedded, mask, cache)
        return Remembered(ids, mask, cache)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write projectors, adapters, tokenizer and aligner; the folder appears whole or not at
        all. The language model itself is not there: it is loaded by name.
        """
        about = {"config": self.config.model_dump(mode="json"), "shapes": self.shapes}
        with whole_folder(from_root(folder)) as temporary:
            self.streams.save(temporary)
            self.chat.tokenizer.save_pretrained(temporary / "tokenizer")
            # parameters and not their state: that would be shards again where they were sharded
            save_file(
                dict(self.projectors.named_parameters()), temporary / "projectors.safetensors"
            )
            if self.config.language.lora:
                weights = dict(self.language.named_parameters())
                adapters = get_peft_model_state_dict(self.language, weights)
                save_file(adapters, temporary / "adapters.safetensors")
            (temporary / "vlm.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, language: LanguageConfig | None = None) -> "VLM":
        """Load what `save_pretrained` wrote, in evaluation mode. language: load it another way,
        such as in 4 bits.
        """
        folder = from_root(folder)
        about = json.loads((folder / "vlm.json").read_text())
        shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
        config = VLMConfig.model_validate(about["config"])
        config = config.model_copy(update={"language": language} if language else {})
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        model = cls(Streams.load(folder, config.fusion), config, shapes, tokenizer)
        model.projectors.load_state_dict(load_file(folder / "projectors.safetensors"))
        if config.language.lora:
            adapters = load_file(folder / "adapters.safetensors")
            set_peft_model_state_dict(model.language, adapters)
        return model.eval()


def _keep_what_is_trained(module: nn.Module, state: dict, prefix: str, _) -> None:
    """Checkpoints: the rest comes from elsewhere, and may be a thousand times as large."""
    trained = {prefix + name for name, p in module.named_parameters() if p.requires_grad}
    for name in [n for n in state if n.startswith(prefix) and n not in trained]:
        del state[name]


def _miss_nothing_frozen(module: nn.Module, incompatible) -> None:
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    kept = [n for n in incompatible.missing_keys if n.removeprefix("module.") in trained]
    incompatible.missing_keys[:] = kept
