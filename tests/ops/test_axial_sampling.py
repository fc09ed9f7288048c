"""Axial sampling, each backend: its definition, torchvision's deformable convolution, finite differences, types."""

import math
import os
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.ops import deform_conv2d

from mmatm import ops
from mmatm.ops.axial_sampling import cpu
from mmatm.ops.cpu_library import load_library

# (B, H, W, C, G); S = C / G is 2, 1, 4 with one group, 4, 8, 3 with an odd number of groups, and 16.
SHAPES = [
    (2, 5, 7, 6, 3),
    (1, 1, 9, 4, 4),
    (3, 8, 1, 4, 1),
    (1, 13, 11, 8, 2),
    (1, 4, 5, 16, 2),
    (2, 3, 6, 15, 5),
    (1, 1, 1, 32, 2),
]
BACKENDS = ['reference', 'cpu', 'triton']


DEVICES = {'triton': 'cuda' if torch.cuda.is_available() else 'cpu'}


@pytest.fixture(autouse=True)
def needs_the_kernel(request):
    if 'cpu' in (request.node.callspec.params if hasattr(request.node, 'callspec') else {}).values() and cpu._problem:
        pytest.skip(cpu._problem)


def on_device(function):
    """The function of (x, offset, backend), run where the backend runs, on tensors of the CPU."""

    def run(x, offset, backend=None):
        device = DEVICES.get(backend, 'cpu')
        results = function(x.to(device), offset.to(device), backend)
        return tuple(y.cpu() for y in results) if isinstance(results, tuple) else results.cpu()

    return run


axial_sample, axial_sample_stacked = on_device(ops.axial_sample), on_device(ops.axial_sample_stacked)


def random_case(b, h, w, c, groups, dtype=torch.float64, spread=4.0):
    generator = torch.Generator().manual_seed(b * h * w * c)
    x = torch.randn(b, h, w, c, generator=generator, dtype=torch.float64)
    offset = spread * torch.randn(b, h, w, 2 * groups, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), offset.to(dtype).requires_grad_()


def maps_and_gradients(function, x, offset, **options):
    """x_w, x_h and the gradients by x and offset of a sum in which every value has a weight of its own."""
    maps = function(x, offset, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in maps]
    return (*maps, *torch.autograd.grad(maps, (x, offset), weights))


def by_hand(x, offset):
    """The definition, one channel at a time."""
    b, h, w, c = x.shape
    groups = offset.shape[-1] // 2
    x_w, x_h = torch.zeros_like(x), torch.zeros_like(x)

    def read(line, position):
        low = math.floor(position)
        values = [line[p].item() if 0 <= p < len(line) else 0.0 for p in (low, low + 1)]
        return (1 - (position - low)) * values[0] + (position - low) * values[1]

    for n in range(b):
        for i in range(h):
            for j in range(w):
                for k in range(c):
                    group = k // (c // groups)
                    x_w[n, i, j, k] = read(x[n, i, :, k], j + offset[n, i, j, group].item())
                    x_h[n, i, j, k] = read(x[n, :, j, k], i + offset[n, i, j, groups + group].item())
    return x_w, x_h


