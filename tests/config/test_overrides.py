"""Overrides as text, dicts and lists."""

import pytest

from edge_lib.config import load_config


def test_overrides_win_and_add_sections(write):
    path = write("a.yaml", "name: a\ntrain: {lr: 0.1, epochs: 2}\n")
    config = load_config(path, 'train.lr=0.3 vision.encoder=clip loss.dims=[8,4] name="b"')
    assert (config.name, config.train.lr, config.train.epochs) == ("b", 0.3, 2)
    assert (config.vision.encoder, config.loss.dims) == ("clip", [8, 4])


@pytest.mark.parametrize("spelling", ["1e-4", "1E-4", "0.0001", "1.0e-4", "'1e-4'"])
def test_scientific_notation_is_number_in_files_and_overrides(write, plain, spelling):
    in_file = load_config(write("a.yaml", f"name: plain\ntrain: {{lr: {spelling}}}\n"))
    in_override = load_config(plain, f"train.lr={spelling}")
    for config in (in_file, in_override):
        assert type(config.train.lr) is float
        assert config.train.lr == pytest.approx(1e-4)
    assert in_file.digest() == in_override.digest()


@pytest.mark.parametrize(
    "overrides",
    [
        "train.lr=0.3 loss.dims=[8,4]",
        "train.lr=0.3 loss.dims=[8, 4]",
        "loss.dims=[ 8, 4 ] train.lr=0.3",
        {"train.lr": 0.3, "loss.dims": [8, 4]},
        {"train": {"lr": 0.3}, "loss": {"dims": (8, 4)}},
        ["train.lr=0.3", "loss.dims=[8, 4]"],
        ["train.lr=9", {"train.lr": 0.3}, {"loss": {"dims": [8, 4]}}],
    ],
    ids=["text", "space", "spaces", "dotted-dict", "nested-dict", "list", "mixed-list"],
)
def test_overrides_take_text_dict_and_list(plain, overrides):
    config = load_config(plain, overrides)
    assert (config.train.lr, config.loss.dims) == (0.3, [8, 4])


def test_overrides_keep_space_in_quotes_and_list(plain):
    quoted = load_config(plain, "'data.cache_dir=/my cache' 'train.betas=[0.8, 0.9]'")
    listed = load_config(plain, ["data.cache_dir=/my cache", "train.betas=[0.8, 0.9]"])
    assert quoted == listed
    assert str(quoted.data.cache_dir) == "/my cache"


@pytest.mark.parametrize("overrides", ["", {}, [], " "], ids=["text", "dict", "list", "space"])
def test_empty_overrides_change_nothing(plain, overrides):
    assert load_config(plain, overrides) == load_config(plain)


@pytest.mark.parametrize(
    ("overrides", "quoted"),
    [
        ("train.lr", "'train.lr' is not of the form dotted.key=value"),
        ("train.lr 3", "'train.lr' is not of the form dotted.key=value"),
        ("seed=1 --flag", "'--flag' is not of the form dotted.key=value"),
        ("loss.dims=[8,4] 3]", "'3]' is not of the form dotted.key=value"),
        ('seed=1 name="x', 'No closing quotation: seed=1 name="x'),
        ("seed=1 loss.dims=[8", "'loss.dims=[8' is not valid: did not find expected ',' or ']'"),
        (["seed=1", "train={lr"], "'train={lr' is not valid: did not find expected ',' or '}'"),
        (["seed=1", 3], "3 is not of the form dotted.key=value"),
        ({"seed": 1, "train.lr": {1}}, "'train.lr': Value 'set' is not a supported primitive type"),
        (3, "expected text, a dict or a list, got 3"),
        (None, "expected text, a dict or a list, got None"),
    ],
    ids=range(11),
)
def test_invalid_override_is_quoted(message, plain, overrides, quoted):
    assert message(plain, overrides) == f"overrides: {quoted}"
