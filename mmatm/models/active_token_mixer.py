"""The Active Token Mixer."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmatm.ops import axial_sample_stacked


class Mlp(nn.Module):
    """Linear, GELU (erf form), Linear on the last axis: (..., in_channels) -> (..., out_channels)."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        # Compilers choose themselves what they recompute.
        plain = _is_plain(self.fc2) and _is_plain(self.act, nn.GELU) and self.act.approximate == 'none'
        if self.training and plain and not torch.compiler.is_compiling():
            return _LinearOfGelu.apply(x, self.fc2.weight.to(x.dtype), self.fc2.bias.to(x.dtype))
        return self.fc2(self.act(x))


class _LinearOfGelu(torch.autograd.Function):
    """The linear layer of GELU(x). Only x is kept for the backward pass, which recomputes GELU(x)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            torch.ops.aten.gelu_backward(gradient @ weight, x) if for_x else None,
            rows.t() @ F.gelu(x).flatten(0, -2) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


_HOOKS = '_forward_pre_hooks', '_forward_hooks', '_backward_pre_hooks', '_backward_hooks'


def _is_plain(layer: nn.Module, kind: type[nn.Module] = nn.Linear, bias: bool = True) -> bool:
    """Whether calling a layer computes what its kind does of its weight and bias, and no more.

    What stands in its place (LoRA, say), has parametrizations or hooks, or was patched has to be called.
    """
    return (
        type(layer) is kind  # parametrizations change it
        and (kind is not nn.Linear or (layer.bias is not None) == bias)
        and 'forward' not in vars(layer)
        and not any(getattr(layer, hooks) for hooks in _HOOKS)
        and not nn.modules.module._has_any_global_hook()
    )


class ActiveTokenMixer(nn.Module):
    """Mixes every token with one token per channel group from its row, one from its column, and itself.

    The paper's section "Active Token Mixer": the selected tokens go through a linear layer per branch, and a softmax
    over the branches, per sample and channel and predicted from the mean token, weights their sum.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc_w = nn.Linear(channels, channels)
        self.fc_h = nn.Linear(channels, channels)
        self.fc_c = nn.Linear(channels, channels, bias=False)
        self.fusion = Mlp(channels, channels // 4, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Mixes a token map.

        With the branches k = w, h, c, a linear layer FC_k and the tokens x_k of each, and their weights a_k:

            out = Proj(sum of a_k * FC_k(x_k) over k),   a = softmax(fusion(mean token of the sum of FC_k(x_k)))

        Args:
            x: Token map (B, H, W, C), floating.
            offset: Offsets (B, H, W, 2G) in tokens, as `mmatm.ops.axial_sample` takes them.

        Returns:
            Token map (B, H, W, C).
        """
        return self.mix(axial_sample_stacked(x, offset))

    def mix(self, tokens: Tensor) -> Tensor:
        """Mixes what was sampled for each token.

        Args:
            tokens: (B, H, W, 3C): x_w, x_h and x itself.

        Returns:
            Token map (B, H, W, C).
        """
        height, width, channels = tokens.shape[1], tokens.shape[2], tokens.shape[3] // 3
        tokens = tokens.flatten(1, 2)
        plain = all(map(_is_plain, (self.fc_w, self.fc_h, self.proj))) and _is_plain(self.fc_c, bias=False)
        # As defined under a trace and without values, by which FLOPs are counted, and where torch.export leaves sizes
        # open: one graph serves them all.
        sized = not (torch.jit.is_tracing() or tokens.is_meta or isinstance(tokens.shape[1], torch.SymInt))
        fold = plain and sized and tokens.shape[1] >= 3 * channels
        mix = self._mix_folded if fold else self._mix
        return mix(tokens).unflatten(1, (height, width))

    def _mix(self, tokens: Tensor) -> Tensor:
        """The definition, (B, T, 3C) -> (B, T, C)."""
        x_w, x_h, x = tokens.chunk(3, dim=-1)
        w, h, c = self.fc_w(x_w), self.fc_h(x_h), self.fc_c(x)
        a_w, a_h, a_c = self._branch_weights((w + h + c).mean(1)).to(w.dtype)[:, None].unbind(-1)
        return self.proj(a_w * w + a_h * h + a_c * c)

    def _mix_folded(self, tokens: Tensor) -> Tensor:
        """The same with fewer operations and activations, where a map has more than about 3C tokens.

        All is linear in the tokens once a is known, and a needs only their mean: for each sample, the four layers are
        folded into one, C x 3C, before any token goes through them.
        """
        weight = torch.cat([self.fc_w.weight, self.fc_h.weight, self.fc_c.weight], dim=1)  # (C, 3C)
        a = self._branch_weights(F.linear(tokens.mean(1), weight, self.fc_w.bias + self.fc_h.bias))
        weight = (a[..., None] * weight.unflatten(1, (3, -1))).flatten(2)  # (B, C, 3C)
        weight = self.proj.weight.expand(tokens.shape[0], -1, -1) @ weight
        bias = self.proj(torch.addcmul(a[..., 0] * self.fc_w.bias, a[..., 1], self.fc_h.bias))  # (B, C)
        return torch.baddbmm(bias[:, None], tokens, weight.mT)

    def _branch_weights(self, mean_token: Tensor) -> Tensor:
        """Mean token (B, C) -> a (B, C, 3)."""
        # Entry 3 * c + k of the prediction belongs to channel c and branch k.
        return self.fusion(mean_token).unflatten(-1, (-1, 3)).softmax(-1)
