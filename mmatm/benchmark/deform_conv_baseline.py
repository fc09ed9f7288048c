"""The DeformConv baseline of the benchmarks: ATMNet's blocks by deformable convolutions, as its authors wrote them.

Sampling and the linear layer of a branch are one deformable convolution with a 1x1 kernel, which takes a row and a
column offset for every channel: the offsets of a group are repeated for its channels, and the other axis is zeros.
"""

from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mmatm.models.active_token_mixer import ActiveTokenMixer, Mlp


class DeformConvMixer(ActiveTokenMixer):
    """`ActiveTokenMixer` with the same parameters and results, by `torchvision.ops.deform_conv2d`."""

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Token map (B, H, W, C), offsets (B, H, W, 2G) in tokens -> token map (B, H, W, C)."""
        w, h = sample_and_project(x, offset, self.fc_w, self.fc_h)
        c = self.fc_c(x)
        a = self.fusion((w + h + c).mean((1, 2))).unflatten(-1, (-1, 3)).softmax(-1)
        a_w, a_h, a_c = a[:, None, None].unbind(-1)
        return self.proj(a_w * w + a_h * h + a_c * c)


class PlainMlp(Mlp):
    """`Mlp` with the same parameters and results, which keeps all of its activations for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_channels) -> (..., out_channels)."""
        return self.fc2(self.act(self.fc1(x)))


def sample_and_project(x: Tensor, offset: Tensor, fc_w: nn.Linear, fc_h: nn.Linear) -> tuple[Tensor, Tensor]:
    """x (B, H, W, C), offset (B, H, W, 2G) -> the branches FC_w(x_w) and FC_h(x_h), each (B, H, W, C)."""
    channels = x.shape[-1]
    nchw = x.permute(0, 3, 1, 2)
    per_channel = offset.repeat_interleave(2 * channels // offset.shape[-1], dim=-1).permute(0, 3, 1, 2)
    branches = []
    for fc, along, moved in ((fc_w, 1, per_channel[:, :channels]), (fc_h, 0, per_channel[:, channels:])):
        field = x.new_zeros(len(x), channels, 2, *x.shape[1:3], dtype=moved.dtype)  # of each channel: row, column
        field[:, :, along] = moved
        branch = deform_conv2d(nchw, field.flatten(1, 2), fc.weight[:, :, None, None], fc.bias)
        branches.append(branch.permute(0, 2, 3, 1))
    return tuple(branches)


def use_deform_conv(model: nn.Module) -> nn.Module:
    """Turns every mixer and MLP of a model into that of the baseline, in place; parameters stay."""
    for module in model.modules():
        module.__class__ = {ActiveTokenMixer: DeformConvMixer, Mlp: PlainMlp}.get(type(module), type(module))
    return model
