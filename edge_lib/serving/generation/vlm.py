"""Generation by a vision-language model."""

import copy
import sys
from threading import Lock
from typing import Any

import torch

from edge_lib.config import MODALITIES
from edge_lib.config.registry import load_registered
from edge_lib.data.encoder_output import MultimodalOutput
from edge_lib.data.messages import ChatError
from edge_lib.data.prompts import as_messages
from edge_lib.models.vlm import VLM
from edge_lib.serving.generation.decoding import CausalBatch
from edge_lib.serving.generation.engine import Engine, Messages, prompt_texts
from edge_lib.serving.generation.prefix_cache import SoftTokens
from edge_lib.serving.generation.rows import Prompt
from edge_lib.serving.media import Media
from edge_lib.serving.metrics import Metrics
from edge_lib.serving.settings import ServeSettings

BY_KIND = {modality.column: modality for modality in MODALITIES.values()}  # of media


class VLMEngine(Engine):
    """A `Generator` of a VLM; it answers as `VLM.generate` does."""

    multi_turn = True

    def __init__(self, vlm: VLM, settings: ServeSettings, metrics: Metrics):
        self.vlm, self._aligner = vlm.eval(), vlm.prefix_sources.aligner
        self.accepts = frozenset({"image", "audio"} if vlm.fused else vlm.chat.num_soft_tokens)
        # a copy for the model's thread: an encoding tokenizer cannot decode at that time
        self._decoder, self._lock = copy.deepcopy(vlm.chat.tokenizer), Lock()
        longest = max(map(len, self._decoder.get_vocab()))  # token, in bytes
        text_config = vlm.language.config.get_text_config()
        ends = vlm.language.generation_config.eos_token_id
        super().__init__(
            batch=CausalBatch(vlm),
            ends=frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
            max_tokens=vlm.config.max_new_tokens,
            max_positions=getattr(text_config, "max_position_embeddings", sys.maxsize),
            max_characters=longest * vlm.chat.max_length,
            settings=settings,
            metrics=metrics,
        )
        self._warm_up()

    def tokenize(self, messages: Messages, counts: dict[str, int]) -> list[int]:
        if not isinstance(messages, str):  # each turn has a token at least
            self._check_length(len(messages), self.vlm.chat.max_length, "turns")
        texts = prompt_texts(messages, [*self.vlm.chat.num_soft_tokens])
        texts = as_messages(self.vlm.chat, texts, counts)
        with self._lock:
            return self.vlm.chat.prompt(texts)

    def group(self, media: dict[str, list[Media]]) -> dict[str, list[tuple[Media, ...]]]:
        if not self.vlm.fused:
            return super().group(media)
        images, clips = (media.get(kind, []) for kind in ("image", "audio"))
        if len(images) != len(clips):
            raise ChatError(f"{len(images)} images to fuse with {len(clips)} clips")
        return {"image": [*zip(images, clips, strict=True)]} if images else {}

    def prepare(self, kind: str, item: Any) -> tuple[str, Any]:
        modality = BY_KIND[kind].name
        return modality, self._aligner.prepare(modality, item)

    def encode(self, name: str, items: list[tuple]) -> list[SoftTokens]:
        outputs = {}
        for pairs in zip(*items, strict=True):  # of images, and of clips if both are fused
            modality, inputs = pairs[0][0], [item for _, item in pairs]
            outputs[modality] = self._aligner.encode_prepared(modality, inputs)
        features = MultimodalOutput(outputs) if self.vlm.fused else next(iter(outputs.values()))
        tokens, masks = self.vlm.soft_tokens(name, features)
        # copies: each would keep all of the batch in memory
        return [SoftTokens(t.clone(), m.clone()) for t, m in zip(tokens, masks, strict=True)]

    def decode(self, ids: list[int]) -> str:
        return self._decoder.decode(ids, skip_special_tokens=True)

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Load encoders, which happens when they are first used, and allocate memory."""
        soft = {}
        for name in self.vlm.chat.num_soft_tokens:
            kinds = ("image", "audio") if self.vlm.fused else (name,)
            item = tuple(self.prepare(k, load_registered(BY_KIND[k].blank)()) for k in kinds)
            soft[name] = self.encode(name, [item])
        batch = CausalBatch(self.vlm)
        batch.join([Prompt(self.tokenize("?", dict.fromkeys(soft, 1)), soft)])
        batch.advance([0])
