"""AFFNet: activations of its files, dense maps, what it refuses."""

import pytest
import torch
from families import FAMILIES, bare, tiny
from torch.testing import assert_close

from mmatm.errors import InputError
from mmatm.models import AFFNet

ARCH = FAMILIES['AFFNet'].tiny


@pytest.mark.parametrize('size', list(AFFNet.SIZES))
def test_counts_with_prelu(size):
    counts = FAMILIES['AFFNet'].numbers()['parameter_counts']
    name = 'AFFNet' if size == 'base' else f'AFFNet-{size.upper()}'
    with torch.device('meta'):
        model = AFFNet({**AFFNet.SIZES[size], 'act': 'prelu'})
    assert sum(p.numel() for p in model.parameters()) == counts[name]['pyramid_if_prelu']


@pytest.mark.parametrize(('own', 'theirs', 'message'), [('silu', 'prelu', 'with PReLU'), ('prelu', 'relu', 'without')])
def test_weights_with_another_activation_are_refused(own, theirs, message):
    weights = AFFNet({**ARCH, 'act': theirs}).state_dict()
    with pytest.raises(InputError, match=f'the weights are of an AFFNet {message}.* give arch as a dict'):
        AFFNet({**ARCH, 'act': own}).load_state_dict(weights)


def test_prelu_takes_real_and_imaginary_parts_apart():
    model = AFFNet({**ARCH, 'act': 'prelu'}).eval()
    plain = AFFNet({**ARCH, 'act': 'relu'}).eval()
    weights = model.state_dict()
    plain.load_state_dict({name: w for name, w in weights.items() if '.act' not in name})
    for name, w in weights.items():
        if '.act' in name:
            w.zero_()
    model.load_state_dict(weights)
    x = torch.randn(1, 3, 64, 96)
    expected = plain(x)
    assert_close(model(x), expected)
    model.stages[1].blocks[0].mixer.act_imaginary.weight.data.fill_(0.5)
    assert not torch.allclose(model(x)[1], expected[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(('output_stride', 'strides'), [(16, (4, 8, 16, 16)), (8, (4, 8, 8, 8))])
def test_dense_maps(output_stride, strides):
    """With the same weights; the convolution behind a stage that does not downsample reads as far as before."""
    model = tiny('AFFNet', output_stride=output_stride).eval()
    model.load_state_dict(tiny('AFFNet').state_dict())
    assert model.out_strides == strides
    for y, stride in zip(model(torch.randn(1, 3, 64, 96)), strides, strict=True):
        assert y.shape[2:] == (64 // stride, 96 // stride)
    convs = [stage.downsample.depthwise.conv for stage in model.stages[1:]]
    first = 3 if output_stride == 16 else 2
    wanted = [((1, 1) if i >= first else (2, 2), (2 if i == 3 and first == 2 else 1,) * 2) for i in (1, 2, 3)]
    assert [(conv.stride, conv.dilation) for conv in convs] == wanted


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        (dict(channels=[12, 16, 20, 32]), r'channels of stages 1 to 3 must be multiples of 8, not \[16, 20, 32\]'),
        (dict(act='gelu'), r"arch\['act'\] must be one of silu, relu, prelu, not gelu"),
        (dict(attn_norm='batch_norm'), r"arch\['attn_norm'\] must be one of group_norm, layer_norm, not batch_norm"),
    ],
)
def test_bad_arch(entries, message):
    with pytest.raises(InputError, match=message):
        AFFNet({**ARCH, **entries})


def test_fuses_exactly():
    model = tiny('AFFNet').eval()
    x = torch.randn(2, 3, 65, 96)
    expected = model(x)
    assert_close(model.fuse()(x), expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    with pytest.raises(InputError, match='fused for inference'):
        bare('AFFNet').fuse().train()
