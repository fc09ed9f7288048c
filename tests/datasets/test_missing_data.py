"""Everything that a command needs and does not find is said at once."""

import pytest
from conftest import CLASSIFIER, DETECTOR, ROOT, SEGMENTOR, write_config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from mmatm.config import load_config
from mmatm.datasets.missing_data import missing_data, require_data
from mmatm.errors import InputError, raise_all


def refuse(message):
    raise InputError(message)


def test_all_refusals_are_one():
    ran = []
    raise_all([lambda: ran.append(1), lambda: ran.append(2)])
    assert ran == [1, 2]
    with pytest.raises(InputError, match=r'^no weights$'):
        raise_all([lambda: refuse('no weights'), lambda: ran.append(3)])
    with pytest.raises(InputError, match=r'^2 things are wrong:\n- no weights\n- no data\n  and no labels$') as refusal:
        raise_all([lambda: refuse('no weights'), lambda: refuse('no data\nand no labels'), lambda: ran.append(4)])
    assert refusal.value.__cause__ is None
    assert ran == [1, 2, 3, 4]
    with pytest.raises(KeyError):  # no refusal, but an error of the program
        raise_all([lambda: refuse('no weights'), lambda: {}['a']])


@pytest.mark.parametrize('text', [SEGMENTOR, DETECTOR, CLASSIFIER])
def test_nothing_is_missing(tmp_path, shapes, text):
    cfg = load_config(str(write_config(tmp_path, shapes, text)))
    assert missing_data(cfg) == missing_data(cfg, ['test']) == []


def test_missing_root(tmp_path):
    cfg = load_config(str(write_config(tmp_path, tmp_path / 'absent')))
    assert missing_data(cfg) == [f'there is no folder {tmp_path}/absent/ade (train_dataloader.dataset.data_root)']
    with pytest.raises(
        InputError, match=r'^there is no folder \S+/absent/ade \(train_dataloader\.dataset\.data_root\)$'
    ):
        require_data(cfg)
    cfg.train_dataloader = cfg.val_dataloader = None
    assert missing_data(cfg) == []


def test_missing_folders_and_files_below_wrappers(tmp_path, shapes):
    cfg = load_config(str(write_config(tmp_path, shapes, DETECTOR)))
    dataset = cfg.train_dataloader.dataset
    good = dict(dataset)
    bad = {**dataset, 'ann_file': 'annotations/absent.json', 'data_prefix': {'img': f'{tmp_path}/absent/'}}
    both = {'type': 'ConcatDataset', 'datasets': [good, bad]}
    cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 2, 'dataset': both}
    cfg.val_evaluator.ann_file = f'{tmp_path}/gone.json'
    assert missing_data(cfg) == [
        f'there is no folder {tmp_path}/absent/ (train_dataloader.dataset.dataset.datasets.1.data_prefix.img)',
        f'there is no file {shapes}/coco/annotations/absent.json '
        '(train_dataloader.dataset.dataset.datasets.1.ann_file)',
        f'there is no file {tmp_path}/gone.json (val_evaluator.ann_file)',
    ]


class Made(BaseDataset):
    """Reads in its own way what it is told."""

    def load_data_list(self):
        return [{'img_path': 'made up'}]


def test_what_others_read_is_left_to_them(tmp_path, monkeypatch):
    """Not on this disk, downloaded by the dataset itself, or read in a way of the user's own."""
    monkeypatch.setitem(DATASETS._module_dict, 'Made', Made)
    absent = {'data_root': f'{tmp_path}/absent', 'ann_file': 'absent.json', 'data_prefix': {'img_path': 'absent'}}
    cfg = load_config(str(write_config(tmp_path, tmp_path / 'absent', CLASSIFIER)))
    found = len(missing_data(cfg))
    assert found == 1
    for dataset in (
        {'type': 'ImageNet', 'data_root': 's3://bucket/imagenet', 'data_prefix': 'train'},
        {'type': 'CustomDataset', **absent, 'backend_args': {'backend': 'petrel'}},
        {'type': 'CIFAR10', 'data_prefix': f'{tmp_path}/absent'},
        {'type': 'Made', **absent},
        {'type': 'Unknown', **absent},
    ):
        cfg.train_dataloader.dataset = cfg.val_dataloader.dataset = dataset
        assert missing_data(cfg) == []


def test_a_root_that_nothing_is_below(tmp_path):
    """As where a base's root stays, and the paths are whole."""
    cfg = load_config(str(write_config(tmp_path, tmp_path / 'absent', CLASSIFIER)))
    (tmp_path / 'images').mkdir()
    dataset = {'type': 'CustomDataset', 'data_root': 'absent', 'data_prefix': f'{tmp_path}/images'}
    cfg.train_dataloader.dataset = cfg.val_dataloader.dataset = dataset
    assert missing_data(cfg) == []
    cfg.train_dataloader.dataset.data_prefix = 'images'
    assert len(missing_data(cfg)) == 1


def test_published_configs_name_what_they_need(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('upernet_atmnet_t_ade20k', 'mask_rcnn_atmnet_t_1x_coco', 'atmnet_t_in1k'):
        (message, *_) = missing_data(load_config(str(ROOT / f'configs/{name}.py')))
        assert message.startswith('there is no folder data/')
