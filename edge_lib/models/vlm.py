"""The vision-language model: soft tokens from a frozen aligner, read by a frozen language model.

1. `Chat` turns messages into token ids; an `<image>` is as many of them as it has soft tokens.
2. `embed` looks up the words, and puts projected vectors in the places of `<image>` and `<audio>`.
3. Projectors and adapters are trained; a checkpoint holds these, and leaves out what is frozen.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

from edge_lib.config import from_root
from edge_lib.config.language import LanguageConfig
from edge_lib.config.vlm import VLMConfig
from edge_lib.data.chat import Chat
from edge_lib.data.chat_batches import ChatBatch
from edge_lib.data.encoder_output import EncoderOutput, MultimodalOutput
from edge_lib.models.generation import GenerationMixin
from edge_lib.models.prefix_sources import PrefixSources
from edge_lib.nn.decoders.language import load_language, load_tokenizer, supervised_loss
from edge_lib.nn.projectors import INPUT_KINDS, Projector
from edge_lib.runs.files import read_saved, whole_folder


class VLM(GenerationMixin, nn.Module):
    """Frozen streams, a projector for each of `config.streams`, a language model with adapters."""

    def __init__(
        self,
        streams: PrefixSources,
        config: VLMConfig,
        shapes: dict[str, tuple[int, int]],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        """shapes: of each placeholder's vectors, how many (L) and how wide (D)."""
        super().__init__()
        self.config, self.shapes, self.streams = config, shapes, streams
        self.language = load_language(config.language)
        words = self.language.get_input_embeddings().weight
        scale = words.float().std().item()
        self.projectors = nn.ModuleDict(
            {
                name: Projector(config.projector, width, words.shape[1], scale)
                for name, (_, width) in shapes.items()
            }
        )
        counts = {name: n * self.projectors[name].tokens for name, (n, _) in shapes.items()}
        tokenizer = tokenizer or load_tokenizer(config.language)
        self.chat = Chat(tokenizer, counts, config.max_length, config.system)
        if config.language.device_map is not None:
            self.streams.to(self.device)
            self.projectors.to(self.device)
        self.register_state_dict_post_hook(_keep_what_is_trained)
        self.register_load_state_dict_post_hook(_miss_nothing_frozen)

    @classmethod
    def new(
        cls, streams: PrefixSources, config: VLMConfig, examples: dict[str, EncoderOutput]
    ) -> "VLM":
        """Untrained. examples: features of one item or more of each stream; they tell its shape."""
        reads = INPUT_KINDS[config.projector.kind]
        vectors = {
            name: streams.vectors(config.streams[name], reads, found)[0]
            for name, found in examples.items()
        }
        return cls(streams, config, {name: tuple(x.shape[1:]) for name, x in vectors.items()})

    @property
    def device(self) -> torch.device:
        """Where token ids are looked up."""
        return self.get_input_embeddings().weight.device

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the layers that are a shard each (Accelerate asks for them)."""
        return [*self.language._no_split_modules]

    def get_input_embeddings(self) -> nn.Module:
        """The words', which may be the head's as well (Accelerate asks for both)."""
        return self.language.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    def to(self, *args, **how) -> "VLM":
        """Move, but for a language model that `device_map` spread over devices."""
        if len(set(getattr(self.language, "hf_device_map", {}).values())) > 1:
            return self
        return super().to(*args, **how)

    def train_adapters(self, trained: bool) -> None:
        """Whether the adapters are trained beside the projectors."""
        for name, parameter in self.language.named_parameters():
            if ".lora_" in name:
                parameter.requires_grad_(trained)

    def forward(self, batch: ChatBatch) -> Tensor:
        """Mean cross-entropy of the assistants' tokens; the head is run on nothing else."""
        embedded, mask = self.embed(batch.input_ids, batch.attention_mask, batch.prefixes)
        loss = supervised_loss(self.language, self.read(embedded, mask), batch.labels)
        # ranks wait for a gradient of every projector, though one may have met no image or no clip
        idle = [
            p.sum()
            for n, m in self.projectors.items()
            if n not in batch.prefixes
            for p in m.parameters()
        ]
        return (loss.to(self.device) + 0 * sum(idle)) / batch.tokens

    def embed(
        self, ids: Tensor, mask: Tensor, prefixes: dict[str, EncoderOutput | MultimodalOutput]
    ) -> tuple[Tensor, Tensor]:
        """Token ids (B, S), mask (B, S) False on padding, and the features of the items that the
        placeholders stand for, in order -> vectors (B, S, W), mask (B, S) False on theirs too.
        """
        places = {name: ids == token for name, token in self.chat.placeholders.items()}
        words = ids.masked_fill(torch.stack([*places.values()]).any(0), 0)
        embedded = self.get_input_embeddings()(words)
        for name, place in places.items():
            if not place.any() and name not in prefixes:
                continue
            if name not in prefixes:
                raise ValueError(f"<{name}> without {name}")
            soft, there = self.soft_tokens(name, prefixes[name])
            if there.numel() != place.sum():
                count = int(place.sum()) // there.shape[1]
                raise ValueError(f"{len(there)} of {name} for {count} places <{name}>")
            embedded = embedded.masked_scatter(place[..., None], soft.to(embedded))
            mask = mask.masked_scatter(place, there.to(mask.device))
        return embedded, mask

    def soft_tokens(
        self, name: str, encoded: EncoderOutput | MultimodalOutput
    ) -> tuple[Tensor, Tensor]:
        """Features of N items -> soft tokens (N, T, W) and their mask (N, T)."""
        projector = self.projectors[name]
        stream = self.config.streams[name]
        vectors, mask = self.streams.vectors(stream, projector.input_kind, encoded)
        missing = self.shapes[name][0] - vectors.shape[1]
        if missing < 0:
            raise ValueError(f"{vectors.shape[1]} vectors for <{name}>: {self.shapes[name][0]} fit")
        vectors, mask = F.pad(vectors, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        soft = projector(vectors.to(next(projector.parameters()).dtype))
        return soft, mask.repeat_interleave(projector.tokens, 1)

    def read(self, embedded: Tensor, mask: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """Vectors (B, S, W) -> the language model's last states (B, S, W); a cache is filled."""
        # as `generate` counts them: masked places take no position
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        how = {"past_key_values": cache, "use_cache": cache is not None}
        return self.language.base_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, **how
        ).last_hidden_state

    def save_pretrained(self, folder: str | Path) -> None:
        """Write projectors, adapters, tokenizer and aligner; the folder appears whole or not at
        all. The language model itself is not there: it is loaded by name.
        """
        about = {"config": self.config.model_dump(mode="json"), "shapes": self.shapes}
        with whole_folder(from_root(folder)) as temporary:
            self.streams.save(temporary)
            self.chat.tokenizer.save_pretrained(temporary / "tokenizer")
            # parameters and not their state: that would be shards again where they were sharded
            save_file(
                dict(self.projectors.named_parameters()), temporary / "projectors.safetensors"
            )
            if self.config.language.lora:
                weights = dict(self.language.named_parameters())
                adapters = get_peft_model_state_dict(self.language, weights)
                save_file(adapters, temporary / "adapters.safetensors")
            (temporary / "vlm.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, language: LanguageConfig | None = None) -> "VLM":
        """Load what `save_pretrained` wrote, in evaluation mode. language: load it another way,
        such as in 4 bits; its adapters are those of the folder.

        Raises ValueError if `language` names other adapters.
        """
        folder = from_root(folder)
        about = read_saved(folder, "vlm.json")
        shapes = {name: tuple(shape) for name, shape in about["shapes"].items()}
        config = VLMConfig.model_validate(about["config"])
        if language:
            lora = config.language.lora
            if "lora" in language.model_fields_set and language.lora != lora:
                raise ValueError(f"{folder} has other adapters: {lora}, not {language.lora}")
            language = language.model_copy(update={"lora": lora})
            config = config.model_copy(update={"language": language})
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        model = cls(PrefixSources.load(folder, config.fusion), config, shapes, tokenizer)
        model.projectors.load_state_dict(load_file(folder / "projectors.safetensors"))
        if config.language.lora:
            adapters = load_file(folder / "adapters.safetensors")
            set_peft_model_state_dict(model.language, adapters)
        return model.eval()


def _keep_what_is_trained(module: nn.Module, state: dict, prefix: str, _) -> None:
    """Checkpoints: the rest comes from elsewhere, and may be a thousand times as large."""
    trained = {prefix + name for name, p in module.named_parameters() if p.requires_grad}
    for name in [n for n in state if n.startswith(prefix) and n not in trained]:
        del state[name]


def _miss_nothing_frozen(module: nn.Module, incompatible) -> None:
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    kept = [n for n in incompatible.missing_keys if n.removeprefix("module.") in trained]
    incompatible.missing_keys[:] = kept
