"""What both decoders share: embeddings, the context read once, greedy generation with a cache."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edge_lib.config import DecoderConfig
from edge_lib.decoders.blocks import KeysValues, Stack
from edge_lib.tokens import BOS, EOS, PAD


@dataclass
class Context:
    """The prefix and the question, as answers see them."""

    kept: list[KeysValues]  # keys and values of C context rows, one pair a layer
    mask: Tensor  # (B, C), False on padding
    length: Tensor  # (B,) context rows that are not padding: the answer's first position


@dataclass
class Cache:
    """Keys and values that answer rows left at every pass through the stack, and their places."""

    passes: list[list[KeysValues]] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)  # (S,) place in the answer, one a pass
    length: int = 0  # answer tokens read so far


class Decoder(nn.Module):
    """Answers a question about a prefix. Subclasses say how answer rows are read."""

    def __init__(self, config: DecoderConfig, prefix_width: int, vocabulary: int):
        super().__init__()
        self.config, width = config, config.width
        self.embed = nn.Embedding(vocabulary, width)
        # as large as the embeddings: a quieter prefix is overheard
        self.project = nn.Sequential(nn.Linear(prefix_width, width), nn.RMSNorm(width))
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
        context = self.read_context(prefix, prefix_mask, question_ids)
        shifted = torch.cat([torch.full_like(answer_ids[:, :1], BOS), answer_ids[:, :-1]], 1)
        return self.read_answer(self.embed(shifted), context, Cache())

    def read_answer(self, inputs: Tensor, context: Context, cache: Cache) -> list[Tensor]:
        """Embedded answer tokens (B, A, W), which follow those in the cache -> states after each
        pass, each (B, A, W); the cache grows by them.
        """
        raise NotImplementedError

    def read_context(self, prefix: Tensor, prefix_mask: Tensor, question_ids: Tensor) -> Context:
        """Read each prefix once, and each question after its prefix."""
        each = len(question_ids) // len(prefix)
        earlier, start = None, 0
        if prefix.shape[1]:
            # padding sees itself, as a row that sees nothing would be NaN
            sees = prefix_mask[:, None] | torch.eye(prefix.shape[1], device=prefix.device).bool()
            rows = self.project(prefix)
            _, prefix_kept = self.stack(rows, places(prefix_mask), sees)
            earlier = [tuple(x.repeat_interleave(each, 0) for x in kv) for kv in prefix_kept]
            start = prefix_mask.sum(1).repeat_interleave(each)[:, None]
        asked = question_ids != PAD
        mask = torch.cat([prefix_mask.repeat_interleave(each, 0), asked], dim=1)
        sees = mask[:, None].expand(-1, question_ids.shape[1], -1).clone()
        own = torch.arange(question_ids.shape[1], device=mask.device)
        sees[:, own, prefix.shape[1] + own] = True
        _, kept = self.stack(self.embed(question_ids), start + places(asked), sees, earlier)
        return Context(join(earlier, kept) if earlier else kept, mask, mask.sum(1))

    def read_pass(
        self, rows: Tensor, place: Tensor, context: Context, cache: Cache, number: int
    ) -> Tensor:
        """One pass of answer rows (B, S, W), at places (S,) of the answer, through the stack.

        They see the context, and what earlier places left at the pass of the same number.
        """
        if number == len(cache.passes):
            cache.passes.append([])
            cache.places.append(place[:0])
        before, places_before = cache.passes[number], cache.places[number]
        seen_places = torch.cat([places_before, place])
        own = seen_places <= place[:, None]  # (S, E + S)
        batch, count = rows.shape[:2]
        seen = context.mask[:, None].expand(-1, count, -1)
        mask = torch.cat([seen, own.expand(batch, -1, -1)], dim=2)
        earlier = join(context.kept, before) if before else context.kept
        positions = context.length[:, None] + place
        rows, kept = self.stack(rows, positions, mask, earlier)
        cache.passes[number] = join(before, kept) if before else kept
        cache.places[number] = seen_places
        return rows

    def supervised(self, states: list[Tensor]) -> list[Tensor]:
        """Those of `states` that a loss is taken of."""
        return states[-1:]

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
            new = answer[:, cache.length :] if use_cache else answer
            state = self.read_answer(self.embed(new), context, cache if use_cache else Cache())[-1]
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


def join(before: list[KeysValues], after: list[KeysValues]) -> list[KeysValues]:
    """Keys and values of two parts, layer by layer."""
    pairs = zip(before, after, strict=True)
    return [
        (torch.cat([k, own_k], 2), torch.cat([v, own_v], 2)) for (k, v), (own_k, own_v) in pairs
    ]


def places(mask: Tensor) -> Tensor:
    """(B, S) number of each row among those that are not padding."""
    return (mask.cumsum(1) - 1).clamp(min=0)
