"""What tests leave behind, and the tables made of it."""

import hashlib
import json
import runpy
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config

from mmatm.results import read_results, summarize_training, write_result
from mmatm.stack import FORKS, UPSTREAM, installed
from mmatm.tables import find_checkpoint, measured, merge_results, metafile, missing, read_tables, record, render

TABLES = read_tables(ROOT / 'docs/paper_tables.yml')
UPERNET = next(table for table in TABLES if table['name'] == 'upernet')
ROW = next(row for row in UPERNET['rows'] if row['model'] == 'ATMNet-T')


def result(**changes):
    return {
        'config': 'upernet_atmnet_t_ade20k',
        'options': {},
        'checkpoint': 'iter_160000.pth',
        'checkpoint_sha256': '0123456789abcdef',
        'augmented': False,
        'finished': True,
        'data': {'type': 'ADE20KDataset', 'pictures': 2000},
        'metrics': {'mIoU': 46.4, 'aAcc': 80.0},
        'training': None,
        'environment': {'torch': '2.11.0', 'cpu': 'a CPU'},
        'date': '2026-01-01T00:00:00Z',
        **changes,
    }


def test_docs_are_what_the_record_gives():
    """Run tools/reproduce_tables.py if this fails."""
    found = json.loads((ROOT / 'docs/results.json').read_text())
    assert (ROOT / 'docs/results.md').read_text() == render(TABLES, found['counts'], found['results'])
    assert found == json.loads(json.dumps(record(TABLES, found['counts'], found['results'])))
    assert (ROOT / 'configs/metafile.yml').read_text() == metafile(TABLES, found['counts'])


def test_all_sizes_are_in_every_table_and_all_configs_exist():
    for table in TABLES:
        assert {'ATMNet-xT', 'ATMNet-T', 'ATMNet-S', 'ATMNet-B', 'ATMNet-L'} <= {row['model'] for row in table['rows']}
        for row in table['rows']:
            if row['model'].startswith('ATMNet'):
                assert (ROOT / f'configs/{row["config"]}.py').is_file()


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({}, {'miou': 46.4}),
        ({'augmented': True}, {'miou_ms': 46.4}),
        ({'data': {'type': 'ADE20KDataset', 'pictures': 101}}, {}),
        ({'options': {'model.backbone.arch': 's'}}, {}),
        ({'finished': False}, {}),
        ({'config': 'upernet_atmnet_s_ade20k'}, {}),
    ],
)
def test_only_a_full_test_of_the_config_as_it_is_counts(changes, expected):
    assert measured(UPERNET, ROW, [result(**changes)]) == expected


def test_measurements_in_the_tables():
    coco = result(
        config='mask_rcnn_atmnet_b_1x_coco',
        data={'type': 'CocoDataset', 'pictures': 5000},
        metrics={'coco/bbox_mAP': 0.461, 'coco/segm_mAP': 0.42},
    )
    training = {**TRAINING, 'seconds_per_iteration': 400 / 3}
    small = {'data': {'type': 'ADE20KDataset', 'pictures': 101}, 'training': training, 'augmented': True}
    small = result(**small, metrics={'mIoU': 19.15, 'coco/bbox_mAP': -1.0})
    text = render(TABLES, {}, [result(), coco, small])
    assert text.count('| mIoU 46.40 |') == 1
    assert text.count('| AP box 46.10, AP mask 42.00 |') == 1
    assert '| upernet_atmnet_t_ade20k (TTA) | 101 | 9 | 20 | 6.00 to 2.00 | mIoU 19.15 | 01234567 | CPU |' in text
    assert '-100' not in text
    assert '| upernet_swin_t_streets | not measured |' in text


TRAINING = {
    'iterations': 9,
    'first_loss': 6.0,
    'last_loss': 2.0,
    'seconds_per_iteration': 0.25,
    'batch_size': 8,
    'peak_memory_mib': 1000,
    'seed': 0,
}


def test_streets_table_takes_full_trainings_of_all_seeds():
    street = {'config': 'upernet_r50_streets', 'data': {'type': 'BaseSegDataset', 'pictures': 101}}
    seeds = [
        result(**street, training={**TRAINING, 'seed': seed}, metrics={'mIoU': value})
        for seed, value in ((0, 10.0), (0, 60.0), (1, 62.0))
    ]
    trial = result(**street, training=TRAINING, options={'train_cfg.max_iters': '2'}, metrics={'mIoU': 1.0})
    halfway = result(**street, training=TRAINING, finished=False, metrics={'mIoU': 2.0})
    text = render(TABLES, {}, [*seeds, trial, halfway])
    assert '| upernet_r50_streets | 2 | 61.00 (60.00 to 62.00) | 32.0 | 1000 | a CPU |' in text


def test_newest_result_of_the_same_test_stays():
    old, new = result(), result(date='2026-02-01T00:00:00Z', metrics={'mIoU': 47.0})
    others = [result(checkpoint_sha256='f' * 64), result(options={'model.test_cfg.mode': 'slide'})]
    assert merge_results([new, *others], [old]) == [*others, new]


def log(folder: Path, *lines: dict) -> None:
    path = folder / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(map(json.dumps, lines)))


