"""MMEngine's runner, on CPU and CUDA alike, with checkpoints that are read safely and fit exactly."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed, is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import DataLoader

from mmatm.checkpoint import fill_model, latest_checkpoint, read_checkpoint
from mmatm.checkpoint_hook import CheckpointHook, explain_full_disk
from mmatm.curves import CurvesHook
from mmatm.data_check import check_dataset, describe_dataset
from mmatm.errors import InputError
from mmatm.exact_resume import ExactResumeHook, number_batches
from mmatm.files import whole_file
from mmatm.progress_bar import progress_bar
from mmatm.registry import RUNNERS


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """`mmengine.runner.Runner` that

    - runs several processes without CUDA (gloo, SyncBN as BN);
    - reads the authors' checkpoints, and none that holds code;
    - refuses to test or resume with a checkpoint that leaves parameters unset;
    - checks the data first;
    - writes a checkpoint as a whole or not at all, and removes an outdated one only then;
    - resumes a training as if it had not been interrupted;
    - shows a progress bar on a terminal, and draws the curves of a training.
    """

    # While testing and resuming a checkpoint has to fill the model; to start from, it may lack a head.
    _exact = False
    # Batches that a resumed training has seen.
    _skip = 0

    def setup_env(self, env_cfg: dict) -> None:
        """As in MMEngine, whose own process group needs CUDA.

        Raises:
            InputError: A launcher that needs CUDA.
        """
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            if self.launcher != 'pytorch':
                raise InputError(
                    f'--launcher {self.launcher} needs CUDA; on CPU use tools/dist_*.sh or tools/slurm_*.sh'
                )
            seconds = env_cfg.get('dist_cfg', {}).get('timeout')
            dist.init_process_group('gloo', timeout=seconds and timedelta(seconds=seconds))
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
                meta = read_checkpoint(self._load_from).get('meta', {})
                if not {'epoch', 'iter', 'seed'} <= set(meta):
                    raise InputError(
                        f'{self._load_from} is not from a training that can be resumed; start from it with load_from'
                    )
                self._randomness_cfg['seed'] = meta['seed']
                self.set_randomness(**self._randomness_cfg)
                self.logger.info(f'resuming {self._load_from} with its seed {self.seed}')
                # MMEngine counts epochs only in loops by epoch, which are resumed at the beginning of one.
                self._skip = 0 if meta['epoch'] else meta['iter']
        self.register_hook(ExactResumeHook())
        if is_main_process():
            self.register_hook(CurvesHook())
        with explain_full_disk(self.work_dir), progress_bar(self):
            return super().train()

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """As in MMEngine, with this project's checkpoint hook for MMEngine's."""
        names = 'CheckpointHook', 'mmengine.CheckpointHook', MMEngineCheckpointHook
        if isinstance(hook, dict) and hook.get('type') in names:
            hook = {**hook, 'type': CheckpointHook}
        super().register_hook(hook, priority)

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, file_client_args: dict | None = None, **kwargs: Any) -> None:
        """As in MMEngine; a local file has its name only when it is whole."""
        backend = get_file_backend(out_dir, backend_args=kwargs.get('backend_args'))
        if file_client_args or not isinstance(backend, LocalBackend):
            return super().save_checkpoint(out_dir, filename, file_client_args, **kwargs)
        with whole_file(Path(out_dir) / filename) as path:
            super().save_checkpoint(out_dir, str(path.relative_to(out_dir)), **kwargs)

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
        except json.JSONDecodeError as error:
            described = describe_dataset(dataloader['dataset'])
            raise InputError(f'the annotations are cut short or no JSON ({error}): {described}') from None
        except (ValueError, RuntimeError) as error:
            # MMEngine packs the list of samples; MMPretrain counts files
            if not re.search('need at least one array|Found 0 files', str(error)):
                raise
            raise InputError(f'no pictures found for {describe_dataset(dataloader["dataset"])}') from None
        if not isinstance(dataloader, DataLoader):
            if is_main_process():
                check_dataset(loader.dataset, getattr(self._bare_model, 'num_classes', None))
            if loader.batch_sampler is not None:
                number_batches(loader, self.seed, self._skip)
            self._skip = 0  # the training's loader comes first
        return loader

    @property
    def _bare_model(self) -> nn.Module:
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        return model

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        self._exact = True
        super().resume(filename, *args, **kwargs)

    def test(self) -> dict:
        self._exact = True
        # Hooks ask for `runner.iter`, for which MMEngine would build the training's loop and read its data.
        self._train_loop = None
        with progress_bar(self):
            return super().test()

    def val(self) -> dict:
        self._exact = True
        self._train_loop = None
        with progress_bar(self):
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
        checkpoint.get('meta', {}).pop('config', None)  # a text that MMEngine would execute when resuming
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        try:
            if self._exact:
                fill_model(self._bare_model, checkpoint['state_dict'])
            else:
                _load_checkpoint_to_model(self._bare_model, checkpoint, strict, revise_keys=revise_keys)
        except InputError as error:
            raise InputError(f'{filename}: {error}') from None
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint
