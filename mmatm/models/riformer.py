"""RIFormer, the backbone of "Keep Your Vision Backbone Effective But Removing Token Mixer"."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from mmatm.registry import MODELS

from .backbone import Backbone
from .loading import Published
from .stage import Stage

_FILES = 'https://download.openmmlab.com/mmclassification/v1/riformer/riformer-{}_20230406-{}.pth'


def _size(depths: list[int], channels: list[int], layer_scale: float) -> dict[str, Any]:
    return dict(depths=depths, channels=channels, mlp_ratios=[4, 4, 4, 4], layer_scale=layer_scale)


@MODELS.register_module()
class RIFormer(Backbone):
    """RIFormer, of [Keep Your Vision Backbone Effective But Removing Token Mixer](https://arxiv.org/abs/2304.05659).

    MMPretrain's network, whose blocks do not mix tokens: only the convolutions of stem and downsampling do. It needs
    MMPretrain to be built.

    Args:
        arch: A named size, ``'s12'``, ``'s24'``, ``'s36'``, ``'m36'``, ``'m48'``, or a dict with exactly these keys, a
            list of four for the stages each unless said: ``depths``; ``channels``; ``mlp_ratios``, hidden channels of
            the MLPs by those; ``layer_scale`` (one number), what each branch is weighted with at first.
        drop_path_rate, out_indices, frozen_stages, with_cp, in_channels, parts, init_cfg, norm_eval: As in `Backbone`,
            the latter for batch norms of your own parts; `parts` are
            ``block``, built and called as MMPretrain's `RIFormerBlock`, and ``mixer``, built with the number of
            channels and called with the normalised feature map (B, C, H, W).

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.

    Raises:
        InputError: An argument that cannot work.

    Examples:
        >>> import torch
        >>> from mmatm.models import RIFormer
        >>> [tuple(y.shape) for y in RIFormer('s12')(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    TITLE = 'RIFormer'
    SIZES: ClassVar = {
        's12': _size([2, 2, 6, 2], [64, 128, 320, 512], 1e-5),
        's24': _size([4, 4, 12, 4], [64, 128, 320, 512], 1e-5),
        's36': _size([6, 6, 18, 6], [64, 128, 320, 512], 1e-6),
        'm36': _size([6, 6, 18, 6], [96, 192, 384, 768], 1e-6),
        'm48': _size([8, 8, 24, 8], [96, 192, 384, 768], 1e-6),
    }
    PARTS: ClassVar = {'block': None, 'mixer': None}
    PUBLISHED = Published(
        signature='network.0.0.token_mixer.affine.weight',
        renames=(
            (r'patch_embed\.', 'stem.'),
            (r'network\.([135])\.', lambda m: f'stages.{(int(m[1]) + 1) // 2}.downsample.'),
            (r'network\.(\d)\.(\d+)\.', lambda m: f'stages.{int(m[1]) // 2}.blocks.{m[2]}.'),
            (r'norm([0246])\.', lambda m: f'norm{int(m[1]) // 2}.'),
        ),
        containers=('state_dict',),
        links={
            'riformer_s12_in1k': _FILES.format('s12_32xb128_in1k', '6741ce71'),
            'riformer_s24_in1k': _FILES.format('s24_32xb128_in1k', 'fdab072a'),
            'riformer_s36_in1k': _FILES.format('s36_32xb128_in1k', 'fdfcd3b0'),
            'riformer_m36_in1k': _FILES.format('m36_32xb128_in1k', '2fcb9d9b'),
            'riformer_m48_in1k': _FILES.format('m48_32xb128_in1k', '2b9d1abf'),
        },
    )

    @staticmethod
    def NORM(channels: int) -> nn.Module:
        return nn.GroupNorm(1, channels)

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        from mmpretrain.models.backbones.poolformer import PatchEmbed

        return PatchEmbed(patch_size=7, stride=4, padding=2, in_chans=self.in_channels, embed_dim=arch['channels'][0])

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        from mmpretrain.models.backbones.poolformer import PatchEmbed
        from mmpretrain.models.backbones.riformer import RIFormerBlock

        channels = arch['channels'][i]
        downsample = None
        if i:
            before = arch['channels'][i - 1]
            downsample = PatchEmbed(patch_size=3, stride=2, padding=1, in_chans=before, embed_dim=channels)
        make, mixer = self.part('block', i) or RIFormerBlock, self.part('mixer', i)
        blocks = [
            make(
                channels,
                mlp_ratio=arch['mlp_ratios'][i],
                drop_path=rate,
                layer_scale_init_value=arch['layer_scale'],
            )
            for rate in rates
        ]
        for block in blocks if mixer else ():
            block.token_mixer = mixer(channels)
        return Stage(downsample, blocks)

    def fuse(self) -> 'RIFormer':
        """Folds the affine of each block into the norm before it. Returns self, in evaluation mode.

        Blocks with other mixers stay as they are.
        """
        from mmpretrain.models.backbones.riformer import Affine

        self.eval()
        for block in (block for stage in self.stages for block in stage.blocks):
            if isinstance(getattr(block, 'token_mixer', None), Affine):
                block.switch_to_deploy()
        self.is_fused = True
        return self