def test_training_is_summarized_over_resuming_and_beginning_anew(tmp_path):
    def line(step, loss, **more):
        return {'loss': loss, 'time': step / 100, 'step': step, 'iter': step, **more}

    log(tmp_path / '1', line(1, 9.0), line(2, 8.0), line(3, 7.0))  # another training, before
    log(tmp_path / '2', line(1, 6.0), line(2, 5.0, memory=500), {'mIoU': 1.0, 'step': 2}, line(3, 4.5))
    log(tmp_path / '3', line(3, 4.0), line(4, 3.0, memory=400))  # resumed from iteration 2
    with (tmp_path / '3/vis_data/scalars.json').open('a') as file:
        file.write('\n{"loss": 2.0, "ti')  # killed
    cfg = Config(dict(train_dataloader=dict(batch_size=4), randomness=dict(seed=7)))
    assert summarize_training(tmp_path, cfg) == {
        'iterations': 4,
        'first_loss': 6.0,
        'last_loss': 3.0,
        'seconds_per_iteration': 0.03,
        'batch_size': 4,
        'peak_memory_mib': 500,
        'seed': 7,
    }
    assert summarize_training(tmp_path, cfg, last=2)['last_loss'] == 5.0
    assert summarize_training(tmp_path / '1/vis_data', cfg) is None


def test_result_file_holds_no_paths(tmp_path):
    torch.save({'state_dict': {'w': torch.zeros(1)}, 'meta': {'iter': 1200, 'epoch': 0}}, tmp_path / 'weights.pth')
    sha256 = hashlib.sha256((tmp_path / 'weights.pth').read_bytes()).hexdigest()
    cfg = Config.fromfile(ROOT / 'configs/upernet_atmnet_mini_shapes.py')
    cfg.work_dir = str(tmp_path)
    options = {
        'test_dataloader.dataset.data_root': '/home/me/ade',
        'test_dataloader.dataset.data_prefix.img': '/home/me/ade/images',
        '+model.backbone.frozen_stages': 1,
        'load_from': '/home/me/start.pth',
    }
    path = write_result(cfg, options, str(tmp_path / 'weights.pth'), True, 5, {'mIoU': 1.5, 'by class': [1, 2]}, 2)
    assert path == tmp_path / 'result_weights_tta.json'
    (found,) = read_results(tmp_path)
    assert found['options'] == {'model.backbone.frozen_stages': '1', 'load_from': 'start.pth'}
    assert found['checkpoint_sha256'] == sha256
    assert found['finished']
    torch.save({'state_dict': {'w': torch.zeros(1)}, 'meta': {'iter': 1199, 'epoch': 0}}, tmp_path / 'weights.pth')
    write_result(cfg, options, str(tmp_path / 'weights.pth'), True, 5, {}, 1)
    (tmp_path / 'result_other.json').write_text('[]')
    (unfinished,) = read_results(tmp_path)
    assert not unfinished['finished']
    assert found['config'] == 'upernet_atmnet_mini_shapes'
    versions = installed([*UPSTREAM, *FORKS])
    assert len(versions) == 5
    assert versions.items() <= found['environment'].items()
    assert found['metrics'] == {'mIoU': 1.5}
    assert str(tmp_path) not in path.read_text()
    assert '/home' not in path.read_text()


def test_missing_weights_and_data_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    table = {**UPERNET, 'rows': UPERNET['rows'][:5]}
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints/upernet_atmnet_t_ade20k.pth').touch()
    lines = missing([table], tmp_path / 'checkpoints', tmp_path / 'work_dirs')
    assert len(lines) == 5  # the data once, four weights
    assert 'ADEChallengeData2016.zip' in lines[0]
    assert '1vWTI7gRiI3Fd5g6UPziSyafliq3yrhrO' in lines[-1]
    assert 'do not publish them. To train them: tools/train.py configs/upernet_atmnet_xt_ade20k.py' in lines[1]
    found = find_checkpoint('upernet_atmnet_t_ade20k', tmp_path / 'checkpoints', tmp_path / 'work_dirs')
    assert found == str(tmp_path / 'checkpoints/upernet_atmnet_t_ade20k.pth')


@pytest.mark.parametrize('gpus', [1, 4])
def test_run_tests_every_checkpoint_that_is_there(gpus, tmp_path, monkeypatch):
    (tmp_path / 'upernet_atmnet_t_ade20k.pth').touch()
    (tmp_path / 'retinanet_atmnet_t_1x_coco.pth').touch()
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr('subprocess.run', lambda command, **_: commands.append(command[-6:]) or Done())
    tool = runpy.run_path(str(ROOT / 'tools/reproduce_tables.py'))
    args = type('Arguments', (), {'gpus': gpus, 'checkpoints': tmp_path, 'work_dirs': tmp_path / 'work'})
    assert tool['test_all'](TABLES, args) == []
    assert len(commands) == 3  # UperNet with and without augmentation
    assert [command[-1] == '--tta' for command in commands] == [False, True, False]
    assert all(str(gpus) in command or gpus == 1 for command in commands)
    assert sum('configs/upernet_atmnet_t_ade20k.py' in command for command in commands) >= 1
