"""The contract of the backbones: all of a network that is not a stem, a downsampling or a block."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
from mmengine.dist import broadcast, broadcast_object_list, get_rank
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmatm.errors import InputError

from .layers import fuse_modules
from .loading import Allowed, Published, fill, read_backbone
from .options import NUM_STAGES, check_arch, check_init_cfg, list_or, resolve_out_indices, resolve_parts
from .stage import Stage

_STRIDES = tuple(4 * 2**i for i in range(NUM_STAGES))


class Backbone(BaseModule):
    """A hierarchical network of four stages, from images to a pyramid of feature maps.

    To add a backbone, subclass this: write `build_stem`, `build_stage` and `draw`, fill in the class attributes below,
    and register the class in `mmatm.registry.MODELS` from a file that `mmatm.models` imports. Every tool takes it from
    there: swapping, counting, tables, export, benchmark, figures, the tests of the contract. docs/adding_a_backbone.md
    walks through it.

    The constructor's arguments are those of every backbone. A subclass needs none of its own, unless other defaults
    than `arch` and `norm_eval` are to differ, as `ATMNet`'s.

    Attributes of the class, which a subclass sets:
        TITLE: The network's name in messages and tables.
        SIZES: The published sizes: short name -> arch. Its keys are those of a custom arch, `depths` and `channels`
            among them, its values show what is expected: a list (of four whole numbers), a whole number, a float, or
            a word.
        ALIASES: Other names of sizes -> short names.
        PARTS: What `parts` may replace: name -> class, or one for each stage; None where the block does it itself.
            `build_stage` asks `self.part(name, i, **settings)` for the class to build, with what else its constructor
            may name.
        PUBLISHED: How the authors' checkpoints read, None if there are none.
        NORM: Makes the norm of an output from its channels; None for feature maps without a norm.
        NORM_EVAL: What `norm_eval` is by default.
        CHANNELS_LAST: Whether the stages work channels-last, on (B, H, W, C); the backbone permutes the axes after the
            stem and for its outputs.
        OUTPUT_STRIDES: What `output_stride` may be.
        NO_DECAY: Endings of names of parameters that are exempt from weight decay beside norms and biases.
        MIN_SIZE: The smallest height and width of an image.
        ALLOW_MISSING: Patterns, as ``'stages.*.gate.*'``, of parameters that checkpoints may lack: those that a
            subclass adds to a published network.
        ALLOW_UNUSED: Patterns of parameters of checkpoints that the network may do without.

    Args:
        arch: A size's name, by default the first of `SIZES`, or a dict with exactly the keys of the published sizes.
        drop_path_rate: Drop path of the last block; rises linearly from 0 over all blocks.
        out_indices: Stages, 0 to 3 or negative from the end, whose feature maps are returned, each after its own norm.
            Stages after the last of them are not built.
        output_stride: Pixels per token of the last stage. Stages that would be coarser do not downsample but are
            dilated, with the same weights.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages. The norms of the outputs stay
            trainable: they are in no ImageNet checkpoint.
        norm_eval: Batch norms inside stem and stages keep to their running statistics in training. The norms of the
            outputs do not. By default `NORM_EVAL`.
        with_cp: Recompute blocks in the backward pass: less memory, more time, the same gradients.
        in_channels: Channels of an image.
        parts: Classes to build with in place of those in `PARTS`, each a class or its name in the registry; one for all
            stages, or a list of four, in which None keeps the backbone's own.
        init_cfg: As in MMEngine. ``dict(type='Pretrained', checkpoint=PATH)`` takes the authors' checkpoints and this
            project's, whole models too, and refuses one that leaves any parameter but the output norms unset. Further
            keys: `prefix`, the backbone's name in the checkpoint; `allow_missing` and `allow_unused`, lists of patterns
            as `ALLOW_MISSING` and `ALLOW_UNUSED`; `fit_stem=True`, to fit the stem to other `in_channels`: summed over
            the channels for one, with zeros for those beyond three, so that nothing else has an effect at first.
        out_norms: Whether feature maps have the norms of `NORM`.

    Attributes:
        out_channels (tuple[int, ...]): Channels of each output.
        out_strides (tuple[int, ...]): Pixels per token of each output.
        size (str | None): The short name of its size, None for a custom one.
        is_fused (bool): Whether `fuse` has turned it into another form.

    Raises:
        InputError: An argument that cannot work.
    """

    TITLE: ClassVar[str]
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]]
    ALIASES: ClassVar[Mapping[str, str]] = {}
    PARTS: ClassVar[Mapping[str, type[nn.Module] | tuple[type[nn.Module], ...] | None]] = {}
    PUBLISHED: ClassVar[Published | None] = None
    NORM: ClassVar[Callable[[int], nn.Module] | None] = None
    NORM_EVAL: ClassVar[bool] = False
    CHANNELS_LAST: ClassVar[bool] = False
    OUTPUT_STRIDES: ClassVar[tuple[int, ...]] = (32,)
    NO_DECAY: ClassVar[tuple[str, ...]] = ()
    MIN_SIZE: ClassVar[int] = 32
    ALLOW_MISSING: ClassVar[tuple[str, ...]] = ()
    ALLOW_UNUSED: ClassVar[tuple[str, ...]] = ()
    is_fused = False

    def __init__(
        self,
        arch: str | Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool | None = None,
        with_cp: bool = False,
        in_channels: int = 3,
        parts: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
        out_norms: bool = True,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self._allowed = Allowed(self.ALLOW_MISSING, self.ALLOW_UNUSED)
        self._pretrained = check_init_cfg(self.init_cfg)
        if not 0 <= drop_path_rate < 1:
            raise InputError(f'drop_path_rate must be at least 0 and below 1, not {drop_path_rate}')
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= NUM_STAGES:
            raise InputError(
                f'frozen_stages must be -1 (nothing), 0 (the stem) or 1 to {NUM_STAGES} (the stem and so many stages), '
                f'not {frozen_stages}'
            )
        if output_stride not in self.OUTPUT_STRIDES:
            raise InputError(f'output_stride must be {list_or(sorted(self.OUTPUT_STRIDES))}, not {output_stride}')
        if not isinstance(in_channels, int) or in_channels < 1:
            raise InputError(f'in_channels must be a whole number above 0, not {in_channels}')
        if arch is None:
            arch = next(iter(self.SIZES))
        self.size = self.short_name(arch)
        arch = self.resolve_arch(arch)
        self.in_channels = in_channels
        self.out_indices = resolve_out_indices(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = self.NORM_EVAL if norm_eval is None else norm_eval
        self.out_channels = tuple(arch['channels'][i] for i in self.out_indices)
        self.out_strides = tuple(min(_STRIDES[i], output_stride) for i in self.out_indices)
        self.has_norms = out_norms and self.NORM is not None
        self._parts = resolve_parts(parts or {}, self.PARTS, self.TITLE)

        self.stem = self.build_stem(arch)
        last = max(1, sum(arch['depths']) - 1)
        rates = iter(drop_path_rate * j / last for j in range(sum(arch['depths'])))
        self.stages = nn.ModuleList(
            self.build_stage(
                i, arch, [next(rates) for _ in range(arch['depths'][i])], max(1, _STRIDES[i] // output_stride)
            )
            for i in range(max(self.out_indices) + 1)
        )
        for stage in self.stages:
            stage.with_cp = with_cp
        if self.has_norms:
            for i in self.out_indices:
                self.add_module(f'norm{i}', type(self).NORM(arch['channels'][i]))
        self.init_parameters()
        if self.CHANNELS_LAST:
            # Else convolutions convert their weights in every pass, and distributed training copies gradients.
            self.to(memory_format=torch.channels_last)
        self.train()

    # What a subclass writes

    def build_stem(self, arch: Mapping[str, Any]) -> nn.Module:
        """Makes the module from images (B, in_channels, H, W) to the feature map that the blocks of stage 0 take."""
        raise NotImplementedError

    def build_stage(self, i: int, arch: Mapping[str, Any], rates: Sequence[float], dilation: int) -> Stage:
        """Makes a stage.

        Args:
            i: Its number, 0 to 3.
            arch: As in `SIZES`.
            rates: Drop path of each of its blocks.
            dilation: Distance in tokens between the neighbours that a convolution reads. Above 1, the stage has the
                resolution of the one before. Only backbones with several `OUTPUT_STRIDES` get other values than 1.
        """
        raise NotImplementedError

    @staticmethod
    def draw(module: nn.Module) -> None:
        """Initialises one module's own parameters; PyTorch's initialisation stands where this does nothing.

        It is called with every module of the network, those of a user's parts too.
        """

    # What a subclass may write

    @classmethod
    def check_arch(cls, arch: Mapping[str, Any]) -> None:
        """Raises an `InputError` for what keys and lengths of a custom arch do not show."""

    def init_parameters(self) -> None:
        """Initialises all parameters when the network is built; then parts with an `init_parameters` do theirs.

        To initialise some of them differently, call `super().init_parameters()` first.
        """
        self.apply(self.draw)
        for module in self.modules():
            if module is not self and hasattr(module, 'init_parameters'):
                module.init_parameters()

    def adapt(self, weights: dict[str, Tensor]) -> None:
        """Fits weights that depend on a size to this network, in place; their names are this network's."""

    def fuse(self) -> 'Backbone':
        """Turns the network, in place, into its form for inference, with the same outputs to rounding.

        Modules with a method ``fused()`` are replaced with what it returns. If there are any, `is_fused` is set, and
        the network refuses to be trained. Load checkpoints before.

        Returns:
            Itself, in evaluation mode.
        """
        self.eval()
        self.is_fused = fuse_modules(self) > 0
        return self

    def get_published_depth(self, name: str) -> tuple[int, int]:
        """Depth of a parameter in the authors' training, if they let learning rates decay by layer.

        Args:
            name: In this backbone.

        Returns:
            (depth, number of depths), as `get_layer_depth`.

        Raises:
            NotImplementedError: They do not.
        """
        raise NotImplementedError

    # What it inherits

    @classmethod
    def resolve_arch(cls, arch: str | Mapping[str, Any]) -> dict[str, Any]:
        """A size's name or a custom dict -> a checked dict of the form in `SIZES`.

        Raises:
            InputError: Unknown name; missing, extra or impossible entries.
        """
        names = [*cls.SIZES, *cls.ALIASES]
        if isinstance(arch, str) and arch in names:
            return dict(cls.SIZES[cls.ALIASES.get(arch, arch)])
        if isinstance(arch, str):
            raise InputError(f"no {cls.TITLE} of size '{arch}'; there are {', '.join(names)}, or give a dict")
        if not isinstance(arch, Mapping):
            raise InputError(f'arch is one of {", ".join(names)}, or a dict, not {arch!r}')
        custom = check_arch(arch, next(iter(cls.SIZES.values())))
        cls.check_arch(custom)
        return custom

    @classmethod
    def short_name(cls, arch: object) -> str | None:
        """The short name of a named size, as in config names; None for a custom one."""
        name = cls.ALIASES.get(arch, arch) if isinstance(arch, str) else None
        return name if name in cls.SIZES else None

    @classmethod
    def imagenet_config(cls, size: str) -> str:
        """The name of an ImageNet classifier's config, and of its checkpoint; a subclass has its parent's."""
        return f'{cls.publishing_class().__name__.lower()}_{size}_in1k'

    @classmethod
    def publishing_class(cls) -> type['Backbone']:
        """The class whose checkpoints this one reads: a subclass that says nothing of its own reads its parent's."""
        return next(kind for kind in cls.__mro__ if 'PUBLISHED' in vars(kind))

    def part(self, name: str, i: int, **settings: Any) -> Any:
        """What makes a part of stage i: the user's class or that in `PARTS`, with the settings that it names."""
        kind = self._parts[name][i]
        if not settings:
            return kind
        named = inspect.signature(kind).parameters
        return partial(kind, **{key: value for key, value in settings.items() if key in named})

    def switch_to_deploy(self) -> None:
        """`fuse`, by the name that MMPretrain's tools call it."""
        self.fuse()

    @property
    def changed_parts(self) -> list[str]:
        """The parts that some stage has of another class than in `PARTS`."""
        own = resolve_parts({}, self.PARTS, self.TITLE)
        return [name for name, each in self._parts.items() if each != own[name]]

    @property
    def is_changed(self) -> bool:
        """Whether this is another network than those of this project: of a class of the user's, or with his parts."""
        return type(self).__module__.partition('.')[0] != __package__.partition('.')[0] or bool(self.changed_parts)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature pyramid.

        Args:
            images: (B, C, H, W), floating and normalised, C `in_channels`, H and W of `MIN_SIZE` or more.

        Returns:
            A feature map (B, C', H', W') for each of `out_indices`; H' and W' are about H and W by `out_strides`.

        Raises:
            InputError: Wrong number of axes or channels, integer type, too small.
        """
        self._check(images)
        if self.CHANNELS_LAST:
            x = self.stem(images.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        else:
            x = self.stem(images)
        outputs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                y = getattr(self, f'norm{i}')(x) if self.has_norms else x
                outputs.append(y.permute(0, 3, 1, 2).contiguous() if self.CHANNELS_LAST else y)
        return tuple(outputs)

    def _check(self, images: Tensor) -> None:
        least = self.MIN_SIZE
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise InputError(f'{self.TITLE} takes images (B, {self.in_channels}, H, W), not {tuple(images.shape)}')
        if not torch.is_floating_point(images):
            raise InputError(
                f'{self.TITLE} takes floating, normalised images, not {images.dtype}; convert with .float()'
            )
        if min(images.shape[2:]) < least:
            height, width = images.shape[2:]
            raise InputError(f'{self.TITLE} takes images of {least}x{least} or more, not {height}x{width}')

    def _frozen(self) -> list[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.stem, *self.stages[: self.frozen_stages]]

    def train(self, mode: bool = True) -> 'Backbone':
        """Sets training mode, in which what is frozen, and batch norms under `norm_eval`, stay in evaluation mode.

        Raises:
            InputError: The network is fused.
        """
        if mode and self.is_fused:
            raise InputError(f'this {self.TITLE} is fused for inference and cannot be trained; build a new one')
        super().train(mode)
        for module in self._frozen():
            module.eval()
            module.requires_grad_(False)
        if self.norm_eval:
            for module in chain(self.stem.modules(), self.stages.modules()):
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Loads the checkpoint that `init_cfg` names, if any; the constructor has initialised the parameters already.

        Of several processes the first reads it, and hands the weights on.
        """
        if self._pretrained is None:
            super().init_weights()
        elif not self.is_init:
            refusal = [None]
            if get_rank() == 0:
                try:
                    summary = self._load_pretrained(**self._pretrained)
                except InputError as error:
                    refusal[0] = error
                except Exception as error:  # which may not go through a pipe; the others must not wait for it
                    broadcast_object_list([InputError(f'{type(error).__name__}: {error}')])
                    raise
            broadcast_object_list(refusal)
            if refusal[0] is not None:
                raise refusal[0]
            for tensor in self.state_dict().values():
                broadcast(tensor)
            if hasattr(self, '_params_init_info'):
                update_init_info(self, init_info=f'Pretrained: {self._pretrained["checkpoint"]}')
            self.is_init = True
            if get_rank() == 0:
                print_log(f'{self.TITLE}: {summary}', 'current')

    def _load_pretrained(
        self,
        checkpoint: str,
        prefix: str | None = None,
        allow_missing: Sequence[str] = (),
        allow_unused: Sequence[str] = (),
        fit_stem: bool = False,
    ) -> str:
        weights, rest = read_backbone(checkpoint, self.PUBLISHED, prefix)
        allowed = self._allowed
        self._allowed = Allowed((*allowed.missing, *allow_missing), (*allowed.unused, *allow_unused), fit_stem)
        try:
            self.load_state_dict(weights, strict=False)  # what may be missing was settled, see below
        except InputError as error:
            raise InputError(f'{checkpoint}: {error}') from None
        finally:
            self._allowed = allowed
        return f'loaded {len(weights)} tensors from {checkpoint}; not used from it: {rest or "none"}'

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        # Every way of loading passes here: init_cfg, load_from, resume, load_state_dict.
        fill(self, state_dict, prefix, self._allowed)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for learning rates that decay by layer.

        Args:
            param_name: The parameter's name, with prefix.
            prefix: What stands before this backbone's own names, such as ``'backbone.'``.

        Returns:
            (depth, number of depths): 0 the stem, then one for each block, last what follows the blocks. What else a
            stage has counts with its first block.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        num_layers = sum(depths) + 2
        parts = param_name.removeprefix(prefix).split('.')
        if param_name.startswith(prefix) and parts[0] == 'stem':
            return 0, num_layers
        if not param_name.startswith(prefix) or parts[0] != 'stages':
            return num_layers - 1, num_layers
        stage = int(parts[1])
        block = int(parts[3]) if parts[2] == 'blocks' else 0
        return 1 + sum(depths[:stage]) + block, num_layers

    def decay_free(self, name: str) -> bool:
        """Whether a parameter, by its name in this backbone, is to have no weight decay: norms, biases, `NO_DECAY`."""
        return self.get_parameter(name).ndim <= 1 or name.endswith(self.NO_DECAY)
