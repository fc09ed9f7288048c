"""Puts a backbone of this project into a config in place of the one that is there."""

import copy
import os
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmatm.config import Keys, dicts, has_name, installed_file, load_config
from mmatm.errors import InputError
from mmatm.models import DEFAULT_BACKBONE, Backbone, backbone_class, backbones
from mmatm.models.backbone import NUM_STAGES
from mmatm.registry import MODELS
from mmatm.swap.account import Swap
from mmatm.swap.config_text import config_text
from mmatm.swap.feature_maps import ask_backbone, options, probe_backbone
from mmatm.swap.readers import fit_readers, refuse_readers
from mmatm.swap.stages import choose_stages, drop_pyramid_maker, find_read, note_other_strides
from mmatm.swap.training_settings import carry_drop_path, fit_optimizer, forget_weights, normalise, note_what_went


def swap_backbone(
    config: str | Config,
    arch: str | Mapping[str, Any] | None = None,
    weights: str | None = None,
    backbone: str = DEFAULT_BACKBONE,
) -> Swap:
    """Puts a backbone into a config in place of the one there, and fits to it what depended on the old one.

    The old backbone is built to see which feature maps it returns. Whatever reads them is set to the channels of the
    new one's feature maps of the same strides: a neck, or heads without one. The old backbone's weights and optimizer
    settings go, its drop path is carried over, and images are normalised as the weights of the new one expect. If the
    config has a backbone of the same class already, only its size changes.

    Args:
        config: A file, a config of an installed toolbox as ``'mmdet::retinanet/NAME.py'``, or a `Config` of either.
        arch: As the new backbone's class takes it; None is the default of the class.
        weights: A file that the backbone starts from; None starts from random weights.
        backbone: The type of the new backbone: a name in a registry, of a class under the contract
            (`mmatm.models.Backbone`). One of the user's own is registered when the config imports its file by
            `custom_imports`.

    Returns:
        The new config with an account of the changes.

    Raises:
        InputError: There is no such backbone or size; or the model cannot take it. Says why.

    Examples:
        >>> swap = swap_backbone('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 't')  # doctest: +SKIP
        >>> model = MODELS.build(swap.cfg.model)  # doctest: +SKIP
    """
    cfg = load_config(config) if isinstance(config, str) else copy.deepcopy(config)
    model = cfg.get('model')
    if not isinstance(model, dict):
        raise InputError('the config has no `model`: it is a part that other configs inherit')
    if not all(isinstance(node.get('type'), (str, type(None))) for _, node in dicts(model, ('model',))):
        raise InputError(
            "the config gives classes as types, MMEngine's new style of configs, which is not supported; give names"
        )
    places = list(_places(model, ('model',)))
    if not places:
        raise InputError(f'{model.get("type", "the model")} has no entry `backbone` with a type')
    init_default_scope(cfg.get('default_scope') or 'mmengine')

    kind = _find_backbone(backbone)
    swap = Swap(cfg, kind, _default_arch(kind) if arch is None else arch)
    kind.resolve_arch(swap.arch)
    new = {'type': f'{MODELS.scope}.{backbone}' if backbone in MODELS.module_dict else backbone, 'arch': swap.arch}
    if weights:
        new['init_cfg'] = {'type': 'Pretrained', 'checkpoint': str(weights)}
    replaced = []
    for path, place in places:
        if backbone_class(place['backbone']['type']) is kind:
            _resize(swap, path, place, new)
        else:
            replaced.append(_replace(swap, path, place, new))
    if any('backbone' in change.path for change in swap.changes):
        forget_weights(swap, [path for path, _ in places])
    if replaced:
        normalise(swap)
        old_parameters, new_parameters = (frozenset().union(*each) for each in zip(*replaced, strict=True))
        fit_optimizer(swap, old_parameters, new_parameters)
        _note_imports(swap, new['type'])
        if not weights:
            swap.notes.append('the backbone starts from random weights, as no pretrained weights were given')
            if options(swap.backbone).get('norm_eval'):
                swap.notes.append(
                    f'batch norms of {swap.name} keep to their statistics, which random weights do not have: set '
                    'norm_eval=False for them'
                )
        elif '://' not in str(weights) and not Path(weights).is_file():
            swap.notes.append(f'the pretrained weights {weights} are not there yet, seen from {Path.cwd()}')
    return swap


def swapped_text(swap: Swap, base: str) -> str:
    """The text of a config file that inherits a config and holds only what the swap changed in it.

    Args:
        swap: What changed.
        base: What to inherit: an installed toolbox's config, or a path as seen from the new file.
    """
    changes = [(change.path, change.old, change.new) for change in swap.changes]
    return config_text(base, changes, swap.cfg._cfg_dict, f'{swap.name} as the backbone, by tools/swap_backbone.py')


