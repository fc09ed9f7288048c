"""The baselines of other backbones than ATMNet in the benchmarks: their operations as their authors wrote them.

All convolutions are PyTorch's. TransXNet's attention has a map of all scores and resizes its position bias in each
block; its dynamic convolution is one with as many groups as there are channels in the batch; its MLP splits, convolves
and concatenates; factors are depthwise 1x1 convolutions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmatm.models.layers import Depthwise, Pointwise
from mmatm.models.transxnet import Attention, BiasedStage, Block, DualMixer, DynamicConvolution, Exchange, Mlp, Scale


class PlainConvolution(DynamicConvolution):
    """`DynamicConvolution` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        batch, channels, height, width = x.shape
        size = self.weight.shape[-1]
        weight = (self._share(F.adaptive_avg_pool2d(x, size)) * self.weight).sum(1)
        bias = (self._share(x.mean((2, 3), keepdim=True))[..., 0, 0] * self.bias).sum(1)
        y = F.conv2d(
            x.reshape(1, -1, height, width),
            weight.reshape(-1, 1, size, size),
            bias.flatten(),
            padding=size // 2,
            groups=batch * channels,
        )
        return y.reshape(x.shape)


class PlainAttention(Attention):
    """`Attention` with the same parameters and results; it is given the bias as the stage has it."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        reduced = x if self.reduce is None else self.reduce(x)
        reduced = reduced + self.local(reduced)
        q, k, v = (self._heads(y) for y in (self.q(x), *self.kv(reduced).chunk(2, dim=1)))
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if scores.shape[2:] != bias.shape[2:]:
            bias = F.interpolate(bias, scores.shape[2:], mode='bicubic', align_corners=False)
        return ((scores + bias).softmax(-1) @ v).transpose(2, 3).reshape(x.shape)


class PlainMixer(DualMixer):
    """`DualMixer` with the same parameters and results."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        local, other = x.chunk(2, dim=1)
        x = torch.cat((self.local(local), self.attention(other, bias)), dim=1)
        return x + self.proj(x)


class PlainExchange(Exchange):
    """`Exchange` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return nn.Sequential.forward(self, x)


class PlainMlp(Mlp):
    """`Mlp` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = self.norm1(F.gelu(self.fc1(x)))
        parts = x.split([conv.out_channels for conv in self.depthwise], dim=1)
        x = x + torch.cat([conv(part) for conv, part in zip(self.depthwise, parts, strict=True)], dim=1)
        return self.fc2(self.norm2(F.gelu(x)))


class PlainScale(Scale):
    """`Scale` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, groups=x.shape[1])


class PlainBlock(Block):
    """`Block` with the same parameters and results."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = x + self.position(x)
        x = self.drop_path(x, self.scale1(self.mixer(self.norm1(x), bias)))
        return self.drop_path(x, self.scale2(self.mlp(self.norm2(x))))


class PlainStage(BiasedStage):
    """`BiasedStage` with the same parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            x = self.run(block, x, self.bias)
        return x


_PLAIN = {
    plain.__base__: plain
    for plain in (
        PlainConvolution,
        PlainAttention,
        PlainMixer,
        PlainExchange,
        PlainMlp,
        PlainScale,
        PlainBlock,
        PlainStage,
    )
}


def use_authors_operations(model: nn.Module) -> nn.Module:
    """Turns every part of a model into that of the baseline, in place; parameters stay."""
    for module in model.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
    return use_pytorch_convolutions(model)


def use_pytorch_convolutions(model: nn.Module) -> nn.Module:
    """Turns depthwise and 1x1 convolutions of a model into PyTorch's, in place; parameters stay."""
    for module in model.modules():
        if isinstance(module, (Depthwise, Pointwise)):
            module.__class__ = nn.Conv2d
    return model
