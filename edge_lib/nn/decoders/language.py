"""A causal language model by name: Qwen2.5, or any other that transformers supports.

Its weights are frozen, perhaps in 4 or 8 bits (Dettmers et al. 2023, arXiv 2305.14314); low-rank
adapters beside its linear layers are trained.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from edge_lib.config import ConfigError
from edge_lib.config.language import LanguageConfig, LoRAConfig
from edge_lib.data.chat import IGNORE
from edge_lib.data.vocabulary import pad
from edge_lib.features.encoder import PRECISIONS
from edge_lib.features.weights import ARCHITECTURES, SHIPPED, resolve_model
from edge_lib.training.device import local_device

disable_progress_bar()

TINY = "tiny-qwen2"
END_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_language(config: LanguageConfig) -> PreTrainedModel:
    """The frozen model, with untrained adapters if `config.lora`."""
    source = resolve_model(config.model, config.weights)
    options = {"dtype": PRECISIONS[config.precision], "quantization_config": quantization(config)}
    if config.quantize and torch.cuda.is_available():
        options["device_map"] = {"": local_device()}  # otherwise all ranks load onto the first GPU
    if config.device_map is not None:
        options |= {"device_map": config.device_map, "max_memory": config.max_memory}
    if config.weights == "random":
        model = _random_language(source, config, options)
    else:
        model = AutoModelForCausalLM.from_pretrained(source, revision=config.revision, **options)
    model.requires_grad_(False)
    if hook := getattr(model, "_hf_hook", None):  # Accelerate's: it moves inputs to one device
        hook.skip_keys = [*(hook.skip_keys or ()), "logits_to_keep"]
    if config.quantize == "4bit":
        _disable_repacking(model)
    # greedy by default: a model's own sampling settings and penalties would change measurements
    ends = {name: getattr(model.generation_config, name) for name in END_TOKENS}
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    if config.lora:
        add_adapters(model, config.lora)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def load_tokenizer(config: LanguageConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer; the shipped model's for an architecture that has random weights and no
    tokenizer. ConfigError if it has no chat template.
    """
    source = resolve_model(config.model, config.weights)
    architecture_only = config.weights == "random" and ARCHITECTURES in Path(source).parents
    tokenizer = AutoTokenizer.from_pretrained(
        SHIPPED[TINY] if architecture_only else source, revision=config.revision
    )
    if not tokenizer.chat_template:
        raise ConfigError(f"vlm.language.model={config.model} has no chat template")
    return tokenizer


def quantization(config: LanguageConfig) -> BitsAndBytesConfig | None:
    if config.quantize == "8bit":
        # it logs a line for each product that begins with a cast
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if config.quantize == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=PRECISIONS[config.precision],
        )
    return None


def add_adapters(model: PreTrainedModel, config: LoRAConfig) -> None:
    """Add adapters that change no output yet: one of their two matrices is zero."""
    from peft import LoraConfig  # takes seconds to import

    names = {name.split(".")[-1] for name, _ in model.named_modules()}
    if missing := sorted(set(config.targets) - names):
        raise ConfigError(f"vlm.language.lora.targets: the model has no layer named {missing}")
    options = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    model.add_adapter(LoraConfig(**options, target_modules=list(config.targets)))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # in 16 bits small steps would be rounded away
            parameter.data = parameter.data.float()


def supervised_loss(language: PreTrainedModel, labels: Tensor, **inputs) -> Tensor:
    """Cross-entropy of the labels (B, S) that are not IGNORE, summed.

    inputs: of the model's forward. Logits are computed where the next token has a label and nowhere
    else: for 577 image tokens and 64 words of an answer, 64 rows.
    """
    labelled = F.pad(labels[:, 1:] != IGNORE, (0, 1))
    # layers may be on several devices; a mask on the CPU can index tensors on any of them
    mask = labelled.cpu() if hasattr(language, "hf_device_map") else labelled
    logits = language(**inputs, logits_to_keep=mask).logits.float()
    targets = labels.roll(-1, 1)[labelled].to(logits.device)
    return F.cross_entropy(logits, targets, reduction="sum")


def pad_left(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, S) and mask (B, S), False on the padding, which is on the left."""
    mask = pad([[1] * len(row) for row in rows], 0, left=True).bool()
    return pad(rows, value, left=True), mask


def generate_texts(
    language: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    embedded: Tensor,
    mask: Tensor,
    **generate_kwargs,
) -> list[str]:
    """Continue B prompts, given as vectors (B, S, W) and a mask (B, S); return the new texts."""
    mask = mask.long()
    ids = language.generate(inputs_embeds=embedded, attention_mask=mask, **generate_kwargs)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _disable_repacking(model: PreTrainedModel) -> None:
    """Some CPUs repack 4-bit weights in place, with loss, when the model is first evaluated;
    training would then continue from other weights.
    """
    from bitsandbytes.nn import Linear4bit  # takes seconds to import

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _random_language(source, config: LanguageConfig, options: dict) -> PreTrainedModel:
    """Random weights, the same each time on a device; quantised or spread by loading them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = AutoConfig.from_pretrained(source, revision=config.revision)
        model = AutoModelForCausalLM.from_config(architecture, dtype=options["dtype"])
    if config.quantize is None and config.device_map is None:
        return model
    weights = {"config": architecture, "state_dict": model.state_dict()}
    return type(model).from_pretrained(None, **weights, **options)