def base_name(config: str, cfg: Config, folder: Path) -> str:
    """What a file in a folder inherits a config by: its name in a toolbox, where MMEngine takes that, or its path.

    Args:
        config: As `swap_backbone` takes it.
        cfg: The config.
        folder: Of the file.
    """
    package = config.partition('::')[0]
    # MMEngine looks for all of a named config's types in the package, whatever the config's scope is.
    if '::' in config and has_name(config) and cfg.get('default_scope', package) == package:
        return config
    path = Path(installed_file(config) if '::' in config else config).resolve()
    # MMEngine takes ../ by the words of the path, which leads elsewhere behind a link.
    behind_link = folder.resolve() != Path(os.path.abspath(folder))  # noqa: PTH100 (resolve() follows links)
    return str(path) if behind_link else os.path.relpath(path, folder)


def _find_backbone(name: str) -> type[Backbone]:
    """The class of a name in a registry.

    Raises:
        InputError: There is none, or it is not under the contract.
    """
    if not isinstance(name, str):
        raise InputError(f"a backbone is given by its name in a registry, as '{DEFAULT_BACKBONE}', not as {name!r}")
    kind = backbone_class(name)
    if kind is None:
        own = ', '.join(f'{MODELS.scope}.{each}' for each in backbones())
        raise InputError(
            f'{name} is no registered backbone of the kind that can be put in, a subclass of mmatm.models.Backbone. '
            f'There are {own}; the config has to import the file of another one by custom_imports'
        )
    return kind


def _default_arch(kind: type[Backbone]) -> str | Mapping[str, Any]:
    """The size that a class is built with if none is named, by its short name if it has one.

    Raises:
        InputError: It has to be named.
    """
    arch = options(kind)['arch']
    if arch is Parameter.empty:
        raise InputError(f'{kind.__name__} has no default size; name one of {", ".join(kind.SIZES)}')
    return kind.short_name(arch) or arch


def _places(model: ConfigDict, path: Keys) -> list[tuple[Keys, ConfigDict]]:
    """Every part of a model that has a backbone, but for appearance models of trackers, trained on their own."""
    return [
        (path, node)
        for path, node in dicts(model, path)
        if not {'reid', 'backbone'} & set(path)
        and isinstance(node.get('backbone'), dict)
        and 'type' in node['backbone']
    ]


def _resize(swap: Swap, path: Keys, place: ConfigDict, new: Mapping[str, Any]) -> None:
    """Another size of the backbone that is there."""
    backbone = place['backbone']
    before = ask_backbone(backbone).maps
    old_arch = backbone.get('arch', options(swap.backbone)['arch'])
    if swap.backbone.resolve_arch(old_arch) != swap.backbone.resolve_arch(swap.arch):
        swap.set((*path, 'backbone', 'arch'), swap.arch, 'the size that was asked for')
        swap.set((*path, 'backbone', 'init_cfg'), None, 'the pretrained weights are of another size')
    if 'init_cfg' in new:
        swap.set((*path, 'backbone', 'init_cfg'), new['init_cfg'], 'the pretrained weights that were asked for')
    after = ask_backbone(place['backbone']).maps
    fit_readers(swap, path, place, before, after, range(len(before.strides)))


def _replace(
    swap: Swap, path: Keys, place: ConfigDict, new: Mapping[str, Any]
) -> tuple[frozenset[str], frozenset[str]]:
    """A backbone in place of one of another class. Returns the names of the old and of the new one's parameters."""
    old = place['backbone']
    refuse_readers(swap, place)
    probed = probe_backbone(old)
    own = ask_backbone({**new, 'out_indices': list(range(NUM_STAGES))}).maps.strides
    before = drop_pyramid_maker(swap, path, place, probed.maps, own)
    read = find_read(swap, path, place, before)
    stages, output_stride, sources = choose_stages(swap, place, before.strides, read, own)

    backbone = {'type': new['type'], 'arch': swap.arch}
    if list(stages) != list(options(swap.backbone).get('out_indices', ())):
        backbone['out_indices'] = list(stages)
    if output_stride != own[-1]:
        backbone['output_stride'] = output_stride
    if old.get('with_cp'):
        backbone['with_cp'] = True
    if 'init_cfg' in new:
        backbone['init_cfg'] = new['init_cfg']
    built = ask_backbone(backbone)
    swap.set((*path, 'backbone'), backbone, f'returns feature maps of {built.maps}')
    carry_drop_path(swap, path, old, probed)
    fit_readers(swap, path, place, before, built.maps, sources)
    note_what_went(swap, path, old)
    note_other_strides(swap, path, before, built.maps, sources)
    return probed.parameters, built.parameters


def _note_imports(swap: Swap, name: str) -> None:
    """Tells if a training will not find the backbone: it is neither of a scope's package nor imported by the config."""
    module = swap.backbone.__module__
    imports = (swap.cfg.get('custom_imports') or {}).get('imports') or []
    imported = [imports] if isinstance(imports, str) else list(imports)
    imported += [name.partition('.')[0]] if '.' in name else []
    if not any(f'{module}.'.startswith(f'{each}.') for each in imported):
        swap.notes.append(f'{name} is in {module}, which the config does not import; add it to custom_imports')
