"""The export to ONNX, by the graphs that it writes, and torch.export of the backbone."""

import importlib.util
import json
import runpy
import sys

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from mmengine.config import Config
from mmengine.model import BaseModel
from models.families import tiny
from torch import nn
from torch.export import Dim

from mini import MINI
from mmatm.apis import export
from mmatm.apis.export import export_onnx, require_exportable
from mmatm.apis.inference import load_model
from mmatm.apis.onnx_check import check_images
from mmatm.apis.onnx_graph import RawOutputs, adaptive_avg_pool2d
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import ATMNet, CASViT, RIFormer
from mmatm.ops import axial_sample_stacked, onnx_forms
from mmatm.ops.axial_sampling.onnx import sample_axes


def run_file(path, images):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {'images': images.numpy()})), strict=True))


def assert_standard(path):
    """Only what is in ONNX. Returns what the file says to its users."""
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [entry.domain for entry in graph.opset_import] == ['']
    operators = {node.op_type for node in graph.graph.node}
    assert 'Gather' in operators  # the sampling
    assert not operators & {'DeformConv', 'Loop', 'Scan', 'If'}
    assert b'mmatm/' not in path.read_bytes()  # paths of this machine
    return {entry.key: json.loads(entry.value) for entry in graph.metadata_props}


def assert_same(path, model, shapes):
    for shape in shapes:
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images, mode='tensor')
        expected = [expected] if isinstance(expected, torch.Tensor) else [level for part in expected for level in part]
        torch.testing.assert_close([*run_file(path, images).values()], expected, rtol=1e-4, atol=1e-5)


# Whole models, with the first stage of the backbone: tracing takes its time


def test_segmentor_by_the_command(config, tmp_path, monkeypatch, capsys):
    """UperNet, whose pooling is of maps of any size."""
    small = tmp_path / 'small.py'
    small.write_text(
        f"_base_ = '{config}'\n"
        'model = dict(\n'
        '    backbone=dict(out_indices=(0,)),\n'
        '    decode_head=dict(in_channels=[8], in_index=[0], pool_scales=(3,)),\n'
        '    auxiliary_head=None,\n'
        ')\n'
    )
    weights, out = tmp_path / 'weights.pth', tmp_path / 'small.onnx'
    model = load_model(load_config(str(small)), None)
    torch.save({'state_dict': model.state_dict()}, weights)
    command = ['export_onnx.py', small, weights, '--shape', 64, 72, '--out', out]
    monkeypatch.setattr(sys, 'argv', list(map(str, command)))
    runpy.run_path(str(ROOT / 'tools/export_onnx.py'), run_name='__main__')
    printed = capsys.readouterr().out
    for words in ('1x3x64x72: ', '3x3x47x49: ', '1x3x33x69: ', 'of opset ', 'ratio ', 'output logits: batch x 7 x '):
        assert words in printed
    known = assert_standard(out)
    assert known['channel_order'] == 'RGB'
    assert known['mean'] == [123.675, 116.28, 103.53]
    assert known['std'] == [58.395, 57.12, 57.375]
    assert known['classes'][:2] == ['disk', 'square']
    assert_same(out, model, [(2, 3, 32, 32), (1, 3, 101, 54)])


def test_single_stage_detector(tmp_path):
    cfg = load_config(str(ROOT / 'configs/retinanet_atmnet_t_1x_coco.py'))
    cfg.model.backbone.update(arch=MINI, out_indices=(0,))
    cfg.model.neck.update(in_channels=[8], out_channels=8, num_outs=2)
    cfg.model.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=5)
    cfg.model.bbox_head.anchor_generator.strides = [4, 8]
    require_exportable(cfg)
    model = load_model(cfg, None)
    exported = export_onnx(model, tmp_path / 'retinanet.onnx', (48, 64))
    assert list(exported.outputs) == ['cls_scores_0', 'cls_scores_1', 'bbox_preds_0', 'bbox_preds_1']
    assert [axes[1] for axes in exported.outputs.values()] == [45, 45, 36, 36]
    known = assert_standard(tmp_path / 'retinanet.onnx')
    assert known['pad_size_divisor'] == 32
    assert known['classes'][0] == 'person'
    assert_same(tmp_path / 'retinanet.onnx', model, [(3, 3, 37, 52)])


def test_classifier(tmp_path):
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]),
            model=dict(
                type='ImageClassifier',
                backbone=dict(type='mmatm.ATMNet', arch=MINI, out_indices=(0,)),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', in_channels=8, num_classes=5),
            ),
        )
    )
    model = load_model(cfg, None)
    exported = export_onnx(model, tmp_path / 'classifier.onnx', (40, 56))
    assert exported.outputs == {'logits': ['batch', 5]}
    assert [check.shape for check in exported.checks] == [(1, 3, 40, 56), (3, 3, 32, 38), (1, 3, 32, 53)]
    assert max(check.deviation for check in exported.checks) < 1e-5
    known = assert_standard(tmp_path / 'classifier.onnx')
    assert known == {'mean': [1, 2, 3], 'std': [4, 5, 6], 'channel_order': 'BGR', 'pad_size_divisor': 1}
    assert_same(tmp_path / 'classifier.onnx', model, [(5, 3, 77, 32)])


