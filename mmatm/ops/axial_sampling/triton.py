"""The GPU kernels, in Triton, for NVIDIA and AMD. None uses atomics: they give the same bits each time.

In the forward pass and for the gradient by the offsets, each token and group is computed by itself: what neighbours
read of the map comes from the caches. For the gradient by x, a program owns a line (a row where axis is 0, a column
where it is 1) and a block of groups, whose channels are its lanes. Places in memory are computed in 64 bits; a line
itself has fewer than 2^31 tokens.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values that a program of 4 warps computes at once.
_VALUES = 1024


@triton.jit
def _locate(offset, token, length):
    """The first of the two tokens that a sample reads, and the fraction of the way to the second."""
    whole = tl.floor(offset)
    position = token + whole
    inside = (position >= -1) & (position < length)  # false for NaN
    return tl.where(inside, position, -2).to(tl.int32), tl.where(inside, offset - whole, 0)


@triton.jit
def _tile(offset, count, height, width, C: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """Of BLOCK pairs of token and group, (BLOCK, 1), of which there are `count`: the token, its row and column, its
    channels (BLOCK, LANES), which of these and which pairs there are, and the places of both offsets with these."""
    S: tl.constexpr = C // G
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    token, group = pair // G, pair % G
    row, column = (token // width % height).to(tl.int32), (token % width).to(tl.int32)
    exists = pair < count
    at = token * (2 * G) + group
    by_column = tl.load(offset + at, mask=exists, other=0)
    by_row = tl.load(offset + (at + G), mask=exists, other=0)
    return token, row, column, group * S + lane, exists & (lane < S), exists, at, by_column, by_row


@triton.jit
def _read(x, at, offset, token, length, step, real):
    """The two values between which an offset points, zeros outside the line, and the fraction of the way.

    The token's own value is at `at`, its neighbours' are `step` values apart.
    """
    first, fraction = _locate(offset, token, length)
    at += (first - token).to(tl.int64) * step
    v0 = tl.load(x + at, mask=real & (first >= 0), other=0).to(offset.dtype)
    v1 = tl.load(x + (at + step), mask=real & (first >= -1) & (first + 1 < length), other=0).to(offset.dtype)
    return v0, v1, fraction


# Where the width is 1 it stays a number of 32 bits: as a constant it could not be made one of 64.
@triton.jit(do_not_specialize=['width'])
def _forward(
    x, offset, sampled, count, height, width, C: tl.constexpr, G: tl.constexpr,
    BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """x (B, H, W, C), offset (B, H, W, 2G) -> sampled (B, H, W, 3C): x_w, x_h and x."""
    token, row, column, channel, real, _, _, by_column, by_row = _tile(offset, count, height, width, C, G, BLOCK, LANES)
    own, to = token * C + channel, token * (3 * C) + channel
    v0, v1, fraction = _read(x, own, by_column, column, width, C, real)
    tl.store(sampled + to, (1 - fraction) * v0 + fraction * v1, mask=real)
    v0, v1, fraction = _read(x, own, by_row, row, height, width.to(tl.int64) * C, real)
    tl.store(sampled + (to + C), (1 - fraction) * v0 + fraction * v1, mask=real)
    tl.store(sampled + (to + 2 * C), tl.load(x + own, mask=real), mask=real)


@triton.jit(do_not_specialize=['width'])
def _offset_gradient(
    sampled, offset, gradient, offset_gradient, count, height, width, C: tl.constexpr, G: tl.constexpr,
    BLOCK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """sampled and its gradient (B, H, W, 3C), offset (B, H, W, 2G) -> the gradient of offset."""
    token, row, column, channel, real, exists, at, by_column, by_row = _tile(
        offset, count, height, width, C, G, BLOCK, LANES
    )
    own = token * (3 * C) + channel
    v0, v1, _ = _read(sampled, own + 2 * C, by_column, column, width, 3 * C, real)
    slope = tl.load(gradient + own, mask=real, other=0).to(offset.dtype.element_ty) * (v1 - v0)
    tl.store(offset_gradient + at, tl.sum(slope, axis=1)[:, None], mask=exists)
    v0, v1, _ = _read(sampled, own + 2 * C, by_row, row, height, width.to(tl.int64) * (3 * C), real)
    slope = tl.load(gradient + (own + C), mask=real, other=0).to(offset.dtype.element_ty) * (v1 - v0)
    tl.store(offset_gradient + (at + G), tl.sum(slope, axis=1)[:, None], mask=exists)


@triton.jit
def _line(axis, number, height, width):
    """Token t of a line is token start + t * step of the map."""
    start = tl.where(axis == 0, number * width, number // width * height * width + number % width)
    return start, tl.where(axis == 0, 1, width).to(tl.int64), tl.where(axis == 0, width, height)


@triton.jit
def _lanes(block, C: tl.constexpr, G: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr):
    """Of each lane: its group, its channel, and whether there is such a channel; all (1, lanes)."""
    S: tl.constexpr = C // G
    lane = tl.arange(0, BLOCK_G * BLOCK_S)[None, :]
    group = block * BLOCK_G + lane // BLOCK_S
    return group, group * S + lane % BLOCK_S, (group < G) & (lane % BLOCK_S < S)


@triton.jit
def _x_gradient(
    offset, gradient, x_gradient, axis, height, width, C: tl.constexpr, G: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """One axis' share of x's gradient (B, H, W, C); the first axis, 0, also starts it with x's own third of `gradient`.

    A program owns its line and channels and takes the tokens one after the other, so nobody else adds where it adds.
    """
    number, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start, step, length = _line(axis, number, height, width)
    group, channel, real = _lanes(block, C, G, BLOCK_G, BLOCK_S)
    offset += (start * 2 + axis) * G + group
    gradient += start * 3 * C + channel
    x_gradient += start * C + channel
    if axis == 0:
        first = 0
        while first < length:
            token = first + tl.arange(0, BLOCK_T)[:, None]
            at = token * step
            mask = (token < length) & real
            tl.store(x_gradient + at * C, tl.load(gradient + (at * 3 + 2) * C, mask=mask), mask=mask)
            first += BLOCK_T
        tl.debug_barrier()
    token = 0
    while token < length:
        at = token * step
        shift = tl.load(offset + at * (2 * G), mask=real, other=0)
        value = tl.load(gradient + (at * 3 + axis) * C, mask=real, other=0).to(shift.dtype)
        place, fraction = _locate(shift, token, length)
        to = x_gradient + place * (step * C)
        in0 = real & (place >= 0)
        in1 = real & (place >= -1) & (place + 1 < length)
        sum0 = tl.load(to, mask=in0, other=0) + (1 - fraction) * value
        sum1 = tl.load(to + step * C, mask=in1, other=0) + fraction * value
        tl.store(to, sum0, mask=in0)
        tl.store(to + step * C, sum1, mask=in1)
        # A lane may be read by another thread than the one that wrote it.
        tl.debug_barrier()
        token += 1


def _plan(shape: torch.Size, groups: int) -> tuple[int, dict[str, Any]]:
    """The number of programs, and the kernels' constants, for a map (B, H, W, C)."""
    lanes = triton.next_power_of_2(shape[3] // groups)
    block = max(_VALUES // lanes, 1)
    programs = triton.cdiv(shape[0] * shape[1] * shape[2] * groups, block)
    return programs, dict(C=shape[3], G=groups, BLOCK=block, LANES=lanes, num_warps=4)


def _x_gradient_plan(shape: torch.Size, groups: int) -> tuple[int, dict[str, Any]]:
    """The number of blocks of groups, and the kernel's constants, for a map (B, H, W, C)."""
    lanes = triton.next_power_of_2(shape[3] // groups)
    block = min(max(32 // lanes, 1), triton.next_power_of_2(groups))
    # One warp: these programs mostly wait for memory, token by token, and only many of them at a time hide that.
    constants = dict(C=shape[3], G=groups, BLOCK_G=block, BLOCK_S=lanes, BLOCK_T=16, num_warps=1)
    return triton.cdiv(groups, block), constants


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """x (B, H, W, C), offset (B, H, W, 2G) of the arithmetic type -> x_w, x_h and x, (B, H, W, 3C)."""
    x, offset = x.contiguous(), offset.contiguous()
    b, h, w, c = x.shape
    sampled = x.new_empty((b, h, w, 3 * c))
    if x.numel():
        groups = offset.shape[3] // 2
        programs, constants = _plan(x.shape, groups)
        with torch.cuda.device_of(x):
            _forward[(programs,)](x, offset, sampled, b * h * w * groups, h, w, **constants)
    return sampled


def backward(sampled: Tensor, offset: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What forward() returned, its second argument and its result's gradient -> the gradients of its arguments."""
    sampled, offset, gradient = sampled.contiguous(), offset.contiguous(), gradient.contiguous()
    b, h, w = sampled.shape[:3]
    shape = torch.Size((b, h, w, sampled.shape[3] // 3))
    x_gradient, offset_gradient = offset.new_empty(shape), torch.empty_like(offset)
    groups = offset.shape[3] // 2
    if sampled.numel():
        with torch.cuda.device_of(sampled):
            programs, constants = _plan(shape, groups)
            _offset_gradient[(programs,)](
                sampled, offset, gradient, offset_gradient, b * h * w * groups, h, w, **constants
            )
            blocks, constants = _x_gradient_plan(shape, groups)
            for axis, lines in ((0, b * h), (1, b * w)):
                _x_gradient[(lines, blocks)](offset, gradient, x_gradient, axis, h, w, **constants)
    return x_gradient.to(sampled.dtype), offset_gradient