def by_deform_conv2d(x, offset):
    """As ATMNet's authors compute it: a zero-filled field of (row, column) offsets for each channel, twice."""
    b, h, w, c = x.shape
    groups = offset.shape[-1] // 2
    per_channel = offset.repeat_interleave(c // groups, -1).permute(0, 3, 1, 2)
    identity = torch.eye(c, dtype=x.dtype)[:, :, None, None]
    results = []
    for axis, moved in ((1, per_channel[:, :c]), (0, per_channel[:, c:])):
        field = torch.zeros(b, c, 2, h, w, dtype=x.dtype)
        field[:, :, axis] = moved
        sampled = deform_conv2d(x.permute(0, 3, 1, 2), field.flatten(1, 2), identity)
        results.append(sampled.permute(0, 2, 3, 1))
    return tuple(results)


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.mark.parametrize('shape', SHAPES)
def test_definition(shape, backend):
    x, offset = random_case(*shape)
    expected = by_hand(x.detach(), offset.detach())
    assert_close(axial_sample(x, offset, backend), expected)
    assert_close(axial_sample_stacked(x, offset, backend), torch.cat((*expected, x), dim=-1))


@pytest.mark.parametrize('shape', SHAPES)
def test_deform_conv2d_and_its_gradients(shape, backend):
    x, offset = random_case(*shape)
    expected = maps_and_gradients(by_deform_conv2d, x, offset)
    assert_close(maps_and_gradients(axial_sample, x, offset, backend=backend), expected)


@pytest.mark.parametrize('shape', SHAPES[:3])
def test_gradcheck(shape, backend):
    x, offset = random_case(*shape)
    with torch.no_grad():  # away from whole numbers, where the derivative jumps
        offset.copy_(offset.floor() + 0.1 + 0.8 * (offset - offset.floor()))
    fast = backend == 'triton'  # in random directions only, as the interpreter is slow
    assert torch.autograd.gradcheck(lambda *args: axial_sample_stacked(*args, backend), (x, offset), fast_mode=fast)


@pytest.mark.parametrize('backend', ['cpu', 'triton'])
def test_any_shape_and_offset(backend):
    sizes = st.integers(1, 9)

    @settings(max_examples=300 if backend == 'cpu' else 4, deadline=None, derandomize=True)
    @given(
        st.integers(1, 3), sizes, sizes, st.integers(1, 5), sizes, st.floats(0, 30), st.integers(0, 2**31), st.data()
    )
    def check(b, h, w, groups, size, spread, seed, data):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(w, b, h, groups * size, generator=generator, dtype=torch.float64)
        offset = spread * torch.randn(h, w, b, 2 * groups, generator=generator, dtype=torch.float64)
        special = data.draw(st.lists(st.sampled_from([math.inf, -math.inf, math.nan, 0.0, -1.0, 1e300]), max_size=4))
        for value in special:
            offset.view(-1)[data.draw(st.integers(0, offset.numel() - 1))] = value
        # Views in another order than in memory.
        x, offset = x.permute(1, 2, 0, 3).requires_grad_(), offset.permute(2, 0, 1, 3).requires_grad_()
        expected = maps_and_gradients(axial_sample, x, offset, backend='reference')
        assert_close(maps_and_gradients(axial_sample, x, offset, backend=backend), expected)

    check()


def test_what_lies_outside_does_not_count_however_large(backend):
    x, offset = random_case(1, 3, 4, 6, 3)
    with torch.no_grad():
        x[:, 0], x[:, :, 0] = math.inf, math.nan
        offset.fill_(100)
    for tensor in maps_and_gradients(axial_sample, x, offset, backend=backend):
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_zero_offsets_keep_the_map(backend):
    x, offset = random_case(2, 6, 5, 8, 4)
    for y in axial_sample(x, torch.zeros_like(offset), backend):
        assert_close(y, x, rtol=0, atol=0)


@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan, 1e30, -1e30])
def test_samples_outside_are_zero_without_gradient(value, backend):
    x, offset = random_case(1, 4, 4, 2, 1)
    offset = torch.full_like(offset, value).requires_grad_()
    maps = axial_sample(x, offset, backend)
    sum(y.sum() for y in maps).backward()
    for tensor in (*maps, x.grad, offset.grad):
        assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float32, 1e-6)])
def test_positions_are_exact_in_low_precision(dtype, tolerance, backend):
    # In bf16 the sum 300 + 0.5 would be 300: positions must not be computed in the map's type.
    x = torch.linspace(0, 1, 320, dtype=torch.float64).expand(1, 1, 320).unsqueeze(-1)
    offset = torch.full((1, 1, 320, 2), 0.5, dtype=torch.float64)
    got, _ = axial_sample(x.to(dtype), offset.to(dtype), backend)
    assert got.dtype == dtype
    expected, _ = axial_sample(x.to(dtype).double(), offset)
    assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    x = (torch.arange(320) % 2).to(dtype).view(1, 1, 320, 1)
    got, _ = axial_sample(x, torch.full((1, 1, 320, 2), 0.25, dtype=dtype), backend)
    assert_close(got[0, 0, 300:318:2, 0], torch.full((9,), 0.25, dtype=dtype), rtol=0, atol=0)


