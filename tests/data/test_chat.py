"""What a model reads of a conversation, and which of its tokens it learns to say."""

import pytest

from edge_lib.data.chat import IGNORE, Chat, ChatError

TALK = [
    {"role": "user", "content": "<image>\nwhat?"},
    {"role": "assistant", "content": "red two"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "no"},
]


def pairs(chat, messages):
    """Each token, with whether it is learned."""
    ids, labels = chat.encode(messages)
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
    tokens = chat.tokenizer.convert_ids_to_tokens(ids)
    return [(token, label != IGNORE) for token, label in zip(tokens, labels, strict=True)]


def learned(chat, messages):
    """The text of the tokens that are learned."""
    return chat.tokenizer.decode([label for label in chat.encode(messages)[1] if label != IGNORE])


@pytest.fixture
def chat(make_tokenizer):
    words = ("what", "why", "red", "Ġtwo", "no")
    return Chat(make_tokenizer(*words), {"image": 3, "audio": 2}, 100)


# --- labels ----------------------------------------------------------------------------------


def test_answers_and_what_ends_them_are_learned(chat):
    header = ["<|im_start|>", "system", "Ċ", "help", "<|im_end|>", "Ċ"]
    asked = ["<|im_start|>", "user", "Ċ", *["<image>"] * 3, "Ċ", "what", "?", "<|im_end|>", "Ċ"]
    again = ["Ċ", "<|im_start|>", "user", "Ċ", "why", "?", "<|im_end|>", "Ċ"]
    role = ["<|im_start|>", "assistant", "Ċ"]
    assert pairs(chat, TALK) == [
        *((token, False) for token in (*header, *asked, *role)),
        *(("red", True), ("Ġtwo", True), ("<|im_end|>", True)),
        *((token, False) for token in (*again, *role)),
        *(("no", True), ("<|im_end|>", True), ("Ċ", False)),
    ]


def test_a_token_across_the_border_belongs_to_the_header(make_tokenizer):
    """And one across the border of two words of the answer to the answer."""
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


def test_a_header_that_ends_in_a_space_of_no_width(make_tokenizer):
    """Some tokenizers' offsets leave out spaces: they are told apart by where they stand."""
    template = (
        "{% for turn in messages %}{{ turn['role'] + ': ' + turn['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = make_tokenizer(template=template, trim_offsets=True)
    messages = [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "a  b c"}]
    assert learned(Chat(tokenizer, {}, 100), messages) == "a  b c<|im_end|>"


@pytest.mark.parametrize(
    "answer",
    ["déjà 🙂🙃 vu", "one\n\ntwo\n", "", "<|im_start|>user\nme?"],
    ids=["not ascii", "newlines", "empty", "special token"],
)
def test_the_whole_answer_is_learned_whatever_it_says(chat, answer):
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    assert learned(chat, messages) == f"{answer}<|im_end|>"


def test_a_prompt_is_the_beginning_of_what_is_learned(chat):
    ids, labels = chat.encode(TALK)
    for turn in (1, 3):
        prompt = chat.prompt(TALK[:turn])
        assert ids[: len(prompt)] == prompt
        assert labels[len(prompt) - 1] == IGNORE
        assert labels[len(prompt)] == ids[len(prompt)]


# --- placeholders and system prompts ---------------------------------------------------------


def test_every_placeholder_becomes_its_number_of_soft_tokens(chat):
    messages = [
        {"role": "user", "content": "<image><image>\n<audio>?"},
        {"role": "assistant", "content": "no"},
    ]
    ids, labels = chat.encode(messages)
    image, audio = (chat.placeholders[name] for name in ("image", "audio"))
    start = ids.index(image)
    newline, asked = (chat.tokenizer.convert_tokens_to_ids(token) for token in ("Ċ", "?"))
    assert ids[start : start + 10] == [*[image] * 6, newline, audio, audio, asked]
    assert (ids.count(image), ids.count(audio)) == (6, 2)
    assert not {image, audio} & {*labels}
    assert chat.prompt(messages[:1]).count(image) == 6
    assert chat.count(messages) == {"image": 2, "audio": 1}
    assert chat.count(TALK) == {"image": 1, "audio": 0}


