"""Which precision a training has on this machine. Both answers of a CPU are tried on any: it can emulate bfloat16."""

from pathlib import Path

import pytest
import torch
from conftest import DETECTOR, SEGMENTOR, write_config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmatm.engine import mixed_precision
from mmatm.engine.mixed_precision import CpuAmpOptimWrapper, computes_bfloat16, fit_to_machine, precision_of
from mmatm.engine.recipe import read_text
from mmatm.errors import InputError

CPU_INFO = Path('/proc/cpuinfo')
REST = {'clip_grad': {'max_norm': 1.0}, 'optimizer': {'type': 'SGD', 'lr': 0.5}}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', 'mmengine.AmpOptimWrapper', AmpOptimWrapper], ids=str)
@pytest.mark.parametrize(
    ('able', 'new', 'said'),
    [(True, 'mmatm.CpuAmpOptimWrapper', 'bfloat16 on the CPU'), (False, 'OptimWrapper', 'float32')],
)
@pytest.mark.usefixtures('no_gpu')
def test_mixed_precision_is_that_of_the_machine(monkeypatch, kind, able, new, said):
    monkeypatch.setattr(mixed_precision, 'computes_bfloat16', lambda: able)
    wrapper = {'type': kind, 'loss_scale': 'dynamic', 'dtype': 'float16', 'use_fsdp': False, **REST}
    before = dict(wrapper)
    fitted, told = fit_to_machine(wrapper, nn.Linear(1, 1))
    assert fitted == {'type': new, **REST}
    assert said in told
    assert wrapper == before, "it may be the user's"
    # Of several.
    several = {'a': wrapper, 'b': {'type': 'OptimWrapper', **REST}, 'constructor': 'Mine'}
    assert fit_to_machine(several, nn.Linear(1, 1)) == ({**several, 'a': fitted}, told)


@pytest.mark.parametrize('kind', ['OptimWrapper', 'AmpOptimWrapper', 'mmatm.CpuAmpOptimWrapper'])
def test_what_runs_is_left_alone(monkeypatch, kind):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: kind == 'AmpOptimWrapper')
    wrapper = {'type': kind, **REST}
    assert fit_to_machine(wrapper, nn.Linear(1, 1)) == ({'type': kind, **REST}, '')
    assert fit_to_machine({'a': wrapper, 'constructor': 'Mine'}, nn.Linear(1, 1))[1] == ''


@pytest.mark.skipif(
    torch.cuda.is_available(), reason='of CPUs: MMEngine trains on a GPU that there was when it was imported'
)
@pytest.mark.parametrize('able', [True, False])
@pytest.mark.parametrize(
    ('text', 'new', 'said'),
    [
        (SEGMENTOR, 'mmatm.CpuAmpOptimWrapper', 'mixed precision in bfloat16 on the CPU'),
        (DETECTOR, 'OptimWrapper', 'float32 instead of mixed precision, as operations of mmcv or mmdet'),
    ],
    ids=['segmentor', 'detector'],
)
def test_trainings_by_the_command(monkeypatch, tmp_path, shapes, command, able, text, new, said):
    """What a training computes in is in its log, once, and in its checkpoint."""
    monkeypatch.setattr(mixed_precision, 'computes_bfloat16', lambda: able)
    config = write_config(tmp_path, shapes, text)
    short = ['train_cfg.max_iters=2'] if text is SEGMENTOR else ['train_dataloader.batch_size=12']
    command('train.py', config, '--amp', '--cfg-options', *short)
    if text is SEGMENTOR and not able:
        new, said = 'OptimWrapper', 'float32 instead of mixed precision, as PyTorch knows of no bfloat16'
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert log.read_text().count(said) == 1
    state = torch.load((tmp_path / 'work/last_checkpoint').read_text(), weights_only=False)
    assert read_text(state['meta']['cfg'])['optim_wrapper']['type'] == new
    assert {value.dtype for value in state['state_dict'].values() if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    ('wrapper', 'precision'),
    [
        ({'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic'}, 'float16'),
        ({'type': 'AmpOptimWrapper', 'dtype': 'bfloat16'}, 'bfloat16'),
        ({'type': 'mmatm.CpuAmpOptimWrapper'}, 'bfloat16'),
        ({'type': 'OptimWrapper'}, 'float32'),
        ({}, 'float32'),
    ],
)
def test_precision_of_a_training(wrapper, precision):
    assert precision_of({**wrapper, **REST}) == precision


@pytest.mark.usefixtures('no_gpu')
def test_operations_of_mmcv_stay_in_float32(monkeypatch):
    """Wherever in a model they are."""
    roi_align = pytest.importorskip('mmcv.ops', exc_type=ImportError).RoIAlign(output_size=2)
    monkeypatch.setattr(mixed_precision, 'computes_bfloat16', lambda: True)
    wrapper = {'type': 'AmpOptimWrapper', **REST}
    for model, kind in ((nn.Sequential(roi_align), 'OptimWrapper'), (nn.Sequential(), 'mmatm.CpuAmpOptimWrapper')):
        assert fit_to_machine(wrapper, model)[0]['type'] == kind


def test_the_one_of_cpus_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)
    with pytest.raises(InputError, match=r'is for CPUs.* set optim_wrapper\.type=AmpOptimWrapper'):
        CpuAmpOptimWrapper(optimizer=optimizer)


@pytest.mark.usefixtures('no_gpu')
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
