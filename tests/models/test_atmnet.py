"""The backbone: its options, its outputs' form, what it refuses. Exactness is in test_golden.py."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmatm.errors import InputError
from mmatm.models import ATMNet

MINI = {
    'depths': [2, 3, 4, 2],
    'channels': [8, 16, 16, 24],
    'mlp_ratios': [2, 2, 2, 2],
    'channels_per_offset': [2, 4, 4, 8],
    'offset_interval': 2,
}


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def changed(**entries):
    return {**MINI, **entries}


@pytest.mark.parametrize(('height', 'width'), [(32, 32), (33, 47), (64, 96), (97, 35), (32, 203)])
def test_output_shapes(height, width):
    model = ATMNet(MINI)
    maps = model(torch.randn(1, 3, height, width))
    size = (height - 3) // 4 + 1, (width - 3) // 4 + 1
    assert isinstance(maps, tuple)
    for y, channels in zip(maps, MINI['channels'], strict=True):
        assert y.shape == (1, channels, *size)
        assert y.is_contiguous()
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
    assert model.out_channels == tuple(MINI['channels'])
    assert model.out_strides == (4, 8, 16, 32)


@pytest.mark.parametrize(('out_indices', 'stages'), [([0], [0]), ((1, 3), [1, 3]), ([-2, -1], [2, 3]), ((3,), [3])])
def test_out_indices(x, out_indices, stages):
    given = copy.copy(out_indices)
    model = ATMNet(MINI, out_indices=out_indices)
    assert out_indices == given
    assert [y.shape[1] for y in model(x)] == [MINI['channels'][i] for i in stages]
    assert [name for name, _ in model.named_children() if name.startswith('norm')] == [f'norm{i}' for i in stages]
    sum(y.square().sum() for y in model(x)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # or distributed training stops


@pytest.mark.parametrize(('output_stride', 'strides'), [(8, (4, 8, 8, 8)), (16, (4, 8, 16, 16)), (32, (4, 8, 16, 32))])
def test_output_stride(output_stride, strides):
    model = ATMNet(MINI, output_stride=output_stride)
    maps = model(torch.randn(1, 3, 64, 96))
    assert [y.shape[2:] for y in maps] == [(64 // s, 96 // s) for s in strides]
    assert model.out_strides == strides
    assert ATMNet(MINI, output_stride=output_stride, out_indices=(3,)).out_strides == strides[3:]
    maps = model(torch.randn(1, 3, 51, 37))  # whose stages have odd sizes
    assert [tuple(y.shape[2:]) for y in maps] == {
        8: [(13, 9), (7, 5), (7, 5), (7, 5)],
        16: [(13, 9), (7, 5), (4, 3), (4, 3)],
        32: [(13, 9), (7, 5), (4, 3), (2, 2)],
    }[output_stride]


@pytest.mark.parametrize('output_stride', [8, 16])
def test_output_stride_keeps_the_function(x, output_stride):
    """With offsets of whole tokens and fixed branch weights, a dense map holds the tokens of the coarse one exactly."""
    torch.manual_seed(0)
    coarse = ATMNet(MINI).double().eval()
    for stage in coarse.stages:
        nn.init.normal_(stage.position.bias)
        for block in stage.blocks:
            nn.init.normal_(block.mixer.fusion.fc2.weight, std=0)
            nn.init.normal_(block.mixer.fusion.fc2.bias)
            if block.predicts_offsets:
                nn.init.zeros_(block.offset_fc.weight)
                block.offset_fc.bias.data.random_(-2, 3)
    dense = ATMNet(MINI, output_stride=output_stride).double().eval()
    dense.load_state_dict(coarse.state_dict())
    for got, expected in zip(dense(x.double()), coarse(x.double()), strict=True):
        every = got.shape[2] // expected.shape[2]
        assert_close(got[:, :, ::every, ::every], expected, rtol=1e-10, atol=1e-10)
    assert every == 32 // output_stride


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(x, dtype):
    model = ATMNet(MINI, drop_path_rate=0.0)
    expected = model(x)
    with torch.autocast('cpu', dtype=dtype):
        maps = model(x)
        loss = sum(y.float().square().mean() for y in maps)
    loss.backward()
    for got, y in zip(maps, expected, strict=True):
        assert not torch.equal(got.float(), y)  # it did run in lower precision
        torch.testing.assert_close(got.float(), y, rtol=0.05, atol=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_offsets_are_predicted_in_float32(x, dtype):
    model = ATMNet(MINI).eval()
    offsets = []
    for block in (block for stage in model.stages for block in stage.blocks):
        block.mixer.register_forward_hook(lambda module, args, out: offsets.append(args[1].dtype))
    with torch.autocast('cpu', dtype):
        model(x)
    assert set(offsets) == {torch.float32}
    offsets.clear()
    model.to(dtype)(x.to(dtype))  # a model that is of the type itself
    assert set(offsets) == {dtype}


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('train', [False, True])
def test_compiles_to_one_graph(x, train, autocast, compile_model):
    model = ATMNet(MINI, drop_path_rate=0, out_indices=(0, 1)).train(train)  # two stages, as tracing takes its time
    compiled = compile_model(model, backend='aot_eager')
    results = []
    for function in (model, compiled):
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast), torch.set_grad_enabled(train):
            maps = function(x)
        results.append([*maps])
        if train:
            weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) for y in maps]
            results[-1] += torch.autograd.grad(maps, [*model.parameters()], weights)
    tolerance = 1e-2 if autocast else 1e-4
    for got, expected in zip(*reversed(results), strict=True):
        assert_close(got, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize('train', [False, True])
def test_compiles_for_any_size(train, compile_model):
    model = ATMNet(MINI, drop_path_rate=0.3, with_cp=True, out_indices=(0, 1)).train(train)
    compiled = compile_model(model, dynamic=True, backend='aot_eager')
    for size in ((32, 40), (64, 96), (96, 64)):  # either side of where the second stage's mixer folds
        x = torch.randn(2, 3, *size)
        with torch.set_grad_enabled(train):
            torch.manual_seed(0)
            expected = model(x)
            torch.manual_seed(0)
            assert_close(compiled(x), expected, rtol=1e-3, atol=1e-3)
        if train:
            sum(y.sum() for y in compiled(x)).backward()


def test_runs_without_data():
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that no kernel is for this device
        maps = ATMNet(MINI)(torch.empty(1, 3, 64, 96))
    assert [y.shape[1:] for y in maps] == [(8, 16, 24), (16, 8, 12), (16, 4, 6), (24, 2, 3)]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_trains_as_float32_does(x, dtype):
    def losses(autocast):
        torch.manual_seed(0)
        model = ATMNet(MINI, drop_path_rate=0)
        heads = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in model.out_channels)
        parameters = [*model.parameters(), *heads.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=2e-3)
        scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10, enabled=autocast and dtype == torch.float16)
        target = x.mean(1, keepdim=True).cumsum(-1)
        values = []
        for _ in range(30):
            with torch.autocast('cpu', dtype, enabled=autocast):
                maps = [head(y) for head, y in zip(heads, model(x), strict=True)]
            wanted = (nn.functional.adaptive_avg_pool2d(target, y.shape[2:]) for y in maps)
            loss = sum(nn.functional.mse_loss(y.float(), t) for y, t in zip(maps, wanted, strict=True))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            values.append(loss.item())
        return values

    exact, got = losses(False), losses(True)
    assert exact[-1] < 0.7 * exact[0]
    assert got == pytest.approx(exact, rel=0.1)


@pytest.mark.slow
def test_compiles_with_inductor(x, compile_model):
    model = ATMNet(MINI).eval()
    with torch.no_grad():
        assert_close(compile_model(model)(x), model(x), rtol=1e-3, atol=1e-3)


def test_position_convolutions_gradients_lie_in_memory_as_their_weights_do(x):
    # Or distributed training copies them in every step, and warns.
    model = ATMNet(MINI)
    found = []
    for weight in (stage.position.weight for stage in model.stages):
        weight.register_hook(lambda gradient, weight=weight: found.append(gradient.stride() == weight.stride()))
    sum((y * torch.randn_like(y)).sum() for y in model(x)).backward()
    assert found
    assert all(found)


def test_every_parameter_gets_a_gradient(x):
    model = ATMNet(MINI)
    sum((y * torch.randn_like(y)).sum() for y in model(x)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_checkpointing_keeps_gradients_and_saves_memory(x):
    results, saved = [], []
    state = ATMNet(MINI).state_dict()
    for with_cp in (False, True):
        model = ATMNet(MINI, drop_path_rate=0.5, with_cp=with_cp)
        model.load_state_dict(state)
        sizes = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            maps = model(x)
            # Not the mean square, which the output norms fix: its gradient would be nothing.
            loss = sum((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).mean() for y in maps)
        saved.append(sum(sizes))
        loss.backward()
        results.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)
    assert saved[1] < 0.4 * saved[0]


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages(x, frozen_stages):
    model = ATMNet(MINI, frozen_stages=frozen_stages).double().train()
    frozen = [] if frozen_stages < 0 else ['stem.', *(f'stages.{i}.' for i in range(frozen_stages))]
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    sum((y * torch.randn_like(y)).sum() for y in model(x.double())).backward()
    optimizer.step()
    for name, after in model.state_dict().items():
        assert torch.equal(before[name], after) == name.startswith(tuple(frozen)), name
    for name, module in model.named_modules():
        if name:
            assert module.training != f'{name}.'.startswith(tuple(frozen)), name


def test_train_and_eval_return_self():
    model = ATMNet(MINI)
    assert model.eval() is model
    assert model.train() is model


def test_drop_path_rises_linearly_and_acts_in_training_only(x):
    model = ATMNet(MINI, drop_path_rate=0.5)
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    torch.testing.assert_close(rates, [0.05 * i for i in range(11)])
    model.eval()
    torch.testing.assert_close(model(x)[3], model(x)[3], rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(x)[3], model(x)[3])
    drop_path = model.stages[3].blocks[1].drop_path
    y = drop_path(torch.full((20000, 1, 1, 1), 3.0), torch.ones(20000, 1, 1, 1)) - 3
    assert set(y.flatten().tolist()) == {0.0, 2.0}
    assert abs(y.mean().item() - 1) < 0.05


def test_gradients_of_an_untrained_network_are_moderate_where_images_are_padded():
    torch.manual_seed(0)
    arch = dict(depths=[3, 4, 18, 3], channels=[16, 16, 24, 32], mlp_ratios=[4] * 4, channels_per_offset=[2, 4, 4, 8])
    model = ATMNet({**arch, 'offset_interval': 6}, drop_path_rate=0.0)
    x = torch.randn(1, 3, 128, 192)
    x[..., 96:] = 0
    loss = sum((y * torch.linspace(-1, 1, y.numel()).view(y.shape)).mean() for y in model(x))
    loss.backward()
    assert max(p.grad.norm().item() for p in model.parameters()) < 100


def test_initialisation():
    torch.manual_seed(0)
    model = ATMNet('xt')
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 0.02
        elif isinstance(module, nn.Conv2d):
            std = (2 / (module.kernel_size[0] ** 2 * module.out_channels / module.groups)) ** 0.5
        else:
            continue
        assert module.weight.std().item() == pytest.approx(std, rel=0.15), name
        if name == 'stem':
            assert module.bias.std().item() == pytest.approx(0.02, rel=0.3)
        else:
            assert module.bias is None or not module.bias.any(), name
    before = copy.deepcopy(model.state_dict())
    model.init_weights()  # the toolboxes call it; the constructor's values stay
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('name', 'alias'), [('xt', 'xtiny'), ('t', 'tiny'), ('s', 'small'), ('b', 'base'), ('l', 'large')]
)
def test_aliases(name, alias):
    assert ATMNet.resolve_arch(name) == ATMNet.resolve_arch(alias) == ATMNet.SIZES[name]
    assert ATMNet.short_name(alias) == name


def test_layer_depth():
    model = ATMNet(MINI)
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()}
    assert {count for _, count in depths.values()} == {13}
    assert depths['stem.weight'][0] == 0
    assert depths['stages.0.position.weight'][0] == depths['stages.0.blocks.0.norm1.weight'][0] == 1
    assert depths['stages.1.downsample.weight'][0] == depths['stages.1.blocks.0.mlp.fc1.bias'][0] == 3
    assert depths['stages.3.blocks.1.norm2.bias'][0] == 11
    assert depths['norm0.weight'][0] == depths['norm3.weight'][0] == 12
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (12, 13)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'arch': 'huge'}, "no ATMNet of size 'huge'; there are xt, t, s, b, l, xtiny"),
        ({'arch': {k: v for k, v in MINI.items() if k != 'depths'}}, r"missing: \['depths'\]"),
        ({'arch': changed(heads=[1, 1, 1, 1])}, r"unknown: \['heads'\]"),
        ({'arch': {('depth' if k == 'depths' else k): v for k, v in MINI.items()}}, r"missing: .*unknown: \['depth'\]"),
        ({'arch': changed(depths=[2, 1, 2, 2])}, 'stage 1 has depth 1; at least 2'),
        ({'arch': changed(depths=[2, 2, 2])}, '4 whole numbers above 0'),
        ({'arch': changed(depths=[2, 2, 2, '2'])}, '4 whole numbers above 0'),
        ({'arch': changed(offset_interval=0)}, 'a whole number above 0, not 0'),
        ({'arch': changed(channels_per_offset=[3, 4, 4, 8])}, 'stage 0 has 8 channels, of which 3'),
        ({'out_indices': (0, 4)}, r'out_indices must be rising numbers of stages 0 to 3, not \(0, 4\)'),
        ({'out_indices': (-5,)}, 'out_indices'),
        ({'out_indices': (2, 1)}, 'out_indices'),
        ({'out_indices': (3, -1)}, 'out_indices'),
        ({'out_indices': ()}, 'out_indices'),
        ({'out_indices': 3}, 'out_indices'),
        ({'frozen_stages': 5}, 'frozen_stages must be -1'),
        ({'frozen_stages': -2}, 'frozen_stages must be -1'),
        ({'drop_path_rate': 1.0}, 'drop_path_rate'),
        ({'output_stride': 4}, 'output_stride must be 8, 16 or 32, not 4'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        ATMNet(**{'arch': MINI, **options})


def test_misspelt_option():
    with pytest.raises(TypeError, match='frozen_stage'):
        ATMNet(MINI, frozen_stage=1)


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (torch.zeros(1, 1, 64, 64), r'\(B, 3, H, W\), not \(1, 1, 64, 64\)'),
        (torch.zeros(1, 4, 64, 64), r'\(B, 3, H, W\), not \(1, 4, 64, 64\)'),
        (torch.zeros(3, 64, 64), r'\(B, 3, H, W\)'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r'not torch\.uint8; convert'),
        (torch.zeros(1, 3, 31, 64), '32x32 or more, not 31x64'),
    ],
)
def test_bad_input(bad, message):
    with pytest.raises(InputError, match=message):
        ATMNet(MINI)(bad)
