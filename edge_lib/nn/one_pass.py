"""InfoNCE at every Matryoshka size in one pass: value and gradients.

Matryoshka embeddings (Kusupati et al. 2022, arXiv 2205.13147) are trained at nested sizes
d1 < ... < dK. Done one size at a time, that takes K matrix products forward and 2K backward. Here:

1. Cut the columns of `a` and `b` into blocks [0, d1), [d1, d2), ... The dot product over the first
   d columns is a running sum over blocks, `P_k = P_{k-1} + A_k B_k^T`, so a single full-width
   product, spread over the blocks, gives the similarities of every size:
   `S_k = scale * P_k / (|a_:d| |b_:d|)`.
2. Take the log-sum-exp of the rows and of the columns of each S_k, and from them the loss:
   the mean over present pairs i of `(row_i + column_i) / 2 - S_ii`, summed over sizes with weights.
   With equal items, `sum_j T_ij S_ij` takes the place of `S_ii` (`positives.py`).
3. Compute the gradient at once, in the forward pass, as fused linear cross-entropy kernels do
   (Hsu et al. 2024, arXiv 2410.10989). With `G_k = dL/dS_k` (softmaxes minus T) and
   `G'_k = dL/dP_k`, walk from the largest size down while accumulating `H_k = sum_{j>=k} G'_j`:
   `dA_k = H_k B_k - A_k * sum_{j>=k} c_j`, where `c_j = rowsum(G_j * S_j) / |a_:dj|^2` comes from
   the norms. `B` is alike, and `dscale = sum(G * S) / scale`.
4. Only a tile of rows is held at a time (`chunk`). The first walk over the tiles gathers the
   column sums, the second recomputes the similarities and makes the gradient. The second walk is in
   reverse order, as the last tile is still in memory; with one tile nothing is computed twice.
5. Across processes each rank owns a strip: its own rows against the columns of all ranks. Only `b`
   is gathered; the ranks combine their column sums (one small gather), and then their parts of dB
   (one reduce-scatter).

Sums and similarities are in fp32, or in fp64 for fp64 inputs.
"""

import math
from contextlib import contextmanager
from enum import Enum
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from edge_lib.nn.positives import Positives

EPS = 1e-12  # the cosines and the gradient of a shorter vector are 0
BAND = 2**19  # entries of a matrix that go through a CPU's cache at a time: 2 MB in fp32
EXCLUDED = -1e4  # logit of a pair that does not exist; finite, so that 0 * EXCLUDED is still 0
WORTH_WAITING = 2**24  # entries of a matrix on a GPU, each pass over which takes 40 microseconds
SAFE_EXP = 60.0  # up to this scale exp(S) stays within fp32, as do its sums, without a shift


class BackpropType(Enum):
    """How far gradients travel through gathered features (after torchmultimodal's enum).

    GLOBAL: to the rank that made them, so that gradients are those of the global batch.
    LOCAL: only within this rank's own slice. `a` has its full gradient, `b` that of its own rank's
        rows alone, which saves the reduce-scatter and most of the product for dB.
    (torchmultimodal's NONE would leave `b`, which is only used gathered, without a gradient.)
    """

    GLOBAL = "global"
    LOCAL = "local"


class OnePass(torch.autograd.Function):
    """The loss of a kind of `Strip`, with gradients computed in the forward pass; backward scales
    them.
    """

    @staticmethod
    def forward(ctx, kind, a, b, scale, present, labels, sizes, chunk, backprop, want_grad):
        half = torch.float16 in (a.dtype, b.dtype) or torch.bfloat16 in (a.dtype, b.dtype)
        tf32 = _tf32(half or torch.is_autocast_enabled(a.device.type))
        with tf32, torch.autocast(a.device.type, enabled=False):
            strip = kind(a, b, scale, present, labels, sizes, chunk)
            loss = strip.loss()
            if want_grad:
                # kept in fp32: in fp16 a gradient of 1e-8 is 0 before the loss scale is applied
                ctx.save_for_backward(*strip.gradients(backprop))
                ctx.dtypes = a.dtype, b.dtype, scale.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grads = ctx.saved_tensors
        # reading the value would synchronise a GPU; on a CPU it saves a pass over both gradients
        if grad.device.type != "cpu" or grad != 1:
            grads = [g * grad for g in grads]
        grads = (g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True))
        return None, *grads, None, None, None, None, None, None


