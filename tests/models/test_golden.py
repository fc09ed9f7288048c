"""ATMNet against numbers computed from the authors' definition (tests/golden)."""

import pytest
import torch
from torch import nn

import golden_data
from mmatm.models import ATMNet

CASES = [(name, index) for name in ('mini_a', 'mini_b', 'xt') for index in (0, 1)]


@pytest.mark.parametrize(('name', 'index'), CASES)
@pytest.mark.parametrize(
    ('dtype', 'output_tolerance', 'gradient_tolerance'),
    [(torch.float64, 1e-9, 1e-7), (torch.float32, 1e-4, 1e-4)],
    ids=['float64', 'float32'],
)
def test_pyramid_and_gradients(name, index, dtype, output_tolerance, gradient_tolerance):
    golden = golden_data.load(name)
    case = golden['cases'][index]
    model = golden_data.pyramid(golden, dtype)
    x = golden_data.golden_image(case['height'], case['width'], dtype).requires_grad_()

    maps = model(x)
    for got, expected in zip(maps, case['pyramid'], strict=True):
        assert list(got.shape) == expected['shape']
        assert_within(got.flatten()[expected['index']], expected['value'], output_tolerance)
        # The mean of a normalised map is nearly 0: measured against the map's size.
        assert abs(got.double().mean().item() - expected['mean']) < output_tolerance
        assert got.double().std().item() == pytest.approx(expected['std'], rel=output_tolerance)

    if dtype == torch.float32 and not same_cells(golden, case):
        gradient_tolerance = 5e-2
    loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view(y.shape)).mean() for y in maps)
    assert loss.item() == pytest.approx(case['loss'], rel=output_tolerance)
    loss.backward()
    gradient = case['input_grad']
    assert x.grad.norm().item() == pytest.approx(gradient['norm'], rel=gradient_tolerance)
    assert_within(x.grad.flatten()[gradient['index']], gradient['value'], gradient_tolerance)
    norms = {ATMNet.PUBLISHED.own_name(key): norm for key, norm in case['parameter_grad_norm'].items()}
    assert set(norms) == {key for key, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(norms[key], rel=gradient_tolerance, abs=1e-12), key


@pytest.mark.parametrize(('name', 'index'), CASES)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=['f64', 'f32'])
def test_classifier_logits(name, index, dtype, tolerance):
    golden = golden_data.load(name)
    case = golden['cases'][index]
    weights = golden_data.authors_weights(golden['classifier_shapes'])
    head = nn.Linear(*reversed(weights['head.weight'].shape))
    head.load_state_dict({key: weights.pop(f'head.{key}') for key in ('weight', 'bias')})
    model = ATMNet(golden['atmnet_arch'], out_indices=[3])
    model.load_state_dict(weights)
    model, head = model.to(dtype).eval(), head.to(dtype)

    (y,) = model(golden_data.golden_image(case['height'], case['width'], dtype))
    logits = head(y.mean((2, 3))).flatten()
    expected = case['logits']
    assert_within(logits[:16], expected['first16'], tolerance)
    assert logits.double().std().item() == pytest.approx(expected['std'], rel=tolerance)


@pytest.mark.parametrize(
    ('arch', 'expected'),
    [('xt', 15_349_128), ('t', 27_152_232), ('s', 38_631_448), ('b', 52_154_792), ('l', 76_238_032)],
)
def test_classifier_parameter_counts(arch, expected):
    model = ATMNet(arch, out_indices=[3])
    head = nn.Linear(model.out_channels[0], 1000)
    assert sum(p.numel() for module in (model, head) for p in module.parameters()) == expected


def same_cells(golden, case):
    """Whether float32 samples between the same two tokens everywhere as float64 does.

    Offsets of the golden networks are large. Where rounding carries one over a whole number the output hardly changes,
    but the derivative by the offset, v[p0 + 1] - v[p0], is that of another cell.
    """
    return torch.equal(*(offsets(golden, case, dtype).floor() for dtype in (torch.float32, torch.float64)))


def offsets(golden, case, dtype):
    """All offsets of a forward pass, flat, in float64."""
    model = golden_data.pyramid(golden, dtype)
    found = []
    for block in (block for stage in model.stages for block in stage.blocks if block.predicts_offsets):
        block.offset_fc.register_forward_hook(lambda module, args, offset: found.append(offset.detach().double()))
    model(golden_data.golden_image(case['height'], case['width'], dtype))
    return torch.cat([offset.flatten() for offset in found])


def assert_within(got, expected, tolerance):
    """Relative to the largest expected value: single values may be nearly 0."""
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got.detach().double(), expected, rtol=0, atol=tolerance * expected.abs().max().item())


if __name__ == '__main__':
    for name in ('mini_a', 'mini_b', 'xt'):
        golden = golden_data.load(name)
        for case in golden['cases']:
            exact, rounded = (offsets(golden, case, dtype) for dtype in (torch.float64, torch.float32))
            crossed = (exact.floor() != rounded.floor()).sum().item()
            error = (exact - rounded).abs().max().item()
            size = f'{case["height"]}x{case["width"]}'
            print(f'{name} {size}: {len(exact)} offsets, float32 error up to {error:.1e}, {crossed} in another cell')
