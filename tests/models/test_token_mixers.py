"""The mixers of MetaFormer: each alone, what CycleMLP's reads, and one of a user's own."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmatm.errors import InputError
from mmatm.models import MetaFormer
from mmatm.models.active_token_mixer import ActiveTokenMixer
from mmatm.models.dfformer import DynamicFilter
from mmatm.models.dsm import SpectrumMixer
from mmatm.models.token_mixers import (
    Active,
    Affine,
    Attention,
    Cycle,
    DualDynamic,
    DynamicFilterOfMaps,
    DynamicSpectrum,
    Pooling,
)
from mmatm.registry import TOKEN_MIXERS

NAMES = [
    *('active', 'adaptive_frequency', 'additive', 'attention', 'cycle', 'depthwise', 'dual_dynamic'),
    *('dynamic_filter', 'dynamic_spectrum', 'ffnified', 'identity', 'pooling'),
]
ARCH = dict(depths=[1, 1, 2, 1], channels=[16, 16, 24, 32], mlp_ratios=[2, 2, 2, 2])


def test_which_there_are():
    MetaFormer(ARCH)
    assert sorted(TOKEN_MIXERS.module_dict) == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_each_mixer_learns_at_any_size(name):
    torch.manual_seed(2)
    model = MetaFormer(ARCH, token_mixer=name, image_size=64)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for size in ((64, 64), (65, 98)):  # what begins at zero has to move first
        optimizer.zero_grad()
        maps = model(torch.randn(2, 3, *size))
        assert [y.shape[1] for y in maps] == ARCH['channels']
        sum((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum() for y in maps).backward()
        optimizer.step()
    for key, parameter in model.named_parameters():
        assert parameter.isfinite().all(), key
        if 'selector' not in key:  # whose few units may all be off
            assert parameter.grad.abs().max() > 0, key


def test_cycle_reads_the_neighbours_of_cyclemlp():
    """Against the active mixer with CycleMLP's offsets, (i + 1) mod 3 - 1 for channel i, by the sampling operation."""
    torch.manual_seed(0)
    cycle, active = Cycle(8).double(), ActiveTokenMixer(8).double()
    active.load_state_dict(cycle.state_dict())
    x = torch.randn(2, 8, 5, 7, dtype=torch.double)
    channel = torch.arange(8)
    offset = ((channel + 1) % 3 - 1).double().repeat(2).expand(2, 5, 7, 16)
    assert_close(cycle(x), active(x.permute(0, 2, 3, 1).contiguous(), offset).permute(0, 3, 1, 2))


def test_mixers_of_token_maps_take_feature_maps():
    """Each as its network's own class on the permuted map, at a size other than the bank's, not square."""
    x = torch.randn(2, 16, 6, 9, generator=torch.Generator().manual_seed(0))
    tokens = x.permute(0, 2, 3, 1)
    for own, other in (
        (DynamicFilterOfMaps(16, side=8), DynamicFilter(16, bank=(8, 5))),
        (DynamicSpectrum(16), SpectrumMixer(16)),
    ):
        for parameter in own.parameters():
            nn.init.normal_(parameter, std=0.3)
        other.load_state_dict(own.state_dict())
        assert_close(own(x), other(tokens).permute(0, 3, 1, 2))
    own, other = Active(16, stage=1), ActiveTokenMixer(16)
    other.load_state_dict({key: value for key, value in own.state_dict().items() if not key.startswith('offset.')})
    assert own.offset.out_features == 8  # 4 channels share an offset
    assert_close(own(x), other(tokens.contiguous(), own.offset(tokens)).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ('mixer', 'channels'), [('active', 18), ('adaptive_frequency', 12), ('attention', 100), ('dual_dynamic', 33)]
)
def test_channels_that_do_not_fit_are_refused_at_once(mixer, channels):
    arch = dict(depths=[1, 1, 1, 1], channels=[channels] * 4, mlp_ratios=[1, 1, 1, 1])
    with pytest.raises(InputError, match=f'the token mixer {mixer} needs a multiple of'):
        MetaFormer(arch, token_mixer=mixer)


def test_attention_is_pytorchs():
    torch.manual_seed(0)
    own, other = Attention(64).double(), nn.MultiheadAttention(64, 2, batch_first=True).double()
    other.load_state_dict({
        'in_proj_weight': own.qkv.weight,
        'in_proj_bias': own.qkv.bias,
        'out_proj.weight': own.proj.weight,
        'out_proj.bias': own.proj.bias,
    })  # fmt: skip
    x = torch.randn(2, 64, 3, 5, dtype=torch.double)
    tokens = x.flatten(2).transpose(1, 2)
    assert_close(own(x).flatten(2).transpose(1, 2), other(tokens, tokens, tokens)[0])


def test_pooling_and_identity():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    # The corner has the tokens 0, 1, 4 and 5, the middle one all nine around 5.
    assert Pooling(1)(x)[0, 0, 0, 0] == 2.5
    assert Pooling(1)(x)[0, 0, 1, 1] == 0
    affine = Affine(1)
    assert torch.equal(affine(x), torch.zeros_like(x))
    nn.init.constant_(affine.weight, 3.0)
    nn.init.constant_(affine.bias, 1.0)
    assert torch.equal(x + affine(x), 3 * x + 1)


def test_the_bias_of_the_dual_mixer_has_an_effect():
    torch.manual_seed(0)
    mixer = DualDynamic(16, stage=1, side=8).double()
    mixer.init_parameters()
    mixer.eval()
    x = torch.randn(1, 16, 8, 8, dtype=torch.double)
    before = mixer(x)
    nn.init.normal_(mixer.bias)
    assert not torch.allclose(mixer(x), before)


def test_other_mixers_in_other_stages():
    model = MetaFormer(ARCH, token_mixer=['pooling', 'pooling', 'attention', 'attention'])
    kinds = [type(stage.blocks[0].mixer) for stage in model.stages]
    assert kinds == [Pooling, Pooling, Attention, Attention]


def test_a_mixer_is_told_of_its_stage():
    told = []

    class Told(nn.Identity):
        def __init__(self, channels: int, stage: int, side: int) -> None:
            super().__init__()
            told.append((channels, stage, side))

    TOKEN_MIXERS.register_module('told', module=Told)
    try:
        MetaFormer(ARCH, token_mixer='told', image_size=101)
    finally:
        TOKEN_MIXERS.module_dict.pop('told')
    assert told == [(16, 0, 25), (16, 1, 13), (24, 2, 7), (24, 2, 7), (32, 3, 4)]


@pytest.mark.parametrize(
    ('mixer', 'message'),
    [
        ('atention', "there is no token mixer 'atention'; there are active, .* custom_imports"),
        (['pooling'] * 3, 'one name, or a list of 4, not of 3'),
        (5, 'there is no token mixer 5'),
        ('', "there is no token mixer ''"),
    ],
)
def test_a_wrong_mixer_is_named(mixer, message):
    with pytest.raises(InputError, match=message):
        MetaFormer(ARCH, token_mixer=mixer)
    with pytest.raises(InputError, match='image_size must be a whole number of 32 pixels or more, not 8'):
        MetaFormer(ARCH, image_size=8)
