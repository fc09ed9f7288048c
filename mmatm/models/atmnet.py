"""ATMNet, the backbone of "Active Token Mixer"."""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any, ClassVar

from torch import Tensor, nn

from mmatm.errors import InputError
from mmatm.ops.precision import without_autocast
from mmatm.registry import MODELS

from .active_token_mixer import ActiveTokenMixer, Mlp
from .backbone import Backbone
from .layers import DropPath, convolve
from .loading import Published
from .stage import Stage


class Block(nn.Module):
    """A token mixer and an MLP, each after a LayerNorm and with a shortcut; it may also predict the offsets.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the MLP by C.
        num_offsets: 2G, the offsets of a token.
        predicts_offsets: Whether this block predicts offsets, for itself and the blocks that follow.
        drop_path_rate: Drop path of both shortcuts.
        mixer: Built with C; called with the normalised token map (B, H, W, C) and the offsets (B, H, W, 2G).
        offset_predictor: Built with C and 2G; called with the input (B, H, W, C) of an offset-predicting block, in
            place of LayerNorm and linear layer.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: int,
        num_offsets: int,
        predicts_offsets: bool,
        drop_path_rate: float,
        mixer: type[nn.Module] = ActiveTokenMixer,
        offset_predictor: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.predicts_offsets = predicts_offsets
        if predicts_offsets and offset_predictor:
            self.offset_predictor = offset_predictor(channels, num_offsets)
        elif predicts_offsets:
            self.offset_norm = nn.LayerNorm(channels)
            self.offset_fc = nn.Linear(channels, num_offsets)
        self.norm1 = nn.LayerNorm(channels)
        self.mixer = mixer(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, mlp_ratio * channels, channels)
        self.drop_path = DropPath(drop_path_rate)

    def predict_offset(self, x: Tensor) -> Tensor:
        """This block's input (B, H, W, C) -> offsets (B, H, W, 2G) in tokens, never in autocast's type."""
        # In bf16 an offset of 40 tokens would be off by up to an eighth of a token.
        with without_autocast(x):
            x = x.to(self.norm1.weight.dtype)
            if hasattr(self, 'offset_predictor'):
                return self.offset_predictor(x)
            return self.offset_fc(self.offset_norm(x))

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Token map (B, H, W, C) and offsets (B, H, W, 2G) in tokens -> token map (B, H, W, C)."""
        x = self.drop_path(x, self.mixer(self.norm1(x), offset))
        return self.drop_path(x, self.mlp(self.norm2(x)))


class ActiveStage(Stage):
    """Blocks that share offsets, with the convolution by which tokens learn where they are.

    Args:
        downsample: As in `Stage`.
        position: A depthwise convolution, added before each prediction of offsets.
        blocks: As `Block`; those with `predicts_offsets` predict offsets for themselves and the blocks that follow.
        dilation: Distance in tokens between the neighbours that a convolution reads; offsets are multiplied by it.
    """

    def __init__(
        self, downsample: nn.Conv2d | None, position: nn.Conv2d, blocks: Iterable[nn.Module], dilation: int
    ) -> None:
        super().__init__(downsample, blocks)
        self.position = position
        # Parameters keep their order, by which optimizers in checkpoints know them.
        self.blocks = self._modules.pop('blocks')
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            x = convolve(self.downsample, x)
        offset = None
        for block in self.blocks:
            if block.predicts_offsets:
                x = x + convolve(self.position, x)
                offset = block.predict_offset(x)
                if self.dilation > 1:
                    offset = offset * self.dilation
            x = self.run(block, x, offset)
        return x


def _size(depths: list[int], channels: list[int], mlp_ratios: list[int], offset_interval: int) -> dict[str, Any]:
    return dict(
        depths=depths,
        channels=channels,
        mlp_ratios=mlp_ratios,
        channels_per_offset=[2, 4, 4, 8],
        offset_interval=offset_interval,
    )


