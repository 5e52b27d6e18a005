"""The base of both decoders: embeddings, context, greedy generation with a cache."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn

from edge_lib.config import DecoderConfig
from edge_lib.config.registry import DECODERS, load_registered
from edge_lib.data.vocabulary import BOS, EOS, PAD
from edge_lib.nn.decoders.blocks import KeysValues, Stack
from edge_lib.nn.norm import RMSNorm
from edge_lib.nn.positions import add_positions

# of embeddings: small beside the outputs of layers, so that layers matter from the first step
INIT_STD = 0.05


@dataclass
class Context:
    """Prefix and question, as the answer rows attend to them."""

    keys_values: list[KeysValues]  # of C context rows, one pair for each layer
    mask: Tensor  # (B, C), False on padding
    end: Tensor  # (B,) the answer's first position

    def select(self, rows: Tensor) -> "Context":
        """The context of some of the questions."""
        pairs = [(k[rows], v[rows]) for k, v in self.keys_values]
        return Context(pairs, self.mask[rows], self.end[rows])


@dataclass
class Cache:
    """Keys and values of context and answer rows so far, for every pass through the stack."""

    passes: list[list[KeysValues]] = field(default_factory=list)
    positions: Tensor | None = None  # (E,) the position in the answer of each answer row
    length: int = 0  # answer tokens processed


class Decoder(nn.Module):
    """Answers a question after a prefix. Subclasses define how answer rows are processed."""

    rows_per_token = 1  # answer rows for each token

    def __init__(
        self,
        dim_prefix: int,
        vocab_size: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        norm: str = "pre",
    ):
        """dim_prefix: width of the prefix's vectors; dim: of the decoder."""
        super().__init__()
        self.num_layers = num_layers
        self.embed = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embed.weight, std=INIT_STD)
        # the scale of the embeddings: a much smaller prefix is ignored
        self.project = nn.Sequential(nn.Linear(dim_prefix, dim), RMSNorm(dim))
        nn.init.constant_(self.project[1].weight, INIT_STD)
        self.stack = Stack(dim, num_layers, num_heads, norm)
        self.head = nn.Linear(dim, vocab_size, bias=False)

    @classmethod
    def from_config(
        cls, config: DecoderConfig, dim_prefix: int, vocab_size: int, **options
    ) -> "Decoder":
        """options: of a subclass."""
        sizes = config.width, config.layers, config.heads
        return cls(dim_prefix, vocab_size, *sizes, norm=config.norm, **options)

    def forward(
        self, prefix: Tensor, prefix_mask: Tensor, question_ids: Tensor, answer_ids: Tensor
    ) -> Tensor:
        """Logits (B, A, V) of each answer token, given those before it.

        prefix (N, P, D), prefix_mask (N, P) False on padding; question_ids (B, Q) and answer_ids
        (B, A), PAD after their ends. B is a multiple of N: an image's questions stand together.
        """
        return self.head(self.states(prefix, prefix_mask, question_ids, answer_ids)[-1])

    def states(
        self, prefix: Tensor, prefix_mask: Tensor, question_ids: Tensor, answer_ids: Tensor
    ) -> list[Tensor]:
        """The inputs (B, A, W) of `head` after each pass; arguments as in `forward`."""
        return self.states_after(self.read_context(prefix, prefix_mask, question_ids), answer_ids)

    def states_after(self, context: Context, answer_ids: Tensor) -> list[Tensor]:
        """`states`, for a context from `read_context`."""
        shifted = torch.cat([torch.full_like(answer_ids[:, :1], BOS), answer_ids[:, :-1]], 1)
        return self.read_answer(shifted, context, Cache())

    def supervised(self, states: list[Tensor]) -> list[Tensor]:
        """Those of `states` that enter the loss."""
        return states[-1:]

    def recur(self, inputs: Tensor, run_stack: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Embedded answer tokens (B, A, W) -> states (B, A, W) after each pass.

        run_stack: one pass through the stack of rows (B, A x rows_per_token, W).
        """
        raise NotImplementedError

    def read_context(self, prefix: Tensor, prefix_mask: Tensor, question_ids: Tensor) -> Context:
        """Process each prefix once, and each question after its prefix."""
        repeats = question_ids.shape[0] // prefix.shape[0]
        if repeats * prefix.shape[0] != question_ids.shape[0]:
            raise ValueError(
                f"{len(question_ids)} questions do not divide among {len(prefix)} images"
            )
        earlier, length = self._read_prefix(prefix, prefix_mask, repeats), prefix.shape[1]
        valid = question_ids != PAD
        mask = torch.cat([prefix_mask.repeat_interleave(repeats, 0), valid], dim=1)
        visible = mask[:, None].expand(-1, question_ids.shape[1], -1).clone()
        own = torch.arange(question_ids.shape[1], device=prefix.device)
        visible[:, own, length + own] = True
        positions = valid.cumsum(1)  # from 1 on
        pairs = self.stack.read(self.embed(question_ids), positions, visible, earlier)
        return Context(pairs, mask, positions[:, -1] + 1)

    def _read_prefix(
        self, prefix: Tensor, prefix_mask: Tensor, repeats: int
    ) -> list[KeysValues] | None:
        """Keys and values of the prefix rows, each prefix `repeats` times; None for no prefix."""
        if not prefix.shape[1]:
            return None
        # padding attends to itself: attending to nothing would give NaN
        own = torch.eye(prefix.shape[1], device=prefix.device).bool()
        # lookup by content is learned sooner if rotations are equal: all prefix rows have one
        # rotary position, and sinusoids distinguish them
        rows = add_positions(self.project(prefix), INIT_STD)
        positions = torch.zeros_like(prefix_mask.int())
        pairs = self.stack.read(rows, positions, prefix_mask[:, None] | own)
        return [tuple(x.repeat_interleave(repeats, 0) for x in pair) for pair in pairs]

    def read_answer(self, tokens: Tensor, context: Context, cache: Cache) -> list[Tensor]:
        """Tokens (B, A) that follow those in the cache -> states (B, A, W) after each pass; the
        cache is extended.

        A row attends to the context, and to its own and earlier positions in the same pass.
        """
        new = torch.arange(tokens.shape[1], device=tokens.device) + cache.length
        own = new.repeat(self.rows_per_token)
        cache.positions = own if cache.positions is None else torch.cat([cache.positions, own])
        cache.length += tokens.shape[1]
        visible = (cache.positions <= own[:, None]).expand(tokens.shape[0], -1, -1)
        mask = torch.cat([context.mask[:, None].expand(-1, own.shape[0], -1), visible], dim=2)
        positions, passes = context.end[:, None] + own, count()

        def run_stack(rows: Tensor) -> Tensor:
            number = next(passes)
            if number == len(cache.passes):
                cache.passes.append(context.keys_values)
            rows, cache.passes[number] = self.stack(rows, positions, mask, cache.passes[number])
            return rows

        return self.recur(self.embed(tokens), run_stack)

    @torch.no_grad()
    def generate(
        self,
        prefix: Tensor,
        prefix_mask: Tensor,
        question_ids: Tensor,
        max_tokens: int,
        use_cache: bool = True,
    ) -> Tensor:
        """Greedy answers (B, at most max_tokens), PAD after each one's EOS."""
        context = self.read_context(prefix, prefix_mask, question_ids)
        answer = torch.full_like(question_ids[:, :1], BOS)
        done = torch.zeros_like(answer[:, 0], dtype=torch.bool)
        cache = Cache()
        for _ in range(max_tokens):
            if not use_cache:
                cache = Cache()
            state = self.read_answer(answer[:, cache.length :], context, cache)[-1]
            token = self.head(state[:, -1]).argmax(-1).masked_fill(done, PAD)
            answer = torch.cat([answer, token[:, None]], 1)
            done |= token == EOS
            if done.all():
                break
        return answer[:, 1:]

    def core_parameters(self) -> int:
        """Number of parameters without embeddings, prefix projection and head."""
        outer = (self.embed, self.project, self.head)
        shared = sum(p.numel() for part in outer for p in part.parameters())
        return sum(p.numel() for p in self.parameters()) - shared

    def layer_tokens(self, context: float, answer: float) -> float:
        """Rows processed, summed over layers and steps, for these numbers of context and answer
        tokens: the cost of a forward pass in units of one row through one layer.
        """
        raise NotImplementedError

    @property
    def context_layers(self) -> float:
        """Layers that a context row passes through; the last one runs only `to_qkv`, a quarter of
        its parameters."""
        return self.num_layers - 0.75


def build_decoder(name: str, config: DecoderConfig, dim_prefix: int, vocab_size: int) -> Decoder:
    """The decoder of that name."""
    return load_registered(DECODERS[name]).from_config(config, dim_prefix, vocab_size)


class PlainDecoder(Decoder):
    """A decoder-only transformer with bidirectional attention in prefix and question."""

    def recur(self, inputs: Tensor, run_stack: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Inputs (B, A, W) -> [states (B, A, W)]."""
        return [run_stack(inputs)]

    def layer_tokens(self, context: float, answer: float) -> float:
        return self.context_layers * context + self.num_layers * answer
