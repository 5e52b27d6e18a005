"""Late interaction (MaxSim): scores of items that keep a vector for each token, and their InfoNCE.

ColBERT (Khattab & Zaharia 2020, arXiv 2004.12832) and ColPali (Faysse et al. 2024, arXiv
2407.01449): each token of a query i is matched with its nearest token of a document j,

    S_ij = mean over the tokens t of query i of max over the tokens p of document j of <t, p>

with vectors of unit length. A mean over tokens, where ColBERT has a sum, gives queries of any
length scores on one scale, that of a cosine.

The cosines of all pairs of tokens, (Q, L, N, P), do not fit in memory. They are computed for some
query tokens at a time, padding left out; of them only the number of each best document token is
kept. The backward pass needs no cosines: the gradient of S_ij goes to the best pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edge_lib.config import LossConfig
from edge_lib.nn.losses import LogitScale, check_rows, draw_size, matryoshka_sizes
from edge_lib.nn.one_pass import (
    EXCLUDED,
    all_gather,
    assert_equal_batches,
    reduce_scatter,
    world_size,
)
from edge_lib.nn.positives import Positives

FLOOR = -2.0  # of a padded document token: below every cosine
MAX_COSINES = 1 << 22  # in memory at once, unless `chunk` says otherwise


@dataclass
class TokenVectors:
    """A vector for each token of B items.

    rank: of their modality in `config.MODALITIES`. Between two modalities, the tokens of the later
    one look for their match: words in images or speech, speech in images.
    """

    vectors: Tensor  # (B, L, D), not normalised
    mask: Tensor  # (B, L) bool, False on padding
    rank: int = 0

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows) -> "TokenVectors":
        """Some of the items."""
        return TokenVectors(self.vectors[rows], self.mask[rows], self.rank)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "TokenVectors":
        return TokenVectors(self.vectors.to(device, dtype), self.mask.to(device), self.rank)

    def unit(self, dim: int | None = None) -> "TokenVectors":
        """The first `dim` columns (all by default) at unit length, in at least float32; 0 on
        padding, which may hold NaN.
        """
        vectors = self.vectors[..., :dim].masked_fill(~self.mask[..., None], 0)
        return TokenVectors(_unit(vectors), self.mask, self.rank)

    def mean(self) -> Tensor:
        """(B, D) the mean of the unit vectors; 0 for an item without tokens."""
        return self.unit().vectors.sum(1) / self.mask.sum(1, keepdim=True).clamp(min=1)

    def scores(self, gallery: "TokenVectors", dims: Sequence[int]) -> Iterator[Tensor]:
        """MaxSim (B, G) with a gallery, at each of `dims`."""
        for dim in dims:
            if self.rank >= gallery.rank:
                yield maxsim_scores(self, gallery, dim)
            else:
                yield maxsim_scores(gallery, self, dim).T


def concatenate(parts: Sequence[Tensor] | Sequence[TokenVectors]) -> Tensor | TokenVectors:
    """The embeddings of several batches; token vectors are padded to the longest."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    longest = max(part.mask.shape[1] for part in parts)
    padded = [_pad(part, longest) for part in parts]
    vectors, mask = (torch.cat([getattr(x, name) for x in padded]) for name in ("vectors", "mask"))
    return TokenVectors(vectors, mask, parts[0].rank)


def _pad(tokens: TokenVectors, length: int) -> TokenVectors:
    missing = length - tokens.mask.shape[1]
    vectors, mask = F.pad(tokens.vectors, (0, 0, 0, missing)), F.pad(tokens.mask, (0, missing))
    return TokenVectors(vectors, mask, tokens.rank)


def maxsim_scores(
    queries: TokenVectors, documents: TokenVectors, dim: int | None = None, chunk: int | None = None
) -> Tensor:
    """S (Q, N) between each query and each document, over the first `dim` columns (all by default).

    chunk: query tokens at a time; by default as many as `MAX_COSINES` allows. A document without
    tokens scores `FLOOR`, a query without tokens 0 with everything. Both get gradients.
    """
    with torch.autocast(queries.vectors.device.type, enabled=False):
        return unit_scores(queries.unit(dim), documents.unit(dim), chunk)


def unit_scores(queries: TokenVectors, documents: TokenVectors, chunk: int | None = None) -> Tensor:
    """`maxsim_scores` of vectors that are of unit length already."""
    owner = queries.mask.nonzero()[:, 0]
    counts = queries.mask.sum(1, keepdim=True).clamp(min=1)
    tokens = queries.vectors[queries.mask]
    return _MaxSim.apply(tokens, owner, counts, documents.vectors, documents.mask, chunk)


