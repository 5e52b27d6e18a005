"""Checks that need several sections of an `ExperimentConfig`."""

from collections.abc import Iterator

from edge_lib.config.train import TrainConfig


def problems(config) -> Iterator[str]:
    """A message for each problem."""
    yield from _modality_problems(config)
    yield from _loading_problems(config)
    yield from _process_problems(config)
    yield from _caption_problems(config)
    yield from _fusemix_problems(config)
    yield from _mining_problems(config)
    yield from _sharding_problems(config)
    yield from _evaluation_problems(config)
    if missing := sorted(set(config.compare.candidates) - set(config.modalities)):
        yield f"compare.candidates names {', '.join(missing)}, which has no section"


def _modality_problems(config) -> Iterator[str]:
    """Modalities that are named but have no section, or have one that does not fit."""
    fusion = [*config.fusion.modalities, config.fusion.target] if config.fusion else []
    for key, names in (("loss.pairs", sum(config.loss.pairs or [], ())), ("fusion", fusion)):
        if missing := sorted(set(names) - set(config.modalities)):
            yield f"{key} names {', '.join(missing)}, which has no section"
    for name in fusion:
        modality = config.modalities.get(name)
        if modality and modality.varies_in_length:
            pooler = f"{name}.pooler={modality.pooler}"
            yield f"{pooler} keeps every token, but fusion needs a pooled modality"
    late = any(modality.head == "maxsim" for modality in config.modalities.values())
    if late and config.loss.kind != "info_nce":
        yield f"loss.kind={config.loss.kind}: heads with head=maxsim are trained with info_nce"
    if late and config.fusion:
        yield "head=maxsim keeps a vector for each token, but fusion needs one for each item"
    heads = {f"{name}.head": modality.head for name, modality in config.modalities.items()}
    if len(set(heads.values())) > 1:
        listed = ", ".join(f"{key}={head}" for key, head in heads.items())
        yield f"{listed}: all modalities need the same head"
    for name, modality in config.modalities.items():
        if modality.merge_layers == "concat" and not isinstance(modality.layer, list):
            yield f"{name}.merge_layers=concat needs a list of layers (layer={modality.layer})"
        if modality.augment and not config.features.online:
            yield f"{name}.augment needs features.online=true: a store keeps one view of an image"


def _loading_problems(config) -> Iterator[str]:
    """Loader processes for batches on an accelerator; models that cannot be trained online."""
    if (config.qa or config.vlm) and config.features.online:
        yield "qa and vlm train from the feature store and need features.online=false"
    for key, train in ({"train": config.train} | train_sections(config)).items():
        if train.num_workers and (config.features.online or config.features.on_device):
            yield f"{key}.num_workers must be 0 with features.online or features.on_device"


def _process_problems(config) -> Iterator[str]:
    """Batches that do not divide among the processes."""
    world_size = config.launch.world_size
    if config.vlm and config.vlm.language.device_map is not None and world_size > 1:
        yield "vlm.language.device_map needs launch.num_processes=1"
    for key, train in train_sections(config).items():
        share = world_size * (config.qa.questions_per_image if key == "qa.train" else 1)
        if train.batch_size % share:
            unit = " x qa.questions_per_image" if key == "qa.train" else ""
            yield (
                f"{key}.batch_size={train.batch_size} is not a multiple of {share} "
                f"(processes{unit})"
            )


def _caption_problems(config) -> Iterator[str]:
    """Batches of pairs that do not hold whole rows of several captions."""
    captions = config.data.captions_per_row
    for key, train in train_sections(config).items():
        if key in ("train", "fusion.train") and train.batch_size % captions:
            size = f"{key}.batch_size={train.batch_size}"
            yield f"{size} is not a multiple of data.captions_per_row={captions}"


def _fusemix_problems(config) -> Iterator[str]:
    """Mixtures of what cannot be mixed."""
    if not config.data.fusemix:
        return
    if config.features.online:
        yield "data.fusemix mixes stored features and needs features.online=false"
    if config.data.captions_per_row > 1:
        yield "data.fusemix needs data.captions_per_row=1: each caption gets a partner of its own"
    for name, modality in config.modalities.items():
        if name != "vision" and modality.keeps_tokens:
            pooler = f"{name}.pooler={modality.pooler}"
            yield f"{pooler} reads tokens of any length, which data.fusemix cannot mix: use pooled"


def _mining_problems(config) -> Iterator[str]:
    """Hard negatives of models that are not searched, or by processes that lack the heads."""
    for key, train in ({"train": config.train} | train_sections(config)).items():
        if train.hard_negatives and key != "train":
            yield f"{key}.hard_negatives: only the heads (train) mine hard negatives"
    if config.train.hard_negatives and config.features.online:
        yield "train.hard_negatives searches stored features and needs features.online=false"
    if config.train.hard_negatives and config.train.num_workers:
        yield "train.hard_negatives needs train.num_workers=0: loader processes lack the heads"


def _sharding_problems(config) -> Iterator[str]:
    """Sharding of anything but the stages of a VLM: other models fit on one device."""
    for key, train in ({"train": config.train} | train_sections(config)).items():
        if train.sharding and not key.startswith("vlm."):
            yield f"{key}.sharding: only vlm.stages can be sharded"


def _evaluation_problems(config) -> Iterator[str]:
    """Evaluated dims that exceed the width of the embedding."""
    widest = max(config.loss.dims)
    if wider := [dim for dim in config.evaluate.dims or () if dim > widest]:
        yield f"evaluate.dims {wider} exceed the embedding, which has {widest} dims (loss.dims)"


def train_sections(config) -> dict[str, TrainConfig]:
    """Every training section that is used, by its dotted key."""
    sections = {"train": config.train} if config.modalities else {}
    if config.fusion:
        sections["fusion.train"] = config.fusion.train
    if config.qa:
        sections["qa.train"] = config.qa.train
    stages = config.vlm.stages if config.vlm else {}
    return sections | {f"vlm.stages.{name}": stage for name, stage in stages.items()}
