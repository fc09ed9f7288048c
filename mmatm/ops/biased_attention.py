"""Attention with a learned position bias, at sizes other than the bias was built for, without a map of all scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Scores that are held at once: on a CPU so many that they stay in its cache, on a GPU so many that it is busy.
_SCORES = {'cpu': 2**20, 'cuda': 2**26}
# A bias of up to so many numbers is made once for all blocks of a stage, a larger one in parts for each.
_WHOLE = 2**23


class PositionBias(NamedTuple):
    """A bias of queries and keys, whole or as what it is interpolated from.

    Attributes:
        table: (heads, rows, keys). Without `taps`, rows are the queries.
        taps: Which rows each query reads, with which weights: both (number, queries).
    """

    table: Tensor
    taps: tuple[Tensor, Tensor] | None = None

    def part(self, start: int, stop: int) -> Tensor:
        """The bias of queries from start to stop: (heads, queries, keys)."""
        if self.taps is None:
            return self.table[:, start:stop]
        index, weight = (each[:, start:stop] for each in self.taps)
        return _interpolate(self.table, 1, index, weight)


def resize_flat(table: Tensor, queries: tuple[int, int], keys: tuple[int, int]) -> PositionBias:
    """Resizes a bias as one image, queries by keys, with bicubic interpolation, as TransXNet's authors do.

    Flattened maps are resized as if they had one axis: columns of the image move from one place to another.

    Args:
        table: (1, heads, queries, keys).
        queries: Rows and columns of the map that the queries are of.
        keys: The same for the keys.
    """
    before, after = table.shape[2:], (queries[0] * queries[1], keys[0] * keys[1])
    if _is_same(before, after):
        return PositionBias(table[0])
    return _resize(table, *(cubic_taps(*sizes, table.device) for sizes in zip(before, after, strict=True)))


def resize_grid(table: Tensor, queries: tuple[int, int], keys: tuple[int, int]) -> PositionBias:
    """Resizes a bias on the four axes of its two square maps: what is near stays near. Arguments as `resize_flat`."""
    before = [(round(n**0.5),) * 2 for n in table.shape[2:]]
    if _is_same(before, [queries, keys]):
        return PositionBias(table[0])
    return _resize(table, *(_map_taps(*sizes, table.device) for sizes in zip(before, (queries, keys), strict=True)))


def _is_same(before: Sequence, after: Sequence) -> bool:
    """Whether nothing is to be resized; graphs of open sizes resize all the same, with weights of 0 and 1."""
    return not torch.compiler.is_compiling() and list(before) == list(after)


def _resize(table: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> PositionBias:
    queries, keys = rows[0].shape[1], columns[0].shape[1]
    bias = PositionBias(_interpolate(table[0], 2, *columns), rows)
    if torch.compiler.is_compiling() or table.shape[1] * queries * keys <= _WHOLE:
        return PositionBias(bias.part(0, queries))
    return bias


def _interpolate(x: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """Sums what is read along an axis, as `cubic_taps` says."""
    weight = weight.to(x.dtype)
    if torch.compiler.is_compiling():
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        return sum(x.index_select(axis, i) * w.view(shape) for i, w in zip(index, weight, strict=True))
    if axis == 2:
        return _interpolate(x.transpose(1, 2), 1, index, weight).transpose(1, 2).contiguous()
    # A weighted sum of rows is what PyTorch calls an embedding bag, and it takes one pass.
    heads, rows = x.shape[:2]
    bags = index.T + rows * torch.arange(heads, device=x.device)[:, None, None]
    weight = weight.T.expand(heads, -1, -1)
    y = F.embedding_bag(bags.flatten(0, 1), x.flatten(0, 1), mode='sum', per_sample_weights=weight.flatten(0, 1))
    return y.unflatten(0, (heads, -1))


def cubic_taps(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What bicubic interpolation reads along one axis, as `torch.nn.functional.interpolate` with align_corners=False.

    Returns:
        Indices and weights, both (4, after), the weights in float64.
    """
    at = (torch.arange(after, dtype=torch.float64, device=device) + 0.5) * (before / after) - 0.5
    floor = at.floor()
    t = at - floor
    a = -0.75
    inner, outer = (torch.stack((t, 1 - t)), torch.stack((t + 1, 2 - t)))
    near = ((a + 2) * inner - (a + 3)) * inner * inner + 1
    far = ((a * outer - 5 * a) * outer + 8 * a) * outer - 4 * a
    index = floor.long() + torch.arange(-1, 3, device=device)[:, None]
    return index.clamp(0, before - 1), torch.stack((far[0], near[0], near[1], far[1]))


