"""A causal language model by name: Qwen2.5, or any other that transformers knows.

It stays as it is, perhaps in 4 or 8 bits (Dettmers et al. 2023, arXiv 2305.14314); low-rank
adapters beside its linear layers are what is trained.
"""

import logging
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from edge_lib.config import ConfigError
from edge_lib.config.language import LanguageConfig, LoRAConfig
from edge_lib.data.chat import IGNORE
from edge_lib.features.weights import ARCHITECTURES, SHIPPED, locate
from edge_lib.training.device import local_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


TINY = "tiny-qwen2"


ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_language(config: LanguageConfig) -> PreTrainedModel:
    """The frozen model, with untrained adapters if `config.lora`."""
    source = locate(config.model, config.weights)
    how = {"dtype": DTYPES[config.precision], "quantization_config": quantization(config)}
    if config.quantize and torch.cuda.is_available():
        how["device_map"] = {"": local_device()}  # else every rank's would be on the first GPU
    if config.device_map is not None:
        how |= {"device_map": config.device_map, "max_memory": config.max_memory}
    if config.weights == "random":
        model = _random(source, config, how)
    else:
        model = AutoModelForCausalLM.from_pretrained(source, revision=config.revision, **how)
    model.requires_grad_(False)
    _refuse_other_heads(model)
    if config.quantize == "4bit":
        _keep_as_they_are(model)
    # greedy unless told: a model's own sampling and penalties would change what is measured
    ends = {name: getattr(model.generation_config, name) for name in ENDS}
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    if config.lora:
        add_adapters(model, config.lora)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def load_tokenizer(config: LanguageConfig) -> PreTrainedTokenizerBase:
    """Its tokenizer; for random weights without one of their own the shipped model's."""
    source = locate(config.model, config.weights)
    shape_alone = config.weights == "random" and ARCHITECTURES in Path(source).parents
    tokenizer = AutoTokenizer.from_pretrained(
        SHIPPED[TINY] if shape_alone else source, revision=config.revision
    )
    if not tokenizer.chat_template:
        raise ConfigError(f"vlm.language.model={config.model} has no chat template")
    return tokenizer


def quantization(config: LanguageConfig) -> BitsAndBytesConfig | None:
    if config.quantize == "8bit":
        # a line for each product that begins with a cast
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if config.quantize == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[config.precision],
        )
    return None


def add_adapters(model: PreTrainedModel, config: LoRAConfig) -> None:
    """Adapters that change nothing yet: one of their two matrices is zero."""
    names = {name.split(".")[-1] for name, _ in model.named_modules()}
    if missing := sorted(set(config.targets) - names):
        raise ConfigError(f"vlm.language.lora.targets: the model has no layer named {missing}")
    model.add_adapter(
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.targets),
        )
    )
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # in 16 bits small steps would be rounded away
            parameter.data = parameter.data.float()


def supervised_loss(language: PreTrainedModel, states: Tensor, labels: Tensor) -> Tensor:
    """`head_loss` by the language model's own head."""
    return head_loss(language.get_output_embeddings(), states, labels)


def head_loss(head: nn.Module, states: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the labels (B, S) that are not IGNORE, summed, from last states (B, S, W).

    The head is run where there is a label and nowhere else: of 577 image tokens and 64 words it
    makes 64 rows of logits.
    """
    wanted = labels[:, 1:] != IGNORE
    logits = head(states[:, :-1][wanted.to(states.device)]).float()
    # layers may be spread over devices
    return F.cross_entropy(logits, labels[:, 1:][wanted].to(logits.device), reduction="sum")


def _refuse_other_heads(model: PreTrainedModel) -> None:
    """`head_loss` takes logits from the head as they are; some models change them afterwards."""
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1.0):
            raise ConfigError(
                f"vlm.language.model: {config.model_type} changes logits by its {name}"
            )


def _keep_as_they_are(model: PreTrainedModel) -> None:
    """Some CPUs repack 4-bit weights when they are first evaluated: in place, with digits lost, so
    that training would go on over others.
    """
    from bitsandbytes.nn import Linear4bit  # seconds

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _random(source, config: LanguageConfig, how: dict) -> PreTrainedModel:
    """Random weights, the same each time, by way of a folder: so they are quantised as others."""
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        architecture = AutoConfig.from_pretrained(source, revision=config.revision)
        model = AutoModelForCausalLM.from_config(architecture, dtype=how["dtype"])
        if config.quantize is None and config.device_map is None:
            return model
        model.save_pretrained(folder)
        del model
        return AutoModelForCausalLM.from_pretrained(folder, **how)
