"""Registries of what a config may choose by name: poolers, losses, fusions, decoders, sources,
downloads.

A value is an import path ("module:name"), imported when it is first used: reading a config
imports neither torch nor transformers, and opening a table imports no other source.
"""

import pkgutil
from collections.abc import Mapping

from pydantic import AfterValidator

from edge_lib.config.base import did_you_mean

POOLERS = {
    "pooled": "edge_lib.nn.poolers:PooledPooler",
    "mean": "edge_lib.nn.poolers:MeanPooler",
    "cls": "edge_lib.nn.poolers:ClsPooler",
    "tokens": "edge_lib.nn.poolers:TokenPooler",
    "attention": "edge_lib.nn.poolers:AttentionPooler",
    "perceiver": "edge_lib.nn.perceiver:PerceiverPooler",
    "transformer": "edge_lib.nn.transformer:TransformerPooler",
}
LOSSES = {
    "info_nce": "edge_lib.nn.losses:MatryoshkaInfoNCE",
    "sigmoid": "edge_lib.nn.sigmoid:MatryoshkaSigmoid",
}
FUSIONS = {
    "concat": "edge_lib.nn.fusion:ConcatFusion",
    "cross_attention": "edge_lib.nn.fusion:CrossAttentionFusion",
    "gated": "edge_lib.nn.fusion:GatedFusion",
}
DECODERS = {
    "plain": "edge_lib.nn.decoders.base:PlainDecoder",
    "trm": "edge_lib.nn.decoders.trm:RecursiveDecoder",
}

# A source is a function (DataConfig, split) -> Table, or a `sources.source.Source`.
SOURCES = {
    "scenes": "edge_lib.sources.scenes.table:SOURCE",
    "folder": "edge_lib.sources.folder:load",
    "table": "edge_lib.sources.tabular:load",
    "parquet": "edge_lib.sources.tabular:load",
    "webdataset": "edge_lib.sources.webdataset:load",
    "coco": "edge_lib.sources.coco:load",
    "hub": "edge_lib.sources.hub:load",
    "common_voice": "edge_lib.sources.common_voice:load",
}
QUESTION_SOURCES = {
    "scenes": "edge_lib.sources.scenes.question_table:SOURCE",
    "captions": "edge_lib.sources.caption_questions:load",
    "vqav2": "edge_lib.sources.vqav2:load",
    "gqa": "edge_lib.sources.gqa:load",
    "table": "edge_lib.sources.question_tables:load",
    "hub": "edge_lib.sources.question_tables:load",
}
CONVERSATION_SOURCES = {
    "scenes": "edge_lib.sources.scenes.conversations:load",
    "llava": "edge_lib.sources.conversation_files:load_llava",
    "messages": "edge_lib.sources.conversation_files:load_messages",
    "parquet": "edge_lib.sources.conversation_files:load_parquet",
    "hub": "edge_lib.sources.conversation_hub:load",
    "instructions": "edge_lib.sources.conversation_files:load_instructions",
}
# What `edge-glass download` writes: a `sources.download.base.Download`.
DOWNLOADS = {
    "stamps": "edge_lib.sources.download.stamps:StampsDownload",
    "pixmo-cap": "edge_lib.sources.download.url_sets:PixmoCapDownload",
    "cc3m": "edge_lib.sources.download.url_sets:Cc3mDownload",
    "laion": "edge_lib.sources.download.url_sets:LaionDownload",
    "urls": "edge_lib.sources.download.url_download:UrlsDownload",
    "coco-captions": "edge_lib.sources.download.coco_captions:CocoCaptionsDownload",
    "vqav2": "edge_lib.sources.download.vqav2:VQAv2Download",
    "gqa": "edge_lib.sources.download.gqa:GQADownload",
    "llava-665k": "edge_lib.sources.download.llava:Llava665KDownload",
    "open-orca": "edge_lib.sources.download.open_orca:OpenOrcaDownload",
    "common-voice": "edge_lib.sources.download.common_voice:CommonVoiceDownload",
    "hub": "edge_lib.sources.download.hub:HubDownload",
}
load_registered = pkgutil.resolve_name


def one_of(registry: Mapping[str, object]) -> AfterValidator:
    """The type of a name: Annotated[str, one_of(POOLERS)]. Names may be registered later."""

    def validate(name: str) -> str:
        if name not in registry:
            hint, allowed = did_you_mean(name, registry), ", ".join(registry)
            raise ValueError(f"unknown name; {hint}allowed: {allowed}")
        return name

    return AfterValidator(validate)
