"""What else in a config belonged to the old backbone: weights, normalisation, drop path, optimizer settings."""

from collections.abc import Mapping, Sequence, Set

from mmatm.config import Keys, dicts, dotted
from mmatm.models import backbone_class
from mmatm.pretrained import pretrained_weights, without_pretrained
from mmatm.swap.account import Swap
from mmatm.swap.feature_maps import BuiltBackbone, build_and_run, options

# Of images in RGB: what the weights of all backbones of this project expect.
_IMAGENET = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}
_DEFAULT_CONSTRUCTOR = 'DefaultOptimWrapperConstructor'
# Which asks whatever backbone there is.
_OWN_CONSTRUCTOR = 'mmatm.LayerDecayOptimWrapperConstructor'
_LAYER_DECAY = {'decay_rate', 'decay_type', 'layer_decay_rate', 'num_layers'}


def carry_drop_path(swap: Swap, path: Keys, old: Mapping, built: BuiltBackbone) -> None:
    """Gives the new backbone the drop path of the old one, or tells which it has if there was none.

    One of 0 that the config does not name, but the old class has by default, is none.

    Args:
        swap: Keeps the changes.
        path: Of the model around the backbone.
        old: The old backbone's config.
        built: The old backbone.
    """
    key = (*path, 'backbone', 'drop_path_rate')
    named, default = old.get('drop_path_rate'), options(built.kind).get('drop_path_rate')
    rate = named if named is not None else default or None
    own = options(swap.backbone).get('drop_path_rate')
    if not isinstance(rate, (int, float)):
        swap.notes.append(
            f'{dotted(path)}: {old["type"]} has no drop path; that of {swap.name} is {own} by default, set by '
            f'{dotted(key)}'
        )
    elif own is None:
        swap.notes.append(
            f'{dotted(path)}: drop_path_rate={rate} of {old["type"]} is not carried over: {swap.name} does not take it'
        )
    else:
        swap.set(key, rate, f'{old["type"]} had this drop path{" by default" if named is None else ""}')


def note_what_went(swap: Swap, path: Keys, old: Mapping) -> None:
    """Tells of options of the old backbone that a training or a method had on purpose, and that are gone with it."""
    unset = {'frozen_stages': (None, -1), 'norm_eval': (None, False)}
    habits = [f'{key}={old[key]}' for key, values in unset.items() if old.get(key) not in values]
    habits += [f'norm_cfg ({old["norm_cfg"]["type"]})'] if 'type' in (old.get('norm_cfg') or ()) else []
    if habits:
        own = options(swap.backbone)
        defaults = ', '.join(f'{key}={own[key]}' for key in unset if key in own)
        swap.notes.append(
            f'{dotted(path)}: not carried over from {old["type"]}: {", ".join(habits)}. {swap.name} has '
            f'{defaults} by default'
        )
    method = [key for key in ('dcn', 'plugins', 'sac', 'conv_cfg') if old.get(key)]
    if method:
        swap.notes.append(
            f'{dotted(path)}: {" and ".join(method)} of {old["type"]} had a part in this method and went with it'
        )


def forget_weights(swap: Swap, paths: Sequence[Keys]) -> None:
    """Takes away weights of whole models, which hold a backbone that is not there any more."""
    why = 'these are weights of a model with the old backbone'
    model = swap.cfg.model
    for found in list(pretrained_weights(model, ('model',))):
        holder = found.keys[: found.keys.index(found.entry)]
        if not found.of_teacher and any(path[: len(holder)] == holder for path in paths):
            swap.set((*holder, found.entry), without_pretrained(found.node).get(found.entry), why)
    if swap.cfg.get('load_from'):
        swap.set(('load_from',), None, why)
    for path, _ in dicts(model, ('model',)):
        if path[-1] in ('reid', 'teacher_backbone'):
            swap.notes.append(f'{dotted(path)} stays as it was: it has trained weights of its own')
    for found in pretrained_weights(model, ('model',)):
        if not backbone_class(found.node.get('type')) and not {'reid', 'teacher_backbone'} & set(found.keys):
            holder = found.keys[: found.keys.index(found.entry)]
            swap.notes.append(f'{dotted(holder)} still starts from {found.file or "weights of its own class"}')


