"""MMEngine's runner, on CPU and CUDA alike, with checkpoints that are read safely and fit exactly."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import broadcast_object_list, is_distributed, is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, IterBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import DataLoader

from mmatm.checkpoint import (
    checkpoint_to_resume,
    fill_model,
    own_names_shown,
    read_checkpoint,
    training_checkpoints,
)
from mmatm.datasets.data_check import check_dataset, describe_dataset
from mmatm.engine.checkpoint_hook import CheckpointHook, explain_full_disk
from mmatm.engine.curves import CurvesHook
from mmatm.engine.exact_resume import ExactResumeHook, number_batches, refuse_to_resume
from mmatm.engine.machines import announce_errors, once_per_machine
from mmatm.engine.mixed_precision import fit_to_machine
from mmatm.engine.progress_bar import progress_bar
from mmatm.errors import InputError
from mmatm.models.whole_model import containers, for_model
from mmatm.pretrained import pretrained_weights, without_pretrained
from mmatm.registry import RUNNERS
from mmatm.utils.files import whole_file


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """`mmengine.runner.Runner` that

    - runs several processes without CUDA (gloo, SyncBN as BN), and mixed precision as the CPU has it;
    - reads the authors' checkpoints, and none that holds code;
    - refuses to test or resume with a checkpoint that leaves parameters unset;
    - checks the data first;
    - writes a checkpoint as a whole or not at all, and removes an outdated one only then;
    - resumes a training as if it had not been interrupted;
    - shows a progress bar on a terminal, and draws the curves of a training.
    """

    # For testing and resuming a checkpoint has to fill the model; to start from (load_from), it may lack a head.
    _exact = False
    # The checkpoint to resume, from when it is read until it is in the model.
    _resumed: dict | None = None
    # The hooks whose `before_run` was called.
    _begun: Sequence[Hook] = ()
    # The parts of the model whose pretrained weights are not read, as others follow.
    _replaced: Sequence[str] = ()
    # The names of labels, in the order of each annotation file.
    _label_orders: frozenset[tuple[str, ...]] = frozenset()
    # The checkpoint that was tested: its digest, and what it tells of its training.
    tested: tuple[str, dict] | None = None

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

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """As in MMEngine; pretrained weights are not read if a checkpoint is.

        Raises:
            InputError: The config's pretrained weights do not exist.
        """
        self._find_what_to_resume()
        if isinstance(model, dict) and self._load_from:
            self._replaced = [found.module for found in pretrained_weights(model) if not found.of_teacher]
            model = without_pretrained(model, keep=lambda found: found.of_teacher)
        return super().build_model(model)

    def _find_what_to_resume(self) -> None:
        """Settles `resume`, and leaves `load_from` alone if nothing is resumed."""
        self._named = self._load_from
        if not self._resume:
            return
        found = [checkpoint_to_resume(self._resume, self._load_from, self.work_dir)]
        broadcast_object_list(found)  # a folder may look another way from another machine
        self._resume = found[0] is not None
        if self._resume:
            self._load_from = found[0]
            return
        self.logger.info(f'nothing to resume in {self.work_dir}: training from the beginning')
        if others := training_checkpoints(self.work_dir):
            self.logger.warning(
                f'{others[0][1]} is from an earlier training; to resume that one, give --resume {others[0][1]}'
            )

    def train(self) -> nn.Module:
        """As in MMEngine; a resumed training continues with its seed and at its place in the data.

        May be called again after the loop has ended early, and after `val()`.

        Raises:
            InputError: A checkpoint that the training cannot be resumed from exactly.
        """
        self._fit_precision()
        if self._resume and not self._has_loaded:
            self._take_up()
        if is_main_process() and not any(isinstance(hook, CurvesHook) for hook in self.hooks):
            self.register_hook(CurvesHook())
        with explain_full_disk(self.work_dir), progress_bar(self):
            super().dump_config()
            model = super().train()
        self.auto_scale_lr = None  # done
        return model

    def _fit_precision(self) -> None:
        if not isinstance(self.optim_wrapper, dict):
            return
        self.optim_wrapper, said = fit_to_machine(self.optim_wrapper, self._bare_model)
        if said:
            self.logger.info(said)
            if 'optim_wrapper' in self.cfg:  # which checkpoints record
                self.cfg.optim_wrapper, _ = fit_to_machine(self.cfg.optim_wrapper, self._bare_model)

    def _take_up(self) -> None:
        """Reads the checkpoint to resume, and takes its seed and its place in the data from it."""
        path = self._load_from
        self._resumed = checkpoint = self._read(path)
        refuse_to_resume(path, checkpoint, self.optim_wrapper, self.param_schedulers)
        meta = checkpoint['meta']
        self._randomness_cfg['seed'] = meta['seed']
        self.set_randomness(**self._randomness_cfg)
        self.logger.info(f'resuming {path} with its seed {self.seed}')

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """As in MMEngine; data loaders are numbered, whether given or built, and start where a resumed training is."""
        if isinstance(loop, BaseLoop):
            return loop
        loader = self._train_dataloader
        if isinstance(loader, DataLoader):
            number_batches(loader, self.seed)
        else:
            diff_rank_seed = self._randomness_cfg.get('diff_rank_seed', False)
            loader = self.build_dataloader(loader, seed=self.seed, diff_rank_seed=diff_rank_seed)
        self._train_dataloader = loader
        by_epoch = (
            loop['by_epoch'] if 'by_epoch' in loop else not issubclass(LOOPS.get(loop['type']), IterBasedTrainLoop)
        )
        meta = (self._resumed or {}).get('meta')
        self._exact_resume.begin(loader, by_epoch, self.cfg, self._load_from, meta)
        return super().build_train_loop(loop)

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """As in MMEngine, with what makes a training resume exactly."""
        self._exact_resume = ExactResumeHook()
        self.register_hook(self._exact_resume)
        super().register_hooks(*args, **kwargs)

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """As in MMEngine, with this project's checkpoint hook for MMEngine's."""
        names = 'CheckpointHook', 'mmengine.CheckpointHook', MMEngineCheckpointHook
        if isinstance(hook, dict) and hook.get('type') in names:
            hook = {**hook, 'type': CheckpointHook}
        super().register_hook(hook, priority)

    def dump_config(self) -> None:
        """Does nothing: `train` writes the config. A test must not overwrite the one beside its checkpoint."""

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, file_client_args: dict | None = None, **kwargs: Any) -> None:
        """As in MMEngine; a local file has its name only when it is whole."""
        backend = get_file_backend(out_dir, backend_args=kwargs.get('backend_args'))
        kwargs['meta'] = {
            **(kwargs.get('meta') or {}),
            'mmatm': self._exact_resume.note(self, kwargs.get('by_epoch', True)),
        }
        if file_client_args or not isinstance(backend, LocalBackend):
            return super().save_checkpoint(out_dir, filename, file_client_args, **kwargs)
        with whole_file(Path(out_dir) / filename) as path:
            super().save_checkpoint(out_dir, str(path.relative_to(out_dir)), **kwargs)

    def build_dataloader(self, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """As in MMEngine; the data is checked, unless the config says `check_data = False`, and all its randomness
        follows from the seed.

        Raises:
            InputError: The data does not exist, is damaged, or has other classes than the model.
        """
        with announce_errors():
            return self._build_dataloader(dataloader, *args, **kwargs)

    def _build_dataloader(self, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        try:
            loader = MMEngineRunner.build_dataloader(dataloader, *args, **kwargs)
        except FileNotFoundError as error:
            raise InputError(
                f'there is no folder or file {error.filename}; set data_root, data_prefix and ann_file of the dataset'
            ) from None
        except json.JSONDecodeError as error:
            described = describe_dataset(dataloader['dataset'])
            raise InputError(f'the annotation file is cut short or not JSON ({error}): {described}') from None
        except (ValueError, RuntimeError) as error:
            # MMEngine packs the list of samples; MMPretrain counts files
            if not re.search('need at least one array|Found 0 files', str(error)):
                raise
            raise InputError(f'no images found for {describe_dataset(dataloader["dataset"])}') from None
        if not isinstance(dataloader, DataLoader):
            if self.cfg.get('check_data', True):
                once_per_machine(lambda: self._check(loader.dataset))
            number_batches(loader, self.seed)
        return loader

    def _check(self, dataset: Any) -> None:
        self._label_orders |= check_dataset(dataset, self._bare_model)
        for first, other in combinations(sorted(self._label_orders), 2):
            if set(other) == set(first):
                raise InputError(
                    'the annotation files of training and validation list the classes in different orders, so that '
                    f'their labels differ: {", ".join(first[:5])} and {", ".join(other[:5])}. Use the same order in '
                    'all files'
                )

    @property
    def _bare_model(self) -> nn.Module:
        model = self.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        return model

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As in MMEngine.

        Raises:
            InputError: The checkpoint does not fit.
        """
        self._fit_precision()
        if self._resumed is None:
            self._load_from = filename
            self._take_up()
        self._exact = True
        try:
            super().resume(filename, *args, **kwargs)
        except ValueError as error:  # PyTorch's, of optimizers
            if isinstance(error, InputError):
                raise
            raise InputError(f'{filename} is from a training with another optimizer: {error}') from None
        finally:
            self._exact = False

    def test(self) -> dict:
        with self._evaluating():
            return super().test()

    def val(self) -> dict:
        with self._evaluating():
            return super().val()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """In here a checkpoint has to fill the model, and nothing is resumed."""
        before = {name: getattr(self, name) for name in ('_exact', '_resume', '_load_from', '_train_loop')}
        self._exact, self._resume, self._load_from = True, False, self._named or self._load_from
        if not isinstance(self._train_loop, BaseLoop):
            # Hooks ask for `runner.iter`, for which MMEngine would build the training's loop and read its data.
            self._train_loop = None
        try:
            with progress_bar(self):
                yield
        finally:
            vars(self).update(before)
            self._has_loaded &= not self._resume

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """As in MMEngine; `before_run` once for each hook, as averaged weights start over in it."""
        hooks = self._hooks
        if fn_name == 'before_run':
            self._hooks = [hook for hook in hooks if hook not in self._begun]
            self._begun = list(hooks)
        try:
            super().call_hook(fn_name, **kwargs)
        finally:
            self._hooks = hooks

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006 (MMEngine's signature)
    ) -> dict:
        """As in MMEngine, but safe, from the authors' files too, and exact where weights are tested or resumed.

        Raises:
            InputError: The file cannot be read, or does not fill the model or its backbone.
        """
        checkpoint, self._resumed = self._resumed or self._read(filename, map_location), None
        checkpoint['state_dict'] = for_model(checkpoint['state_dict'], self._bare_model)
        checkpoint.get('meta', {}).pop('config', None)  # a text that MMEngine would execute when resuming
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        try:
            if self._exact:
                fill_model(self._bare_model, checkpoint['state_dict'])
            else:
                given = checkpoint['state_dict']
                with own_names_shown(given), self._refuse_random(list(given)):
                    _load_checkpoint_to_model(self._bare_model, checkpoint, strict, revise_keys=revise_keys)
        except InputError as error:
            raise InputError(f'{filename}: {error}') from None
        self._has_loaded = True
        if 'sha256' in checkpoint:
            self.tested = checkpoint.pop('sha256'), checkpoint.get('meta') or {}
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _read(self, path: str, map_location: Any = 'cpu') -> dict:
        return read_checkpoint(path, map_location, self._exact, containers(self._bare_model))

    @contextmanager
    def _refuse_random(self, given: list[str]) -> Iterator[None]:
        """Checks that the weights loaded in here leave no part random that has pretrained weights of its own."""
        parameters = dict(self._bare_model.named_parameters())
        before = {name: parameter._version for name, parameter in parameters.items()}
        yield
        random = {name for name, parameter in parameters.items() if parameter._version == before[name]}
        if parameters and len(random) == len(parameters):
            raise InputError(f'none of these weights belongs to this model; their names are like {given[:3]}')
        for part in self._replaced:
            names = {name for name in parameters if name.startswith(f'{part}.')}
            if names and names <= random:
                raise InputError(
                    f'these weights hold none for {part}, which would stay random: with load_from, the pretrained '
                    f'weights of the config are not read. Their names are like {given[:3]}'
                )