def _unit(x: Tensor) -> Tensor:
    """Vectors of length 1, at least in float32; zeros stay 0."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


class _MaxSim(torch.autograd.Function):
    """tokens (T, D), owner (T,) the query of each, counts (Q, 1) of each query's tokens, documents
    (N, P, D), mask (N, P) -> scores (Q, N).
    """

    @staticmethod
    def forward(ctx, tokens, owner, counts, documents, mask, chunk):
        rows, width = mask.shape
        chunk = chunk or max(1, MAX_COSINES // max(1, mask.numel()))
        keys = documents.flatten(0, 1)
        # the bias of the product puts padding below all other tokens
        bias = torch.where(mask, 0, FLOOR).to(keys).flatten()
        learns = any(ctx.needs_input_grad)
        shape = (len(tokens), rows) if learns else (0, 0)
        best = torch.empty(shape, dtype=torch.int16, device=tokens.device)
        total = tokens.new_zeros(len(counts), rows)
        buffer = tokens.new_empty(min(chunk, len(tokens)), len(keys))
        for part in _parts(len(tokens), chunk):
            cosines = torch.addmm(bias, tokens[part], keys.T, out=buffer[: len(owner[part])])
            cosines = cosines.view(len(cosines), rows, width)
            if learns:
                highest, best[part] = cosines.max(2)
            else:
                highest = cosines.amax(2)  # several times as fast as with the numbers
            total.index_add_(0, owner[part], highest)
        ctx.chunk = chunk
        ctx.save_for_backward(tokens, owner, counts, documents, best)
        return total.div_(counts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        tokens, owner, counts, documents, best = ctx.saved_tensors
        (rows, width), values = documents.shape[:2], documents.flatten(0, 1)
        first = width * torch.arange(rows, device=grad.device)  # each document's first token
        d_tokens, d_values = torch.empty_like(tokens), torch.zeros_like(values)
        spread = tokens.new_empty(min(ctx.chunk, len(tokens)), len(values))
        for part in _parts(len(tokens), ctx.chunk):
            gain, pairs = (grad / counts)[owner[part]], best[part] + first
            d_tokens[part] = F.embedding_bag(pairs, values, per_sample_weights=gain, mode="sum")
            sparse = spread[: len(pairs)].zero_().scatter_(1, pairs, gain)
            d_values.addmm_(sparse.T, tokens[part])
        return d_tokens, None, None, d_values.view_as(documents), None, None


def _parts(count: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]


def score_info_nce(scores: Tensor, present: Tensor, labels: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE of logits (M, M), whose row i and column i belong together.

    present (M,) bool and labels (M, 2) as in `matryoshka_info_nce`; 0 when no pair is present.
    """
    logits = scores.masked_fill(~(present[:, None] & present), EXCLUDED)
    i, j, weight = Positives(labels, present, scores.dtype).of(slice(0, len(scores)))
    positive = torch.zeros_like(logits[0]).index_add(0, i, logits[i, j] * weight)
    terms = logits.logsumexp(0) + logits.logsumexp(1) - 2 * positive
    return terms.masked_fill(~present, 0).sum() / (2 * present.sum().clamp(min=1))


def maxsim_info_nce(
    queries: TokenVectors,
    documents: TokenVectors,
    logit_scale: Tensor,
    sizes: Sequence[tuple[int, float]],
    chunk: int | None = None,
    present: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Sum over sizes (dim, weight) of weight * symmetric InfoNCE on the MaxSim scores of B queries
    and B documents, those with the same number belonging together.

    chunk: query tokens at a time. The other arguments, and what several processes get, are as in
    `matryoshka_info_nce`: each computes the scores of its own queries with all documents, and the
    loss of the global batch.
    """
    present = torch.ones_like(queries.mask[:, 0]) if present is None else present
    # a missing item has no tokens: neither its values nor NaN among them reach a score
    queries, documents = (
        TokenVectors(x.vectors, x.mask & present[:, None]) for x in (queries, documents)
    )
    assert_equal_batches(queries.vectors)
    documents, everywhere = _gather_tokens(documents), all_gather(present.byte()).bool()
    labels = None if labels is None else all_gather(torch.stack(labels, 1))
    total = 0
    for dim, weight in sizes:
        scores = _gather_rows(maxsim_scores(queries, documents, dim, chunk))
        total = total + weight * score_info_nce(logit_scale * scores, everywhere, labels)
    return total


class MaxSimInfoNCE(nn.Module):
    """`maxsim_info_nce` with a learned logit scale."""

    def __init__(self, config: LossConfig):
        super().__init__()
        self.config = config
        self.logit_scale = LogitScale(1 / config.temperature)

    def forward(
        self,
        a: TokenVectors,
        b: TokenVectors,
        present: Tensor | None = None,
        generator: torch.Generator | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """a, b (B, L, D), present (B,) bool, labels ((B,), (B,)) int64 -> loss (). generator: of
        `sample_single_dim`.
        """
        queries, documents = sorted((a, b), key=lambda x: -x.rank)
        config, (rows, longest, width) = self.config, queries.vectors.shape
        sizes = matryoshka_sizes(width, config.dims, config.weights)
        sizes = draw_size(sizes, generator) if config.sample_single_dim else sizes
        check_rows(rows, config.chunk, present, labels)
        chunk = config.chunk and config.chunk * longest
        return maxsim_info_nce(
            queries, documents, self.logit_scale(), sizes, chunk, present, labels
        )


class _Gather(torch.autograd.Function):
    """(n, ...) of each rank -> (world * n, ...); each rank gets the gradients of its own rows."""

    @staticmethod
    def forward(ctx, x):
        return all_gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return reduce_scatter(grad.contiguous())


def _gather_rows(x: Tensor) -> Tensor:
    return x if world_size() == 1 else _Gather.apply(x)


def _gather_tokens(tokens: TokenVectors) -> TokenVectors:
    """The items of all ranks, padded to the longest."""
    if world_size() == 1:
        return tokens
    longest = torch.tensor(tokens.mask.shape[1], device=tokens.mask.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    padded = _pad(tokens, int(longest))
    mask = all_gather(padded.mask.byte()).bool()
    return TokenVectors(_gather_rows(padded.vectors), mask)