# What takes the place of operators that ONNX lacks


def test_sampling_is_the_definition():
    torch.manual_seed(0)
    for height, width, groups, scale in [(5, 7, 3, 2.0), (1, 9, 2, 0.7), (6, 1, 1, 30.0)]:
        x = torch.randn(2, height, width, 4 * groups)
        offset = scale * torch.randn(2, height, width, 2 * groups)
        offset.view(-1)[::5] = offset.view(-1)[::5].round()
        offset.view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        torch.testing.assert_close(sample_axes(x, offset), axial_sample_stacked(x, offset, backend='reference'))


def test_pooling_is_pytorchs():
    torch.manual_seed(0)
    for n in (*range(1, 14), 50, 97):
        x = torch.randn(2, 3, n, 2 * n + 1)
        for size in (1, 2, 3, 6, (4, None), (None, 5), (7, 1)):
            torch.testing.assert_close(adaptive_avg_pool2d(x, size), F.adaptive_avg_pool2d(x, size))


# What cannot be exported


class Small(BaseModel):
    """A model of which only the head matters."""

    def __init__(self, head):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Sequential(nn.ReLU(), head)
        self.eval()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(self.backbone(inputs))


class Head(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x)


def by_value(x):
    return x if x.sum() > 0 else -x


def size_of_the_images(x):
    return x.reshape(-1, 3, int(x.shape[2]), x.shape[3])


def shape_of_a_map(x):
    return x.reshape(x.shape[0], 4, int(x.shape[2]), -1)


def size_of_a_map(x):
    return F.interpolate(F.interpolate(x, size=(int(x.shape[2]), 9)), size=x.shape[2:])


def not_in_onnx(x):
    return torch.special.bessel_j0(x)


def other_numbers(x):
    return x + 0.001 * torch.compiler.is_compiling()


def one_size(x):
    return F.pad(x, (0, 1)) if torch.compiler.is_compiling() and x.shape[3] > 25 else x


@pytest.mark.parametrize(
    ('run', 'words'),
    [
        (by_value, r'tracing with dynamic shapes failed in its head\.1: GuardOnDataDependent'),
        (size_of_the_images, r'tracing with dynamic shapes failed in its head\.1: .*Constraints violated'),
        (shape_of_a_map, r'ONNX Runtime on images of 3x3x35x43 failed in its head\.1: '),
        (size_of_a_map, r'Its head\.1 turns sizes into constants$'),
        (not_in_onnx, r'the conversion to ONNX failed in its head\.1: .*bessel_j0'),
        (
            other_numbers,
            r'by more than 0\.0001 of the largest value of an output: 1x3x48x64: \d\.\de-04 in logits, 3x3x35x43: ',
        ),
        (one_size, r'1x3x48x64: inf in logits'),
        (lambda x: x[10], r'its forward pass on images alone failed in its head\.1: IndexError: index 10 is'),
    ],
)
def test_the_message_names_the_part(tmp_path, run, words):
    path = tmp_path / 'model.onnx'
    path.write_text('an older file')
    model = Small(Head(run))
    if run is size_of_the_images:
        model.backbone = nn.Identity()
    with pytest.raises(InputError, match=words):
        export_onnx(model, path, (48, 64))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [('model.onnx', 'an older file')]


def test_sizes_that_the_model_takes(tmp_path):
    def run(x):  # as necks that halve and double
        return x + F.interpolate(F.max_pool2d(x, 2), scale_factor=2)

    model = Small(Head(run))
    model.backbone = nn.Conv2d(3, 4, 2, stride=2)
    exported = export_onnx(model, tmp_path / 'model.onnx', (128, 128))
    assert [check.shape for check in exported.checks] == [(1, 3, 128, 128), (3, 3, 96, 96), (1, 3, 96, 128)]
    assert exported.size_divisor == 32
    assert exported.metadata['pad_size_divisor'] == '32'
    with pytest.raises(InputError, match='at three sizes up to 64x96, and these are not all different'):
        export_onnx(model, tmp_path / 'model.onnx', (64, 96))


def test_refusals_before_work(monkeypatch, tmp_path):
    with pytest.raises(
        InputError, match='MaskRCNN cannot be exported because of its rpn_head and roi_head: the number of proposals'
    ):
        require_exportable(load_config(str(ROOT / 'configs/mask_rcnn_atmnet_mini_shapes.py')))
    with pytest.raises(InputError, match='32x32 pixels or more; 16x64 is too small'):
        export_onnx(Small(nn.Identity()), tmp_path / 'model.onnx', (16, 64))
    with pytest.raises(InputError, match='no model'):
        require_exportable(Config({}))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, 'find_spec', lambda name: None if name.startswith('onnx') else find(name)
    )
    with pytest.raises(InputError, match='pip install onnx onnxscript onnxruntime'):
        require_exportable(Config({'model': {}}))