@pytest.mark.parametrize('backend', ['cpu', 'triton'])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_round_once(dtype, shape, backend):
    # Arithmetic in float32: what float64 gives, rounded to the type.
    x, offset = random_case(*shape, dtype=dtype)
    exact = maps_and_gradients(
        axial_sample, x.detach().double().requires_grad_(), offset.detach().double().requires_grad_()
    )
    got = maps_and_gradients(axial_sample, x, offset, backend=backend)
    for result, expected in zip(got, exact, strict=True):
        assert result.dtype == dtype
        scale = expected.abs().max().item()
        # The gradients' weights are rounded too.
        tolerance = torch.finfo(dtype).eps if expected is not exact[2] else 8 * torch.finfo(dtype).eps
        assert_close(result.double(), expected, rtol=0, atol=2 * tolerance * scale + 1e-6 * scale)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_cpu_kernel_converts_every_half(dtype):
    # All 65536 bit patterns, there and back.
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(1, 1, 1, -1)
    got, _ = axial_sample(x, torch.zeros(1, 1, 1, 2), 'cpu')
    assert_close(got, x, rtol=0, atol=0, equal_nan=True)
    # What lies between two halves rounds as PyTorch rounds: 0.7 of each, the rest being outside the map.
    got, _ = axial_sample(x, torch.full((1, 1, 1, 2), 0.3), 'cpu')
    assert_close(got, (x.float() * (1 - torch.tensor(0.3))).to(dtype), rtol=0, atol=0, equal_nan=True)


def test_non_contiguous_input_and_empty_batch(backend):
    x, offset = random_case(2, 5, 7, 6, 3)
    expected = maps_and_gradients(axial_sample, x, offset)
    nchw = (t.detach().permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1).requires_grad_() for t in (x, offset))
    assert_close(maps_and_gradients(axial_sample, *nchw, backend=backend), expected)
    channels_last = (
        t.detach().permute(0, 3, 1, 2).to(memory_format=torch.channels_last).permute(0, 2, 3, 1).requires_grad_()
        for t in (x, offset)
    )
    assert_close(maps_and_gradients(axial_sample, *channels_last, backend=backend), expected)
    empty = maps_and_gradients(axial_sample, x[:0], offset[:0], backend=backend)
    assert [tuple(t.shape) for t in empty] == [(0, 5, 7, 6)] * 3 + [(0, 5, 7, 6)]


@pytest.mark.parametrize('backend', ['cpu', 'triton'])
def test_same_bits_each_time(backend):
    x, offset = random_case(2, 9, 8, 8, 2, dtype=torch.float32)
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    try:
        first = maps_and_gradients(axial_sample, x, offset, backend=backend)
        torch.set_num_threads(3)
        second = maps_and_gradients(axial_sample, x, offset, backend=backend)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert_close(second, first, rtol=0, atol=0)
    assert_close(first, maps_and_gradients(axial_sample, x, offset, backend='reference'))


@pytest.mark.parametrize('size', [(0, 0), (0, 3), (3, 0)])
def test_map_without_tokens(size, backend):
    x, offset = random_case(2, *size, 6, 3)
    maps = maps_and_gradients(axial_sample, x, offset, backend=backend)
    assert [y.shape for y in maps] == [x.shape] * 3 + [offset.shape]


def test_triton_takes_more_than_one_program(monkeypatch):
    import mmatm.ops.axial_sampling.triton as kernels

    x, offset = random_case(1, 6, 19, 12, 3)
    expected = maps_and_gradients(axial_sample, x, offset, backend='reference')
    monkeypatch.setattr(kernels, '_VALUES', 64)
    assert kernels._plan(x.shape, 3)[0] > 20
    assert_close(maps_and_gradients(axial_sample, x, offset, backend='triton'), expected)


