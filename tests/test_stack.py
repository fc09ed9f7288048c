"""That mmatm works with either family of toolboxes, refuses a mixture, and never installs anything."""

import os
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import mmengine.config.utils
import mmengine.runner.checkpoint
import mmengine.utils.package_utils
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.utils import is_installed
from packaging.requirements import Requirement

import mmatm.stack
from mmatm.checkpoint import read_checkpoint
from mmatm.config import load_config
from mmatm.errors import InputError
from mmatm.stack import check_stack, find_forks_configs
from mmatm.swap import base_name, swap_backbone, swapped_text

UPERNET = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'


@pytest.fixture
def no_installer(monkeypatch):
    def fail(*command: object, **options: object) -> None:
        raise AssertionError(f'{command} was run')

    for name in ('run', 'call', 'check_call', 'check_output', 'Popen'):
        monkeypatch.setattr(subprocess, name, fail)
    monkeypatch.setattr(os, 'system', fail)
    monkeypatch.setattr(mmengine.utils.package_utils, 'call_command', fail)


@pytest.fixture
def names_of_upstream(monkeypatch):
    """MMEngine's own names of packages, as they are before mmatm is imported."""
    names = mmengine.config.utils.MODULE2PACKAGE
    monkeypatch.setitem(names, 'mmseg', 'mmsegmentation')


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Hides an installed package, as if its modules belonged to one of another name."""

    def hide(real: Callable) -> Callable:
        def ask(name: str) -> object:
            if name == package:
                raise metadata.PackageNotFoundError(name)
            return real(name)

        return ask

    monkeypatch.setattr(metadata, 'version', hide(metadata.version))
    monkeypatch.setattr(metadata, 'distribution', hide(metadata.distribution))


@pytest.mark.parametrize('name', [UPERNET, 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'])
def test_named_configs_install_nothing(no_installer, name):
    assert load_config(name).model.backbone.type.startswith('ResNet')


@pytest.mark.parametrize('name', ['mmpose::body/absent.py', 'absent::a/b.py', 'not a module::a/b.py', '::a/b.py'])
def test_a_toolbox_that_is_not_here_is_named_and_not_installed(no_installer, name):
    with pytest.raises(InputError, match='is not installed here'):
        load_config(name)


def test_inherited_names_install_nothing(no_installer, tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmpose::body/absent.py'")
    with pytest.raises(InputError, match=r'mine\.py cannot be read: ModuleNotFoundError: .*mmpose is not installed'):
        load_config(str(tmp_path / 'mine.py'))


def test_configs_of_a_fork_are_found_by_their_usual_name(monkeypatch, names_of_upstream, no_installer, tmp_path):
    without(monkeypatch, 'mmsegmentation')
    own = tmp_path / 'own.py'
    own.write_text(f'_base_ = {UPERNET!r}')
    if not is_installed('mmsegmentation'):  # upstream's MMEngine finds what is hidden here
        with pytest.raises(ModuleNotFoundError, match='mmsegmentation is not installed'):
            Config.fromfile(own)
    find_forks_configs()
    assert mmengine.config.utils.MODULE2PACKAGE['mmseg'] == 'mmseg'
    assert Config.fromfile(own).model.type == 'EncoderDecoder'
    assert load_config(UPERNET).model.type == 'EncoderDecoder'
    assert load_config(str(ROOT / 'configs/upernet_atmnet_t_ade20k.py')).model.type == 'EncoderDecoder'
    swap = swap_backbone(UPERNET)
    written = tmp_path / 'swapped.py'
    written.write_text(swapped_text(swap, base_name(UPERNET, swap.cfg, tmp_path)))
    assert load_config(str(written)).model.backbone.type == 'mmatm.ATMNet'


def test_names_of_packages_that_are_installed_stay(monkeypatch):
    names = mmengine.config.utils.MODULE2PACKAGE
    monkeypatch.setitem(names, 'torch', 'numpy')
    find_forks_configs()
    assert names['torch'] == 'numpy'


def test_two_families_in_one_environment_are_refused(monkeypatch, tmp_path):
    check_stack()
    for package in ('mmcv', 'onedl_mmcv', 'onedl_mmpretrain'):
        folder = tmp_path / f'{package}-2.3.6.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {package}\nVersion: 2.3.6\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        RuntimeError, match=r"upstream's .*mmcv.* and the forks .*onedl-mmcv.*pip uninstall .*mmcv"
    ) as error:
        check_stack()
    assert 'onedl-mmpretrain' in str(error.value)


def test_without_mmengine_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mmatm.stack, 'find_spec', lambda name: None)
    with pytest.raises(RuntimeError, match='pip install mmengine, or onedl-mmengine'):
        check_stack()


def test_pip_installs_no_toolbox_beside_the_users():
    """Of two families with the same import names pip would take the wrong one."""
    needed = [Requirement(text) for text in metadata.requires('mmatm')]
    assert {one.name for one in needed if one.marker is None} == {'torch', 'numpy'}


# Loading


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_list_that_others_have_emptied_does_not_matter(tmp_path):
    torch.save({'state_dict': {'a': torch.ones(1)}, 'log': HistoryBuffer([1.0], [1])}, tmp_path / 'a.pth')
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        assert read_checkpoint(str(tmp_path / 'a.pth'))['log'].mean() == 1.0
        assert torch.serialization.get_safe_globals() == [], 'for this reading only'
    finally:
        torch.serialization.add_safe_globals(before)


def test_what_the_process_allows_stays_allowed(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({'a': torch.ones(1)}, tmp_path / 'a.pth')
    read_checkpoint(str(tmp_path / 'a.pth'))
    mmengine.runner.checkpoint.load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'a.pth'))
    assert set(torch.serialization.get_safe_globals()) == before


def test_the_toolboxes_own_loaders_run_no_code_of_a_file(tmp_path, shapes):
    from conftest import write_config
    from mmdet.apis import init_detector
    from mmpretrain import get_model
    from mmseg.apis import init_model

    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    torch.save({'state_dict': {}, 'meta': RunsCode(trace)}, path)
    segmentor = str(write_config(tmp_path, shapes))
    detector = str(ROOT / 'configs/mask_rcnn_atmnet_mini_shapes.py')
    classifier = str(ROOT / 'configs/atmnet_mini_shapes.py')
    for load in (
        lambda: init_model(segmentor, str(path), device='cpu'),
        lambda: init_detector(detector, str(path), device='cpu'),
        lambda: get_model(Config.fromfile(classifier), pretrained=str(path)),
    ):
        with pytest.raises(Exception, match=r'[Ww]eights.only') as refusal:
            load()
        assert not isinstance(refusal.value, AssertionError)
        assert not trace.exists()
