"""DFFormer and CDFFormer: banks of filters at other sizes, in checkpoints, and kept in evaluation."""

import copy

import pytest
import torch
from families import FAMILIES, bare, tiny
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmatm.errors import InputError
from mmatm.models import CDFFormer, DFFormer
from mmatm.models.dfformer import DynamicFilter, SeparableConvolution

ARCH = FAMILIES['DFFormer'].tiny


@pytest.mark.parametrize('kind', [DFFormer, CDFFormer])
@pytest.mark.parametrize('bank_size', [512, 800])
def test_counts_with_the_banks_of_detectors_and_segmenters(kind, bank_size):
    counts = FAMILIES[kind.__name__].numbers()['parameter_counts']
    for size in kind.SIZES:
        with torch.device('meta'):
            model = kind(size, bank_size=bank_size)
        expected = counts[f'{kind.TITLE}-{size.upper()}'][f'pyramid_bank_{bank_size}']
        assert sum(p.numel() for p in model.parameters()) == expected


def test_banks_are_resized_at_load():
    """As the authors' detectors do it: bicubic, corners aligned, on the frequencies as they are."""
    model = tiny('DFFormer')
    other = DFFormer(ARCH, bank_size=96)
    other.load_state_dict(model.state_dict())
    for i, stage in enumerate(other.stages):
        given, got = model.stages[i].blocks[0].mixer.bank, stage.blocks[0].mixer.bank
        assert got.shape[:2] == (24 // 2**i, 12 // 2**i + 1)
        expected = F.interpolate(
            given.flatten(2).permute(2, 0, 1)[None], got.shape[:2], mode='bicubic', align_corners=True
        )
        assert_close(got.flatten(2).permute(2, 0, 1)[None], expected)
    x = torch.randn(1, 3, 96, 96)
    assert_close(other(x), model(x))  # for images of 96 pixels they are resized to the same
    assert not torch.allclose(other(x[..., :64])[0], model(x[..., :64])[0], rtol=1e-4)


def test_a_bank_with_other_filters_is_refused():
    with pytest.raises(InputError, match=r'of another shape: .*mixer\.bank'):
        bare('DFFormer').load_state_dict(DFFormer({**ARCH, 'num_filters': 4}, bank_size=64).state_dict())
    with pytest.raises(InputError, match='bank_size must be a whole number of 32 pixels or more, not 16'):
        DFFormer(ARCH, bank_size=16)


def test_resized_banks_are_kept_without_gradients():
    """For the latest size, until the weights change, in whatever way that is."""
    mixer = DynamicFilter(4, bank=(5, 3)).eval()
    nn.init.normal_(mixer.bank)
    with torch.no_grad():
        first = mixer.filters(7, 4)
        assert mixer.filters(7, 4) is first
        assert mixer.filters(9, 4).shape == (4, 9, 4, 2)
        mixer.bank.add_(1)
        assert not torch.allclose(mixer.filters(7, 4), first)
        second = mixer.filters(7, 4)
        mixer.bank.data.mul_(2)  # as averaged weights are written, which leaves no mark
        assert_close(mixer.filters(7, 4), 2 * second)
        copied = copy.deepcopy(mixer)
        copied.bank.zero_()
        assert not copied.filters(7, 4).any()
        assert mixer.filters(7, 4).any()
    assert mixer.filters(7, 4).requires_grad
    with torch.inference_mode():
        model = tiny('DFFormer').eval()
        model(torch.rand(1, 3, 64, 64))


def test_cdfformer_convolves_in_its_first_stages():
    kinds = [type(stage.blocks[0].mixer) for stage in tiny('CDFFormer').stages]
    assert kinds == [SeparableConvolution, SeparableConvolution, DynamicFilter, DynamicFilter]
    model = bare('CDFFormer')
    assert model.changed_parts == []
    assert bare('CDFFormer', parts=dict(mixer=[None, None, None, nn.Identity])).changed_parts == ['mixer']


def test_bfloat16_weights():
    """The whole network in bfloat16 computes its filters in float32."""
    model = tiny('DFFormer').eval()
    x = torch.randn(1, 3, 64, 96)
    expected = model(x)
    for y, exact in zip(model.bfloat16()(x.bfloat16()), expected, strict=True):
        assert y.dtype == torch.bfloat16
        assert (y.float() - exact).norm() < 0.1 * exact.norm()