def _map_taps(before: tuple[int, int], after: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """What bicubic interpolation of a flattened map reads: as `cubic_taps`, 16 for each place."""
    (rows, row_weights), (columns, column_weights) = (
        cubic_taps(*sizes, device) for sizes in zip(before, after, strict=True)
    )
    index = before[1] * rows[:, None, :, None] + columns[None, :, None, :]
    weight = row_weights[:, None, :, None] * column_weights[None, :, None, :]
    return index.reshape(16, -1), weight.reshape(16, -1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: PositionBias) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v.

    It keeps no scores for the backward pass, and never holds more than a part of them, but for graphs (compiling,
    exporting), in which they are one map. The softmax of half-precision scores is computed in float32.

    Args:
        q: (B, heads, queries, D).
        k: (B, heads, keys, D).
        v: As k.
        bias: Of as many heads, queries and keys.

    Returns:
        (B, heads, queries, D), of q's dtype.
    """
    if torch.compiler.is_compiling():
        return _attention(q, k, v, bias.part(0, q.shape[2]))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias.table)):
        return _Attend.apply(q, k, v, bias.table, *(bias.taps or ()))
    return torch.cat([_attention(q[:, :, s:e], k, v, bias.part(s, e)) for s, e in _parts(q, k)], dim=2)


def _parts(q: Tensor, k: Tensor) -> list[tuple[int, int]]:
    """Ranges of queries whose scores may be held at once."""
    (batch, heads, queries, _), keys = q.shape, k.shape[2]
    size = max(1, _SCORES.get(q.device.type, _SCORES['cuda']) // (batch * heads * keys))
    return [(start, min(start + size, queries)) for start in range(0, queries, size)]


def attention_weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias), of q's dtype.

    Args:
        q: (B, heads, queries, D).
        k: (B, heads, keys, D).
        bias: (heads, queries, keys).

    Returns:
        (B, heads, queries, keys).
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    # The bias is of the parameters' dtype. In place it is only where nothing is traced or differentiated.
    scores = scores.add_(bias) if scores.dtype == bias.dtype and not torch.compiler.is_compiling() else scores + bias
    return scores.softmax(-1).to(q.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return attention_weights(q, k, bias) @ v


class _Attend(torch.autograd.Function):
    """`attend`, whose backward pass computes the scores again, part by part."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, *taps: Tensor) -> Tensor:
        bias = PositionBias(table, taps or None)
        out = torch.empty_like(q)
        for s, e in _parts(q, k):
            out[:, :, s:e] = _attention(q[:, :, s:e], k, v, bias.part(s, e))
        ctx.save_for_backward(q, k, v, table, out, *taps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, out, *taps = ctx.saved_tensors
        bias = PositionBias(table, tuple(taps) or None)
        scale = q.shape[-1] ** -0.5
        grad_q, grad_k, grad_v, grad_table = (torch.zeros_like(x) for x in (q, k, v, table))
        for s, e in _parts(q, k):
            part, given = q[:, :, s:e], grad[:, :, s:e]
            weights = attention_weights(part, k, bias.part(s, e))
            grad_v += weights.transpose(-2, -1) @ given
            mean = (given * out[:, :, s:e]).sum(-1, keepdim=True)
            grad_scores = (given @ v.transpose(-2, -1)).sub_(mean).mul_(weights)
            grad_q[:, :, s:e] = (grad_scores @ k).mul_(scale)
            grad_k += (grad_scores.transpose(-2, -1) @ part).mul_(scale)
            if ctx.needs_input_grad[3]:
                of_bias = grad_scores.sum(0, dtype=table.dtype)
                if not taps:
                    grad_table[:, s:e] = of_bias
                for index, weight in zip(*(each[:, s:e] for each in taps), strict=True):
                    grad_table.index_add_(1, index, of_bias * weight.to(table.dtype)[:, None])
        return grad_q, grad_k, grad_v, grad_table, *[None] * len(taps)
