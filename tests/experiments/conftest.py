"""Fixtures of several experiments' tests: configs of small vision-language models."""

from functools import partial

import pytest
from small_configs import vlm_config

from edge_lib.experiments.vlm_checks import CHAT_SPLITS
from edge_lib.experiments.vlm_features import prefix_spec
from edge_lib.features.extract import write_features


@pytest.fixture(scope="session")
def make_vlm_config(aligner_folder, language_folder, small_align):
    """make_vlm_config("key=value ...") -> a tiny config that runs in seconds, with features."""
    make = partial(vlm_config, aligner_folder, language_folder, small_align("").data.cache_dir)
    write_features(make().data, prefix_spec(make(), aligner_folder), CHAT_SPLITS)
    return make
