"""What tests leave behind, and the tables made of it."""

import copy
import hashlib
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from mmengine.config import Config

from mmatm.analysis.metafile import metafile
from mmatm.analysis.papers import by_paper, find_checkpoint, is_own, missing, read_streets, read_tables
from mmatm.analysis.results import _changed, identify, merge_results, read_results, summarize_training, write_result
from mmatm.analysis.tables import measured, record, render
from mmatm.config import load_config
from mmatm.engine.mixed_precision import computes_bfloat16
from mmatm.engine.recipe import differences, read_text
from mmatm.errors import InputError
from mmatm.stack import FORKS, UPSTREAM, installed

TABLES = read_tables(ROOT / 'docs')
STREETS = read_streets(ROOT / 'docs')
UPERNET = next(table for table in TABLES if table['name'] == 'upernet')
ROW = next(row for row in UPERNET['rows'] if row['model'] == 'ATMNet-T')


def data(kind, images, names=None, objects=None):
    digest = None if names is None else hashlib.sha256('\n'.join(names).encode()).hexdigest()
    return {
        'type': kind, 'images': images, 'images_sha256': digest, 'annotations_sha256': None, 'objects': objects,
    }  # fmt: skip


# The images of the benchmark's validation set by their names, which are numbers.
ADE20K = data('ADE20KDataset', 2000, [f'ADE_val_{i:08}.jpg ADE_val_{i:08}.png' for i in range(1, 2001)])
IMAGENET = data('ImageNet', 50000, [f'ILSVRC2012_val_{i:08}.JPEG' for i in range(1, 50001)])


def result(**changes):
    return {
        'config': 'upernet_atmnet_t_ade20k',
        'options': {},
        'checkpoint': 'iter_160000.pth',
        'checkpoint_sha256': '0123456789abcdef',
        'augmented': False,
        'finished': True,
        'changed': {},
        'data': ADE20K,
        'metrics': {'mIoU': 46.4, 'aAcc': 80.0},
        'training': None,
        'environment': {'torch': '2.11.0', 'cpu': 'a CPU'},
        'date': '2026-01-01T00:00:00Z',
        **changes,
    }


def test_docs_are_what_the_record_gives():
    """Run tools/reproduce_tables.py if this fails."""
    found = json.loads((ROOT / 'docs/results.json').read_text())
    assert (ROOT / 'docs/results.md').read_text() == render(TABLES, STREETS, found['counts'], found['results'])
    assert found == json.loads(json.dumps(record(TABLES, found['counts'], found['results'])))
    for paper, tables in by_paper(TABLES):
        assert (ROOT / paper['configs'] / 'metafile.yml').read_text() == metafile(tables, found['counts'])


def test_all_sizes_are_in_every_table_and_all_configs_exist():
    assert [paper['backbone'] for paper, _ in by_paper(TABLES)] == [
        f'mmatm.{name}'
        for name in (*('ATMNet', 'AFFNet', 'CASViT', 'CDFFormer', 'DFFormer', 'DSM', 'FFNet', 'RIFormer', 'TransXNet'),)
    ]
    for table in TABLES:
        assert set(table['paper']['sizes']) <= {row['model'] for row in table['rows']}
        for row in table['rows']:
            if is_own(table, row):
                cfg = load_config(str(ROOT / f'{table["paper"]["configs"]}/{row["config"]}.py'))
                wanted = table['paper']['backbone'], table['paper']['sizes'][row['model']]
                assert (cfg.model.backbone.type, cfg.model.backbone.arch) == wanted


PAPER = """
backbone: mmatm.CASViT
configs: configs/casvit
collection: {Name: CAS-ViT}
sizes: {XS: xs, S: s, M: m, T: t}
tables:
- title: One
  name: one
  shape: [64, 64]
  config: 'a_{size}'
  task: Semantic Segmentation
  dataset: Streets
  metrics: [miou]
  rows:
  - {model: ResNet, miou: 1}
  - {model: S, miou: 2.5}
  - {model: S, size: 96, miou: 3}
"""


