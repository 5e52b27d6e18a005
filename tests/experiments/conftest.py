"""Fixtures of several experiments' tests: configs of small vision-language models."""

import pytest

from edge_lib.config import load_config
from edge_lib.experiments.vlm_checks import CHAT_SPLITS
from edge_lib.experiments.vlm_features import prefix_spec
from edge_lib.features.extract import write_features

STAGE = "vlm.stages.{0}.batch_size=8 vlm.stages.{0}.max_steps=6 vlm.stages.{0}.eval_every=6 "
STAGE += "vlm.stages.{0}.checkpoint_every=3 vlm.stages.{0}.log_every=2 "
SMALL = (
    "data.conversations.train_scenes=20 data.conversations.val_scenes=6 "
    "data.conversations.test_scenes=8 data.conversations.per_scene=2 vlm.projector.tokens=2 "
    "vlm.language.lora.rank=4 vlm.max_length=400 vlm.max_new_tokens=8 "
) + "".join(map(STAGE.format, ("projector", "lora")))


@pytest.fixture(scope="session")
def make_vlm_config(aligner_folder, language_folder, small_align):
    """make_vlm_config("key=value ...") -> a tiny config that runs in seconds, with features."""
    where = f"data.cache_dir={small_align('').data.cache_dir} aligner.config=null "
    where += f"aligner.folder={aligner_folder} vlm.language.model={language_folder} "
    config = load_config("params/tiny/vlm.yaml", SMALL + where)
    write_features(config.data, prefix_spec(config, aligner_folder), CHAT_SPLITS)
    return lambda overrides="": load_config("params/tiny/vlm.yaml", SMALL + where + overrides)
