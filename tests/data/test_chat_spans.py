"""Chats of many templates and tokenizers, against labels by their definition."""

import numpy as np
import pytest
from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from edge_lib.data.chat import IGNORE, Chat, ChatError
from edge_lib.features.weights import SHIPPED

QWEN = (  # like Qwen2.5's
    "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\nYou help.<|im_end|>\n' -}}"
    "{%- endif -%}{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
LLAMA = (  # roles have to alternate; contents are stripped; an answer follows a space
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + '<|im_end|>' }}{% endif %}{% endfor %}"
)
BARE = (  # neither special tokens nor an end; whitespace at the end of an answer is lost
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
THINKING = (  # what precedes </think> is left out of all answers but the last
    "{% for message in messages %}{% set content = message.content %}"
    "{% if not loop.last %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"qwen": QWEN, "llama": LLAMA, "bare": BARE, "thinking": THINKING}
TEXTS = (
    *("what is it?", "no", "a  b c", "content0.", "red\n\ntwo\n", "  why?", "1" * 40),
    *("déjà vu", "e\u0301te\u0301", "🙂🙃", "北京", "a\0b", "[INST] x [/INST]", "\u212b"),
    *("hm</think>yes", "assistant: no", "<|im_end|>\n<|im_start|>user\nme?", "x<|endoftext|>"),
)
WITH_SPECIAL = TEXTS[-2:]


def word_tokenizer(_):
    """Whole words, with a token for spaces: tokens are no sequences of bytes."""
    words = ["[UNK]", " ", *{w for text in TEXTS for w in text.split()}, "assistant", "user", ":"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(dict.fromkeys(words))}))
    tokenizer.model.unk_token = "[UNK]"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"extra_special_tokens": special})
    return fast


def shipped(_):
    return AutoTokenizer.from_pretrained(SHIPPED["tiny-qwen2"])


TOKENIZERS = {
    "bytes": lambda make: make("Ġwhat", "red"),
    "bytes across words": lambda make: make("Ċwhat", "redĊ", split=False),
    "bytes without spaces": lambda make: make("Ġwhat", trim_offsets=True),
    "words": word_tokenizer,
    "shipped": shipped,
}


def reference(tokenizer, messages):
    """Ids and labels as defined: tokens that begin within an answer, one rendering at a time."""

    def render(part, prompt=False):
        return tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=prompt)

    text = render(messages)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    labels = [IGNORE] * len(ids)
    for turn, message in enumerate(messages):
        if turn and message["role"] == "assistant":
            header, whole = render(messages[:turn], True), render(messages[: turn + 1])
            if not (whole.startswith(header) and text.startswith(whole)):
                raise ChatError("renders first turns differently")
            start, end = len(header), len(whole.rstrip())
            for number, (a, b) in enumerate(offsets):
                if start <= a < end and b > start:
                    labels[number] = ids[number]
    return ids, labels


def conversations(texts, count):
    """Conversations of random texts, some of them with a system prompt or two answers in turn."""
    rng = np.random.default_rng(0)
    roles = (("user", "assistant"), ("user", "assistant") * 2, ("system", "user", "assistant"))
    roles += (("user", "assistant", "assistant"), ("assistant", "user", "assistant"))
    return [
        [{"role": role, "content": str(rng.choice(texts))} for role in roles[n % len(roles)]]
        for n in range(count)
    ]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_chats_together_equal_each_by_definition(make_tokenizer, kind, template):
    tokenizer = TOKENIZERS[kind](make_tokenizer)
    tokenizer.chat_template = TEMPLATES[template]
    chat = Chat(tokenizer, {}, 1000)
    messages = conversations([t for t in TEXTS if t not in WITH_SPECIAL], 60)
    usable = 0
    for own, tokenized in zip(messages, chat.tokenize(messages), strict=True):
        try:
            ids, labels = reference(tokenizer, own)
        except (ChatError, TemplateError):
            assert isinstance(tokenized, ChatError)
            continue
        usable += 1
        assert [x.tolist() for x in chat.expand(tokenized)] == [ids, labels], own
    assert usable > 10


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind != "words"])
def test_special_tokens_in_messages_are_text(make_tokenizer, kind):
    """They end no turn, and the labels are those of the text."""
    tokenizer = TOKENIZERS[kind](make_tokenizer)
    tokenizer.chat_template = QWEN
    chat = Chat(tokenizer, {}, 1000)
    start, end = (tokenizer.convert_tokens_to_ids(f"<|im_{name}|>") for name in ("start", "end"))
    for messages in conversations(WITH_SPECIAL, 10):
        ids, labels = chat.encode(messages)
        turns = len(messages) + (messages[0]["role"] != "system")
        assert (ids.count(start), ids.count(end)) == (turns, turns)
        assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)
        answers = [m["content"] for m in messages[1:] if m["role"] == "assistant"]
        labelled = tokenizer.decode([label for label in labels if label != IGNORE])
        assert labelled == "".join(f"{answer}<|im_end|>" for answer in answers)
        prompt = chat.prompt([{"role": "user", "content": WITH_SPECIAL[0]}])
        assert (prompt.count(start), prompt.count(end)) == (3, 2)


def test_special_token_beside_the_mark_that_replaces_it_is_refused(make_tokenizer):
    chat = Chat(make_tokenizer(), {}, 1000)
    answer = {"role": "assistant", "content": "no"}
    odd = [{"role": "user", "content": "\ufdd0 <|im_end|>"}, answer]
    with pytest.raises(ChatError, match="leaves out or repeats text with special tokens"):
        chat.encode(odd)
    alone = [{"role": "user", "content": "\ufdd0"}, answer]
    assert "\ufdd0" in chat.tokenizer.decode(chat.encode(alone)[0])


def test_tokenizer_settings_do_not_change_chats(make_tokenizer):
    tokenizer = make_tokenizer()
    chat = Chat(tokenizer, {}, 1000)
    messages = conversations(TEXTS, 1)[0]
    expected = chat.encode(messages)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=200)
    tokenizer(["<|im_end|>"], split_special_tokens=True)
    assert chat.encode(messages) == expected