@pytest.fixture
def docs(tmp_path):
    (tmp_path / 'papers').mkdir()
    (tmp_path / 'datasets.yml').write_text('Streets: {images: 3, metrics: {miou: [mIoU, mIoU], other: [x, y]}}')
    (tmp_path / 'papers/a.yml').write_text(PAPER)
    return tmp_path


def test_rows_are_completed(docs):
    (table,) = read_tables(docs)
    assert [(row['model'], row.get('config'), row.get('miou')) for row in table['rows']] == [
        ('XS', 'a_xs', None),
        ('S', 'a_s', 2.5),
        ('M', 'a_m', None),
        ('T', 'a_t', None),
        ('ResNet', None, 1),
        ('S', 'a_s_96', 3),
    ]
    assert (table['images'], table['metrics'], table['source']) == (3, {'miou': ['mIoU', 'mIoU']}, 'paper')


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('task: Semantic Segmentation', 'tsak: x', r"a.yml, one: missing: \['task'\], unknown: \['tsak'\]"),
        ('miou: 1', 'moiu: 1', r"a.yml, one, ResNet: missing: \[\], unknown: \['moiu'\]"),
        ('[miou]', '[top1]', r"a.yml, one, metrics: missing: \[\], unknown: \['top1'\]"),
        ('dataset: Streets', 'dataset: COCO', 'datasets.yml has no COCO; it has Streets'),
        ('M: m, ', '', 'the sizes of mmatm.CASViT are xs, s, m, t'),
        ('mmatm.CASViT', 'mmatm.CASVit', 'there is no backbone mmatm.CASVit'),
        ('configs: configs/casvit\n', '', r"a.yml: missing: \['configs'\]"),
    ],
)
def test_mistakes_in_a_file_are_told(docs, old, new, message):
    (docs / 'papers/a.yml').write_text(PAPER.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_tables(docs)


def test_figures_are_named_after_their_source(docs):
    (docs / 'papers/a.yml').write_text(PAPER.replace('  name: one', '  name: one\n  source: MMPretrain'))
    (table,) = read_tables(docs)
    counts = {row['config']: dict(params=2_500_000, flops=7) for row in table['rows'] if is_own(table, row)}
    models = yaml.safe_load(metafile([table], counts))['Models']
    assert models[1]['Results'][0]['Metrics'] == {'mIoU (MMPretrain)': 2.5}
    assert models[0]['Results'][0]['Metrics'] == {'not published': None}
    assert models[0]['Config'] == 'configs/casvit/a_xs.py'
    assert models[0]['Metadata'] == {'Parameters': 2_500_000, 'FLOPs': 7, 'Training Data': 'Streets'}


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({}, {'miou': 46.4}),
        ({'augmented': True}, {'miou_ms': 46.4}),
        ({'data': {**ADE20K, 'images': 101}}, {}),
        ({'data': data('ADE20KDataset', 2000, ['others'] * 2000)}, {}),
        ({'data': data('ADE20KDataset', 2000)}, {}),  # not recorded
        ({'changed': {'optim_wrapper.optimizer.lr': '0.5'}}, {}),
        ({'changed': None}, {}),
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
        data=data('CocoDataset', 5000, ['any'], objects=36781),
        metrics={'coco/bbox_mAP': 0.461, 'coco/segm_mAP': 0.42},
    )
    training = {**TRAINING, 'seconds_per_iteration': 400 / 3}
    small = {'data': data('ADE20KDataset', 101, ['street']), 'training': training, 'augmented': True}
    small = result(**small, metrics={'mIoU': 19.15, 'coco/bbox_mAP': -1.0})
    classifier = result(config='atmnet_t_in1k', data=IMAGENET, metrics={'accuracy/top1': 81.0})
    part = {**coco, 'data': {**coco['data'], 'objects': 30000}, 'metrics': {'coco/bbox_mAP': 0.11}}
    text = render(TABLES, STREETS, {}, [result(), coco, small, classifier, part])
    assert text.count('| top-1 81.00 |') == 1
    assert f'| CocoDataset {part["data"]["images_sha256"][:8]} | 5000 |' in text
    assert text.count('| mIoU 46.40 |') == 1
    assert text.count('| AP box 46.10, AP mask 42.00 |') == 1
    streets = f'ADE20KDataset {small["data"]["images_sha256"][:8]}'
    row = f'| upernet_atmnet_t_ade20k (TTA) | {streets} | 101 | 9 | 20 | 6.00 to 2.00 | mIoU 19.15 | 01234567 | CPU |'
    assert row in text
    assert '-100' not in text
    assert '| upernet_swin_t_streets | not measured |' in text


