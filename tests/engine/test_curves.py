"""The curves of a training: the figure, what resuming makes of it, and TensorBoard's files."""

import errno
import importlib.util
import sys

import matplotlib.figure
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import mmatm.engine.curves
from mmatm.engine.curves import add_tensorboard, draw_curves
from mmatm.errors import InputError
from toy import toy_runner

EPOCHS, ITERATIONS = {'max_epochs': 3}, {'max_iters': 12}


@pytest.mark.parametrize('length', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations'])
def test_resumed_training_has_the_curves_of_a_whole_one(tmp_path, monkeypatch, length):
    def train(folder, share, **options):
        """The network trained, and iterations, losses, learning rates and metrics as they were drawn last."""
        drawn = []
        monkeypatch.setattr(
            mmatm.engine.curves, 'draw_curves', lambda path, title, *rest: [path.touch(), drawn.append(rest)]
        )
        runner = toy_runner(tmp_path / folder, {key: value * share // 3 for key, value in length.items()}, **options)
        runner.train()
        iterations, losses, rates, measured = drawn[-1]
        return runner.model, iterations, losses.tolist(), rates.tolist(), measured

    model, *whole = train('whole', 3)
    _, losses, rates, measured = whole
    assert losses == pytest.approx(model.losses)
    assert rates == pytest.approx(np.linspace(1e-4, 1e-3, 12))
    assert len({metrics['mean'] for metrics in measured.values()}) == 3

    train('parts', 2)
    model, *resumed = train('parts', 3, resume=True)
    assert len(model.losses) == 4
    assert resumed == whole
    assert (tmp_path / 'parts/curves.json').read_text() == (tmp_path / 'whole/curves.json').read_text()

    # Taken back to an older checkpoint, without the metrics that were measured later.
    first, second = (
        str(tmp_path / 'parts' / (f'epoch_{number}.pth' if length is EPOCHS else f'iter_{4 * number}.pth'))
        for number in (1, 2)
    )
    _, *older = train('parts', 2, resume=True, load_from=first)
    assert older == [8, losses[:8], rates[:8], {iteration: measured[iteration] for iteration in (4, 8)}]

    # In another folder there is only what the checkpoint knows: it was saved before the validation.
    _, *elsewhere = train('elsewhere', 3, resume=True, load_from=second)
    assert elsewhere == [12, losses, rates, {iteration: measured[iteration] for iteration in (4, 12)}]


def test_training_begun_anew_has_nothing_of_an_older_one(tmp_path):
    (tmp_path / 'curves.json').write_text('{"1": {"mean": 5.0}}')
    toy_runner(tmp_path, {'max_iters': 2}, val_cfg=None, val_dataloader=None, val_evaluator=None).train()
    assert not (tmp_path / 'curves.json').exists()


def test_a_training_is_drawn_and_validation_alone_is_not(tmp_path):
    runner = toy_runner(tmp_path, {'max_iters': 4})
    runner.train()
    with Image.open(tmp_path / 'curves.png') as image:
        assert image.size == (1200, 720)
        assert len(np.unique(np.asarray(image.convert('RGB')).reshape(-1, 3), axis=0)) > 50
    before = (tmp_path / 'curves.json').read_text()
    (tmp_path / 'curves.png').unlink()
    runner.val()
    assert not (tmp_path / 'curves.png').exists()
    assert (tmp_path / 'curves.json').read_text() == before


@pytest.mark.parametrize('missing', ['room', 'matplotlib'])
def test_training_outlives_its_image(tmp_path, monkeypatch, missing):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, 'No space left on device')

    runner = toy_runner(tmp_path, ITERATIONS, {'text': 'many', 'table': np.eye(2), 'none': None})
    if missing == 'room':
        monkeypatch.setattr(matplotlib.figure.Figure, 'savefig', full)
    else:
        monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    runner.train()
    assert len(runner.model.losses) == 12
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('curves.png could not be updated') == 1
    assert list(runner.message_hub.get_info('curves')[12]) == ['mean']
    assert sorted(path.name for path in tmp_path.glob('*curves*')) == ['curves.json']
    assert not list(tmp_path.glob('*.partial'))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """What is drawn: by label of the panel, (x, y) of every line by its label."""

    def draw(*arguments):
        figures = []
        monkeypatch.setattr(matplotlib.figure.Figure, 'savefig', lambda self, *a, **k: figures.append(self))
        draw_curves(tmp_path / 'curves.png', 'title', *arguments)
        panels = {}
        for axis in figures[0].axes:
            panels.setdefault(axis.get_ylabel(), []).append({
                line.get_label(): line.get_data() for line in axis.get_lines()
            })  # fmt: skip
        return panels

    return draw


def test_long_training_is_thinned_and_keeps_its_outliers(drawn):
    losses = np.linspace(3, 1, 160_000)
    losses[[70, 90_000]] = np.nan, np.inf
    losses[120_000] = 60
    panel = drawn(170_000, losses, np.linspace(1, 0, 160_000), {})
    (x, y), (_, smooth) = panel['training loss'][0].values()
    assert len(x) == len(y) <= 2000
    assert np.nanmax(y) == 60
    assert (x[0], x[-1] <= 170_000, x[-1] > 169_000) == (10_001, True, True)
    assert list(panel['training loss'][0]) == ['each iteration', 'mean of 3200 iterations']
    assert np.isfinite(smooth).all()
    assert smooth[-1] == pytest.approx(np.mean(losses[-3200:]), rel=3e-3)
    (x, y) = next(iter(panel['learning rate'][0].values()))
    assert (y[0], y[-1]) == pytest.approx((1, 0), abs=2e-3)


def test_metrics_are_grouped_by_name_and_scale(drawn):
    coco = {f'coco/{kind}_mAP{at}': 0.3 for kind in ('bbox', 'segm') for at in ('', '_50', '_s')}
    metrics = {**coco, 'mIoU': 40.0, 'dice': 0.5, 'accuracy/top1': 70.0, 'val_loss': 0.7}
    later = {**metrics, 'coco/segm_mAP_50': float('nan'), 'mIoU': 50.0, 'dice': float('inf')}
    metrics['coco/bbox_mAP_s'] = later['coco/bbox_mAP_s'] = -1.0
    classes = {f'coco/class{number}_precision': 0.1 for number in range(10)}
    panels = drawn(800, np.array([]), np.array([]), {800: {**later, **classes}, 400: metrics})
    assert {name: [list(panel) for panel in group] for name, group in panels.items() if 'validation' in name} == {
        'validation coco/bbox': [['mAP 0.3', 'mAP_50 0.3']],
        'validation coco/segm': [['mAP 0.3', 'mAP_50 0.3', 'mAP_s 0.3']],
        'validation': [['mIoU 50'], ['dice 0.5'], ['val_loss 0.7']],
        'validation accuracy': [['top1 70']],
        'validation coco': [
            [f'class{number}_precision 0.1' for number in range(8)],
            ['class8_precision 0.1', 'class9_precision 0.1'],
        ],
    }
    x, y = panels['validation'][0]['mIoU 50']
    assert (list(x), list(y)) == ([400, 800], [40, 50])
    assert list(panels['validation coco/segm'][0]['mAP_50 0.3'][0]) == [400]


LOCAL, TENSORBOARD = {'type': 'LocalVisBackend'}, {'type': 'TensorboardVisBackend'}


@pytest.mark.parametrize(
    ('visualizer', 'expected'),
    [
        (None, [LOCAL, TENSORBOARD]),
        ({'type': 'Visualizer'}, [TENSORBOARD]),
        ({'type': 'Visualizer', 'vis_backends': LOCAL}, [LOCAL, TENSORBOARD]),
        ({'type': 'Visualizer', 'vis_backends': [{'type': 'mmengine.TensorboardVisBackend'}, LOCAL]}, None),
    ],
)
def test_tensorboard_is_added_once(visualizer, expected):
    pytest.importorskip('tensorboard')
    cfg = Config({} if visualizer is None else {'visualizer': visualizer})
    add_tensorboard(cfg)
    assert cfg.visualizer.type == 'Visualizer'
    assert cfg.visualizer.vis_backends == (visualizer['vis_backends'] if expected is None else expected)


def test_tensorboard_holds_the_loss(tmp_path, monkeypatch):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    monkeypatch.setattr(mmatm.engine.curves, 'draw_curves', lambda path, *rest: path.touch())
    cfg = Config({})
    add_tensorboard(cfg)
    runner = toy_runner(tmp_path, ITERATIONS, visualizer=cfg.visualizer, log_processor={'window_size': 1})
    runner.train()
    (file,) = tmp_path.rglob('events.out.tfevents.*')
    events = accumulator.EventAccumulator(str(file))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars('loss')}
    assert losses == pytest.approx(dict(enumerate(runner.model.losses, 1)))
    assert 'mean' in events.Tags()['scalars']


def test_tensorboard_that_is_missing_is_refused_before_training(config, tmp_path, error_of, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *more: None if name == 'tensorboard' else found(name, *more)
    )
    assert 'pip install tensorboard' in error_of('train.py', config, '--tensorboard')
    assert not (tmp_path / 'work').exists()
    with pytest.raises(InputError, match='tensorboard'):
        add_tensorboard(Config({}))
