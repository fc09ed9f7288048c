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
        if self.training and not torch.compiler.is_compiling():  # compilers choose themselves what they make again
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

        With the branches k = w, h, c, the linear layer FC_k and the tokens x_k of each, and their weights a_k:

            out = Proj(sum of a_k * FC_k(x_k) over k),   a = softmax(fusion(mean token of the sum of FC_k(x_k)))

        All of it is linear in the tokens once a is known, and a needs only the mean tokens. On maps with many tokens
        the layers are therefore folded into fewer or into one, for each sample, before any token goes through them.

        Args:
            x: Token map (B, H, W, C), floating.
            offset: Offsets (B, H, W, 2G) in tokens, as `mmatm.ops.axial_sample` takes them.

        Returns:
            Token map (B, H, W, C).
        """
        channels = x.shape[-1]
        tokens = axial_sample_stacked(x, offset).flatten(1, 2)  # (B, T, 3C): x_w, x_h, x
        layers = self.fc_w, self.fc_h, self.fc_c
        bias_w, bias_h = self.fc_w.bias, self.fc_h.bias
        weight = torch.cat([fc.weight for fc in layers], dim=1)  # (C, 3C)
        mean_token = F.linear(tokens.mean(1), weight, bias_w + bias_h)
        # Entry 3 * c + k of the prediction belongs to channel c and branch k.
        a = self.fusion(mean_token).unflatten(-1, (-1, 3)).softmax(-1)  # (B, C, 3)

        a_w, a_h, a_c = a.unbind(-1)
        num_tokens = tokens.shape[1]
        if num_tokens < channels // 2:
            w, h, c = (fc(x_k) for fc, x_k in zip(layers, tokens.chunk(3, dim=-1), strict=True))
            out = self.proj(sum(a_k[:, None].to(y.dtype) * y for a_k, y in ((a_w, w), (a_h, h), (a_c, c))))
        else:
            weight = (a[..., None] * weight.unflatten(1, (3, -1))).flatten(2)  # (B, C, 3C)
            bias = torch.addcmul(a_w * bias_w, a_h, bias_h)  # (B, C)
            if num_tokens < 3 * channels:
                out = self.proj(torch.baddbmm(bias[:, None], tokens, weight.mT))
            else:
                weight = self.proj.weight.expand(len(x), -1, -1) @ weight
                out = torch.baddbmm(self.proj(bias)[:, None], tokens, weight.mT)
        return out.view_as(x)