TRAINING = {
    'iterations': 9,
    'first_loss': 6.0,
    'last_loss': 2.0,
    'seconds_per_iteration': 0.25,
    'batch_size': 8,
    'peak_memory_mib': 1000,
    'processes': 2,
    'samples': 367,
    'seed': 0,
}


def test_streets_table_takes_full_trainings_of_all_seeds():
    street = {
        'config': 'upernet_r50_streets',
        'data': {**data('BaseSegDataset', 101), 'images_sha256': STREETS['images_sha256']},
    }
    seeds = [
        result(**street, training={**TRAINING, 'seed': seed}, metrics={'mIoU': value})
        for seed, value in ((0, 10.0), (0, 60.0), (1, 62.0))
    ]
    trial = result(**street, training=TRAINING, options={'train_cfg.max_iters': '2'}, metrics={'mIoU': 1.0})
    halfway = result(**street, training=TRAINING, finished=False, metrics={'mIoU': 2.0})
    text = render(TABLES, STREETS, {}, [*seeds, trial, halfway])
    assert '| upernet_r50_streets | 2 | 61.00 (60.00 to 62.00) | 64.0 | 1000 | a CPU |' in text

    precision = {'optim_wrapper.type': 'mmatm.CpuAmpOptimWrapper', 'optim_wrapper.loss_scale': 'none'}
    gpu = {**result()['environment'], 'gpu': 'a GPU'}
    third = result(**street, training=TRAINING, metrics={'mIoU': 64.0}, changed=precision)
    refused = [
        {**third, 'training': {**TRAINING, 'seed': seed}, **more}
        for seed, more in enumerate(
            [
                {'changed': None},
                {'changed': {**precision, 'optim_wrapper.optimizer.lr': '1'}},
                {'changed': {**precision, 'optim_wrapper.loss_scale': '512.0'}},
                {'changed': {'optim_wrapper.dtype': 'bfloat16'}},
                {'changed': {**precision, 'optim_wrapper.type': 'ApexOptimWrapper'}},
                {'changed': {**precision, 'optim_wrapper.type': 'OptimWrapper, then mmatm.CpuAmpOptimWrapper'}},
                {'changed': {key: f'{value}, then as in the config' for key, value in precision.items()}},
                {'environment': gpu},  # where it began on a CPU
            ],
            3,
        )
    ]
    text = render(TABLES, STREETS, {}, [*seeds, third, *refused])
    assert '| upernet_r50_streets | 2 | 61.00 (60.00 to 62.00) | 64.0 | 1000 | a CPU |' in text
    assert '| upernet_r50_streets | 1 | 64.00 (64.00 to 64.00) | 64.0 | 1000 | a CPU in bfloat16 |' in text


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
    assert summarize_training(tmp_path) == {
        'iterations': 4,
        'first_loss': 6.0,
        'last_loss': 3.0,
        'seconds_per_iteration': 0.03,
        'peak_memory_mib': 500,
    }
    assert summarize_training(tmp_path, last=2)['last_loss'] == 5.0
    assert summarize_training(tmp_path / '1/vis_data') is None


RECIPE = Config.fromfile(ROOT / 'configs/upernet_atmnet_mini_shapes.py')


