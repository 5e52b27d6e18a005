"""The tokenizer of the tiny language model: Qwen2's kind, with a small vocabulary of its own."""

from collections.abc import Iterable

from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer

from edge_lib.sources.scenes.question_kinds import CELL_NAMES

# Qwen2.5's ChatML with a space before each text: a word is the same token at the start as elsewhere
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n {{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def learn_tokenizer(texts: Iterable[str], size: int) -> Qwen2Tokenizer:
    """Learn Qwen2's byte-level BPE with `size` tokens from texts; with a chat template.

    The name of each cell is one token. The tokens of a cell are summed: as two tokens,
    "bottom-left" would be half the same as "bottom", and neighbours hard to distinguish.
    """
    octets = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Qwen2Tokenizer(vocab={octet: number for number, octet in enumerate(octets)}, merges=[])
    tokenizer = bare.train_new_from_iterator(texts, size, new_special_tokens=[PAD, START, END])
    tokenizer.add_tokens([f" {name}" for name in CELL_NAMES if "-" in name])
    tokenizer.pad_token, tokenizer.eos_token = PAD, END
    tokenizer.chat_template = TEMPLATE
    return tokenizer
