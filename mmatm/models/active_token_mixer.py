"""The Active Token Mixer."""

from torch import Tensor, nn

from mmatm.ops import axial_sample


class Mlp(nn.Module):
    """Linear, GELU (erf form), Linear on the last axis: (..., in_channels) -> (..., out_channels)."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


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

        Args:
            x: Token map (B, H, W, C), floating.
            offset: Offsets (B, H, W, 2G) in tokens, as `mmatm.ops.axial_sample` takes them.

        Returns:
            Token map (B, H, W, C).
        """
        x_w, x_h = axial_sample(x, offset)
        w, h, c = self.fc_w(x_w), self.fc_h(x_h), self.fc_c(x)
        mean_token = (w + h + c).mean((1, 2))
        # Entry 3 * c + k of the prediction belongs to channel c and branch k.
        a = self.fusion(mean_token).unflatten(-1, (-1, 3)).softmax(-1).to(w.dtype)
        a_w, a_h, a_c = a[:, None, None].unbind(-1)
        return self.proj(a_w * w + a_h * h + a_c * c)
