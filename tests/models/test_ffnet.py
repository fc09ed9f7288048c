"""FFNet's form for inference, and what its options refuse."""

import runpy
from pathlib import Path

import mmpretrain
import pytest
import torch
from families import FAMILIES, golden_weights, tiny
from torch import nn
from torch.testing import assert_close

from golden.fill_mixers import image
from mmatm.build import build_model
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.models import FFNet, fuse_backbones

GOLDEN = FAMILIES['FFNet'].numbers()


def golden_network(name):
    golden = GOLDEN['networks'][name]
    model = FFNet(FAMILIES['FFNet'].to_arch(golden['arch'], None))
    model.load_state_dict(golden_weights({**golden['parameter_shapes'], **golden['buffer_shapes']}))
    return model.eval()


@pytest.mark.parametrize('name', GOLDEN['networks'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_fused_gives_the_same(name, dtype, tolerance):
    """Relative to the largest value of each map. In float32 both forms are compared with float64."""
    x = torch.from_numpy(image(64, 96))
    with torch.no_grad():
        exact = golden_network(name).double()(x.double())
        model = golden_network(name).to(dtype)
        deviations = []
        for _ in range(2):
            pairs = zip([y.double() for y in model(x.to(dtype))], exact, strict=True)
            deviations.append(max(((y - e).abs().max() / e.abs().max()).item() for y, e in pairs))
            model.fuse()
    assert deviations[1] < max(tolerance, 3 * deviations[0])  # processors round differently
    assert deviations[1] < 2 * tolerance


@pytest.mark.parametrize('name', GOLDEN['networks'])
def test_fused_names_and_shapes(name):
    expected = GOLDEN['networks'][name]['fused_parameter_shapes']
    renamed = {FFNet.PUBLISHED.own_name(key): shape for key, shape in expected.items()}
    model = golden_network(name).fuse()
    assert {key: list(parameter.shape) for key, parameter in model.named_parameters()} == renamed
    assert not list(model.buffers())


@pytest.mark.parametrize('size', FFNet.SIZES)
def test_fused_counts(size):
    counts = GOLDEN['parameter_counts'][f'FFNet-{size}']
    with torch.device('meta'):
        pyramid = FFNet(size).fuse()
        classifier = FFNet(size, out_indices=[3], out_norms=False).fuse()
        ends = nn.ModuleList([nn.BatchNorm2d(classifier.out_channels[0]), nn.Linear(classifier.out_channels[0], 1000)])
    assert sum(p.numel() for p in pyramid.parameters()) == counts['pyramid_fused']
    assert sum(p.numel() for p in [*classifier.parameters(), *ends.parameters()]) == counts['classifier_fused']


def test_mmpretrains_tool_fuses_it(tmp_path):
    tool = Path(mmpretrain.__file__).parent / '.mim/tools/model_converters/reparameterize_model.py'
    convert = runpy.run_path(str(tool))['convert_classifier_to_deploy']
    cfg = load_config('configs/ffnet/ffnet_1_in1k.py')
    cfg.model.backbone.arch = FAMILIES['FFNet'].tiny
    cfg.model.neck.channels = cfg.model.head.in_channels = FAMILIES['FFNet'].tiny['channels'][-1]
    model = build_model(cfg).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        convert(model, {}, tmp_path / 'fused.pth')
        assert_close(model(x), expected)
        other = build_model(cfg)
        fuse_backbones(other)
        other.load_state_dict(torch.load(tmp_path / 'fused.pth')['state_dict'])
        assert_close(other.eval()(x), expected)


def test_fuse_is_refused_where_there_is_no_such_form():
    with pytest.raises(InputError, match=r'--fuse is for backbones with another form .* ATMNet does not have'):
        fuse_backbones(nn.ModuleList([tiny('ATMNet')]))
    with pytest.raises(InputError, match='a backbone of another project'):
        fuse_backbones(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        (dict(channels=[8, 16, 24, 48]), 'a multiple of those before'),
        (dict(mlp_kernels=[3, 4, 3, 3]), 'must be odd and 3 or more'),
        (dict(mixer_kernels=[1, 3, 3, 3]), 'must be odd and 3 or more'),
        (dict(layer_scale=1), r"arch\['layer_scale'\] must be True or False"),
    ],
)
def test_bad_arch(entries, message):
    with pytest.raises(InputError, match=message):
        FFNet({**FAMILIES['FFNet'].tiny, **entries})


def test_a_users_mixer_may_name_the_kernel_size():
    class Mine(nn.Conv2d):
        def __init__(self, channels, kernel_size):
            super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    model = FFNet(FAMILIES['FFNet'].tiny, parts=dict(mixer=Mine))
    assert [stage.blocks[0].mixer.kernel_size[0] for stage in model.stages] == [3, 3, 7, 7]
    assert [y.shape[1] for y in model(torch.randn(2, 3, 64, 64))] == FAMILIES['FFNet'].tiny['channels']


@pytest.mark.parametrize('out_norms', [False, True], ids=['classifier', 'dense'])
def test_initialisation_is_that_of_the_authors_classifiers_and_dense_networks(out_norms):
    """Narrow normals for the former; for the latter PyTorch's uniform numbers, within 1 / sqrt(fan_in)."""
    model = FFNet(FAMILIES['FFNet'].tiny, out_norms=out_norms)
    mlp = model.stages[3].blocks[0].mlp
    bound = mlp.fc1.in_channels**-0.5
    assert mlp.fc1.weight.std().item() == pytest.approx(bound / 3**0.5 if out_norms else 0.02, rel=0.1)
    assert (mlp.fc1.bias.abs().max() > 0) == out_norms
    for scale in (model.stages[0].blocks[0].scale1, model.stages[3].blocks[0].scale2):
        assert (scale == (1.0 if out_norms else 1e-6)).all()
