"""What both decoders share: embeddings, the context read once, greedy generation with a cache."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn

from edge_lib.config import DecoderConfig
from edge_lib.data.vocabulary import BOS, EOS, PAD
from edge_lib.nn.decoders.blocks import KeysValues, Stack
from edge_lib.nn.positions import add_positions

START = 0.05  # of embeddings: small beside what layers add, so that they learn from the start


@dataclass
class Context:
    """The prefix and the question, as answers see them."""

    kept: list[KeysValues]  # keys and values of C context rows, one pair a layer
    mask: Tensor  # (B, C), False on padding
    end: Tensor  # (B,) the answer's first position

    def of(self, rows: Tensor) -> "Context":
        """That of some of the questions."""
        return Context([(k[rows], v[rows]) for k, v in self.kept], self.mask[rows], self.end[rows])


@dataclass
class Cache:
    """What answer rows left so far, context included, at every pass through the stack."""

    passes: list[list[KeysValues]] = field(default_factory=list)
    places: Tensor | None = None  # (E,) the place in the answer of each answer row
    length: int = 0  # answer tokens read


class Decoder(nn.Module):
    """Answers a question about a prefix. Subclasses say how answer rows are read."""

    rows_per_token = 1  # answer rows that stand for one token

    def __init__(self, config: DecoderConfig, prefix_width: int, vocabulary: int):
        super().__init__()
        self.config, width = config, config.width
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=START)
        # as large as the embeddings: a quieter prefix is overheard
        self.project = nn.Sequential(nn.Linear(prefix_width, width), nn.RMSNorm(width))
        nn.init.constant_(self.project[1].weight, START)
        self.stack = Stack(width, config.layers, config.heads, config.norm)
        self.head = nn.Linear(width, vocabulary, bias=False)

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
        """What `head` reads (B, A, W), after each pass over the answer."""
        return self.states_after(self.read_context(prefix, prefix_mask, question_ids), answer_ids)

    def states_after(self, context: Context, answer_ids: Tensor) -> list[Tensor]:
        """As `states`, of a context that was read."""
        shifted = torch.cat([torch.full_like(answer_ids[:, :1], BOS), answer_ids[:, :-1]], 1)
        return self.read_answer(shifted, context, Cache())

    def supervised(self, states: list[Tensor]) -> list[Tensor]:
        """Those of `states` that a loss is taken of."""
        return states[-1:]

    def recur(self, inputs: Tensor, read: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Embedded answer tokens (B, A, W) -> states (B, A, W) after each pass.

        `read` is a pass through the stack, of rows (B, A x rows_per_token, W).
        """
        raise NotImplementedError

    def read_context(self, prefix: Tensor, prefix_mask: Tensor, question_ids: Tensor) -> Context:
        """Read each prefix once, and each question after its prefix."""
        each, rest = divmod(len(question_ids), len(prefix))
        if rest:
            raise ValueError(
                f"{len(question_ids)} questions do not divide among {len(prefix)} images"
            )
        device, width, earlier = prefix.device, prefix.shape[1], None
        if width:
            # padding sees itself, as a row that sees nothing would be NaN
            sees = prefix_mask[:, None] | torch.eye(width, device=device).bool()
            # looking up by content is learned sooner where rotations are alike: one rotary
            # position for all, and sinusoids to tell them apart
            rows = add_positions(self.project(prefix), START)
            earlier = self.stack.read(rows, torch.zeros_like(prefix_mask.int()), sees)
            earlier = [
                (k.repeat_interleave(each, 0), v.repeat_interleave(each, 0)) for k, v in earlier
            ]
        asked = question_ids != PAD
        mask = torch.cat([prefix_mask.repeat_interleave(each, 0), asked], dim=1)
        sees = mask[:, None].expand(-1, question_ids.shape[1], -1).clone()
        own = torch.arange(question_ids.shape[1], device=device)
        sees[:, own, width + own] = True
        positions = asked.cumsum(1)  # from 1 on
        kept = self.stack.read(self.embed(question_ids), positions, sees, earlier)
        return Context(kept, mask, positions[:, -1] + 1)

    def read_answer(self, tokens: Tensor, context: Context, cache: Cache) -> list[Tensor]:
        """Tokens (B, A) that follow those in the cache -> states (B, A, W) after each pass; the
        cache grows by them.

        A row sees the context, and what its own and earlier places left at the same pass.
        """
        new = torch.arange(tokens.shape[1], device=tokens.device) + cache.length
        places = new.repeat(self.rows_per_token)
        cache.places = places if cache.places is None else torch.cat([cache.places, places])
        cache.length += len(new)
        sees = (cache.places <= places[:, None]).expand(len(tokens), -1, -1)
        mask = torch.cat([context.mask[:, None].expand(-1, len(places), -1), sees], dim=2)
        positions, passes = context.end[:, None] + places, count()

        def read(rows: Tensor) -> Tensor:
            number = next(passes)
            if number == len(cache.passes):
                cache.passes.append(context.kept)
            rows, cache.passes[number] = self.stack(rows, positions, mask, cache.passes[number])
            return rows

        return self.recur(self.embed(tokens), read)

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
        """Parameters without embeddings, prefix projection and head."""
        outer = (self.embed, self.project, self.head)
        shared = sum(p.numel() for part in outer for p in part.parameters())
        return sum(p.numel() for p in self.parameters()) - shared

    @property
    def context_layers(self) -> float:
        """Layers that a context row passes through: of the last one only the first projection, 3 of
        its 12 width x width."""
        return self.config.layers - 0.75
