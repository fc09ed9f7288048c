"""MMEngine's runner, on CPU and CUDA alike, with checkpoints that are read safely and fit exactly."""

from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed, is_main_process
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import DataLoader

from mmatm.checkpoint import latest_checkpoint, read_checkpoint
from mmatm.data_check import check_dataset, describe_dataset
from mmatm.errors import InputError
from mmatm.exact_resume import ExactResumeHook, number_batches
from mmatm.registry import RUNNERS


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """`mmengine.runner.Runner` that

    - runs several processes without CUDA (gloo, SyncBN as BN);
    - reads the authors' checkpoints, and none that holds code;
    - refuses to test or resume with a checkpoint that leaves parameters unset;
    - resumes a training as if it had not been interrupted.
    """

    # While testing and resuming a checkpoint has to fill the model; to start from, it may lack a head.
    _exact = False
    # Batches that a resumed training has seen.
    _skip = 0

    def setup_env(self, env_cfg: dict) -> None:
        """As in MMEngine, whose own process group needs CUDA."""
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            dist.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As in MMEngine; on CPU without device ids, and with BN for SyncBN, whose statistics rank 0 hands on."""
        if self.distributed and not torch.cuda.is_available() and not is_model_wrapper(model):
            model = revert_sync_batchnorm(model)
            model_wrapper_cfg = {
                'type': 'MMDistributedDataParallel',
                'broadcast_buffers': True,
                'find_unused_parameters': self.cfg.get('find_unused_parameters', False),
                **(model_wrapper_cfg or {}),
                'device_ids': None,
            }
        return super().wrap_model(model_wrapper_cfg, model)

    def train(self) -> nn.Module:
        """As in MMEngine; a resumed training takes up its seed and its place in the data."""
        if self._resume:
            self._load_from = self._load_from or latest_checkpoint(self.work_dir)
            if self._load_from is None:
                self._resume = False
                self.logger.info(f'nothing to resume in {self.work_dir}: training from the beginning')
            else:
                meta = read_checkpoint(self._load_from)['meta']
                self._randomness_cfg['seed'] = meta['seed']
                self.set_randomness(**self._randomness_cfg)
                self._skip = meta['iter']
        self.register_hook(ExactResumeHook())
        return super().train()

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        if isinstance(loop, dict) and (loop.get('by_epoch') or loop.get('type') == 'EpochBasedTrainLoop'):
            self._skip = 0  # epochs are resumed at their beginning
        return super().build_train_loop(loop)

    def build_dataloader(self, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """As in MMEngine; the data is checked, and all its randomness follows from the seed.

        Raises:
            InputError: The data is not there or damaged.
        """
        try:
            loader = MMEngineRunner.build_dataloader(dataloader, *args, **kwargs)
        except FileNotFoundError as error:
            raise InputError(
                f'there is no folder or file {error.filename}; set data_root, data_prefix and ann_file of the data set'
            ) from None
        except ValueError as error:
            if 'need at least one array' not in str(error):  # MMEngine packs the list of samples
                raise
            raise InputError(f'no pictures found for {describe_dataset(dataloader["dataset"])}') from None
        if not isinstance(dataloader, DataLoader):
            if is_main_process():
                check_dataset(loader.dataset)
            number_batches(loader, self.seed, self._skip)
            self._skip = 0  # the training's loader comes first
        return loader

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._exact = True
        super().resume(filename, *args, **kwargs)

    def test(self) -> dict:
        self._exact = True
        return super().test()

    def val(self) -> dict:
        self._exact = True
        return super().val()

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006 (MMEngine's signature)
    ) -> dict:
        """As in MMEngine, but safe, from the authors' files too, and exact where weights are tested or resumed.

        Raises:
            InputError: The file cannot be read, or does not fill the model or its ATMNet.
        """
        checkpoint = read_checkpoint(filename, map_location)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        try:
            if self._exact:
                self._fill(model, checkpoint['state_dict'])
            else:
                _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=revise_keys)
        except InputError as error:
            raise InputError(f'{filename}: {error}') from None
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _fill(self, model: nn.Module, weights: dict) -> None:
        try:
            keys = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:  # sizes that do not match
            raise InputError(f'the weights are of another model than the config. {error}') from None
        missing = [name for name in keys.missing_keys if not name.endswith('num_batches_tracked')]
        if missing:
            raise InputError(f'the weights do not fill the model; missing: {", ".join(missing)}')
        if keys.unexpected_keys:
            print_log(f'not used by this model: {", ".join(keys.unexpected_keys)}', 'current', 30)