class Strip:
    """One rank's N rows of `a` against all M columns of the gathered `b`, at K sizes."""

    def __init__(self, a, b, scale, present, labels, sizes, chunk):
        dims, self.weights = zip(*sizes, strict=True)
        self.blocks = [slice(*edges) for edges in zip((0, *dims), dims, strict=False)]
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        self.world = world_size()
        self.first = dist.get_rank() * len(a) if self.world > 1 else 0  # column of our first row
        assert_equal_batches(a)

        self.masked = present is not None or self.world > 1  # rows may be missing on another rank
        self.here = a.new_ones(len(a), dtype=torch.bool) if present is None else present
        if present is not None:  # NaN * 0 is NaN, so features are overwritten, not multiplied
            a, b = (x.masked_fill(~present[:, None], 0) for x in (a, b))
        self.a, self.b = a.to(dtype), all_gather(b).to(dtype)
        self.everywhere = all_gather(self.here.byte()).bool()
        # of the terms of one size: rows and columns of the present pairs
        self.count = 2 * self.everywhere.sum(dtype=dtype).clamp(min=1)
        labels = None if labels is None else all_gather(torch.stack(labels, 1))
        self.positives = Positives(labels, self.everywhere, dtype)

        self.scale = scale.to(dtype)
        # then rows and columns share one exp; reading the scale waits for a GPU
        worth = scale.device.type == "cpu" or len(self.a) * len(self.b) >= WORTH_WAITING
        self.shared_exp = worth and float(scale) <= SAFE_EXP
        self.inv_a, self.inv_b = self._inverse_norms(self.a), self._inverse_norms(self.b)
        rows = max(1, min(chunk or len(a), len(a)))
        self.tiles = [slice(i, min(i + rows, len(a))) for i in range(0, len(a), rows)]
        self.buffer = self.a.new_empty(len(dims), rows, len(self.b))
        # elementwise work is done in bands of rows: on a CPU few enough to stay in its cache, on
        # other devices all of a tile
        self.band = max(1, BAND // max(1, len(self.b))) if a.device.type == "cpu" else rows
        self.spare = self.a.new_empty(2, min(rows, self.band), len(self.b))

    def _inverse_norms(self, x: Tensor) -> Tensor:
        """(n, D) -> (K, n): 1 / |x| over the first d columns, 0 for a zero vector."""
        squares = [torch.linalg.vector_norm(x[:, cols], dim=1).square() for cols in self.blocks]
        norms = torch.stack(squares).cumsum(0).sqrt()
        return torch.where(norms > EPS, 1 / norms, 0)

    def _work(self, tile: slice) -> Tensor:
        """The tile's part of the buffer: S of all sizes (K, R, M)."""
        return self.buffer[:, : tile.stop - tile.start]

    def _bands(self, tile: slice) -> list[slice]:
        """Rows within the tile that are processed together by elementwise work."""
        rows = tile.stop - tile.start
        return [slice(i, min(i + self.band, rows)) for i in range(0, rows, self.band)]

    def _pairs(self, tile: slice) -> list[tuple[slice, tuple[Tensor, Tensor, Tensor]]]:
        """Each band of a tile with its positive pairs, as `Positives.of` gives them."""
        start, bands = self.first + tile.start, self._bands(tile)
        return [(b, self.positives.of(slice(start + b.start, start + b.stop))) for b in bands]

    def _similarities(self, tile: slice) -> None:
        """Fill S (K, R, M) of a tile by running sums over the column blocks."""
        s = self._work(tile)
        dot = s[-1]  # the largest size comes last, and takes its place
        for k, cols in enumerate(self.blocks):
            dot.addmm_(self.a[tile, cols], self.b[:, cols].t(), beta=min(k, 1))
            slope = (self.scale * self.inv_a[k, tile])[:, None]
            for band in self._bands(tile):
                torch.mul(dot[band], slope[band], out=s[k, band]).mul_(self.inv_b[k])
        if self.masked:
            s.masked_fill_(~(self.here[tile, None] & self.everywhere), EXCLUDED)

    def loss(self) -> Tensor:
        """Walk over the tiles for the log-sum-exps; return the loss of the global batch."""
        row, positive = torch.empty_like(self.inv_a), torch.zeros_like(self.inv_a)
        column = torch.full_like(self.inv_b, -math.inf)
        for tile in self.tiles:
            self._similarities(tile)
            s = self._work(tile)
            for band, (i, j, weight) in self._pairs(tile):
                positive[:, tile][:, band].index_add_(1, i, s[:, band][:, i, j] * weight)
            for k, band in product(range(len(s)), self._bands(tile)):
                row[k, tile][band], partial = self._logsumexps(s[k, band])
                column[k] = torch.logaddexp(column[k], partial)
        column = all_gather(column).view(-1, *column.shape).logsumexp(0)
        # 0 for missing rows: exp(EXCLUDED - 0) is then 0 in the gradient as well
        self.row = row.masked_fill(~self.here, 0)
        self.column = column.masked_fill(~self.everywhere, 0)
        own = self.column[:, self.first : self.first + len(self.a)]
        terms = (self.row + own - 2 * positive).masked_fill(~self.here, 0).sum(1)
        total = sum(w * t for w, t in zip(self.weights, terms, strict=True)) / self.count
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def _logsumexps(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Of the rows and of the columns of a band (R, M) of S."""
        spare = self.spare[0, : len(s)]
        if self.shared_exp:
            torch.exp(s, out=spare)
            return spare.sum(1).log_(), spare.sum(0).log_()
        return _logsumexp(s, 1, spare), _logsumexp(s, 0, spare)

    def _softmaxes(self, s: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Row plus column softmax of a band (R, M) of S, from log-sum-exps (R, 1) and (M,)."""
        g, spare = self.spare[:, : len(s)]
        if self.shared_exp:
            torch.add((-row).exp(), (-column).exp(), out=spare)
            return torch.exp(s, out=g).mul_(spare)
        torch.sub(s, row, out=g).exp_()
        return g.add_(torch.sub(s, column, out=spare).exp_())

    def _logit_gradient(self, k: int, tile: slice, band: slice, positives: tuple) -> Tensor:
        """count / weight * dL/dS_k (R, M) of a band: both softmaxes less twice the target."""
        (i, j, weight), s = positives, self._work(tile)[k, band]
        g = self._softmaxes(s, self.row[k, tile, None][band], self.column[k])
        return g.index_put_((i, j), -2 * weight * self.here[tile][band][i], accumulate=True)

    def gradients(self, backprop: BackpropType) -> tuple[Tensor, Tensor, Tensor]:
        """Walk back over the tiles; return d loss / d (a, b, scale), times the number of ranks."""
        local = slice(self.first, self.first + len(self.a))
        reach = local if backprop is BackpropType.LOCAL else slice(None)
        b = self.b[reach]
        da, db, dscale = torch.empty_like(self.a), torch.empty_like(b), torch.zeros_like(self.scale)
        for grad in (da, db):
            grad[:, self.blocks[-1].stop :] = 0  # columns beyond the largest size
        pull_b = torch.zeros_like(self.inv_b)  # c of the columns, one row per size
        for tile in reversed(self.tiles):
            if tile is not self.tiles[-1]:
                self._similarities(tile)
            h = self._work(tile)[-1]  # overwrites S of the largest size once that has been used
            pairs = self._pairs(tile)
            pull_a = torch.zeros_like(self.inv_a[0, tile])
            for k, cols in reversed(list(enumerate(self.blocks))):
                row_sum, column_sum = self._accumulate(k, tile, pairs)
                dscale += row_sum.sum() / self.scale
                pull_a += row_sum * self.inv_a[k, tile].square()
                pull_b[k] += column_sum * self.inv_b[k].square()
                torch.mul(self.a[tile, cols], -pull_a[:, None], out=da[tile, cols])
                da[tile, cols].addmm_(h, self.b[:, cols])
                first = int(tile is self.tiles[-1])  # overwrites the uninitialised values
                db[:, cols].addmm_(h[:, reach].t(), self.a[tile, cols], beta=1 - first)
        for k, cols in enumerate(self.blocks):
            db[:, cols].addcmul_(b[:, cols], pull_b[k:, reach].sum(0)[:, None], value=-1)
        return da, db if reach is local else reduce_scatter(db), dscale

    def _accumulate(self, k: int, tile: slice, pairs: list) -> tuple[Tensor, Tensor]:
        """Add dL/dP_k to H (R, M); return the sums of G_k * S_k over rows (R,) and columns (M,)."""
        s = self._work(tile)
        gain = self.world * self.weights[k] / self.count
        slope = (gain * self.scale * self.inv_a[k, tile])[:, None]
        row_sum, column_sum = torch.empty_like(slope[:, 0]), torch.zeros_like(self.inv_b[k])
        for band, positives in pairs:
            g = self._logit_gradient(k, tile, band, positives)
            weighted = torch.mul(s[k, band], g, out=self.spare[1, : len(g)])
            row_sum[band] = weighted.sum(1)
            column_sum += weighted.sum(0)
            g.mul_(slope[band])
            if k == len(s) - 1:
                torch.mul(g, self.inv_b[k], out=s[-1, band])
            else:
                s[-1, band].addcmul_(g, self.inv_b[k])
        return gain * row_sum, gain * column_sum


def _logsumexp(x: Tensor, dim: int, spare: Tensor) -> Tensor:
    """torch.logsumexp of a matrix without allocating another."""
    top = x.amax(dim, keepdim=True)
    return torch.sub(x, top, out=spare).exp_().sum(dim).log_() + top.squeeze(dim)


@contextmanager
def _tf32(allowed: bool):
    """Let CUDA multiply fp32 matrices in TF32, which holds every bf16 and fp16 number exactly: as
    fast as tensor cores go with fp32 sums, where half-precision products would round them.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if allowed else before
    try:
        yield
    finally:
        matmul.fp32_precision = before


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_gather(x: Tensor) -> Tensor:
    """(n, ...) of each rank -> (world * n, ...)."""
    if world_size() == 1:
        return x
    out = x.new_empty(world_size() * len(x), *x.shape[1:])
    dist.all_gather_single(out, x.contiguous())
    return out


def reduce_scatter(x: Tensor) -> Tensor:
    """(world * n, ...) summed over ranks -> this rank's (n, ...)."""
    if world_size() == 1:
        return x
    out = x.new_empty(len(x) // world_size(), *x.shape[1:])
    dist.reduce_scatter_single(out, x)
    return out


def assert_equal_batches(a: Tensor) -> None:
    """Raise on every rank if batch sizes differ; on CUDA without waiting for the device."""
    if world_size() == 1:
        return
    extremes = torch.stack([a.new_full((), n, dtype=torch.long) for n in (len(a), -len(a))])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    torch._assert_async(extremes[0] == -extremes[1], "batch sizes differ between ranks")
