"""Spares tests what takes the toolboxes and PyTorch long and changes nothing that is tested."""

import functools
from types import SimpleNamespace

import mmengine.config.config
import mmengine.config.utils
import mmengine.dataset.base_dataset
import mmengine.utils.package_utils
import torch.utils.data._utils

# It reads all model indices of a toolbox for each config that inherits from it.
mmengine.config.utils.load = functools.cache(mmengine.config.utils.load)

# It loads pkg_resources anew for each file that a config inherits.
for _module in (mmengine.config.config, mmengine.utils.package_utils):
    _module.is_installed = functools.cache(_module.is_installed)

# Configs are laid out three times in each training, which takes longer than the training; tests that run commands in
# processes of their own have it.
mmengine.config.config.FormatCode = lambda text, **style: (text, True)

# Each dataset has all objects looked through for garbage, which takes longer than to read it.
mmengine.dataset.base_dataset.gc = SimpleNamespace(collect=lambda: 0)

# When loaders go, their workers, which may stand still, are waited for.
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