def normalise(swap: Swap) -> None:
    """Normalises images as the weights of all backbones of this project expect."""
    why = f"RGB, normalised by ImageNet's mean and standard deviation, as weights of {swap.name} expect"
    cfg = swap.cfg._cfg_dict
    keys = ['model'] if 'data_preprocessor' in cfg['model'] else ['data_preprocessor', 'model']
    nodes = [found for key in keys if key in cfg for found in dicts(cfg[key], (key,))]
    preprocessors = [
        (path, node)
        for path, node in nodes
        if path[-1] == 'data_preprocessor'
        and 'reid' not in path
        and not isinstance(node.get('data_preprocessor'), dict)
    ]
    changes = len(swap.changes)
    for path, node in preprocessors:
        was_rgb = node.get('bgr_to_rgb') or node.get('to_rgb')
        for key, value in _IMAGENET.items():
            swap.set((*path, key), value, why)
        if node.get('rgb_to_bgr'):
            swap.set((*path, 'rgb_to_bgr'), False, why)
        is_mmpretrains = node.get('type', 'ClsDataPreprocessor').endswith(
            ('ClsDataPreprocessor', 'ReIDDataPreprocessor')
        )
        swap.set((*path, 'to_rgb' if is_mmpretrains or 'to_rgb' in node else 'bgr_to_rgb'), True, why)
        for tracker_path, tracker in [] if was_rgb else nodes:
            if tracker_path[-1] == 'img_norm_cfg' and 'reid' in tracker_path and tracker.get('to_rgb'):
                swap.set((*tracker_path, 'to_rgb'), False, 'it gets images in RGB already')
    if not preprocessors:
        swap.notes.append(f'the config has no data_preprocessor: make sure that images are {why}')
    kept = [dotted(path) for path, _ in nodes if path[-1] == 'teacher_backbone']
    if kept and len(swap.changes) > changes:
        swap.notes.append(f'{" and ".join(kept)} now gets images that are normalised for {swap.name}')


def fit_optimizer(swap: Swap, parameters: Set[str], new: Set[str]) -> None:
    """Takes away what an optimizer has for single parts of the old backbone.

    Args:
        swap: Keeps the changes.
        parameters: Names of the old backbone's parameters.
        new: Names of the new one's.
    """
    wrapper = swap.cfg.get('optim_wrapper') or {}
    settings = wrapper.get('paramwise_cfg') or {}
    constructor = wrapper.get('constructor', _DEFAULT_CONSTRUCTOR)
    if _LAYER_DECAY & set(settings) and constructor != _OWN_CONSTRUCTOR:
        why = "its learning rates are by the old backbone's layers; norms and biases stay exempt from weight decay"
        kept = {key: value for key, value in settings.items() if key not in _LAYER_DECAY}
        swap.set(('optim_wrapper', 'constructor'), _DEFAULT_CONSTRUCTOR, why)
        settings = {'norm_decay_mult': 0.0, 'bias_decay_mult': 0.0, **kept}
        swap.set(('optim_wrapper', 'paramwise_cfg'), settings, why)
        swap.notes.append(f'layer decay went with the old backbone; {_OWN_CONSTRUCTOR} has it for this one too')
    elif not wrapper.get('optimizer') or constructor not in (_DEFAULT_CONSTRUCTOR, _OWN_CONSTRUCTOR):
        swap.notes.append('optim_wrapper stays as it was: see whether it has settings for parts of the old backbone')
    keys = settings.get('custom_keys') or {}
    # Of one place in a model that has several, such as student.backbone.layer1, too.
    parts = [key for key in keys if key.partition('backbone.')[2]]
    if any(key not in parts and _names(key, parameters) for key in keys):
        now = _parameters(swap) or new
        parts += [key for key in keys if key not in parts and _names(key, parameters) and not _names(key, now)]
    if parts:
        kept = {key: value for key, value in keys.items() if key not in parts}
        why = f'keys for parts of the old backbone are gone: {_some(parts)}'
        swap.set(('optim_wrapper', 'paramwise_cfg', 'custom_keys'), kept, why)
    optimizer = (wrapper.get('optimizer') or {}).get('type')
    if optimizer and optimizer != 'AdamW':
        swap.notes.append(
            f'the optimizer, {optimizer}, and its learning rate stay as they were; backbones like {swap.name} are '
            'trained with AdamW and lower learning rates, see docs/swapping.md'
        )


def _parameters(swap: Swap) -> set[str]:
    """The names of a model's parameters; none if it cannot be built."""
    try:
        return build_and_run(swap.cfg.model, lambda module, _: {name for name, _ in module.named_parameters()})
    except Exception:
        return set()


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _names(key: str, parameters: Set[str]) -> bool:
    return any(key in name for name in parameters)
