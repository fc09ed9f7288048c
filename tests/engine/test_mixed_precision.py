from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmatm.engine import mixed_precision
from mmatm.engine.mixed_precision import CpuAmpOptimWrapper, computes_bfloat16, fit_to_machine

CPU_INFO = Path('/proc/cpuinfo')


def config(**wrapper):
    return Config({'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.5}, **wrapper}})


@pytest.mark.parametrize(
    ('able', 'kind', 'said'),
    [(True, 'mmatm.CpuAmpOptimWrapper', 'bfloat16 on the CPU'), (False, 'OptimWrapper', 'float32')],
)
def test_mixed_precision_is_that_of_the_machine(monkeypatch, able, kind, said):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(mixed_precision, 'computes_bfloat16', lambda: able)
    logged = []
    monkeypatch.setattr(mixed_precision, 'print_log', lambda message, *_: logged.append(message))
    cfg = config(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16', clip_grad={'max_norm': 1.0})
    fit_to_machine(cfg)
    assert cfg.to_dict() == config(type=kind, clip_grad={'max_norm': 1.0}).to_dict()
    (line,) = logged
    assert said in line


@pytest.mark.parametrize('kind', ['OptimWrapper', 'AmpOptimWrapper'])
def test_what_runs_is_left_alone(monkeypatch, kind):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: kind == 'AmpOptimWrapper')
    cfg = config(type=kind)
    fit_to_machine(cfg)
    assert cfg.to_dict() == config(type=kind).to_dict()


def test_the_cpu_multiplies_in_bfloat16_and_learns_in_float32():
    torch.manual_seed(0)
    linear, x = nn.Linear(8, 4), torch.randn(16, 8)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.5)
    wrapper = OPTIM_WRAPPERS.build({'type': 'mmatm.CpuAmpOptimWrapper', 'optimizer': optimizer})
    assert isinstance(wrapper, CpuAmpOptimWrapper)
    before = linear.weight.detach().clone()
    with wrapper.optim_context(linear):
        y = linear(x)
    assert y.dtype == torch.bfloat16
    assert linear(x).dtype == torch.float32
    wrapper.update_params(y.float().sum())
    assert linear.weight.dtype == torch.float32
    # The gradient by a weight is the sum of its inputs.
    expected = before.double() - 0.5 * x.double().sum(0)
    assert torch.allclose(linear.weight.double(), expected, rtol=2**-6, atol=2**-5)
    assert not torch.allclose(linear.weight.double(), before.double(), rtol=2**-6, atol=2**-5)


@pytest.mark.skipif(not CPU_INFO.exists(), reason='/proc is of Linux')
@pytest.mark.skipif(not hasattr(torch.cpu, 'get_capabilities'), reason='of later versions of PyTorch')
def test_instructions_are_those_of_the_processor(monkeypatch):
    flags = CPU_INFO.read_text().split()
    assert computes_bfloat16() == any(name in flags for name in ('avx512_bf16', 'amx_bf16'))
    monkeypatch.delattr(torch.cpu, 'get_capabilities')
    assert not computes_bfloat16()
