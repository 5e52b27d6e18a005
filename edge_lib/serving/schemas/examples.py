"""Bodies that the description of the API shows, by title; tests validate them."""

# a PNG of 8 x 8 red pixels
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGO8IyfHgA0wYRUd"
    "tBIA4FYBKCgCg6AAAAAASUVORK5CYII="
)
GENERATE = {
    "a picture": {"prompt": "What is at the top?", "images": [PICTURE], "max_tokens": 32},
    "a conversation": {
        "messages": [
            {"role": "user", "content": "<image>\nWhat is at the top?"},
            {"role": "assistant", "content": "a red three"},
            {"role": "user", "content": "And below it?"},
        ],
        "images": [PICTURE],
    },
    "several prompts": [
        {"prompt": "What is at the top?", "images": [PICTURE]},
        {"prompt": "What colour is it?", "images": [PICTURE], "temperature": 0.7, "seed": 1},
    ],
}
CAPTION = {"a picture": {"image": PICTURE}, "several": [{"image": PICTURE}, {"image": PICTURE}]}
EMBED = {
    "texts and a picture": {"texts": ["a red three", "a blue seven"], "images": [PICTURE]},
    "one text": {"texts": "a red three", "normalize": False},
}
CHAT = {
    "a picture": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": PICTURE}},
                    {"type": "text", "text": "What is at the top?"},
                ],
            }
        ],
        "max_tokens": 32,
    },
    "events": {"messages": [{"role": "user", "content": "Hello"}], "stream": True},
}
EMBEDDINGS = {
    "texts": {"input": ["a red three", "a blue seven"], "encoding_format": "float"},
    "a picture": {"input": [{"type": "image_url", "image_url": {"url": PICTURE}}]},
}
SEARCH = {"a picture": {"images": [PICTURE], "k": 5}, "a text": {"texts": ["a red three"]}}
