"""That the mmcv which tools/build_mmcv.py made computes what its operators are defined as."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchvision.ops
from conftest import ROOT
from mmcv.ops import ModulatedDeformConv2d, deform_conv2d, modulated_deform_conv2d, nms, roi_align
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention
from mmdet.models.losses import FocalLoss
from torch import Tensor


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_same(ours: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Values and gradients of the inputs agree, for a weighting of the output drawn at random."""
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def boxes(count: int, side: float) -> Tensor:
    corner = torch.rand(count, 2) * side
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * side / 2], dim=1)


@pytest.mark.parametrize('threshold', [0.2, 0.5, 0.8])
def test_nms(threshold):
    found, scores = boxes(300, 30.0), torch.rand(300)
    kept, indices = nms(found, scores, threshold)
    expected = torchvision.ops.nms(found, scores, threshold)
    assert 10 < len(expected) < 300
    assert indices.tolist() == expected.tolist()
    assert torch.equal(kept, torch.cat([found, scores[:, None]], dim=1)[expected])


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('samples', [0, 2])
def test_roi_align(aligned, samples):
    maps = torch.randn(2, 5, 17, 23, requires_grad=True)
    rois = torch.cat([torch.randint(0, 2, (20, 1)).float(), boxes(20, 80.0)], dim=1)
    ours = roi_align(maps, rois, (7, 3), 0.25, samples, 'avg', aligned)
    expected = torchvision.ops.roi_align(maps, rois, (7, 3), 0.25, samples or -1, aligned)
    assert_same(ours, expected, maps)


def test_deformable_convolution():
    x, weight = torch.randn(2, 8, 11, 13, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    offset = (3 * torch.randn(2, 2 * 2 * 9, 6, 7)).requires_grad_()
    ours = deform_conv2d(x, offset, weight, 2, 1, 1, 2, 2)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, stride=2, padding=1)
    assert_same(ours, expected, x, offset, weight)


def test_modulated_deformable_convolution():
    x, weight = torch.randn(2, 8, 11, 13, requires_grad=True), torch.randn(6, 4, 3, 3, requires_grad=True)
    offset = (3 * torch.randn(2, 2 * 2 * 9, 11, 13)).requires_grad_()
    mask, bias = torch.rand(2, 2 * 9, 11, 13, requires_grad=True), torch.randn(6, requires_grad=True)
    ours = modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 2, 2, 2, 2)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=2, dilation=2, mask=mask)
    assert_same(ours, expected, x, offset, mask, weight, bias)


def test_modulated_deformable_convolution_without_offsets_is_a_convolution():
    layer = ModulatedDeformConv2d(4, 6, 3, padding=1, bias=True)
    x = torch.randn(1, 4, 9, 9)
    expected = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    ours = layer(x, torch.zeros(1, 18, 9, 9), torch.ones(1, 9, 9, 9))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_focal_loss():
    """mmcv's operator is for CUDA alone; on the CPU mmdet computes it by itself."""
    scores, labels = torch.randn(30, 4, requires_grad=True), torch.randint(0, 5, (30,))  # 4: background
    one_hot = torch.nn.functional.one_hot(labels, 5)[:, :4].float()
    expected = torchvision.ops.sigmoid_focal_loss(scores, one_hot, alpha=0.25, gamma=2.0, reduction='sum')
    assert_same(FocalLoss(reduction='sum')(scores, labels), expected, scores)


def test_multi_scale_deformable_attention():
    attention = MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=2, num_points=3, dropout=0.0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shapes = torch.tensor([[6, 5], [3, 4]])
    queries, values, references = torch.randn(7, 1, 8), torch.randn(42, 1, 8), torch.rand(1, 7, 2, 2)
    ours = attention(
        queries,
        value=values,
        identity=torch.zeros_like(queries),
        reference_points=references,
        spatial_shapes=shapes,
        level_start_index=torch.tensor([0, 30]),
    )
    torch.testing.assert_close(ours, attend(attention, queries, values, references, shapes), rtol=1e-4, atol=1e-4)