COMPILE = r"""
import re, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmatm.ops.axial_sampling import triton as kernels

types = dict(x='*bf16', sampled='*bf16', gradient='*bf16', offset='*fp32', offset_gradient='*fp32', x_gradient='*fp32')
for target in (GPUTarget('cuda', 90, 32), GPUTarget('hip', 'gfx942', 64)):
    for size in (128, 700):
        _, forward = kernels._plan(torch.Size((8, size, size, 64)), 32)
        _, gradient = kernels._x_gradient_plan(torch.Size((8, size, size, 64)), 32)
        for kernel, options in (
            (kernels._forward, forward), (kernels._offset_gradient, forward), (kernels._x_gradient, gradient)
        ):
            constants = {name: value for name, value in options.items() if name != 'num_warps'}
            signature = dict.fromkeys(kernel.arg_names, 'i32') | dict.fromkeys(constants, 'constexpr')
            signature |= {name: types[name] for name in kernel.arg_names if name in types}
            places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
            source = ASTSource(fn=kernel, signature=signature, constexprs=places)
            code = triton.compile(source, target=target, options=dict(num_warps=options['num_warps'])).asm['ttir']
            places = re.findall(r'tt\.addptr .*, (?:tensor<[0-9x]*x)?(i[0-9]+)>? loc', code)
            assert places and set(places) == {'i64'}, (target, kernel, places)
            print(target.backend, size, kernel.__name__, len(places))
"""


def test_triton_compiles_with_64_bit_places(tmp_path):
    # For GPUs that need not be there; in a process of its own, as this one may have Triton's interpreter on.
    environment = {**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(tmp_path)}
    script = tmp_path / 'compile.py'  # Triton reads the source of what it compiles
    script.write_text(COMPILE)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12


@pytest.mark.slow
def test_cpu_kernel_counts_beyond_32_bits():
    # 2^31 values in the result. Only its last tokens are looked at.
    b, h, w, c = 2**15, 8, 8, 342
    x = torch.zeros(b, h, w, c, dtype=torch.bfloat16)
    offset = torch.zeros(b, h, w, 2)
    x[-1] = torch.arange(h * w * c).view(h, w, c) % 97
    offset[-1] = torch.arange(h * w * 2).view(h, w, 2) % 5 - 2.5
    assert 3 * x.numel() > 2**31
    got = axial_sample_stacked(x, offset, 'cpu')[-1:]
    assert_close(got, axial_sample_stacked(x[-1:], offset[-1:], 'reference'))


def test_the_cpu_kernel_refuses_what_it_cannot_count():
    one = torch.zeros(1)
    assert cpu.why_not(one.expand(3, 2**14, 2**14, 2)) == cpu._problem
    for shape in ((1, 2**15, 2**15, 1), (1, 1, 2**24 + 1, 1)):
        assert cpu._problem or '2^31 / 3 values an image' in cpu.why_not(one.expand(shape))


@pytest.mark.parametrize('backend', ['cpu', 'triton'])
@pytest.mark.parametrize('shape', [(2, 3, 4, 6, 3), (0, 3, 4, 6, 3)])
def test_operators_keep_pytorchs_rules(shape, backend):
    operators = torch.ops.mmatm
    forward = getattr(operators, f'axial_sample_{backend}').default
    backward = getattr(operators, f'axial_sample_{backend}_backward').default
    device = DEVICES.get(backend, 'cpu')
    x, offset = (t.detach().float().to(device).requires_grad_() for t in random_case(*shape))
    torch.library.opcheck(forward, (x, offset))
    sampled = ops.axial_sample_stacked(x, offset, backend).detach()
    # Its second derivative is refused, so there is nothing to trace of it.
    tests = ('test_schema', 'test_faketensor')
    torch.library.opcheck(backward, (sampled, offset.detach(), torch.ones_like(sampled)), test_utils=tests)


@pytest.mark.parametrize('backend', ['cpu', 'triton'])
def test_second_derivative_is_refused(backend):
    x, offset = random_case(1, 3, 4, 6, 3)
    y, _ = axial_sample(x, offset, backend)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative; use backend='reference'"):
        gradient.square().sum().backward()
    assert torch.autograd.gradgradcheck(lambda x: axial_sample(x, offset.detach(), 'reference')[0].square(), x)


