"""TransXNet: its position bias at other sizes, training with one sample, what its options refuse."""

import pytest
import torch
from families import FAMILIES, tiny
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmatm.errors import InputError
from mmatm.models import TransXNet, transxnet

ARCH = FAMILIES['TransXNet'].tiny


def test_count_with_the_bias_of_384():
    counts = FAMILIES['TransXNet'].numbers()['parameter_counts']['TransXNet-B at 384 px position bias']
    with torch.device('meta'):
        model = TransXNet({**TransXNet.SIZES['b'], 'image_size': 384})
    assert sum(p.numel() for p in model.parameters()) == counts['pyramid']


def test_resize_of_the_bias_is_an_option():
    """At the size that the bias was built for they are the same, elsewhere not."""
    models = [tiny('TransXNet', bias_resize=mode).eval() for mode in ('flat', 'grid')]
    models[1].load_state_dict(models[0].state_dict())
    for size, same in ((64, True), (96, False)):
        x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        flat, grid = (model(x)[0] for model in models)
        assert torch.allclose(flat, grid) == same
    with pytest.raises(InputError, match="bias_resize must be 'flat', as the authors do it, or 'grid', not 'linear'"):
        TransXNet(ARCH, bias_resize='linear')


def test_checkpoints_of_another_image_size_are_fitted():
    other = tiny('TransXNet')
    model = TransXNet({**ARCH, 'image_size': 96})
    model.load_state_dict(other.state_dict())
    table = other.stages[1].bias
    expected = F.interpolate(table, model.stages[1].bias.shape[2:], mode='bicubic', align_corners=False)
    assert_close(model.stages[1].bias, expected)
    with pytest.raises(InputError, match=r'of another shape: .*stages\.1\.bias'):
        TransXNet({**ARCH, 'num_heads': [2, 2, 4, 3]}).load_state_dict(other.state_dict())


def test_training_with_one_sample():
    """Batch norms of a single value a channel take the running statistics, and leave them as they are."""
    model = tiny('TransXNet')
    norm = model.stages[3].blocks[0].mixer.local.reduce
    seen = []
    norm.register_forward_hook(lambda module, args, out: seen.append((args[0], out, norm.norm.running_mean.clone())))
    sum(y.sum() for y in model(torch.randn(1, 3, 64, 64))).backward()
    (_, _, after_map), (x, out, after_mean) = seen
    assert x.shape[2:] == (1, 1)
    assert torch.equal(after_map, after_mean)
    expected = norm.norm.eval()(norm.conv(x))
    assert_close(out, expected)
    seen.clear()
    norm.norm.train()
    model(torch.randn(2, 3, 64, 64))
    (_, _, after_map), (_, _, after_mean) = seen
    assert not torch.equal(after_map, after_mean)  # two samples have statistics of their own


@pytest.mark.parametrize('with_cp', [False, True])
def test_large_maps_compute_their_mlps_anew(with_cp, monkeypatch):
    """The gradients and the statistics are the same, and fewer values are kept."""
    x = torch.randn(2, 3, 64, 96)
    results = []
    for large in (16, 10**6):
        monkeypatch.setattr(transxnet, '_LARGE', large)
        torch.manual_seed(0)
        model = tiny('TransXNet', with_cp=with_cp)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda y, kept=kept: (kept.append(y.numel()), y)[1], lambda y: y):
            loss = sum(y.square().mean() for y in model(x))
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append((gradients, dict(model.named_buffers()), sum(kept)))
    (gradients, buffers, few), (expected, expected_buffers, many) = results
    assert_close(gradients, expected)
    assert_close(buffers, expected_buffers)
    assert with_cp or few < 0.75 * many


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        (dict(channels=[8, 12, 18, 24]), 'stage 2 has 18 channels and 2 heads'),
        (dict(channels=[6, 12, 16, 24]), 'stage 0 has 6 channels and 1 heads: .* 8 or more'),
        (dict(image_size=0), r"arch\['image_size'\] must be a whole number above 0"),
    ],
)
def test_bad_arch(entries, message):
    with pytest.raises(InputError, match=message):
        TransXNet({**ARCH, **entries})


def test_a_users_mixer_may_name_the_settings():
    class Mine(nn.Module):
        def __init__(self, channels, num_heads):
            super().__init__()
            self.num_heads = num_heads

        def forward(self, x, bias):
            return x

    model = TransXNet(ARCH, parts=dict(mixer=[None, None, Mine, None]))
    assert [block.mixer.num_heads for block in model.stages[2].blocks] == [2, 2]
    model(torch.randn(2, 3, 64, 64))
