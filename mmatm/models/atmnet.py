"""ATMNet, the backbone of "Active Token Mixer"."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import sqrt

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmatm.archs import NUM_STAGES, resolve_arch
from mmatm.checkpoint import adopt_authors_names, drop_unused, read_backbone, refuse_mismatch
from mmatm.errors import InputError
from mmatm.registry import MODELS

from .active_token_mixer import ActiveTokenMixer, Mlp

MIN_SIZE = 32


class DropPath(nn.Module):
    """Adds a branch to its shortcut. In training, samples go without it by chance, the others get more of it."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return shortcut + branch
        keep = 1 - self.rate
        kept = branch.new_empty((len(branch), *[1] * (branch.ndim - 1))).bernoulli_(keep)
        return torch.addcmul(shortcut, branch, kept, value=1 / keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3f}'


class Block(nn.Module):
    """Active Token Mixer and MLP, each on a LayerNorm and beside a shortcut. A leader also predicts the offsets.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the MLP by C.
        num_offsets: 2G, the offsets of a token.
        leader: Whether this block predicts offsets, for itself and the blocks that follow.
        drop_path_rate: Drop path of both shortcuts.
    """

    def __init__(self, channels: int, mlp_ratio: int, num_offsets: int, leader: bool, drop_path_rate: float) -> None:
        super().__init__()
        self.leader = leader
        if leader:
            self.offset_norm = nn.LayerNorm(channels)
            self.offset_fc = nn.Linear(channels, num_offsets)
        self.norm1 = nn.LayerNorm(channels)
        self.mixer = ActiveTokenMixer(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, mlp_ratio * channels, channels)
        self.drop_path = DropPath(drop_path_rate)

    def predict_offset(self, x: Tensor) -> Tensor:
        """A leader's input (B, H, W, C) -> offsets (B, H, W, 2G) in tokens, never in autocast's type."""
        # In bf16 an offset of 40 tokens would be off by up to an eighth of a token.
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            return self.offset_fc(self.offset_norm(x.to(self.offset_fc.weight.dtype)))

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Token map (B, H, W, C) and offsets (B, H, W, 2G) in tokens -> token map (B, H, W, C)."""
        x = self.drop_path(x, self.mixer(self.norm1(x), offset))
        return self.drop_path(x, self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Blocks of one resolution, with the convolution that leads to it.

    Args:
        in_channels: Channels of the stage before, None for the first stage, which has no downsampling.
        channels: C.
        mlp_ratio: Hidden channels of the MLPs by C.
        channels_per_offset: S, consecutive channels that share an offset.
        offset_interval: K, a leader every so many blocks.
        drop_path_rates: Drop path of each block.
        dilation: Tokens between those that the weights take for neighbours. Above 1, the stage has the resolution of
            the one before.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        in_channels: int | None,
        channels: int,
        mlp_ratio: int,
        channels_per_offset: int,
        offset_interval: int,
        drop_path_rates: Sequence[float],
        dilation: int,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.dilation = dilation
        self.with_cp = with_cp
        # The map before is denser than its weights expect too, by half as much.
        stride, before = (2, 1) if dilation == 1 else (1, dilation // 2)
        self.downsample = (
            nn.Conv2d(in_channels, channels, 3, stride, padding=before, dilation=before) if in_channels else None
        )
        self.position = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels)
        last = len(drop_path_rates) - 1
        self.blocks = nn.ModuleList(
            Block(channels, mlp_ratio, 2 * channels // channels_per_offset, j % offset_interval == 0 and j < last, rate)
            for j, rate in enumerate(drop_path_rates)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Token map (B, H, W, C) of the stage before -> token map of this stage."""
        if self.downsample is not None:
            x = convolve(self.downsample, x)
        offset = None
        for block in self.blocks:
            if block.leader:
                x = x + convolve(self.position, x)
                offset = block.predict_offset(x)
                if self.dilation > 1:
                    offset = offset * self.dilation
            if self.with_cp and torch.is_grad_enabled():
                x = checkpoint(block, x, offset, use_reentrant=False)
            else:
                x = block(x, offset)
        return x