def write(folder, options, meta, augmented=False, metrics=None):
    cfg = copy.deepcopy(RECIPE)
    cfg.work_dir = str(folder)
    write_result(
        cfg, RECIPE, options, str(folder / 'weights.pth'), 'f' * 64, meta, augmented, Images(), metrics or {}, 2
    )
    name = f'result_weights{"_tta" if augmented else ""}.json'
    return json.loads((folder / name).read_text())


class Images:
    """A dataset as MMEngine's."""

    def __init__(self, root='/home/me/ade', ann_file=''):
        self.root, self.ann_file = root, ann_file

    def __len__(self):
        return 3

    def get_data_info(self, i):
        return {'img_path': f'{self.root}/images/{i}.jpg', 'seg_map_path': f'{self.root}/{i}.png'}


def test_data_is_told_by_its_content(tmp_path):
    found = identify(Images())
    assert found == data('Images', 3, [f'{i}.jpg {i}.png' for i in range(3)])
    assert identify(Images('/elsewhere')) == found
    (tmp_path / 'a.json').write_text(json.dumps({'annotations': [1, 2]}))
    with_file = identify(Images(ann_file=str(tmp_path / 'a.json')))
    digest = hashlib.sha256((tmp_path / 'a.json').read_bytes()).hexdigest()
    assert with_file == {**found, 'annotations_sha256': digest, 'objects': 2}


def test_result_file_holds_no_paths(tmp_path):
    options = {
        'test_dataloader.dataset.data_root': '/home/me/ade',
        'test_dataloader.dataset.data_prefix.img': '/home/me/ade/images',
        '+model.backbone.frozen_stages': 1,
        '+check_data': False,
        'load_from': '/home/me/start.pth',
    }
    found = write(tmp_path, options, {'iter': 1200, 'epoch': 0}, augmented=True, metrics={'a': 1.5, 'all': [1, 2]})
    assert found['options'] == {'model.backbone.frozen_stages': '1', 'load_from': 'start.pth'}
    assert found['finished']
    assert found['metrics'] == {'a': 1.5}
    assert not write(tmp_path, options, {'iter': 1199, 'epoch': 0})['finished']
    assert found['config'] == 'upernet_atmnet_mini_shapes'
    versions = installed([*UPSTREAM, *FORKS])
    assert len(versions) == 5
    assert versions.items() <= found['environment'].items()
    text = (tmp_path / 'result_weights_tta.json').read_text()
    assert str(tmp_path) not in text
    assert '/home' not in text
    (tmp_path / 'result_other.json').write_text('[]')
    assert len(read_results(tmp_path)) == 2


def test_results_of_earlier_versions_are_read(tmp_path):
    """They say pictures."""
    earlier = result()
    digest = earlier['data']['images_sha256']
    earlier['data'] = {
        'type': 'ADE20KDataset',
        'pictures': 2000,
        'pictures_sha256': digest,
        'annotations_sha256': None,
        'objects': None,
    }
    (tmp_path / 'result_a.json').write_text(json.dumps(earlier))
    (found,) = read_results(tmp_path)
    assert found == result()
    assert measured(UPERNET, ROW, [found]) == {'miou': 46.4}


def of_training(note, **options):
    cfg = copy.deepcopy(RECIPE)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return {'iter': 1200, 'epoch': 0, 'seed': 4, 'cfg': cfg.pretty_text, 'mmatm': note}


NOTE = {'processes': 1, 'batch_size': 8, 'samples': 24, 'summed': 1, 'changed': {}}