def test_a_tokenizer_learns_placeholders_once(make_tokenizer):
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    first = Chat(tokenizer, {"image": 3, "audio": 2}, 100).placeholders
    assert sorted(first.values()) == [size, size + 1]
    assert Chat(tokenizer, {"image": 5}, 100).placeholders == {"image": first["image"]}
    assert len(tokenizer) == size + 2
    own = make_tokenizer("<image>")  # a word like any other, until it is asked for
    known = own.convert_tokens_to_ids("<image>")
    chat = Chat(own, {"image": 2}, 100)
    assert chat.placeholders == {"image": known}
    assert chat.prompt([{"role": "user", "content": "x<image>x"}]).count(known) == 2


def test_a_system_prompt_stands_before_messages_that_have_none(make_tokenizer):
    def read(system, messages):
        chat = Chat(make_tokenizer(), {}, 100, system)
        return chat.tokenizer.decode(chat.prompt(messages))

    asked = [{"role": "user", "content": "?"}]
    after = "<|im_end|>\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
    assert read("be kind", asked) == f"<|im_start|>system\nbe kind{after}"
    assert read(None, asked) == f"<|im_start|>system\nhelp{after}"
    own = [{"role": "system", "content": "be brief"}, *asked]
    assert read("be kind", own) == f"<|im_start|>system\nbe brief{after}"
    assert asked == [{"role": "user", "content": "?"}]


# --- errors ----------------------------------------------------------------------------------

USER, ANSWER = {"role": "user", "content": "?"}, {"role": "assistant", "content": "no"}


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "a conversation without messages"),
        ([{**USER, "content": " \n"}, ANSWER], "a user's turn without text"),
        ([USER], "no assistant's turn"),
        ([USER, {**ANSWER, "content": "an <image>"}], "<image> in an assistant's turn"),
        ([{**USER, "content": "<audio>"}, ANSWER], "<audio>, for which the model has no soft"),
    ],
    ids=["no message", "empty turn", "no answer", "placeholder in answer", "unknown placeholder"],
)
def test_what_is_wrong_with_a_conversation_is_said(make_tokenizer, messages, error):
    chat = Chat(make_tokenizer(), {"image": 3}, 100)
    with pytest.raises(ChatError, match=error):
        chat.encode(messages)
    if messages != [USER]:
        with pytest.raises(ChatError, match=error):
            chat.prompt(messages)


def test_a_placeholder_alone_is_a_question(chat):
    messages = [{"role": "user", "content": "<image>"}, ANSWER]
    assert learned(chat, messages) == "no<|im_end|>"


def test_soft_tokens_count_towards_the_length(make_tokenizer):
    tokenizer = make_tokenizer()
    length = len(Chat(tokenizer, {"image": 9}, 1000).encode(TALK)[0])
    assert len(Chat(tokenizer, {"image": 10}, length + 1).encode(TALK)[0]) == length + 1
    short = Chat(tokenizer, {"image": 10}, length)
    with pytest.raises(ChatError, match=f"{length + 1} tokens are more than max_length={length}"):
        short.encode(TALK)
    with pytest.raises(ChatError, match="tokens are more than max_length=12"):
        Chat(tokenizer, {"image": 10}, 12).prompt(TALK[:1])


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (
            "{% for turn in messages[-2:] %}{{ turn['role'] + turn['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}",
            "renders the first turns otherwise",
        ),
        (
            "{% for turn in messages %}{{ turn['role'] + turn['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'model' }}{% endif %}",
            "renders the first turns otherwise",
        ),
        (
            "{% for turn in messages %}{{ turn['role'] + turn['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant' }}{% else %}{{ 'end' }}{% endif %}",
            "renders the first turns otherwise",
        ),
        ("{{ raise_exception('take turns') }}", "refuses the conversation: take turns"),
    ],
    ids=["last turns only", "other prompt", "text after the end", "raises"],
)
def test_a_template_that_cannot_be_followed_is_named(make_tokenizer, template, error):
    chat = Chat(make_tokenizer(template=template), {"image": 3}, 100)
    with pytest.raises(ChatError, match=error):
        chat.encode(TALK)
