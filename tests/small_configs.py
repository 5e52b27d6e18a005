"""Configs of decoders and vision-language models that train in seconds."""

from edge_lib.config import load_config

QA = (
    "data.questions.train_scenes=40 data.questions.val_scenes=6 data.questions.test_scenes=6 "
    "data.questions.per_scene=4 qa.plain.width=16 qa.trm.width=16 qa.plain.heads=2 qa.trm.heads=2 "
    "qa.plain.layers=2 qa.trm.inner_steps=2 qa.questions_per_image=4 qa.train.batch_size=32 "
    "qa.train.epochs=2 qa.train.eval_every=5 qa.train.checkpoint_every=3 qa.curriculum=null "
)
STAGE = "vlm.stages.{0}.batch_size=8 vlm.stages.{0}.max_steps=6 vlm.stages.{0}.eval_every=6 "
STAGE += "vlm.stages.{0}.checkpoint_every=3 vlm.stages.{0}.log_every=2 "
VLM = (
    "data.conversations.train_scenes=20 data.conversations.val_scenes=6 "
    "data.conversations.test_scenes=8 data.conversations.per_scene=2 vlm.projector.tokens=2 "
    "vlm.language.lora.rank=4 vlm.max_length=400 vlm.max_new_tokens=8 "
) + "".join(map(STAGE.format, ("projector", "lora")))


def qa_config(aligner_folder, cache_dir, overrides=""):
    where = f"data.cache_dir={cache_dir} aligner.config=null aligner.folder={aligner_folder} "
    return load_config("params/tiny/trm_qa.yaml", QA + where + overrides)


def vlm_config(aligner_folder, language_folder, cache_dir, overrides=""):
    where = f"data.cache_dir={cache_dir} aligner.config=null aligner.folder={aligner_folder} "
    where += f"vlm.language.model={language_folder} "
    return load_config("params/tiny/vlm.yaml", VLM + where + overrides)