@MODELS.register_module()
class ATMNet(Backbone):
    """ATMNet, of [Active Token Mixer](https://arxiv.org/abs/2203.06108) (AAAI 2023).

    Args:
        arch: A named size, ``'xt'``, ``'t'``, ``'s'``, ``'b'``, ``'l'`` (also ``'xtiny'``, ``'tiny'``, ``'small'``,
            ``'base'``, ``'large'``), or a dict with exactly these keys, a list of four for the stages each unless said:

            - ``depths``: number of blocks, 2 at least;
            - ``channels``: C;
            - ``mlp_ratios``: hidden channels of the MLPs by C;
            - ``channels_per_offset``: S, consecutive channels that share an offset; divides C;
            - ``offset_interval`` (one number): K, every K-th block predicts new offsets.
        drop_path_rate: Drop path of the last block; rises linearly from 0 over all blocks.
        out_indices: Stages, 0 to 3 or negative from the end, whose feature maps are returned, each after its own norm.
            Stages after the last of them are not built.
        output_stride: Pixels per token of the last stage: 32, or 16 or 8 for heads that need a denser feature map.
            Stages that would be coarser do not downsample but are dilated: with the same weights, convolutions and
            offsets reach as far over the image as before.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages.
        with_cp: Recompute blocks in the backward pass: less memory, more time, the same gradients.
        in_channels: Channels of an image.
        parts: Classes to build with: ``block`` as `Block`, ``mixer`` as `ActiveTokenMixer`, ``offset_predictor`` in
            place of the LayerNorm and linear layer of an offset-predicting block; see `Backbone`.
        norm_eval: Batch norms of your own parts keep to their running statistics; ATMNet has none itself.
        init_cfg: As in MMEngine. ``dict(type='Pretrained', checkpoint=PATH)`` takes the authors' checkpoints and this
            project's, whole models too, and refuses one that leaves any parameter but the output norms unset; see
            `Backbone` for what else it takes.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import ATMNet
        >>> [tuple(y.shape) for y in ATMNet('xt')(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    TITLE = 'ATMNet'
    # fmt: off
    SIZES: ClassVar = {
        'xt': _size([2, 2, 4, 2],  [64, 128, 320, 512], [4, 4, 4, 4], 2),
        't':  _size([2, 3, 10, 3], [64, 128, 320, 512], [4, 4, 4, 4], 2),
        's':  _size([3, 4, 18, 3], [64, 128, 320, 512], [8, 8, 4, 4], 6),
        'b':  _size([3, 8, 27, 3], [64, 128, 320, 512], [8, 8, 4, 4], 6),
        'l':  _size([3, 4, 24, 3], [96, 192, 384, 768], [4, 4, 4, 4], 6),
    }
    # fmt: on
    ALIASES: ClassVar = {'xtiny': 'xt', 'tiny': 't', 'small': 's', 'base': 'b', 'large': 'l'}
    PARTS: ClassVar = {'block': Block, 'mixer': ActiveTokenMixer, 'offset_predictor': None}
    PUBLISHED = Published(
        signature='pos_blocks.0.proj.weight',
        renames=(
            (r'patch_embed\.proj\.', 'stem.'),
            (r'pos_blocks\.(\d+)\.proj\.', r'stages.\1.position.'),
            (r'blocks\.(\d+)\.\d+\.downsample\.proj\.', lambda m: f'stages.{int(m[1]) + 1}.downsample.'),
            (r'blocks\.(\d+)\.(\d+)\.offset_layer\.0\.', r'stages.\1.blocks.\2.offset_norm.'),
            (r'blocks\.(\d+)\.(\d+)\.offset_layer\.1\.', r'stages.\1.blocks.\2.offset_fc.'),
            (r'blocks\.(\d+)\.(\d+)\.atm\.atm_([whc])\.', r'stages.\1.blocks.\2.mixer.fc_\3.'),
            (r'blocks\.(\d+)\.(\d+)\.atm\.', r'stages.\1.blocks.\2.mixer.'),
            (r'blocks\.(\d+)\.(\d+)\.', r'stages.\1.blocks.\2.'),
            (r'norm_(\d)\.', r'norm\1.'),
            (r'norm\.', 'norm3.'),  # of the classifier: trained on the last stage
        ),
        head={'head.': 'head.fc.'},
        links={
            'atmnet_xt_in1k': 'https://drive.google.com/file/d/1JjWFDJM097a2sX9zw2oOisCT-7T43-DV/view',
            'atmnet_t_in1k': 'https://drive.google.com/file/d/1eFv5SsGr6ZpupY0wB-N2mjVhQLSo92o-/view',
            'atmnet_l_in1k': 'https://drive.google.com/file/d/1aIEnq_5-oS8jiLr2W8ryLabmzHTmR3J0/view',
            'upernet_atmnet_l_ade20k': 'https://drive.google.com/file/d/1vWTI7gRiI3Fd5g6UPziSyafliq3yrhrO/view',
        },
    )
    NORM = nn.LayerNorm
    CHANNELS_LAST = True
    OUTPUT_STRIDES = (8, 16, 32)
    NO_DECAY = ('.position.weight',)

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'tiny',
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_stride: int = 32,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        in_channels: int = 3,
        parts: Mapping[str, Any] | None = None,
        norm_eval: bool = False,
    ) -> None:
        super().__init__(
            arch,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            output_stride=output_stride,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            in_channels=in_channels,
            parts=parts,
            init_cfg=init_cfg,
            norm_eval=norm_eval,
        )

    @classmethod
    def check_arch(cls, arch: Mapping[str, Any]) -> None:
        stages = zip(arch['depths'], arch['channels'], arch['channels_per_offset'], strict=True)
        for i, (depth, channels, share) in enumerate(stages):
            if depth < 2:
                raise InputError(
                    f'stage {i} has depth {depth}; at least 2 are needed, as the last block predicts no offsets'
                )
            if channels % share or channels < 4:
                raise InputError(
                    f'stage {i} has {channels} channels, of which {share} are to share an offset: channels must be a '
                    f'multiple of that number, and 4 or more'
                )

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        return nn.Conv2d(self.in_channels, arch['channels'][0], 7, stride=4, padding=2)

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        channels, last = arch['channels'][i], len(rates) - 1
        # A dilated stage does not downsample. Its input is denser than its weights expect too, by half as much.
        stride, before = (2, 1) if dilation == 1 else (1, dilation // 2)
        downsample = (
            nn.Conv2d(arch['channels'][i - 1], channels, 3, stride, padding=before, dilation=before) if i else None
        )
        position = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels)
        blocks = (
            self.part('block', i)(
                channels,
                arch['mlp_ratios'][i],
                2 * channels // arch['channels_per_offset'][i],
                predicts_offsets=j % arch['offset_interval'] == 0 and j < last,
                drop_path_rate=rate,
                mixer=self.part('mixer', i),
                offset_predictor=self.part('offset_predictor', i),
            )
            for j, rate in enumerate(rates)
        )
        return ActiveStage(downsample, position, blocks, dilation)

    @staticmethod
    def draw(module: nn.Module) -> None:
        """The paper's initialisation; LayerNorm starts with PyTorch's 1 and 0."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=sqrt(2 / fan_out))
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def init_parameters(self) -> None:
        super().init_parameters()
        # Padding is 0. Were all biases too, LayerNorms of zeros would multiply its gradients until they overflow.
        nn.init.normal_(self.stem.bias, std=0.02)

    def adapt(self, weights: dict[str, Tensor]) -> None:
        for name in weights:
            if name.endswith(('.fc_w.weight', '.fc_h.weight')):
                weights[name] = weights[name].flatten(1)  # a 1x1 convolution's, in the authors' checkpoints