def test_autocast_samples_in_its_type_at_exact_positions(backend):
    x, offset = random_case(1, 1, 300, 4, 2, dtype=torch.float32)
    with torch.autocast(DEVICES.get(backend, 'cpu'), torch.bfloat16):
        got = axial_sample(x, offset, backend)
    assert {y.dtype for y in got} == {torch.bfloat16}
    expected = axial_sample(x.bfloat16().double(), offset.double(), 'reference')
    assert_close([y.double() for y in got], list(expected), rtol=2e-2, atol=2e-2)
    assert maps_and_gradients(axial_sample, x, offset, backend=backend)[3].dtype == torch.float32


def test_without_the_kernel_the_definition_runs_and_says_so_once(monkeypatch, recwarn):
    warnings.simplefilter('always')
    monkeypatch.setattr(cpu, '_problem', 'the CPU kernel was not built: install it')
    x, offset = random_case(2, 5, 7, 6, 3)
    results = [maps_and_gradients(axial_sample, x, offset) for _ in range(2)]
    assert_close(results[0], maps_and_gradients(axial_sample, x, offset, backend='reference'), rtol=0, atol=0)
    (warning,) = [str(w.message) for w in recwarn if 'axial' in str(w.message)]
    assert 'reference implementation' in warning
    assert 'the CPU kernel was not built: install it' in warning
    with pytest.raises(ValueError, match="backend 'cpu' cannot run: the CPU kernel was not built: install it"):
        axial_sample(x, offset, 'cpu')


def test_a_kernel_of_another_version_is_not_used(tmp_path):
    library = next((ROOT / 'mmatm/ops/axial_sampling').glob('_axial_sample*.so'))
    (tmp_path / library.name).symlink_to(library)
    assert not isinstance(load_library(tmp_path, 'axial_sample'), str)  # as in a wheel, without the source
    (tmp_path / 'axial_sample.cpp').write_text('// another')
    assert 'another version of its source: reinstall mmatm' in load_library(tmp_path, 'axial_sample')
    (tmp_path / library.name).unlink()
    assert 'was not built: reinstall mmatm' in load_library(tmp_path, 'axial_sample')


def test_setup_without_a_compiler(tmp_path):
    environment = {**os.environ, 'CC': '/bin/false', 'CXX': '/bin/false'}
    command = [sys.executable, 'setup.py', 'build_ext', '--build-lib', tmp_path, '--build-temp', tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob('*.so'))


def test_index_fields_are_per_group():
    x, offset = random_case(1, 8, 8, 32, 2)
    sizes = []

    def note(tensor):
        if not tensor.is_floating_point():
            sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        axial_sample(x, offset, 'reference')
    assert sizes, 'the definition was expected to keep indices for its backward pass'
    assert max(sizes) <= 8 * 8 * 8 * 2  # bytes of one int64 per token and group


@pytest.mark.parametrize('backend', ['cpu', 'triton'])
def test_kernels_keep_their_result_and_the_offsets_alone(backend):
    x, offset = random_case(1, 8, 8, 32, 2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        axial_sample_stacked(x, offset, backend)
    assert sorted(tensor.numel() for tensor in kept) == [offset.numel(), 3 * x.numel()]


@pytest.mark.parametrize(
    ('x_shape', 'offset_shape', 'options', 'message'),
    [
        ((1, 4, 4, 6), (1, 4, 5, 4), {}, 'same B, H and W'),
        ((4, 4, 6), (4, 4, 4), {}, 'must be'),
        ((1, 4, 4, 6), (1, 4, 4, 3), {}, 'do not divide'),
        ((1, 4, 4, 6), (1, 4, 4, 8), {}, 'do not divide'),
        ((1, 4, 4, 6), (1, 4, 4, 0), {}, 'do not divide'),
        (
            (1, 4, 4, 6),
            (1, 4, 4, 2),
            {'backend': 'abacus'},
            "there is no backend 'abacus'; the backends are cpu, triton, reference",
        ),
    ],
)
def test_bad_arguments(x_shape, offset_shape, options, message):
    with pytest.raises(ValueError, match=message):
        axial_sample(torch.zeros(x_shape), torch.zeros(offset_shape), **options)


def test_integer_input_is_refused():
    with pytest.raises(TypeError, match=r'floating, not torch\.int64'):
        axial_sample(torch.zeros(1, 4, 4, 2, dtype=torch.int64), torch.zeros(1, 4, 4, 2))
