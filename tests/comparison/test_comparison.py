"""The comparison of mixers: its measures against what they must be, the page against what was recorded."""

import json
import math
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml
from conftest import ROOT
from torch import nn

from mmatm.comparison import costs, page, training
from mmatm.comparison.behaviour import agreement, side_of_half
from mmatm.comparison.costs import exponent, known_mixers, static
from mmatm.comparison.page import BEGIN, END, _pareto, figures, mean_and_deviation, write
from mmatm.comparison.processes import run_all, run_tool
from mmatm.comparison.training import Run
from mmatm.engine.mixed_precision import computes_bfloat16
from mmatm.errors import InputError
from mmatm.utils.files import alone

RECORD = json.loads((ROOT / 'docs/mixers.json').read_text())


def test_the_page_is_of_the_record():
    _, _, rest = (ROOT / 'docs/mixers.md').read_text().partition(BEGIN)
    assert rest.partition(END)[0].strip() == figures(RECORD).strip(), 'call tools/compare_mixers.py --out docs'


@pytest.mark.parametrize(
    ('mixer', 'paper', 'title', 'network', 'under'),
    [
        ('cycle', 'atmnet', 'Table 2: semantic segmentation on ADE20K with Semantic FPN', 'CycleMLP', 'Semantic FPN'),
        ('additive', 'casvit', 'Semantic segmentation on ADE20K with Semantic FPN', 'CAS-ViT', 'Semantic FPN'),
    ],
)
def test_published_figures_are_the_papers(mixer, paper, title, network, under):
    (own,) = (
        each
        for each in yaml.safe_load((ROOT / f'docs/papers/{paper}.yml').read_text())['tables']
        if each['title'] == title
    )
    found = [(row['model'].split('-')[-1], row['miou']) for row in own['rows'] if network in row['model']]
    said = [own['trained'], own['checkpoint']] if mixer == 'additive' else ['not said'] * 2
    cells = [f'`{mixer}`', network, under, ', '.join(f'{size}: {miou}' for size, miou in found), *said]
    assert f'| {" | ".join(cells)} |' in (ROOT / 'docs/mixers.md').read_text()


def test_the_charts_are_of_the_record(tmp_path):
    drawn = page.draw(RECORD, tmp_path)
    assert [chart.name for chart in drawn] == ['mixers.svg', 'cost.svg']
    for chart in drawn:
        assert chart.read_text() == (ROOT / 'docs' / chart.name).read_text(), 'call tools/compare_mixers.py --out docs'


@pytest.mark.parametrize('mixer', known_mixers())
def test_the_record_is_of_the_code(mixer):
    assert RECORD['counts'][mixer] == static(mixer), 'forget its counts in docs/mixers.json, then count it again'


def test_the_record_is_of_all_mixers():
    mixers = set(known_mixers())
    assert set(RECORD['counts']) == set(RECORD['onnx']) == mixers
    assert all(set(entry['mixers']) == mixers for entry in RECORD['costs'].values())
    main = RECORD['trainings']['shapes_mini_600']
    assert {mixer: len(seeds) for mixer, seeds in main['miou'].items()} == dict.fromkeys(mixers, 3)
    assert set(main['observed']) == mixers


def test_counts_by_hand():
    """Of the control without mixing: stem, transitions and MLPs, by the formula of a convolution."""
    channels, depths, sides = [64, 128, 320, 512], [2, 2, 6, 2], [56, 28, 14, 7]
    macs = 49 * 3 * 64 * 56**2
    macs += sum(9 * a * b * n**2 for a, b, n in zip(channels, channels[1:], sides[1:], strict=False))
    macs += sum(8 * c * c * d * n**2 for c, d, n in zip(channels, depths, sides, strict=True))
    found = static('pooling')
    assert abs(found['flops']['224x224'] / macs - 1) < 0.02  # norms and activations
    assert found['size_bound'] == 0
    # The bank of DFFormer: (side, side // 2 + 1) complex frequencies of 4 filters, in each block.
    assert static('dynamic_filter')['size_bound'] == sum(
        d * 4 * 2 * n * (n // 2 + 1) for d, n in zip(depths, sides, strict=True)
    )


def test_exponent():
    assert math.isclose(exponent({str(n): 3e-4 * n**2.5 for n in (256, 512, 1024)}), 1.25)


def test_side_of_half():
    field = torch.zeros(21, 31)
    field[10, 12] = 1.0
    assert side_of_half(field, (10, 12)) == 1
    field[10, 15] = field[7, 12] = 2.0  # three pixels away
    assert side_of_half(field, (10, 12)) == 7
    uniform = torch.ones(101, 101)
    assert side_of_half(uniform, (50, 50)) == 73  # the smallest odd n with n^2 >= 101^2 / 2


class Argmax(nn.Module):
    """A segmentor of two classes by one score map that a function makes of an image."""

    def __init__(self, scores) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, images, mode):
        scores = self.scores(images)
        return torch.stack((scores, -scores), dim=1)