def attend(
    attention: MultiScaleDeformableAttention, queries: Tensor, values: Tensor, references: Tensor, shapes: Tensor
) -> Tensor:
    """Deformable DETR, equation 3, one query, head, level and point after the other; (query, 1, channel)."""
    heads, levels, points = 2, 2, 3
    projected = attention.value_proj(values[:, 0]).view(-1, heads, 4)
    offsets = attention.sampling_offsets(queries[:, 0]).view(-1, heads, levels, points, 2)
    weights = attention.attention_weights(queries[:, 0]).view(-1, heads, levels * points).softmax(-1)
    weights = weights.view(-1, heads, levels, points)
    maps = [part.view(h, w, heads, 4) for part, (h, w) in zip(projected.split([30, 12]), shapes.tolist(), strict=True)]
    output = torch.zeros(len(queries), heads, 4)
    for q, head, level, point in torch.cartesian_prod(
        *map(torch.arange, (len(queries), heads, levels, points))
    ).tolist():
        height, width = shapes[level].tolist()
        x = references[0, q, level, 0] * width + offsets[q, head, level, point, 0] - 0.5
        y = references[0, q, level, 1] * height + offsets[q, head, level, point, 1] - 0.5
        output[q, head] += weights[q, head, level, point] * bilinear(maps[level][:, :, head], y.item(), x.item())
    return attention.output_proj(output.flatten(1))[:, None]


def bilinear(values: Tensor, y: float, x: float) -> Tensor:
    """A map of (height, width, channel) between its points; outside it is 0."""
    result = torch.zeros(values.shape[2])
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < values.shape[0] and 0 <= column < values.shape[1]:
                result += (1 - abs(y - row)) * (1 - abs(x - column)) * values[row, column]
    return result


# The build


@pytest.fixture
def build_mmcv() -> ModuleType:
    spec = importlib.util.spec_from_file_location('build_mmcv', ROOT / 'tools/build_mmcv.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_is_compiled_once(tmp_path, build_mmcv):
    plain = [*(f'{name}.cpp' for name in 'abcdefg'), 'cpu/psamask.cpp', 'cpu/roi_align.cpp', 'cpu/nms.cpp']
    (tmp_path / 'pytorch/cpu').mkdir(parents=True)
    for name in plain:
        (tmp_path / 'pytorch' / name).touch()
    build_mmcv.join(tmp_path)
    groups = [path.read_text().split('\n')[:-1] for path in tmp_path.glob('pytorch/*.cpp')]
    assert sorted(line for lines in groups for line in lines) == sorted(f'#include "../plain/{name}"' for name in plain)
    assert ['#include "../plain/cpu/psamask.cpp"'] in groups
    assert not [*tmp_path.glob('pytorch/cpu/*')]
    assert all((tmp_path / 'plain' / name).is_file() for name in plain)


@pytest.mark.parametrize('joined_compiles', [True, False])
def test_files_that_do_not_compile_together_are_built_one_by_one(
    tmp_path, build_mmcv, monkeypatch, capsys, joined_compiles
):
    built = []

    def unpack(requirement: str, folder: Path) -> Path:
        (folder / 'mmcv/ops/csrc/pytorch').mkdir(parents=True)
        return folder

    def install(what: str, *options: str, **environment: str) -> None:
        assert environment['CFLAGS'].endswith('-g0')
        assert '-O' in environment['CFLAGS'], 'else the operators are not optimised'
        built.append(Path(what).name)
        if not joined_compiles and Path(what).name == 'joined':
            raise build_mmcv.subprocess.CalledProcessError(1, 'c++')

    for name, stand_in in {'unpack': unpack, 'install': install, 'builds_for_device': lambda: False}.items():
        monkeypatch.setattr(build_mmcv, name, stand_in)
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['build_mmcv.py', 'mmcv==2.1.0'])
    build_mmcv.main()
    assert built == (['joined'] if joined_compiles else ['joined', 'plain'])
    assert capsys.readouterr().out.count('file by file') == (not joined_compiles)
    assert not [*tmp_path.iterdir()]


def test_with_cuda_it_is_built_as_it_comes(build_mmcv, monkeypatch):
    installed = []
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.setattr(sys, 'argv', ['build_mmcv.py', 'mmcv==2.1.0'])
    monkeypatch.setattr(
        build_mmcv, 'install', lambda *arguments, **environment: installed.append((arguments, environment))
    )
    build_mmcv.main()
    assert installed == [(('mmcv==2.1.0',), {})]
