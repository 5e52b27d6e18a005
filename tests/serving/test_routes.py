"""Answers of the routes of our own: generate, caption, embed, search."""

import base64

from edge_lib.serving.schemas.examples import PICTURE

PNG = base64.b64decode(PICTURE.partition(",")[2])


def test_generate_takes_a_list_and_keeps_its_order(client, service):
    items = [{"prompt": "a", "max_tokens": 1}, {"prompt": "b", "n": 2}, {"prompt": "c"}]
    results = client.post("/generate", json=items).json()
    texts = [[choice["text"] for choice in result["choices"]] for result in results]
    assert texts == [["a"], ["a red three"] * 2, ["a red three"]]
    assert results[1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


def test_generate_takes_a_form_with_files(client, service, clip):
    files = [("images", ("a.png", PNG)), ("images", ("b.png", PNG)), ("audio", ("c.wav", clip))]
    data = {"prompt": "<image><audio>?", "stop": ["x", "y"], "temperature": "0.5", "n": "2"}
    response = client.post("/generate", data=data, files=files)
    assert len(response.json()["choices"]) == 2, response.text
    request = service.generator.requests[-1]
    assert request.messages == "<image><audio>?"
    assert [item.content for item in request.media["image"]] == [PNG, PNG]
    assert request.media["audio"][0].content == clip
    assert (request.sampling.temperature, request.sampling.stop) == (0.5, ("x", "y"))


def test_generate_takes_messages(client, service):
    messages = [{"role": "user", "content": "<image>\nhello"}]
    client.post("/generate", json={"messages": messages, "images": PICTURE})
    assert service.generator.requests[-1].messages == messages
    files = {"images": ("a.png", PNG)}
    data = {"messages": '[{"role": "user", "content": "<image>\\nhello"}]'}
    assert client.post("/generate", data=data, files=files).status_code == 200
    assert service.generator.requests[-1].messages == messages


def test_caption_asks_for_a_description(client, service):
    assert client.post("/caption", json={"image": PICTURE}).json()["choices"][0]["text"]
    request = service.generator.requests[-1]
    assert (request.messages, len(request.media["image"])) == ("Describe the image.", 1)
    client.post("/caption", files={"image": ("a.png", PNG)}, data={"prompt": "What is it?"})
    request = service.generator.requests[-1]
    assert (request.messages, request.media["image"][0].content) == ("What is it?", PNG)


def test_embed_keeps_kinds_and_order_apart(client):
    body = {"texts": ["ab", "abc"], "images": PICTURE, "normalize": False}
    answer = client.post("/embed", json=body).json()
    assert answer["texts"] == [[2, 1, 2, 3], [3, 1, 2, 3]]
    assert answer["images"] == [[220, 30, 30, 1]]
    assert (answer["dim"], answer["audio"]) == (4, [])


def test_embed_takes_files(client):
    files = [("images", ("a.png", PNG))]
    answer = client.post("/embed", files=files, data={"dim": "2", "normalize": "false"}).json()
    assert answer["images"] == [[220, 30]]


def test_search_gives_hits_and_their_pictures(client, service):
    hits = client.get("/search", params={"q": "abc", "k": 2, "dim": 2}).json()["hits"]
    assert [(hit["row"], hit["picture"]) for hit in hits] == [(0, "/search/pictures/0"), (1, None)]
    vector, *rest = service.index.queries[-1]
    assert (vector[0], *rest) == (3, 2, 2, None, None)
    assert client.get(hits[0]["picture"]).headers["content-type"] == "image/jpeg"


def test_search_takes_one_item(client, service):
    client.post("/search", json={"images": PICTURE, "modality": "vision"})
    assert service.index.queries[-1][0].tolist() == [220, 30, 30, 1]
    client.post("/search", files={"images": ("a.png", PNG)})
    assert service.index.queries[-1][0].tolist() == [220, 30, 30, 1]
    for body in ({}, {"texts": "a", "images": PICTURE}, {"texts": ["a", "b"]}):
        assert client.post("/search", json=body).status_code == 400


def test_search_centers_by_the_modality_of_the_query(client, service):
    client.post("/search", json={"images": PICTURE, "center": True})
    assert service.index.queries[-1][4] == "vision"
    client.post("/search", data={"center": "true"}, files={"images": ("a.png", PNG)})
    assert service.index.queries[-1][4] == "vision"
    count = len(service.index.queries)
    answer = client.get("/search", params={"q": "abc", "center": "true"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "center")
    assert "no text whose mean is known" in answer.json()["error"]["message"]
    assert len(service.index.queries) == count