@pytest.mark.parametrize(
    ('meta', 'changed'),
    [
        ({}, {}),  # published
        (of_training(NOTE), {}),
        (of_training(NOTE, train_dataloader__dataset__data_root='/a', work_dir='b', resume=True), {}),
        (of_training(NOTE, optim_wrapper__optimizer__lr=0.5), {'optim_wrapper.optimizer.lr': '0.5'}),
        (of_training(NOTE, train_cfg__max_iters=9), {'train_cfg.max_iters': '9'}),
        (
            of_training(NOTE, model__backbone__init_cfg=dict(type='Pretrained', checkpoint='/b/a.pth')),
            {'model.backbone.init_cfg': "{'checkpoint': 'a.pth', 'type': 'Pretrained'}"},
        ),
        (of_training({**NOTE, 'processes': 4}), {'batch of all processes': '32'}),
        (of_training({**NOTE, 'processes': 4, 'batch_size': 2}, train_dataloader__batch_size=2), {}),
        (of_training({**NOTE, 'summed': 2}), {'batch of all processes': '16'}),
        (of_training({}), {'batch of all processes': 'not recorded'}),
        (of_training({**NOTE, 'changed': {'a.b': '1'}}), {'a.b': '1, then as in the config'}),  # before it was resumed
        (
            of_training({**NOTE, 'changed': {'train_cfg.max_iters': '9'}}, train_cfg__max_iters=7),
            {'train_cfg.max_iters': '9, then 7'},
        ),
        ({**of_training(NOTE), 'cfg': 'import os'}, {'settings': 'cannot be read'}),
    ],
)
def test_settings_of_the_training_come_from_the_checkpoint(tmp_path, meta, changed):
    assert write(tmp_path, {}, meta)['changed'] == changed


def test_a_changed_training_is_told_by_its_test(config, command, tmp_path):
    """By the commands: the options of the training, from scratch, and the number of images of all processes."""
    options = '--cfg-options', 'optim_wrapper.optimizer.lr=0.5', '+randomness.seed=11'
    command('train.py', config, '--from-scratch', *options)
    opened, checkpoint = [], tmp_path / 'work/iter_6.pth'
    sys.addaudithook(lambda event, args: event == 'open' and opened.append(args[0]))
    (dumped,) = (tmp_path / 'work').glob('*.py')
    before = dumped.read_text()
    command('test.py', config, checkpoint)
    assert dumped.read_text() == before  # still that of the training
    assert opened.count(str(checkpoint)) + opened.count(checkpoint) == 1
    (found,) = read_results(tmp_path / 'work')
    assert found['checkpoint_sha256'] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert found['options'] == {}
    changed = {'optim_wrapper.optimizer.lr': '0.5', 'batch of all processes': '4'}
    if not torch.cuda.is_available():
        kind = 'mmatm.CpuAmpOptimWrapper' if computes_bfloat16() else 'OptimWrapper'
        changed |= {'optim_wrapper.type': kind, 'optim_wrapper.loss_scale': 'none'}
    assert found['changed'] == changed
    expected = {'batch_size': 4, 'processes': 1, 'samples': 24, 'seed': 11, 'iterations': 6}
    assert expected.items() <= found['training'].items()
    assert found['finished']


def test_configs_of_classes_are_compared_by_their_names(tmp_path):
    text = 'from torch.optim import SGD\nfrom mmengine.config import read_base\noptim_wrapper = dict(type=SGD, lr=1)\n'
    (tmp_path / 'new.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'new.py', lazy_import=True)
    assert differences(read_text(cfg.pretty_text), read_text(cfg.pretty_text)) == {}
    assert _changed({'cfg': cfg.pretty_text}, cfg) == {}
    resumed = {**read_text(cfg.pretty_text), 'resume': True, 'load_from': 'a.pth'}
    assert differences(resumed, read_text(cfg.pretty_text)) == {}


def test_text_of_a_config_is_read_without_running_it():
    cfg = Config(dict(a=dict(b=[1, (2.5, -3)], c={'x-y': None}), d=float('inf'), e='text', f=True))
    assert read_text(cfg.pretty_text) == {
        'a': {'b': [1, [2.5, -3]], 'c': {'x-y': None}},
        'd': math.inf,
        'e': 'text',
        'f': True,
    }
    for text in ('import os', 'a = open("b")', 'a = dict(**b)', 'a ='):
        with pytest.raises(ValueError, match=r'no config|malformed|dict'):
            read_text(text)


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