@MODELS.register_module()
class ATMNet(BaseModule):
    """ATMNet, of `Active Token Mixer <https://arxiv.org/abs/2203.06108>`_ (AAAI 2023).

    Args:
        arch: A named size, ``'xt'``, ``'t'``, ``'s'``, ``'b'``, ``'l'`` (also ``'xtiny'``, ``'tiny'``, ``'small'``,
            ``'base'``, ``'large'``), or a dict with exactly these keys, a list of four for the stages each unless said:

            - ``depths``: number of blocks, 2 at least;
            - ``channels``: C;
            - ``mlp_ratios``: hidden channels of the MLPs by C;
            - ``channels_per_offset``: S, consecutive channels that share an offset; divides C;
            - ``offset_interval`` (one number): K, offsets are predicted anew every so many blocks.
        drop_path_rate: Drop path of the last block; rises linearly from 0 over all blocks.
        out_indices: Stages, 0 to 3 or negative from the end, whose maps are given out, each through its own LayerNorm.
            Stages after the last of them are not built.
        output_stride: Pixels per token of the last stage, 32, or 16 or 8 for heads that want a dense map. Stages that
            would be coarser do not downsample but are dilated: convolutions and offsets reach as far over the picture
            as before, with the same weights.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages. The norms of the outputs
            stay trainable: they are in no ImageNet file.
        with_cp: Recompute blocks in the backward pass: less memory, more time, the same gradients.
        init_cfg: As in MMEngine. ``dict(type='Pretrained', checkpoint=PATH)`` takes the authors' files and this
            project's, whole models too, and refuses a file that leaves any parameter but the output norms unset.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Example:
        >>> import torch
        >>> from mmatm.models import ATMNet
        >>> [tuple(y.shape) for y in ATMNet('xt')(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_stride: int = 32,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if isinstance(init_cfg, list) and any(cfg['type'] == 'Pretrained' for cfg in init_cfg):
            raise InputError('weights to start from fill the whole backbone: give init_cfg as one dict, not in a list')
        arch = resolve_arch(arch)
        if not 0 <= drop_path_rate < 1:
            raise InputError(f'drop_path_rate must be at least 0 and below 1, not {drop_path_rate}')
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= NUM_STAGES:
            raise InputError(
                f'frozen_stages must be -1 (nothing), 0 (the stem) or 1 to {NUM_STAGES} (the stem and so many stages), '
                f'not {frozen_stages}'
            )
        if output_stride not in (8, 16, 32):
            raise InputError(f'output_stride must be 8, 16 or 32, not {output_stride}')
        self.out_indices = resolve_out_indices(out_indices)
        self.frozen_stages = frozen_stages
        channels = arch['channels']
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(min(4 * 2**i, output_stride) for i in self.out_indices)

        self.stem = nn.Conv2d(3, channels[0], 7, stride=4, padding=2)
        last = sum(arch['depths']) - 1
        rates = iter(drop_path_rate * j / last for j in range(last + 1))
        self.stages = nn.ModuleList(
            Stage(
                channels[i - 1] if i else None,
                channels[i],
                arch['mlp_ratios'][i],
                arch['channels_per_offset'][i],
                arch['offset_interval'],
                [next(rates) for _ in range(arch['depths'][i])],
                max(1, 4 * 2**i // output_stride),
                with_cp,
            )
            for i in range(max(self.out_indices) + 1)
        )
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(channels[i]))
        self.apply(init_parameters)
        # Padding is 0. Were all biases too, LayerNorms of zeros would multiply its gradients until they overflow.
        nn.init.normal_(self.stem.bias, std=0.02)
        # Else convolutions turn their weights around in every pass, and distributed training copies their gradients.
        self.to(memory_format=torch.channels_last)
        self._freeze()

    def init_weights(self) -> None:
        """Loads the weights that `init_cfg` names, if any; the constructor has drawn the others already."""
        if not isinstance(self.init_cfg, dict) or self.init_cfg['type'] != 'Pretrained':
            super().init_weights()
        elif not self.is_init:
            path = self.init_cfg['checkpoint']
            state_dict, unused = read_backbone(path, self.init_cfg.get('prefix'))
            try:
                self.load_state_dict(state_dict, strict=False)  # only output norms may be missing, see below
            except InputError as error:
                raise InputError(f'{path}: {error}') from None
            if hasattr(self, '_params_init_info'):
                update_init_info(self, init_info=f'Pretrained: {path}')
            self.is_init = True
            print_log(f'ATMNet: {len(state_dict)} tensors from {path}; unused there: {unused or "none"}', 'current')

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # Every way of loading passes here: init_cfg, load_from, resume, load_state_dict.
        adopt_authors_names(state_dict, prefix)
        drop_unused(state_dict, prefix, self.out_indices)
        refuse_mismatch(
            {name.removeprefix(prefix): w for name, w in state_dict.items() if name.startswith(prefix)},
            self.state_dict(),
            prefix,
        )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature pyramid.

        Args:
            x: Pictures (B, 3, H, W), floating, H and W of 32 or more.

        Returns:
            For each of `out_indices` a map (B, C, H', W'); H' and W' are about the picture's by `out_strides`.

        Raises:
            InputError: Wrong number of axes or channels, integer type, too small.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise InputError(f'ATMNet takes pictures (B, 3, H, W), not {tuple(x.shape)}')
        if not torch.is_floating_point(x):
            raise InputError(f'ATMNet takes floating, normalised pictures, not {x.dtype}; convert with .float()')
        if min(x.shape[2:]) < MIN_SIZE:
            raise InputError(f'ATMNet takes pictures of {MIN_SIZE}x{MIN_SIZE} or more, not {x.shape[2]}x{x.shape[3]}')
        x = convolve(self.stem, x.permute(0, 2, 3, 1))
        outputs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outputs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2).contiguous())
        return tuple(outputs)

    def _freeze(self) -> None:
        frozen = [] if self.frozen_stages < 0 else [self.stem, *self.stages[: self.frozen_stages]]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'ATMNet':
        """Sets training mode, in which frozen stages stay in evaluation mode. Returns self."""
        super().train(mode)
        self._freeze()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for MMPretrain's `LearningRateDecayOptimWrapperConstructor`.

        Args:
            param_name: The parameter's name, with prefix.
            prefix: What stands before this backbone's own names, such as ``'backbone.'``.

        Returns:
            (depth, number of depths): 0 the stem, then one for each block, last what follows the blocks. A stage's
            two convolutions count with its first block.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        num_layers = sum(depths) + 2
        parts = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or parts[0].startswith('norm'):
            return num_layers - 1, num_layers
        if parts[0] == 'stem':
            return 0, num_layers
        stage = int(parts[1])
        block = int(parts[3]) if parts[2] == 'blocks' else 0
        return 1 + sum(depths[:stage]) + block, num_layers


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution on a token map (B, H, W, C), channels last in memory before and after."""
    return conv(x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


def init_parameters(module: nn.Module) -> None:
    """The paper's initialisation; LayerNorm starts with PyTorch's 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=sqrt(2 / fan_out))
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def resolve_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    """Stage numbers, negative ones from the end -> rising numbers 0 to 3.

    Raises:
        InputError: Empty, out of range, repeated or not rising.
    """
    valid = isinstance(out_indices, Sequence) and all(isinstance(i, int) for i in out_indices)
    indices = tuple(i + NUM_STAGES if i < 0 else i for i in out_indices) if valid else ()
    if not indices or not set(indices) <= set(range(NUM_STAGES)) or list(indices) != sorted(set(indices)):
        raise InputError(f'out_indices must be rising numbers of stages 0 to {NUM_STAGES - 1}, not {out_indices}')
    return indices