def test_agreement():
    torch.manual_seed(0)
    image = torch.randn(1, 3, 40, 48)
    by_pixel = Argmax(lambda images: images[:, 0])
    assert agreement(by_pixel, image, 1) == agreement(by_pixel, image, 0) == 1.0
    # Classes by the place in the cut: every second column.
    by_place = Argmax(lambda images: torch.ones_like(images[:, 0]) * (-1.0) ** torch.arange(images.shape[3]))
    assert agreement(by_place, image, 1) == 0.0
    assert agreement(by_place, image, 0) == 1.0
    # By the size of the cut.
    by_size = Argmax(lambda images: torch.ones_like(images[:, 0]) * (-1.0) ** images.shape[2])
    assert agreement(by_size, image, 1) == 1.0
    assert agreement(by_size, image, 0) == 0.0


def test_pareto():
    points = {'slow': (9.0, 50.0), 'fast': (1.0, 20.0), 'worse': (2.0, 20.0), 'good': (3.0, 50.0)}
    assert _pareto(points) == ['fast', 'good']


def test_mean_and_deviation():
    assert mean_and_deviation([1.0, 2.0, 3.0]) == '2.0 ± 1.0'
    assert mean_and_deviation([1.0]) == '1.0'
    assert mean_and_deviation([]) == 'not measured'


def test_what_stands_around_the_tables_is_kept(tmp_path):
    path = tmp_path / 'mixers.md'
    path.write_text(f'before\n{BEGIN}old\n{END}after\n')
    assert write(dict(trainings={}, counts={}, costs={}, onnx={}), tmp_path) == [path]
    assert path.read_text().startswith('before\n')
    assert path.read_text().endswith('after\n')
    assert 'old' not in path.read_text()


def test_a_task_that_fails_ends_the_others(tmp_path):
    done = []

    def fail(threads):
        raise InputError('no')

    with pytest.raises(InputError, match='no'):
        run_all([done.append, fail, *[done.append] * 3], 1, int)
    assert len(done) == 1
    with pytest.raises(InputError, match=r'train\.py failed, see .*output\.txt: error: there is no config'):
        run_tool(tmp_path / 'output.txt', 1, 'train.py', 'configs/no_such.py')


def test_data_of_a_users_own(tmp_path):
    from mmengine.config import Config

    run = Run(str(tmp_path), 'cycle', 1, 40, 'mini', tmp_path / 'runs', ())
    with pytest.raises(InputError, match=r'there is no .*classes\.txt'):
        run.write_config()
    (tmp_path / 'classes.txt').write_text('cat\n')
    with pytest.raises(InputError, match='two classes or more'):
        run.write_config()
    (tmp_path / 'classes.txt').write_text('cat\n\ndog\n\n')
    run.write_config()
    cfg = Config.fromfile(run.config)
    assert cfg.train_dataloader.dataset.metainfo.classes == ['cat', 'dog']
    assert cfg.val_dataloader.dataset.data_root == str(tmp_path)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 2
    assert cfg.model.backbone.token_mixer == 'cycle'
    (tmp_path / 'shapes').mkdir()
    assert Run(str(tmp_path / 'shapes'), 'cycle', 1, 40, 'mini', tmp_path).comparison.startswith('shapes-')
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters == 40
    with pytest.raises(InputError, match='there is no recipe for size s12 on shapes'):
        Run('shapes', 'cycle', 0, 40, 's12', tmp_path).write_config()


