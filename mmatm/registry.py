"""MMEngine's registries, with what mmatm adds to them.

MMEngine imports `<scope>.registry` when it meets a type like `mmatm.ATMNet`, and the registry imports its
`locations` when something is asked of it: nobody has to import mmatm by hand.
"""

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmatm', locations=['mmatm.models'])
RUNNERS = Registry('runner', parent=MMENGINE_RUNNERS, scope='mmatm', locations=['mmatm.engine.runner'])
OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmatm', locations=['mmatm.engine.mixed_precision']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_CONSTRUCTORS,
    scope='mmatm',
    locations=['mmatm.engine.layer_decay'],
)
# Token mixers for `mmatm.MetaFormer`, by name.
TOKEN_MIXERS = Registry('token mixer', scope='mmatm', locations=['mmatm.models'])


def find_module(name: str) -> object:
    """What has a name in the default scope's registry of models, or else in this project's; None if nothing has."""
    # In this order: MMPretrain has a RIFormer too, which is what its configs mean.
    with MMENGINE_MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(name) or MODELS.module_dict.get(name)
