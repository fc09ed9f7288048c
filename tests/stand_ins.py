"""Files in the exact layouts of ATMNet's authors; the files themselves are not at hand."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import golden_data
from mmatm.models import ATMNet


def imagenet_file(path: Path, weights: dict[str, Tensor], prefix: str = '') -> Path:
    """An ImageNet file: the averaged weights are `weights`, the plain ones differ; optimizer and arguments beside."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    torch.save(
        {
            'model': {prefix + name: weight + 1 for name, weight in weights.items()},
            'model_ema': {prefix + name: weight for name, weight in weights.items()},
            'optimizer': optimizer.state_dict(),
            'lr_scheduler': {'last_epoch': 299},
            'scaler': {'scale': 65536.0},
            'epoch': 299,
            'args': argparse.Namespace(model='ATMNet', lr=5e-4, opt_betas=None),
        },
        path,
    )
    return path


def upernet_file(
    path: Path, backbone: dict[str, Tensor], channels: list[int], classes: int, width: int, aux: int
) -> Path:
    """An mmseg 0.11 UperNet file; head names and shapes as that version of UPerHead and FCNHead has them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, into: int, kernel: int) -> None:
        shapes[f'{name}.conv.weight'] = (out, into, kernel, kernel)
        for entry in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{name}.bn.{entry}'] = (out,)
        shapes[f'{name}.bn.num_batches_tracked'] = ()

    def classifier(name: str, into: int) -> None:
        shapes[f'{name}.conv_seg.weight'], shapes[f'{name}.conv_seg.bias'] = (classes, into, 1, 1), (classes,)

    classifier('decode_head', width)
    for i in range(4):
        conv(f'decode_head.psp_modules.{i}.1', width, channels[3], 1)
    conv('decode_head.bottleneck', width, channels[3] + 4 * width, 3)
    for i in range(3):
        conv(f'decode_head.lateral_convs.{i}', width, channels[i], 1)
        conv(f'decode_head.fpn_convs.{i}', width, width, 3)
    conv('decode_head.fpn_bottleneck', width, 4 * width, 3)
    classifier('auxiliary_head', aux)
    conv('auxiliary_head.convs.0', aux, channels[2], 3)

    state_dict = {f'backbone.{name}': weight for name, weight in backbone.items()}
    heads = golden_data.authors_weights({name: shape for name, shape in shapes.items() if shape})
    for name in shapes:
        weight = heads.get(name, torch.tensor(160000))
        state_dict[name] = weight.abs() + 0.5 if name.endswith('running_var') else weight
    meta = {
        'mmseg_version': '0.11.0+unknown',
        'iter': 160000,
        'epoch': 96,
        'CLASSES': ('wall',),
        'PALETTE': [[1, 2, 3]],
    }
    torch.save({'meta': meta, 'state_dict': state_dict, 'optimizer': {'state': {}, 'param_groups': []}}, path)
    return path


def authors_shapes(arch: dict, pyramid: bool) -> dict[str, tuple[int, ...]]:
    """The authors' names and shapes of a backbone of any size, by spec/atmnet.md."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, weight: tuple[int, ...], bias: bool = True) -> None:
        shapes[f'{name}.weight'] = weight
        if bias:
            shapes[f'{name}.bias'] = weight[:1]

    channels, interval = arch['channels'], arch['offset_interval']
    add('patch_embed.proj', (channels[0], 3, 7, 7))
    for i, (depth, c) in enumerate(zip(arch['depths'], channels, strict=True)):
        add(f'pos_blocks.{i}.proj', (c, 1, 3, 3))
        for j in range(depth):
            block = f'blocks.{i}.{j}'
            if j % interval == 0 and j != depth - 1:
                add(f'{block}.offset_layer.0', (c,))
                add(f'{block}.offset_layer.1', (2 * c // arch['channels_per_offset'][i], c))
            add(f'{block}.norm1', (c,))
            add(f'{block}.norm2', (c,))
            add(f'{block}.atm.atm_w', (c, c, 1, 1))
            add(f'{block}.atm.atm_h', (c, c, 1, 1))
            add(f'{block}.atm.atm_c', (c, c), bias=False)
            add(f'{block}.atm.fusion.fc1', (c // 4, c))
            add(f'{block}.atm.fusion.fc2', (3 * c, c // 4))
            add(f'{block}.atm.proj', (c, c))
            hidden = arch['mlp_ratios'][i] * c
            add(f'{block}.mlp.fc1', (hidden, c))
            add(f'{block}.mlp.fc2', (c, hidden))
            if j == depth - 1 and i < 3:
                add(f'{block}.downsample.proj', (channels[i + 1], c, 3, 3))
        if pyramid:
            add(f'norm_{i}', (c,))
    if not pyramid:
        add('norm', (channels[3],))
        add('head', (1000, channels[3]))
    return shapes


if __name__ == '__main__':
    out = Path(sys.argv[1])
    weights = golden_data.authors_weights(authors_shapes(ATMNet.SIZES['l'], pyramid=True))
    print(
        f'a stand-in of the UperNet-L file: {upernet_file(out, weights, ATMNet.SIZES["l"]["channels"], 150, 512, 256)}'
    )
