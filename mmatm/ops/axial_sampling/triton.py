"""The GPU kernels, in Triton, for NVIDIA and AMD. None uses atomics: they give the same bits each time.

A program works on one line (a row where axis is 0, a column where it is 1) and on a block of groups, whose channels are
the lanes of its tiles (tokens, lanes). Places in memory are computed in 64 bits; a line itself has fewer than 2^31
tokens.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values in a tile, 32 in each thread of 4 warps, which leaves room for the others in registers.
_TILE = 4096
# 16 lanes are 32 bytes of a half type, the least that a GPU reads from memory.
_LANES = 16, 64


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
def _locate(offset, token, length):
    """The first of the two tokens that a sample reads, and the fraction of the way to the second."""
    whole = tl.floor(offset)
    position = token + whole
    inside = (position >= -1) & (position < length)  # false for NaN
    return tl.where(inside, position, -2).to(tl.int32), tl.where(inside, offset - whole, 0)


@triton.jit
def _read(line, tile, place, length, stride, real, ON_CHIP: tl.constexpr):
    """Tokens `place` of a line, zero outside it; from the tile if that holds the whole line."""
    inside = (place >= 0) & (place < length)
    if ON_CHIP:
        return tl.where(inside, tl.gather(tile, tl.where(inside, place, 0), axis=0), 0)
    else:
        return tl.load(line + place * stride, mask=inside & real, other=0).to(tile.dtype)


@triton.jit
def _sample(
    x, stride, offset, first, step, length, real,
    G: tl.constexpr, BLOCK_T: tl.constexpr, ON_CHIP: tl.constexpr,
):  # fmt: skip
    """Of BLOCK_T tokens: their places, which exist, their values, the two tokens that each samples, the fraction."""
    token = first + tl.arange(0, BLOCK_T)[:, None]
    at = token * step
    mask = (token < length) & real
    shift = tl.load(offset + at * (2 * G), mask=mask, other=0)
    tile = tl.load(x + at * stride, mask=mask, other=0).to(shift.dtype)
    place, fraction = _locate(shift, token, length)
    v0 = _read(x, tile, place, length, step * stride, real, ON_CHIP)
    v1 = _read(x, tile, place + 1, length, step * stride, real, ON_CHIP)
    return at, mask, tile, v0, v1, fraction


@triton.jit
def _forward(
    x, offset, sampled, batch, height, width, C: tl.constexpr, G: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr, ON_CHIP: tl.constexpr,
):  # fmt: skip
    """x (B, H, W, C), offset (B, H, W, 2G) -> sampled (B, H, W, 3C): x_w, x_h and x."""
    number, block, axis = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if number >= batch * tl.where(axis == 0, height, width):
        return
    start, step, length = _line(axis, number, height, width)
    group, channel, real = _lanes(block, C, G, BLOCK_G, BLOCK_S)
    x += start * C + channel
    offset += (start * 2 + axis) * G + group
    sampled += start * 3 * C + channel
    first = 0
    while first < length:
        at, mask, tile, v0, v1, fraction = _sample(x, C, offset, first, step, length, real, G, BLOCK_T, ON_CHIP)
        tl.store(sampled + (at * 3 + axis) * C, (1 - fraction) * v0 + fraction * v1, mask=mask)
        tl.store(sampled + (at * 3 + 2) * C, tile, mask=mask & (axis == 0))
        first += BLOCK_T


@triton.jit
def _offset_gradient(
    sampled, offset, gradient, offset_gradient, batch, height, width, C: tl.constexpr, G: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr, ON_CHIP: tl.constexpr,
):  # fmt: skip
    """sampled and its gradient (B, H, W, 3C), offset (B, H, W, 2G) -> the gradient of offset."""
    number, block, axis = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if number >= batch * tl.where(axis == 0, height, width):
        return
    start, step, length = _line(axis, number, height, width)
    group, channel, real = _lanes(block, C, G, BLOCK_G, BLOCK_S)
    x = sampled + ((start * 3 + 2) * C + channel)
    offset += (start * 2 + axis) * G + group
    gradient += (start * 3 + axis) * C + channel
    first = 0
    while first < length:
        at, mask, tile, v0, v1, _ = _sample(x, 3 * C, offset, first, step, length, real, G, BLOCK_T, ON_CHIP)
        slope = tl.load(gradient + at * (3 * C), mask=mask, other=0).to(tile.dtype) * (v1 - v0)
        slope = tl.sum(tl.reshape(slope, (BLOCK_T, BLOCK_G, BLOCK_S)), axis=2)
        g = block * BLOCK_G + tl.arange(0, BLOCK_G)[None, :]
        to = offset_gradient + (((start + at) * 2 + axis) * G + g)
        tl.store(to, slope, mask=(at < length * step) & (g < G))
        first += BLOCK_T


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


def _plan(shape: torch.Size, groups: int, lanes: tuple[int, int] = _LANES) -> tuple[int, dict[str, Any]]:
    """The number of blocks of groups, and the kernels' constants, for a map (B, H, W, C)."""
    channels = shape[3]
    longest = triton.next_power_of_2(max(shape[1:3]))
    block_s = triton.next_power_of_2(channels // groups)
    wanted = min(max(_TILE // longest, lanes[0]), lanes[1])
    block_g = min(max(wanted // block_s, 1), triton.next_power_of_2(groups))
    width = block_g * block_s
    on_chip = longest * width <= 2 * _TILE
    block_t = longest if on_chip else max(_TILE // width, 1)
    constants = dict(C=channels, G=groups, BLOCK_G=block_g, BLOCK_S=block_s, BLOCK_T=block_t, ON_CHIP=on_chip)
    return triton.cdiv(groups, block_g), dict(constants, num_warps=min(max(block_t * width // 1024, 1), 8))


def _x_gradient_plan(shape: torch.Size, groups: int) -> tuple[int, dict[str, Any]]:
    # One warp: these programs mostly wait for memory, token by token, and only many of them at a time hide that.
    blocks, constants = _plan(shape, groups, lanes=(32, 32))
    del constants['ON_CHIP']
    return blocks, dict(constants, BLOCK_T=16, num_warps=1)


def forward(x: Tensor, offset: Tensor) -> Tensor:
    """x (B, H, W, C), offset (B, H, W, 2G) of the arithmetic type -> x_w, x_h and x, (B, H, W, 3C)."""
    x, offset = x.contiguous(), offset.contiguous()
    b, h, w, c = x.shape
    sampled = x.new_empty((b, h, w, 3 * c))
    if x.numel():
        blocks, constants = _plan(x.shape, offset.shape[3] // 2)
        with torch.cuda.device_of(x):
            _forward[(b * max(h, w), blocks, 2)](x, offset, sampled, b, h, w, **constants)
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
            blocks, constants = _plan(shape, groups)
            _offset_gradient[(b * max(h, w), blocks, 2)](
                sampled, offset, gradient, offset_gradient, b, h, w, **constants
            )
            blocks, constants = _x_gradient_plan(shape, groups)
            for axis, lines in ((0, b * h), (1, b * w)):
                _x_gradient[(lines, blocks)](offset, gradient, x_gradient, axis, h, w, **constants)
    return x_gradient.to(sampled.dtype), offset_gradient
