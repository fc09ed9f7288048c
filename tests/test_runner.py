"""The runner on a toy model: resuming, for every kind of loop and sampler."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mmatm.checkpoint import read_checkpoint
from mmatm.runner import Runner

_numbers = itertools.count()


class Noise(Dataset):
    """Samples that differ at every drawing."""

    read = 0

    def __len__(self):
        return 8

    def __getitem__(self, index):
        Noise.read += 1
        noise = np.random.rand() + torch.rand(()).item()
        return {'inputs': torch.full((3,), index + noise), 'index': index}


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, inputs, index, mode='tensor'):
        self.seen.append(index)
        return {'loss': self.dropout(self.linear(torch.stack(inputs))).square().mean()}


def run(folder, train_cfg, sampler, workers, interval, resume=False):
    model = Toy()
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_cfg=dict(train_cfg),
        train_dataloader={
            'batch_size': 2,
            'num_workers': workers,
            'persistent_workers': workers > 0,
            'sampler': {'type': sampler, 'shuffle': True},
            'dataset': Noise(),
        },
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 1e-3}},
        param_scheduler={'type': 'LinearLR', 'by_epoch': False, 'start_factor': 0.1, 'end': 12},
        default_hooks={
            'checkpoint': {'type': 'CheckpointHook', 'by_epoch': 'max_epochs' in train_cfg, 'interval': interval}
        },
        experiment_name=f'toy_to_resume{next(_numbers)}',  # MMEngine keeps loggers and message hubs by this name
        randomness={'seed': None if resume else 5},  # a resumed training takes up the first one's
        log_level='ERROR',
        resume=resume,
    )
    runner.train()
    if workers:  # at once: when they are collected they are waited for
        runner.train_dataloader._iterator._shutdown_workers()
    return model.seen


LOOPS = [
    ({'by_epoch': False, 'max_iters': 12}, 'InfiniteSampler', 'iter_12.pth'),
    ({'by_epoch': False, 'max_iters': 12}, 'DefaultSampler', 'iter_12.pth'),
    ({'by_epoch': True, 'max_epochs': 3}, 'DefaultSampler', 'epoch_3.pth'),
]


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(('train_cfg', 'sampler', 'last'), LOOPS, ids=['infinite', 'finite', 'epochs'])
def test_resumed_as_if_not_interrupted(tmp_path, monkeypatch, train_cfg, sampler, last, workers):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # MMEngine waits 2 s between the epochs of a loader
    interval = 1 if 'max_epochs' in train_cfg else 9
    whole = run(tmp_path / 'whole', train_cfg, sampler, workers, interval)
    assert len(whole) == 12
    short = {key: {'max_epochs': 1, 'max_iters': 9}.get(key, value) for key, value in train_cfg.items()}
    run(tmp_path / 'parts', short, sampler, workers, interval)
    Noise.read = 0
    seen = run(tmp_path / 'parts', train_cfg, sampler, workers, interval, resume=True)
    assert seen == whole[12 - len(seen) :]
    assert len(seen) == (8 if 'max_epochs' in train_cfg else 3)
    if workers == 0:
        assert Noise.read == 2 * len(seen)  # what was trained on is not read again
    expected, got = (read_checkpoint(str(tmp_path / part / last))['state_dict'] for part in ('whole', 'parts'))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