def test_calls_that_share_the_work(tmp_path, monkeypatch):
    """What another call trains is waited for and not repeated, and nothing is forgotten under its hands."""
    run, trained = Run('shapes', 'cycle', 0, 40, 'mini', tmp_path), []
    monkeypatch.setattr(training, '_train', lambda run, threads: trained.append(run))
    with held(run, training._train_alone, run, 1):
        (run.folder / 'curves.json').write_text('{"40": {"mIoU": 50.0}}')
    assert not trained
    with held(run, run.forget):
        assert run.result() == 50
    assert not run.folder.exists()
    training._train_alone(run, 1)
    assert trained == [run]


@contextmanager
def held(run, work, *args):
    """While another call has a training's folder, and then lets go of it so that some work can be done."""
    other = Thread(target=work, args=args)
    run.folder.mkdir(parents=True, exist_ok=True)
    with alone(run.folder):
        other.start()
        other.join(0.3)
        assert other.is_alive()
        yield
    other.join()


MINE = """
from torch import nn

from mmatm.registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module('mine')
class Mine(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 1)
"""


@pytest.mark.usefixtures('forget_mixers')
def test_a_users_mixer_by_the_command(tmp_path, monkeypatch, shapes, command, error_of):
    """Trained, looked at, timed and written; what is known is not done again."""
    (tmp_path / 'my_mixers.py').write_text(MINE)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/shapes').symlink_to(shapes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(costs, 'TIMES', {'mini 512x512': ('mini', 64, 64)})
    monkeypatch.setattr(costs, 'TRAINED', ('mini', 64, 64))
    monkeypatch.setattr(costs, 'SIDES', (64, 96))
    monkeypatch.setattr(page, 'TIMES', costs.TIMES)
    monkeypatch.setattr(page, 'SIDES', costs.SIDES)
    words = ['--imports', 'my_mixers', '--mixers', 'mine', '--seeds', '1', '--budget', '20', '--work-dirs', 'runs']
    said = command('compare_mixers.py', *words, '--seconds', '0.01', '--steps', 'train', 'observe', 'time')
    assert said.split() == ['written:', *(f'runs/mixers.{x}' for x in ('json', 'md', 'svg')), 'runs/cost.svg']
    text = Path('runs/mixers.md').read_text()
    assert text.count('| `mine` |') == 3
    record = json.loads(Path('runs/mixers.json').read_text())
    assert set(record['trainings']['shapes_mini_20']['miou']['mine']) == {'0'}
    assert record['trainings']['shapes_mini_20']['on'][0]['precision'] == (
        'bfloat16' if computes_bfloat16() else 'float32'
    )
    assert record['costs']['cpu']['mixers']['mine']['peak_mib'] > 1

    folder = Path('runs/shapes_mini_20/mine/seed0')
    log, before = folder / 'output.txt', (folder / 'output.txt').read_text()
    command('compare_mixers.py', *words, '--steps', 'train', 'observe', 'time')
    assert log.read_text() == before
    assert json.loads(Path('runs/mixers.json').read_text()) == record
    # As if it had been killed in the last validation.
    (folder / 'curves.json').unlink()
    command('compare_mixers.py', *words, '--out', 'other', '--steps', 'train')
    trained = {**record['trainings']['shapes_mini_20'], 'observed': {}}
    assert json.loads(Path('other/mixers.json').read_text())['trainings'] == {'shapes_mini_20': trained}
    # What mixers.json knows is not trained, wherever it was, but for what is not observed yet.
    asked = []
    monkeypatch.setattr(training, 'train_all', lambda runs, *_: asked.append(len(runs)))
    command('compare_mixers.py', *words, '--steps', 'train', 'observe')
    command('compare_mixers.py', *words, '--out', 'other', '--steps', 'train')
    command('compare_mixers.py', *words, '--out', 'other', '--steps', 'train', 'observe')
    assert json.loads(Path('other/mixers.json').read_text())['trainings'] == record['trainings']
    command('compare_mixers.py', *words, '--seeds', '2', '--steps', 'train')
    command('compare_mixers.py', *words, '--out', 'other', '--redo', '--steps', 'train')
    assert asked == [0, 0, 1, 1, 1]
    command('compare_mixers.py', *words, '--redo', '--steps')
    assert not folder.exists()
    assert '`mine`' not in Path('runs/mixers.md').read_text()
    assert 'no_such cannot be imported from' in error_of('compare_mixers.py', '--imports', 'no_such')
    assert 'no token mixer none_such; there are active' in error_of('compare_mixers.py', '--mixers', 'none_such')
    assert '--budget must be 20 or more' in error_of('compare_mixers.py', '--budget', '3')
