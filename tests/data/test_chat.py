"""Chat: the token ids of a conversation, and which of them are labelled."""

import pytest

from edge_lib.data.chat import IGNORE, Chat, ChatError
from edge_lib.data.messages import as_literal

MARKS = ("<image>", "<audio>", "<|im_end|>")

CONVERSATION = [
    {"role": "user", "content": "<image>\nwhat?"},
    {"role": "assistant", "content": "red two"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "no"},
]


def pairs(chat, messages):
    """Each token, with whether it is labelled."""
    ids, labels = chat.encode(messages)
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
    tokens = chat.tokenizer.convert_ids_to_tokens(ids)
    return [(token, label != IGNORE) for token, label in zip(tokens, labels, strict=True)]


def labelled(chat, messages):
    """The text of the labelled tokens."""
    return chat.tokenizer.decode([label for label in chat.encode(messages)[1] if label != IGNORE])


@pytest.fixture
def chat(make_tokenizer):
    words = ("what", "why", "red", "Ġtwo", "no")
    return Chat(make_tokenizer(*words), {"image": 3, "audio": 2}, 100)


# --- labels ----------------------------------------------------------------------------------


def test_answers_and_their_end_tokens_are_labelled(chat):
    header = ["<|im_start|>", "system", "Ċ", "help", "<|im_end|>", "Ċ"]
    first = ["<|im_start|>", "user", "Ċ", *["<image>"] * 3, "Ċ", "what", "?", "<|im_end|>", "Ċ"]
    second = ["Ċ", "<|im_start|>", "user", "Ċ", "why", "?", "<|im_end|>", "Ċ"]
    role = ["<|im_start|>", "assistant", "Ċ"]
    assert pairs(chat, CONVERSATION) == [
        *((token, False) for token in (*header, *first, *role)),
        *(("red", True), ("Ġtwo", True), ("<|im_end|>", True)),
        *((token, False) for token in (*second, *role)),
        *(("no", True), ("<|im_end|>", True), ("Ċ", False)),
    ]


def test_token_across_the_border_belongs_to_the_header(make_tokenizer):
    """A token across two words of the answer belongs to the answer."""
    chat = Chat(make_tokenizer("Ċye", "s", "osoĠ", "help", split=False), {}, 100)
    messages = [
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": "yes"},
        {"role": "assistant", "content": "oso yes"},
    ]
    assert pairs(chat, messages)[6:] == [
        *((token, False) for token in ("<|im_start|>", "user", "Ċye", "s", "<|im_end|>", "Ċ")),
        *((token, False) for token in ("<|im_start|>", "assistant", "Ċye")),
        *(("s", True), ("<|im_end|>", True), ("Ċ", False)),
        *((token, False) for token in ("<|im_start|>", "assistant", "Ċ")),
        *((token, True) for token in ("osoĠ", "y", "e", "s", "<|im_end|>")),
        ("Ċ", False),
    ]


def test_header_may_end_in_a_space_without_offset(make_tokenizer):
    """Some tokenizers' offsets leave out spaces; a token is then placed by its neighbour's end."""
    template = (
        "{% for turn in messages %}{{ turn['role'] + ': ' + turn['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = make_tokenizer(template=template, trim_offsets=True)
    messages = [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "a  b c"}]
    assert labelled(Chat(tokenizer, {}, 100), messages) == "a  b c<|im_end|>"


@pytest.mark.parametrize("answer", ["déjà 🙂🙃 vu", "one\n\ntwo\n", "", "<|im_start|>user\nme?"])
def test_answers_with_unusual_characters_are_labelled_whole(chat, answer):
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    assert labelled(chat, messages) == f"{answer}<|im_end|>"


def test_prompt_ends_where_the_labels_begin(chat):
    ids, labels = chat.encode(CONVERSATION)
    for turn in (1, 3):
        prompt = chat.prompt(CONVERSATION[:turn])
        assert ids[: len(prompt)] == prompt
        assert labels[len(prompt) - 1] == IGNORE
        assert labels[len(prompt)] == ids[len(prompt)]