# The backbone alone

STAGES = {'depths': [1, 1, 1, 1], 'channels': [8, 16, 16, 24], 'mlp_ratios': [2, 2, 2, 2]}


@pytest.mark.parametrize(
    ('kind', 'arch', 'stages'),
    [(ATMNet, MINI, (0,)), (CASViT, STAGES, (0, 1)), (RIFormer, {**STAGES, 'layer_scale': 1.0}, (0, 1))],
    ids=['ATMNet', 'CASViT', 'RIFormer'],
)
def test_torch_onnx_export(kind, arch, stages, tmp_path):
    """By PyTorch's own function, without a config; the first stages only, as above."""
    torch.manual_seed(0)
    check_torch_onnx_export(kind(arch, out_indices=stages).eval(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'size'), [(ATMNet, 'xt'), (CASViT, 'xs'), (RIFormer, 's12')])
def test_torch_onnx_export_of_whole_networks(kind, size, tmp_path):
    torch.manual_seed(0)
    check_torch_onnx_export(kind(size).eval(), tmp_path)


@pytest.mark.parametrize(
    ('name', 'stage'),
    [
        *(('TransXNet', 0), ('FFNet', 0), ('DFFormer', 0), ('AFFNet', 1), ('DSM', 0)),
        pytest.param('CDFFormer', 2, marks=pytest.mark.slow),  # its filters are DFFormer's
    ],
)
def test_torch_onnx_export_of_others(name, stage, tmp_path):
    """To the first stage with its own mixer, with scales, biases and filters that have an effect."""
    check_torch_onnx_export(tiny(name, out_indices=(stage,)).eval(), tmp_path)


def check_torch_onnx_export(net, folder):
    path = folder / 'backbone.onnx'
    torch.onnx.export(
        net,
        (torch.rand(2, 3, 64, 96),),
        path,
        input_names=['images'],
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: 'batch', 2: 'height', 3: 'width'},),
    )
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [entry.domain for entry in graph.opset_import] == ['']
    for shape in ((1, 3, 32, 32), (3, 3, 65, 101)):
        images = torch.randn(shape)
        with torch.no_grad():
            expected = net(images)
        for result, level in zip(run_file(path, images).values(), expected, strict=True):
            torch.testing.assert_close(result, level, rtol=0, atol=1e-4 * level.abs().max().item())


def test_forms_for_onnx_only():
    """The custom operator is in the graphs of torch.export, and back again after those for ONNX."""

    class Sampling(nn.Module):
        def forward(self, x, offset):
            return axial_sample_stacked(x, offset)

    def custom_operators():
        program = torch.export.export(Sampling(), (torch.rand(1, 3, 4, 6), torch.rand(1, 3, 4, 2)))
        return sum('axial_sample' in str(node.target) for node in program.graph.nodes)

    assert custom_operators() == 1
    with onnx_forms():
        with onnx_forms():
            assert custom_operators() == 0
        assert custom_operators() == 0
    assert custom_operators() == 1


def test_the_smallest_images_are_the_backbones(monkeypatch):
    monkeypatch.setattr(CASViT, 'MIN_SIZE', 48)
    model = Small(nn.Identity())
    model.backbone = nn.Sequential(CASViT(STAGES, out_indices=(0,)).eval(), Head(lambda maps: maps[0]))
    batches, _ = check_images(RawOutputs(model), (80, 96))
    assert [tuple(images.shape[2:]) for images in batches] == [(80, 96), (59, 65), (48, 93)]
    with pytest.raises(InputError, match='48x48 pixels or more; 40x96 is too small'):
        check_images(RawOutputs(model), (40, 96))


def test_torch_export_of_one_size(tmp_path):
    net = ATMNet(MINI).eval()
    images = torch.rand(2, 3, 64, 96)
    program = torch.export.export(net, (images,), dynamic_shapes=({0: Dim('batch', min=1)},))
    torch.export.save(program, tmp_path / 'atmnet.pt2')
    program = torch.export.load(tmp_path / 'atmnet.pt2')
    assert sum('axial_sample' in str(node.target) for node in program.graph.nodes) == 8
    torch.testing.assert_close(program.module()(images[:1]), net(images[:1]))


def test_torch_export_of_all_sizes():
    """From 35 pixels on, which are two tokens in the last stage: PyTorch traces maps with one apart."""
    net = ATMNet(MINI).eval()
    sizes = {0: Dim('batch', min=1), 2: Dim('height', min=35), 3: Dim('width', min=35)}
    program = torch.export.export(net, (torch.rand(2, 3, 64, 96),), dynamic_shapes=(sizes,))
    assert sum('axial_sample' in str(node.target) for node in program.graph.nodes) == 8
    run = program.module()
    for shape in ((1, 3, 35, 40), (3, 3, 150, 161)):  # either side of where the mixer's forms change
        images = torch.rand(shape)
        torch.testing.assert_close(run(images), net(images))
