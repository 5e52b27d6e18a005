"""Chat tokenizers with a handful of known tokens."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nhelp<|im_end|>\n' }}"
    "{% endif %}"
    "{% for turn in messages %}"
    "{{ '<|im_start|>' + turn['role'] + '\n' + turn['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ("system", "user", "assistant", "help")


@pytest.fixture(scope="session")
def make_tokenizer():
    """make_tokenizer("word", ...) -> a byte-level BPE whose only merges make these words and roles.

    As in GPT-2, Ġ is a space and Ċ a line break. split: by GPT-2's expression, which lets no
    merge cross from a line break to a word.
    """

    def make(*words, template=CHATML, split=True, trim_offsets=False):
        pieces = [(word[:n], word[n]) for word in (*words, *WORDS) for n in range(1, len(word))]
        merges = list(dict.fromkeys(pieces))
        vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
        model = models.BPE({piece: n for n, piece in enumerate(vocabulary)}, merges)
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=split)
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
        tokenizer.decoder = decoders.ByteLevel()
        names = {
            "pad_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "bos_token": "<|im_start|>",
        }
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
        fast.chat_template = template
        return fast

    return make
