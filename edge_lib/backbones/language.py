"""Train the tiny language model the package ships: a Qwen2 that reads scenes put in words.

Where a VLM has an image, its conversations name what stands in each of the nine cells. So it knows
how to describe a scene and how to answer before it has seen one: what remains is to turn an image
into vectors that it reads like those words.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from edge_lib.config.vlm import LanguageBackboneConfig
from edge_lib.data.chat_batches import ChatBatch
from edge_lib.data.questions import SPOTS
from edge_lib.data.scenes import DIGITS, Scene
from edge_lib.decoders.qwen import supervised_loss
from edge_lib.tokens import pad

# ChatML as Qwen2.5's, but for the space before a text: its first word is then a token as any other
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n {{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
NOTHING = "nothing"


def learn_tokenizer(texts: Iterable[str], size: int) -> Qwen2Tokenizer:
    """Qwen2's byte-level BPE with `size` tokens of its own, learned from texts, and a template."""
    octets = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Qwen2Tokenizer(vocab={octet: number for number, octet in enumerate(octets)}, merges=[])
    tokenizer = bare.train_new_from_iterator(texts, size, new_special_tokens=[PAD, START, END])
    tokenizer.pad_token, tokenizer.eos_token = PAD, END
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def in_words(scene: Scene) -> str:
    """Four words for each cell in reading order: place, size, colour, digit."""
    at = {thing.cell: thing for thing in scene.things}
    cells = []
    for cell, place in enumerate(SPOTS):
        thing = at.get(cell)
        looks = (
            ("large" if thing.large else "small", thing.colour, DIGITS[thing.digit])
            if thing
            else (NOTHING,) * 3
        )
        cells.append(" ".join((place, *looks)))
    return " ".join(cells)


class LanguageReader(nn.Module):
    """A small Qwen2 and its tokenizer, trained on conversations whose images are put in words."""

    def __init__(self, config: LanguageBackboneConfig, tokenizer: Qwen2Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.language = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=config.width,
                intermediate_size=config.width * 8 // 3,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=max(1, config.heads // 2),
                max_position_embeddings=1024,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(self, batch: ChatBatch) -> Tensor:
        """Mean cross-entropy of the answers' tokens."""
        how = {"attention_mask": batch.attention_mask, "use_cache": False}
        states = self.language.base_model(batch.input_ids, **how).last_hidden_state
        return supervised_loss(self.language, states, batch.labels) / batch.tokens

    @torch.no_grad()
    def answer(self, prompts: Sequence[list[int]], max_tokens: int = 64) -> list[str]:
        """Greedy answers to prompts of token ids."""
        ids = pad(prompts, self.tokenizer.pad_token_id, left=True).to(self.language.device)
        mask = pad([[1] * len(row) for row in prompts], 0, left=True).to(ids.device)
        how = {"max_new_tokens": max_tokens, "do_sample": False}
        found = self.language.generate(ids, attention_mask=mask, **how)[:, ids.shape[1] :]
        return self.tokenizer.batch_decode(found, skip_special_tokens=True)

    def save_pretrained(self, folder: Path) -> None:
        """The model in half precision and its tokenizer, as any `from_pretrained` reads them."""
        deepcopy(self.language).half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
