"""A training of milliseconds: a network of one layer on random numbers, validated with metrics that are given."""

import itertools
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mmatm.engine.runner import Runner

_numbers = itertools.count()


class Numbers(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        return {'inputs': torch.full((3,), index + torch.rand(()).item())}


class Layer(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.losses: list[float] = []

    def forward(self, inputs: list, mode: str = 'tensor') -> Any:
        output = self.linear(torch.stack(inputs))
        if mode == 'predict':
            return list(output)
        loss = output.square().mean()
        self.losses.append(loss.item())
        return {'loss': loss}


class Given(BaseMetric):
    """Metrics that depend on the weights, and what else a test wants."""

    def __init__(self, also: dict[str, Any]) -> None:
        super().__init__()
        self.also = also

    def process(self, data_batch: Any, data_samples: list) -> None:
        self.results += [sample.mean().item() for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {'mean': sum(results), **self.also}


def toy_runner(folder: Path, train_cfg: dict, also: dict | None = None, resume: bool = False, **more: Any) -> Runner:
    """A runner with checkpoints and validations every four iterations, or every epoch, which has four too."""
    by_epoch = 'max_epochs' in train_cfg
    data = {'batch_size': 2, 'num_workers': 0, 'dataset': Numbers()}
    interval = 1 if by_epoch else 4
    return Runner(**{
        'model': Layer(),
        'work_dir': str(folder),
        'train_cfg': {'by_epoch': by_epoch, 'val_interval': interval, **train_cfg},
        'train_dataloader': {**data, 'sampler': {'type': 'InfiniteSampler' if not by_epoch else 'DefaultSampler'}},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 1e-3}},
        'param_scheduler': {'type': 'LinearLR', 'by_epoch': False, 'start_factor': 0.1, 'end': 12},
        'val_cfg': {},
        'val_dataloader': {**data, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        'val_evaluator': [Given(also or {})],
        'default_hooks': {
            'checkpoint': {'type': 'CheckpointHook', 'by_epoch': by_epoch, 'interval': interval},
            'logger': {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': by_epoch},
        },
        'log_processor': {'by_epoch': by_epoch},
        # MMEngine keeps loggers and message hubs by this name.
        'experiment_name': f'toy{next(_numbers)}',
        'randomness': {'seed': 5},
        'resume': resume,
        **more,
    })  # fmt: skip
