"""That mmatm is found without imports, and brings nothing along."""

import importlib.util
import subprocess
import sys

import pytest
from mmengine.utils import is_installed


def run(code: str) -> str:
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('module', ['mmatm', 'mmatm.registry', 'mmatm.models', 'mmatm.engine.runner'])
def test_import_brings_no_toolbox(module):
    code = f"""
import sys, {module}
print([name for name in ('mmdet', 'mmseg', 'mmpretrain', 'mmcv', 'triton', 'torchvision') if name in sys.modules])
"""
    assert run(code).strip() == '[]'
    assert 'torch' not in run('import sys, mmatm; print(*sys.modules)').split()


BACKBONE = """dict(_delete_=True, type='mmatm.ATMNet', arch=dict(
    depths=[2, 2, 2, 2], channels=[8, 16, 16, 24], mlp_ratios=[2, 2, 2, 2], channels_per_offset=[2, 4, 4, 8],
    offset_interval=2){options})"""
FORWARD = """
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
cfg = Config.fromfile({path!r})
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model).eval()
maps = model.extract_feat(torch.randn(1, 3, 64, 64))
print([tuple(y.shape) for y in maps])
"""


@pytest.mark.parametrize(
    ('base', 'options', 'changes', 'expected'),
    [
        (
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
            '',
            'neck=dict(in_channels=[8, 16, 16, 24])',
            '[(1, 256, 16, 16), (1, 256, 8, 8), (1, 256, 4, 4), (1, 256, 2, 2), (1, 256, 1, 1)]',
        ),
        (
            'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py',
            '',
            'pretrained=None, decode_head=dict(in_channels=[8, 16, 16, 24]), auxiliary_head=dict(in_channels=16)',
            '[(1, 8, 16, 16), (1, 16, 8, 8), (1, 16, 4, 4), (1, 24, 2, 2)]',
        ),
        (
            'mmpretrain::resnet/resnet50_8xb32_in1k.py',
            ', out_indices=[3]',
            'head=dict(in_channels=24)',
            '[(1, 24)]',
        ),
    ],
    ids=['mmdet', 'mmseg', 'mmpretrain'],
)
def test_backbone_of_any_toolbox(tmp_path, base, options, changes, expected):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {base!r}\nmodel = dict(backbone={BACKBONE.format(options=options)}, {changes})\n')
    code = FORWARD.format(path=str(path))
    if importlib.util.find_spec('mmseg') and not is_installed('mmsegmentation'):  # a fork, whose MMEngine
        code = f'import mmatm\n{code}'  # finds mmseg:: with mmatm's help
    assert run(code).strip().splitlines()[-1] == expected


def test_too_old_packages_are_named():
    code = """
from importlib import metadata
real = metadata.version
metadata.version = lambda name: '2.1.0' if name == 'torch' else real(name)
try:
    import mmatm
except RuntimeError as error:
    print(error)
"""
    assert run(code).strip() == 'mmatm needs torch 2.6 or newer, 2.1.0 is installed'