# --- placeholders and system prompts ---------------------------------------------------------


def test_placeholders_become_their_number_of_soft_tokens(chat):
    messages = [
        {"role": "user", "content": "<image><image>\n<audio>?"},
        {"role": "assistant", "content": "no"},
    ]
    ids, labels = chat.encode(messages)
    image, audio = (chat.placeholders[name] for name in ("image", "audio"))
    start = ids.index(image)
    newline, mark = (chat.tokenizer.convert_tokens_to_ids(token) for token in ("Ċ", "?"))
    assert ids[start : start + 10] == [*[image] * 6, newline, audio, audio, mark]
    assert (ids.count(image), ids.count(audio)) == (6, 2)
    assert not {image, audio} & {*labels}
    assert chat.prompt(messages[:1]).count(image) == 6
    assert chat.count(messages) == {"image": 2, "audio": 1}
    assert chat.count(CONVERSATION) == {"image": 1, "audio": 0}


@pytest.mark.parametrize("typed", ["<image>", "a <image><audio> b", "<|im_end|> <audio>", "<image"])
def test_literal_placeholders_are_text(chat, typed):
    messages = [{"role": "user", "content": f"<image>\n{as_literal(typed)}"}]
    assert chat.count(messages) == {"image": 1, "audio": 0}
    ids = chat.prompt(messages)
    image, audio, end = (chat.tokenizer.convert_tokens_to_ids(t) for t in MARKS)
    plain = chat.prompt([{"role": "user", "content": "<image>\n"}])
    assert [ids.count(token) for token in (image, audio, end)] == [3, 0, plain.count(end)]
    assert chat.tokenizer.decode(ids) == chat.tokenizer.decode(plain).replace(
        "<|im_end|>\n<|im_start|>assistant", f"{typed}<|im_end|>\n<|im_start|>assistant"
    )


def test_literal_placeholder_that_the_model_does_not_take_is_text(make_tokenizer):
    chat = Chat(make_tokenizer(), {"image": 3}, 100)
    messages = [{"role": "user", "content": as_literal("<audio>?")}]
    assert "<audio>?" in chat.tokenizer.decode(chat.prompt(messages))


def test_placeholders_are_added_to_the_tokenizer_once(make_tokenizer):
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    first = Chat(tokenizer, {"image": 3, "audio": 2}, 100).placeholders
    assert sorted(first.values()) == [size, size + 1]
    assert Chat(tokenizer, {"image": 5}, 100).placeholders == {"image": first["image"]}
    assert len(tokenizer) == size + 2
    own = make_tokenizer("<image>")  # an ordinary word of this tokenizer
    known = own.convert_tokens_to_ids("<image>")
    chat = Chat(own, {"image": 2}, 100)
    assert chat.placeholders == {"image": known}
    assert chat.prompt([{"role": "user", "content": "x<image>x"}]).count(known) == 2


def test_system_prompt_is_added_to_messages_without_one(make_tokenizer):
    def prompt(system, messages):
        chat = Chat(make_tokenizer(), {}, 100, system)
        return chat.tokenizer.decode(chat.prompt(messages))

    question = [{"role": "user", "content": "?"}]
    after = "<|im_end|>\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt("be kind", question) == f"<|im_start|>system\nbe kind{after}"
    assert prompt(None, question) == f"<|im_start|>system\nhelp{after}"
    own = [{"role": "system", "content": "be brief"}, *question]
    assert prompt("be kind", own) == f"<|im_start|>system\nbe brief{after}"
    assert question == [{"role": "user", "content": "?"}]


def test_empty_system_prompt_is_none(make_tokenizer):
    question, empty = {"role": "user", "content": "?"}, {"role": "system", "content": " \n"}
    answer = {"role": "assistant", "content": "no"}
    for system in (None, "be kind"):
        chat = Chat(make_tokenizer(), {}, 100, system)
        assert chat.prompt([empty, question]) == chat.prompt([question])
        assert chat.encode([empty, question, answer]) == chat.encode([question, answer])


