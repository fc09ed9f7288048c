"""The mixer: its folded forms against the definition, the DeformConv baseline, autocast and torch.compile."""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn
from torch.testing import assert_close

from mmatm.benchmark.deform_conv_baseline import use_deform_conv
from mmatm.models.active_token_mixer import ActiveTokenMixer, Mlp
from mmatm.ops import axial_sample, axial_sample_stacked

# Maps with fewer tokens than 3C, from where on layers are folded, as many, and more.
MAPS = [(3, 5), (6, 8), (9, 7)]
CHANNELS = 16


def definition(mixer, x, offset):
    """The paper's formulas, one after the other."""
    x_w, x_h = axial_sample(x, offset, 'reference')
    w, h, c = mixer.fc_w(x_w), mixer.fc_h(x_h), mixer.fc_c(x)
    mlp = mixer.fusion
    a = mlp.fc2(mlp.act(mlp.fc1((w + h + c).mean((1, 2))))).view(-1, 1, 1, CHANNELS, 3).softmax(-1)
    return mixer.proj(a[..., 0] * w + a[..., 1] * h + a[..., 2] * c)


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    mixer = ActiveTokenMixer(CHANNELS).double()
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return mixer


def inputs(height, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height)
    x = torch.randn(3, height, width, CHANNELS, generator=generator, dtype=dtype)
    offset = 3 * torch.randn(3, height, width, 8, generator=generator, dtype=dtype)
    return x.requires_grad_(), offset.requires_grad_()


def results(function, mixer, x, offset):
    """The output and the gradients by both inputs and all parameters, every output with a weight of its own."""
    out = function(x, offset)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out, *torch.autograd.grad((out * weight).sum(), (x, offset, *mixer.parameters()))


@pytest.mark.parametrize('size', MAPS)
def test_folding_changes_nothing(size, mixer):
    x, offset = inputs(*size)
    expected = results(lambda *args: definition(mixer, *args), mixer, x, offset)
    assert_close(results(mixer, mixer, x, offset), expected)
    assert_close(results(use_deform_conv(mixer), mixer, x, offset), expected)
    assert type(mixer) is not ActiveTokenMixer


@pytest.mark.parametrize('size', MAPS)
def test_samples_do_not_mix(size, mixer):
    x, offset = inputs(*size)
    assert_close(mixer(x[1:2], offset[1:2]), mixer(x, offset)[1:2])


@pytest.mark.parametrize('size', MAPS)
def test_layers_put_in_place_of_others_are_called(size, mixer):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    def double(layer):
        doubled = Doubled(layer.in_features, layer.out_features, layer.bias is not None).double()
        doubled.load_state_dict(layer.state_dict())
        return doubled

    x, offset = inputs(*size)
    for name in ('fc_w', 'fc_h', 'fc_c', 'proj'):
        setattr(mixer, name, double(getattr(mixer, name)))
    mixer.fusion.fc2 = double(mixer.fusion.fc2)
    assert_close(mixer(x, offset), definition(mixer, x, offset))


@pytest.mark.parametrize(('size', 'most'), [((3, 5), 1), ((6, 8), 0.9), ((20, 20), 0.55)])
def test_folding_keeps_fewer_activations(size, most, mixer):
    def kept(function):
        x, offset = inputs(*size)
        own = {x.untyped_storage().data_ptr(), *(p.untyped_storage().data_ptr() for p in mixer.parameters())}
        sizes = {}

        def note(tensor):
            if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in own:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            function(x, offset)
        return sum(sizes.values())

    def unfolded(x, offset):
        return mixer._mix(axial_sample_stacked(x, offset).flatten(1, 2))

    assert kept(mixer) <= most * kept(unfolded)


def test_flops_are_counted_as_defined(mixer):
    x, offset = inputs(9, 7)
    analysis = FlopAnalyzer(mixer, (x, offset))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    # Four layers of C x C on 3 * 63 tokens; the rest belongs to a single token of each sample.
    assert analysis.total() == pytest.approx(4 * CHANNELS**2 * 189, rel=0.02)


