"""--fuse of the commands: the same results from a backbone in its form for inference."""

import json
import pickle
import re

import onnx
import pytest
import torch
from conftest import CLASSIFIER, SEGMENTOR, write_config, write_weights
from families import FAMILIES

from mmatm.config import load_config

ARCH = {**FAMILIES['FFNet'].tiny, 'layer_scale': False}
BACKBONE = f"dict(_delete_=True, type='mmatm.FFNet', arch={ARCH}, %s)"


def changed(folder, shapes, text, model):
    """A config of a small model with FFNet, and weights for it."""
    base = write_config(folder, shapes, text)
    config = folder / 'ffnet.py'
    config.write_text(f"_base_ = '{base}'\nmodel = {model}\n")
    weights = write_weights(config)
    state = torch.load(weights)
    for name, value in state['state_dict'].items():
        if name.endswith('running_var'):
            value.uniform_(0.5, 2.0)
    torch.save(state, weights)
    return config, weights


@pytest.fixture
def segmentor(tmp_path, shapes):
    heads = f'decode_head=dict(in_channels={ARCH["channels"]}), auxiliary_head=dict(in_channels=16)'
    return changed(tmp_path, shapes, SEGMENTOR, f'dict(backbone={BACKBONE % ""}, {heads})')


def test_in_tests(tmp_path, shapes, command, segmentor):
    config, weights = segmentor
    scores = [re.findall(r'mIoU: +([\d.]+)', command('test.py', config, weights, *fuse)) for fuse in ([], ['--fuse'])]
    assert scores[0] == scores[1] != []


def test_of_a_classifier_with_averaged_weights(tmp_path, shapes, command):
    """MMEngine's hook would copy the average into a network that has other parameters by then."""
    neck = "neck=dict(_delete_=True, type='mmatm.NormedPooling', channels=32), head=dict(in_channels=32)"
    options = BACKBONE % 'out_indices=(3,), out_norms=False'
    config, weights = changed(tmp_path, shapes, CLASSIFIER, f'dict(backbone={options}, {neck})')
    assert 'EMAHook' in str(load_config(str(config)).custom_hooks)
    for fuse in ([], ['--fuse']):
        command('test.py', config, weights, '--out', tmp_path / f'{len(fuse)}.pkl', *fuse)
    plain, fused = (pickle.loads((tmp_path / f'{n}.pkl').read_bytes()) for n in range(2))
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(other['pred_score'], one['pred_score'], rtol=1e-4, atol=1e-5)


def test_in_predictions(tmp_path, shapes, command, segmentor):
    config, weights = segmentor
    image = next((shapes / 'ade/images/validation').glob('*'))
    found = []
    for fuse in ([], ['--fuse']):
        out = tmp_path / f'out{len(fuse)}'
        command('image_demo.py', config, weights, image, '--out', out, *fuse)
        found.append(json.loads((out / f'preds/{image.stem}.json').read_text())['shares'])
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_in_graphs(tmp_path, command, segmentor):
    """A fused graph has no batch norms in the backbone, and one convolution for two."""
    config, _ = segmentor
    small = tmp_path / 'small.py'
    small.write_text(
        f"_base_ = '{config}'\n"
        'model = dict(\n'
        '    backbone=dict(out_indices=(0,)),\n'
        '    decode_head=dict(in_channels=[8], in_index=[0], pool_scales=(3,)),\n'
        '    auxiliary_head=None,\n'
        ')\n'
    )
    weights = write_weights(small)
    out = tmp_path / 'fused.onnx'
    assert 'wrote' in command('export_onnx.py', small, weights, '--shape', 64, 64, '--out', out, '--fuse')
    names = [initializer.name for initializer in onnx.load(out).graph.initializer]
    assert [name for name in names if 'backbone.stages.0.blocks.0.mixer.query' in name]
    assert not [name for name in names if 'backbone' in name and 'running' in name]


def test_of_other_backbones_is_refused(config, error_of):
    weights = write_weights(config)
    message = error_of('test.py', config, weights, '--fuse')
    assert '--fuse is for backbones with another form for inference, which ATMNet does not have' in message
