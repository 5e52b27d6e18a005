"""Search of a table: queries of several items, labels, near-duplicates and outliers."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from audio_helpers import encode, sine
from PIL import Image
from pydantic import ValidationError

from edge_lib.config import ConfigError, QueryConfig, SearchConfig
from edge_lib.experiments import search
from edge_lib.search import MatryoshkaIndex

VECTORS = {"red": [3.0, 0, 0], "blue": [0, 2.0, 0], "three": [0, 0, 1.0]}


class StubAligner:
    """Embeds texts by VECTORS, and every other item as (1, 1, 0)."""

    width = 3
    modalities = ("vision", "text")

    def embed(self, modality, items):
        return torch.tensor([VECTORS.get(str(item), [1.0, 1.0, 0]) for item in items])

    def check_pooled(self, user):
        pass


@pytest.fixture
def pictures(make_table, encode_image):
    """Rows a and b with pictures, c with a broken one, and one without id, with sound alone."""
    rows = [{"id": name, "image": encode_image(), "texts": [f"a {name}"]} for name in "ab"]
    rows += [{"id": "c", "image": b"no image", "texts": ["a c", "a sea"]}]
    return make_table([*rows, {"audio": encode(sine(0.1, 16000), 16000)}])


# --- queries ---------------------------------------------------------------------------------


def test_query_adds_and_subtracts_unit_embeddings(pictures):
    query = QueryConfig(plus={"text": ["red", "blue"]}, minus={"text": "three"})
    assert search.embed_query(StubAligner(), query, pictures).tolist() == [1, 1, -1]
    query = QueryConfig(plus={"vision": "a", "text": "three"})
    expected = [0.5**0.5, 0.5**0.5, 1]
    torch.testing.assert_close(
        search.embed_query(StubAligner(), query, pictures), torch.tensor(expected)
    )


def test_query_reads_the_picture_of_a_row_or_file(pictures, tmp_path):
    Image.new("L", (7, 5)).save(tmp_path / "mine.png")
    assert (
        search.query_input(pictures, "vision", "b").tobytes() == pictures.images([1])[0].tobytes()
    )
    from_file = search.query_input(pictures, "vision", str(tmp_path / "mine.png"))
    assert (from_file.size, from_file.mode) == ((7, 5), "RGB")
    assert len(search.query_input(pictures, "audio", "3")) == 1600  # a row without id: its number


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"vision": "d"}, "'d' is neither an id in small nor a file"),
        ({"vision": "1"}, "'1' is neither an id in small nor a file"),  # row 1 is called b
        ({"vision": "c"}, "c of small: image does not decode"),
        ({"vision": "3"}, "3 of small: no image"),
        ({"vision": "README.md"}, "README.md is no vision file: not an image file"),
        ({"vision": "edge_lib"}, "'edge_lib' is neither an id in small nor a file"),
        ({"audio": "a.wav"}, "the aligner has no audio, only vision, text"),
    ],
    ids=["unknown", "number of a row with id", "broken", "null", "no image", "folder", "modality"],
)
def test_query_that_cannot_be_embedded_is_an_error(pictures, query, message):
    with pytest.raises(ConfigError, match=f"^search.queries: {message}"):
        search.embed_query(StubAligner(), QueryConfig(plus=query), pictures)


def test_query_title_names_each_item(pictures):
    query = QueryConfig(plus={"text": ["a", "b"], "vision": "x.png"}, minus={"text": "c"})
    assert search.query_title(query, pictures) == "“a”\n“b”\nvision x.png\n− “c”"


def test_query_title_has_the_caption_of_a_sound(make_table):
    table = make_table([{"id": "a", "texts": [None, " one ", "two"]}, {"id": "b", "texts": None}])
    query = QueryConfig(plus={"audio": ["a", "b", "c.wav"], "vision": "a"})
    assert search.query_title(query, table) == "audio a: one\naudio b\naudio c.wav\nvision a"


def test_query_pairs_share_rows_with_the_gallery():
    rows = {"vision": np.array([0, 1]), "audio": np.array([2, 3]), "text": np.array([1, 1, 4])}
    assert search.query_pairs(rows, "vision") == [("text", "vision")]
    assert search.query_pairs(rows, "text") == [("vision", "text")]
    assert search.query_pairs(rows, "audio") == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"queries": [{"minus": {"text": "red"}}]}, "plus\n  Field required"),
        ({"queries": [{"plus": {}}]}, "plus\n  Dictionary should have at least 1 item"),
        ({"queries": [{"plus": {"text": []}}]}, "text\n  List should have at least 1 item"),
        ({"queries": [{"plus": {"text": " "}}]}, "String should match pattern"),
        ({"queries": [{"plus": {"sound": "a.wav"}}]}, "allowed: vision, audio, text"),
        ({"prompts": ["a photo"]}, "'a photo' needs one {} in place of the label"),
        ({"labels": ["zero"]}, "labels\n  List should have at least 2 items"),
        ({"duplicates": 2}, "less than or equal to 1"),
        ({"gallery": "picture"}, "allowed: vision, audio, text"),
    ],
    ids=["minus", "empty", "no text", "blank", "modality", "prompt", "labels", "cosine", "gallery"],
)
def test_search_section_with_a_mistake_is_an_error(section, message):
    with pytest.raises(ValidationError, match=message):
        SearchConfig.model_validate(section)


def test_search_results_are_those_of_the_index():
    rows = F.normalize(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    results = search.search_results(MatryoshkaIndex(rows, [4, 8]), [rows[3], -rows[5]], "xy", 3)
    assert results["query"].tolist() == [*"xxxyyy"]
    assert results["rank"].tolist() == [1, 2, 3] * 2
    assert results["item"].tolist()[0] == 3
    cosines = rows @ rows[3]
    np.testing.assert_allclose(
        results["cosine"][:3], cosines.sort(descending=True).values[:3], atol=1e-6
    )
    assert results["item"].tolist()[3:] == (rows @ -rows[5]).argsort(descending=True)[:3].tolist()


def test_search_without_queries_has_no_results():
    assert search.search_results(MatryoshkaIndex(torch.eye(3), [2]), [], [], 3).empty


def test_gallery_that_the_table_lacks_is_an_error(make_table):
    table = make_table([{"texts": ["a"]}])
    assert search.present_modalities(StubAligner(), table, SearchConfig(gallery="text")) == ["text"]
    with pytest.raises(ConfigError, match=r"search\.gallery: no vision in small; it has text"):
        search.present_modalities(StubAligner(), table, SearchConfig())


# --- items -----------------------------------------------------------------------------------


def test_items_are_distinct_images_and_captions(make_table, encode_image):
    image = encode_image()
    table = make_table(
        [
            {"id": "a", "image": image, "image_id": "i", "texts": ["one", "two"]},
            {"id": "b", "image": image, "image_id": "i", "texts": ["three"]},
            {"id": "c", "image": encode_image(), "image_id": "j", "texts": None},
        ]
    )
    valid = {"vision": np.array([True, True]), "text": np.array([True, False, True])}
    stores = {name: SimpleNamespace(valid=mask) for name, mask in valid.items()}
    rows = {name: table.row_items(name, mask)[1] for name, mask in valid.items()}
    embeddings = {name: torch.arange(len(own))[:, None].float() for name, own in rows.items()}
    items, vectors = search.list_items(table, stores, embeddings, rows)
    assert items[["modality", "id", "caption"]].to_numpy().tolist() == [
        ["vision", "a", "one"],
        ["vision", "c", ""],
        ["text", "a", "one"],
        ["text", "b", "three"],
    ]
    assert vectors[:, 0].tolist() == [0, 2, 0, 1]
    assert items["group"].nunique() == 2  # a and b share an image


def test_items_without_captions_are_no_skips(make_table, encode_image):
    table = make_table([{"image": encode_image()}, {"image": encode_image(1)}])
    stores = {"vision": SimpleNamespace(valid=np.ones(2, bool))}
    vectors = {"vision": torch.eye(2)}
    items, _ = search.list_items(table, stores, vectors, {"vision": np.arange(2)})
    assert items["caption"].tolist() == ["", ""]
    assert not table.skipped


def test_item_view_is_the_picture_else_the_caption_or_id(pictures):
    rows = pd.DataFrame({"row": [0, 2, 3], "caption": ["", "a c", ""], "id": ["a", "c", "3"]})
    views = [search.item_view(pictures, rows, number) for number in range(3)]
    assert isinstance(views[0], Image.Image)
    assert views[1:] == ["a c", "3"]


def test_sampled_rows_are_whole_and_within_the_limit():
    items = pd.DataFrame({"row": [0, 1, 2, 3, 0, 1, 1, 3]})
    for seed in range(5):
        kept = items.iloc[search.sample_rows(items, 5, seed)]["row"]
        assert 3 <= len(kept) <= 5
        assert kept.value_counts().to_dict().items() <= {0: 2, 1: 3, 2: 1, 3: 2}.items()
    assert search.sample_rows(items, 8, 0).tolist() == [*range(8)]


# --- near-duplicates and outliers --------------------------------------------------------------


@pytest.mark.parametrize("scores", [1, 30, 1 << 24])
def test_near_duplicates_are_those_of_brute_force(monkeypatch, scores):
    monkeypatch.setattr(search, "MAX_SCORES", scores)
    rows = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
    rows[7], rows[20] = rows[2] * 3, 0
    unit = F.normalize(rows.double(), dim=1).numpy()
    expected = {(a, b): unit[a] @ unit[b] for a in range(23) for b in range(a + 1, 23)}
    for threshold in (0.9, -0.5):
        kept = {pair: cosine for pair, cosine in expected.items() if cosine >= threshold}
        pairs, count = search.near_duplicates(rows, threshold)
        found_pairs = list(zip(pairs["first"], pairs["second"], strict=True))
        assert (count, {*found_pairs}) == (len(kept), kept.keys())
        np.testing.assert_allclose(pairs["cosine"], sorted(kept.values())[::-1], atol=1e-6)
        assert found_pairs[0] == (2, 7)
        best, count = search.near_duplicates(rows, threshold, limit=4)
        assert (count, len(best)) == (len(kept), 4)
        np.testing.assert_allclose(best["cosine"], pairs["cosine"][:4], atol=1e-6)


def test_near_duplicates_include_equal_rows_at_a_cosine_of_one():
    rows = torch.randn(4, 50).repeat(2, 1) * torch.rand(8, 1)
    pairs, count = search.near_duplicates(rows, 1.0)
    assert count == 4
    assert {*zip(pairs["first"], pairs["second"], strict=True)} == {(i, i + 4) for i in range(4)}
    assert search.near_duplicates(rows[:1], 0.5)[1] == 0


def test_nearest_cosines_leave_out_the_row_itself():
    rows = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0], [0, 1.0], [1.0, 1.1]])
    nearest = search.nearest_cosines(MatryoshkaIndex(rows, [2]), rows)
    np.testing.assert_allclose(nearest, [1, 1, 1, 1.1 / 2.21**0.5, 1.1 / 2.21**0.5], atol=1e-6)
    outliers = search.outlier_results(np.array([0.9, 0.2, 0.5, 0.2]), 3)
    assert outliers[["item", "rank", "cosine"]].to_numpy().tolist() == [
        [1, 1, 0.2],
        [3, 2, 0.2],
        [2, 3, 0.5],
    ]
    assert np.isnan(search.nearest_cosines(MatryoshkaIndex(rows[:1], [2]), rows[:1]))


# --- several modalities ---------------------------------------------------------------------------


def test_mixed_scores_equal_brute_force():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((30, 8))
    parts = {"vision": shared + 3 * np.eye(8)[0], "text": shared[:20] - 3 * np.eye(8)[1]}
    parts["text"][5] = parts["text"][6]  # equal items, of which one comes before the other
    rows = {"vision": np.arange(30), "text": np.arange(20)}
    vectors = {name: torch.from_numpy(x).float() for name, x in parts.items()}
    table = search.mixed_scores(vectors, rows, [4, 8], 3)
    assert table["query"].tolist() == ["vision"] * 3 + ["text"] * 3
    unit = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in parts.items()}
    kinds, gallery_rows = np.repeat(["vision", "text"], [30, 20]), np.r_[0:30, 0:20]
    for score in table.itertuples():
        left = {n: x - x.mean(0) * score.center for n, x in unit.items()}
        left = {n: x / (unit[n].std(0) if score.standardize else 1) for n, x in left.items()}
        items = np.concatenate(
            [x / np.linalg.norm(x, axis=1, keepdims=True) for x in left.values()]
        )
        right, other = [], []
        for row in rows[score.query]:
            own = np.flatnonzero((kinds == score.query) & (gallery_rows == row))[0]
            order = [n for n in np.argsort(-(items @ items[own]), kind="stable") if n != own][:3]
            right.append(kinds[order[0]] != score.query and gallery_rows[order[0]] == row)
            other += [kinds[n] != score.query for n in order]
        assert score.right == pytest.approx(np.mean(right), abs=0.05)
        assert score.other == pytest.approx(np.mean(other), abs=0.02)
    centered = table[table.center & ~table.standardize]
    assert centered.right.min() > table[~table.center].right.max() + 0.3


def test_mixed_scores_of_galleries_smaller_than_the_list():
    rows = {"vision": np.array([4, 7]), "text": np.array([7])}
    parts = {"vision": torch.eye(3)[:2], "text": torch.tensor([[0.1, 1.0, 0.2]])}
    table = search.mixed_scores(parts, rows, [3], 10)
    as_it_is = table[~table.center].set_index("query")
    assert as_it_is.right.to_dict() == {"vision": 0.5, "text": 1}
    assert as_it_is.other.to_dict() == {"vision": 0.5, "text": 1}


# --- labels --------------------------------------------------------------------------------------


def test_best_of_labels_are_ranked_by_cosine_in_the_order_of_labels():
    best = search.best_of_labels([1, 0, 1, 1], [0.1, 0.2, 0.3, 0.2], ["b", "a", "none"], 2)
    columns = best[["query", "rank", "item", "cosine"]].to_numpy().tolist()
    assert columns == [["b", 1, 1, 0.2], ["a", 1, 2, 0.3], ["a", 2, 3, 0.2]]


def test_pair_results_hold_both_items_of_each_pair():
    pairs = pd.DataFrame({"first": [1, 2, 3], "second": [4, 5, 6], "cosine": [0.9, 0.8, 0.7]})
    results = search.pair_results(pairs, 2)
    assert results.groupby("query", sort=False)["item"].apply(list).tolist() == [[1, 2], [4, 5]]
    assert results["rank"].tolist() == [1, 2, 1, 2]
    assert search.pair_results(pairs[:0], 2).empty
