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
        # Compilers choose themselves what they make again; and what is put in fc2's place (LoRA, say) is to be called.
        if self.training and type(self.fc2) is nn.Linear and not torch.compiler.is_compiling():
            return _LinearOfGelu.apply(x, self.fc2.weight.to(x.dtype), self.fc2.bias.to(x.dtype))
        return self.fc2(self.act(x))


class _LinearOfGelu(torch.autograd.Function):
    """The linear layer of GELU(x). Only x is kept for the backward pass, which makes GELU(x) again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        x_gradient = torch.ops.aten.gelu_backward(gradient @ weight, x)
        gradient = gradient.flatten(0, -2)
        return x_gradient, gradient.t() @ F.gelu(x).flatten(0, -2), gradient.sum(0)


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
        tokens = axial_sample_stacked(x, offset).flatten(1, 2)  # (B, T, 3C): x_w, x_h, x
        plain = all(type(fc) is nn.Linear for fc in (self.fc_w, self.fc_h, self.fc_c, self.proj))  # no LoRA, say
        mix = self._mix_folded if plain and tokens.shape[1] >= x.shape[-1] // 2 else self._mix
        return mix(tokens).view_as(x)

    def _mix(self, tokens: Tensor) -> Tensor:
        """The definition, (B, T, 3C) -> (B, T, C)."""
        x_w, x_h, x = tokens.chunk(3, dim=-1)
        w, h, c = self.fc_w(x_w), self.fc_h(x_h), self.fc_c(x)
        a_w, a_h, a_c = self._branch_weights((w + h + c).mean(1)).to(w.dtype)[:, None].unbind(-1)
        return self.proj(a_w * w + a_h * h + a_c * c)

    def _mix_folded(self, tokens: Tensor) -> Tensor:
        """The same for many tokens: all is linear in them once a is known, and a needs their mean alone.

        The layers are folded, for each sample, before any token goes through them: the branches into one, C x 3C, and
        on maps of more than 3C tokens Proj too.
        """
        channels = tokens.shape[-1] // 3
        weight = torch.cat([self.fc_w.weight, self.fc_h.weight, self.fc_c.weight], dim=1)  # (C, 3C)
        a = self._branch_weights(F.linear(tokens.mean(1), weight, self.fc_w.bias + self.fc_h.bias))
        weight = (a[..., None] * weight.unflatten(1, (3, -1))).flatten(2)  # (B, C, 3C)
        bias = torch.addcmul(a[..., 0] * self.fc_w.bias, a[..., 1], self.fc_h.bias)  # (B, C)
        if tokens.shape[1] < 3 * channels:
            return self.proj(torch.baddbmm(bias[:, None], tokens, weight.mT))
        weight = self.proj.weight.expand(len(tokens), -1, -1) @ weight
        return torch.baddbmm(self.proj(bias)[:, None], tokens, weight.mT)

    def _branch_weights(self, mean_token: Tensor) -> Tensor:
        """Mean token (B, C) -> a (B, C, 3)."""
        # Entry 3 * c + k of the prediction belongs to channel c and branch k.
        return self.fusion(mean_token).unflatten(-1, (-1, 3)).softmax(-1)