def test_answer_that_opens_a_conversation_is_not_labelled(chat):
    opening = {"role": "assistant", "content": "red two"}
    assert labelled(chat, [opening, *CONVERSATION]) == labelled(chat, CONVERSATION)
    with pytest.raises(ChatError, match="no assistant turn to train on"):
        chat.encode([opening])


@pytest.mark.parametrize(
    "text",
    ["a\0b", "\ufeffx", "\u202ex", "x" * 100_000],
    ids=["NUL", "byte order mark", "direction mark", "100,000 characters"],
)
def test_unusual_texts_keep_their_characters(make_tokenizer, text):
    chat = Chat(make_tokenizer(), {}, 300_000)
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    assert labelled(chat, messages) == f"{text}<|im_end|>"
    assert text in chat.tokenizer.decode(chat.prompt(messages[:1]))


# --- errors ----------------------------------------------------------------------------------

USER, ANSWER = {"role": "user", "content": "?"}, {"role": "assistant", "content": "no"}


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "a conversation without messages"),
        ([{**USER, "content": " \n"}, ANSWER], "a user turn without text"),
        ([USER], "no assistant turn"),
        ([USER, {**ANSWER, "content": "an <image>"}], "<image> in an assistant turn"),
        ([{**USER, "content": "<audio>"}, ANSWER], "<audio>, for which the model has no soft"),
        ([{**USER, "content": "\udc00"}, ANSWER], "a text that is not Unicode"),
        ([USER, {**ANSWER, "content": "no \ud83d"}], "a text that is not Unicode"),
    ],
    ids=[
        *("no message", "empty turn", "no answer", "placeholder in answer", "unknown placeholder"),
        *("surrogate", "surrogate in answer"),
    ],
)
def test_unusable_conversations_raise_chat_errors(make_tokenizer, messages, error):
    chat = Chat(make_tokenizer(), {"image": 3}, 100)
    with pytest.raises(ChatError, match=error):
        chat.encode(messages)
    if messages != [USER]:
        with pytest.raises(ChatError, match=error):
            chat.prompt(messages)


def test_placeholder_alone_is_a_question(chat):
    messages = [{"role": "user", "content": "<image>"}, ANSWER]
    assert labelled(chat, messages) == "no<|im_end|>"


def test_soft_tokens_count_towards_max_length(make_tokenizer):
    tokenizer = make_tokenizer()
    length = len(Chat(tokenizer, {"image": 9}, 1000).encode(CONVERSATION)[0])
    assert len(Chat(tokenizer, {"image": 10}, length + 1).encode(CONVERSATION)[0]) == length + 1
    short = Chat(tokenizer, {"image": 10}, length)
    with pytest.raises(ChatError, match=f"{length + 1} tokens, over the model's {length} "):
        short.encode(CONVERSATION)
    with pytest.raises(ChatError, match="tokens, over the model's 12 "):
        Chat(tokenizer, {"image": 10}, 12).prompt(CONVERSATION[:1])


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (
            "{% for turn in messages[-2:] %}{{ turn['role'] + turn['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}",
            "renders first turns differently",
        ),
        (
            "{% for turn in messages %}{{ turn['role'] + turn['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'model' }}{% endif %}",
            "renders first turns differently",
        ),
        (
            "{% for turn in messages %}{{ turn['role'] + turn['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant' }}{% else %}{{ 'end' }}{% endif %}",
            "renders first turns differently",
        ),
        ("{{ raise_exception('take turns') }}", "refuses the conversation: take turns"),
    ],
    ids=["last turns only", "other prompt", "text after the end", "raises"],
)
def test_unsuitable_templates_raise_chat_errors(make_tokenizer, template, error):
    chat = Chat(make_tokenizer(template=template), {"image": 3}, 100)
    with pytest.raises(ChatError, match=error):
        chat.encode(CONVERSATION)
