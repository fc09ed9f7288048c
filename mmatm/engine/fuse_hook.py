"""Tests a model in its form for inference."""

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmatm.models import fuse_backbones


class FuseHook(Hook):
    """Fuses the backbones of a model, after its weights are loaded and before they are tested."""

    def before_test(self, runner: Runner) -> None:
        fuse_backbones(runner.model)


def fuse_before_test(cfg: Config) -> None:
    """Adds a `FuseHook` to a config, in place.

    Hooks that average weights go: a checkpoint holds the average, which they would copy once more, parameter by
    parameter, into a model that has others by then.
    """
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [*(hook for hook in hooks if 'EMAHook' not in str(hook['type'])), dict(type=FuseHook)]