@pytest.mark.parametrize('shape', [(5, 4), (2, 3, 3, 4)])
def test_mlp_keeps_one_hidden_map(shape):
    torch.manual_seed(0)
    mlp = Mlp(4, 12, 6).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results, kept = [], []
    for training in (True, False):
        mlp.train(training)
        hidden = set()

        def note(tensor, hidden=hidden):
            if tensor.numel() == x.numel() * 3 and not tensor.is_leaf:
                hidden.add(tensor.untyped_storage().data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            y = mlp(x)
        kept.append(len(hidden))
        weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        results.append((y, *torch.autograd.grad((y * weight).sum(), (x, *mlp.parameters()))))
    assert_close(*results)
    assert kept == [1, 2]
    assert torch.autograd.gradcheck(mlp.train(), x)


@pytest.mark.parametrize('size', MAPS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(size, dtype, mixer):
    x, offset = inputs(*size)
    expected = mixer(x, offset)
    mixer, x, offset = mixer.float(), x.detach().float(), offset.detach().float()
    with torch.autocast('cpu', dtype):
        got = mixer(x, offset)
    assert got.dtype == dtype
    assert (got.double() - expected).norm() < 20 * torch.finfo(dtype).eps * expected.norm()


def double_output(module, args, output):
    return 2 * output


def double_gradient(module, *gradients):
    return tuple(gradient if gradient is None else 2 * gradient for gradient in gradients[0])


HOOKS = {
    'forward_hook': double_output,
    'forward_pre_hook': lambda module, args: (2 * args[0],),
    'full_backward_hook': double_gradient,
    'full_backward_pre_hook': double_gradient,
}


@pytest.mark.parametrize('everywhere', [False, True])
@pytest.mark.parametrize('kind', list(HOOKS))
@pytest.mark.parametrize('name', ['fusion.fc2', 'fc_w', 'proj', 'fusion.act'])
def test_hooks_of_layers_are_called(name, kind, everywhere, mixer):
    """As often as the definition calls them."""
    called = []
    layer = mixer.get_submodule(name)

    def hook(module, *arguments):
        if module is not layer:
            return None
        called.append(kind)
        return HOOKS[kind](module, *arguments)

    x, offset = inputs(9, 7)
    plain = results(mixer, mixer, x, offset)
    if everywhere:
        handle = getattr(nn.modules.module, f'register_module_{kind}')(hook)
    else:
        handle = getattr(layer, f'register_{kind}')(hook)
    try:
        got = results(mixer, mixer, x, offset)
        count = len(called)
        expected = results(lambda *args: definition(mixer, *args), mixer, x, offset)
    finally:
        handle.remove()
    assert_close(got, expected)
    assert len(called) == 2 * count > 0
    assert any((y - was).abs().max() > 1e-3 for y, was in zip(got, plain, strict=True))


@pytest.mark.parametrize('size', MAPS)
def test_layers_that_are_changed_in_place_are_called(size, mixer):
    """By their own forward, as some libraries patch them, by parametrizations, by another bias than there was."""
    x, offset = inputs(*size)
    fc_w, fc_c = mixer.fc_w, mixer.fc_c
    plain = fc_w.forward
    fc_w.forward = lambda tokens: 2 * plain(tokens)
    nn.utils.parametrizations.weight_norm(mixer.fc_h)
    with torch.no_grad():
        mixer.fc_h.parametrizations.weight.original0 *= 2
    fc_c.bias = nn.Parameter(torch.ones(CHANNELS, dtype=torch.float64))
    mixer.proj.register_parameter('bias', None)
    mixer.fusion.fc2.register_parameter('bias', None)
    mixer.fusion.act.approximate = 'tanh'
    assert_close(mixer(x, offset), definition(mixer, x, offset))


def test_frozen_layers_get_no_gradient(mixer):
    mixer.requires_grad_(False)
    x, offset = inputs(9, 7)
    mixer(x, offset).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in mixer.parameters())


@pytest.mark.parametrize('size', MAPS)
def test_compiles_to_one_graph(size, mixer, compile_model):
    x, offset = inputs(*size)
    compiled = compile_model(mixer, backend='aot_eager')
    assert_close(results(compiled, mixer, x, offset), results(mixer, mixer, x, offset))
    with torch.no_grad():
        assert_close(compiled(x, offset), mixer(x, offset))
