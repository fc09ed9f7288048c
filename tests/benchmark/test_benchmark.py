"""The benchmark command on tiny problems: every way runs, and the report says what was measured."""

import copy
import json
import re
import shutil

import pytest
import torch
from conftest import ROOT
from models.families import FAMILIES, tiny
from torch import nn

from mmatm.benchmark import __main__ as command
from mmatm.benchmark.authors_operations import use_authors_operations
from mmatm.benchmark.chart import _panels
from mmatm.benchmark.problems import ATMNET, BASELINES, LEVELS, PEERS, Problem, prepare, problems
from mmatm.benchmark.report import markdown, ratios
from mmatm.models import ATMNet, TransXNet

TINY = [
    Problem('operation', 't', 2, 64, 96, training=True, stage=1),
    Problem('mixer', 't', 1, 64, 64, training=False, stage=0),
    Problem('backbone', 'xt', 1, 64, 64, training=True),
]


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, 'problems', lambda *args: TINY)
    (tmp_path / 'benchmarks.md').write_text('Before.\n<!-- begin cpu -->\nold\n<!-- end cpu -->\nAfter.\n')
    arguments = ['--device', 'cpu', '--seconds', '0', '--levels', 'operation', 'mixer', 'backbone']
    command.main([*arguments, '--docs', str(tmp_path)])

    report = json.loads((tmp_path / 'benchmarks_cpu.json').read_text())
    assert report['environment']['torch'] == torch.__version__
    for problem, entry in zip(TINY, report['results'], strict=True):
        assert tuple(entry['ways']) == problem.ways
        for figures in entry['ways'].values():
            assert figures['repeats'] >= 5
            assert 0 < figures['quartiles_ms'][0] <= figures['median_ms'] <= figures['quartiles_ms'][1]
    assert all(figures['peak_mib'] > 50 for figures in report['results'][2]['ways'].values())  # gradients alone are 54
    text = (tmp_path / 'benchmarks.md').read_text()
    assert text.startswith('Before.\n')
    assert text.endswith('After.\n')
    assert 'old' not in text
    assert '| backbone xt, 1 x 64x64, training ' in text
    assert str(report['results'][2]['ways']['mmatm']['repeats']) in text
    assert '(benchmarks_cpu.svg)' in text
    assert (tmp_path / 'benchmarks_cpu.svg').read_text().count('<g id="axes_') == 2  # time and memory of a training
    assert 'written: ' in capsys.readouterr().out


def test_one_row():
    args = command.parse(['--device', 'cpu', '--networks', 'mmatm.ATMNet:t', '--sizes', '64x96', '--ways', 'ResNet-50'])
    found = problems(('backbone',), args.networks, 'cpu', args.sizes, args.peers, args.ways)
    assert [(str(p), p.ways) for p in found] == [
        ('backbone t, 1 x 64x96, inference', ('mmatm', 'ResNet-50')),
        ('backbone t, 1 x 64x96, training', ('mmatm', 'ResNet-50')),
    ]


def test_what_was_measured_before_an_interruption_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, 'problems', lambda *args: TINY)
    times = iter([command.measure])

    def measure(*args):
        try:
            return next(times)(*args)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(command, 'measure', measure)
    (tmp_path / 'benchmarks.md').write_text('<!-- begin cpu -->\nold\n<!-- end cpu -->\n')
    arguments = ['--device', 'cpu', '--seconds', '0', '--levels', 'operation', '--out', str(tmp_path)]
    with pytest.raises(SystemExit, match='interrupted after 1 of 3 problems'):
        command.main([*arguments, '--docs', str(tmp_path)])
    assert len(json.loads((tmp_path / 'benchmark_cpu.json').read_text())['results']) == 1
    assert 'old' in (tmp_path / 'benchmarks.md').read_text()
    assert '3 problems of 0 s' in capsys.readouterr().err


def test_ratios_are_other_ways_by_ours():
    def entry(problem, **milliseconds):
        ways = {way.replace('_', ' '): dict(median_ms=ms, peak_mib=ms / 2) for way, ms in milliseconds.items()}
        ways = {{'authors': 'DeformConv baseline'}.get(way, way): figures for way, figures in ways.items()}
        return dict(level=problem.level, training=problem.training, height=512, name=str(problem), ways=ways)

    found = ratios(
        [
            entry(Problem('operation', 't', 1, 512, 512, True, 0), mmatm=1, mmatm_with_FC=4, authors=8, copy=0.5),
            entry(Problem('operation', 't', 1, 512, 512, True, 1), mmatm=1, mmatm_with_FC=1, authors=2, copy=0.5),
            entry(Problem('backbone', 't', 1, 512, 512, True), mmatm=2, authors=8),
        ]
    )
    name = 'operation at 512x512, mean of the stages, forward + backward:'
    assert found == pytest.approx(
        {
            f'{name} DeformConv baseline slower': 4,
            f'{name} DeformConv baseline slower than mmatm with FC': 2,
            f'{name} slower than a copy of the same bytes': 2,
            'backbone t, 1 x 512x512, training: DeformConv baseline slower': 4,
            "backbone t, 1 x 512x512, training: peak memory by the DeformConv baseline's": 0.25,
        }
    )


def test_chart_has_bars_as_long_as_the_times():
    ways = {'mmatm': 2, 'DeformConv baseline': 8, 'peer': 1}
    ways = {way: dict(median_ms=ms, quartiles_ms=(ms, ms), repeats=5) for way, ms in ways.items()}
    entry = dict(level='backbone', name='backbone t', ways=ways)
    text = markdown(dict(environment={}, settings={}, results=[entry], ratios={}, precision=[], profiles={}))
    chart = text.split('```')[1].splitlines()
    assert chart[2:] == [
        '  mmatm                ██████████ 1.00',
        '  DeformConv baseline  ████████████████████████████████████████ 4.00',
        '  peer                 █████ 0.50',
    ]


def test_a_chart_has_a_panel_for_each_problem_and_a_row_for_each_network():
    def entry(name, **ways):
        ways = {way: dict(median_ms=ms, quartiles_ms=(ms - 1, ms + 1), peak_mib=mib) for way, (ms, mib) in ways.items()}
        return dict(level='backbone', name=f'backbone {name}', ways=ways)

    entries = [
        entry('xt, 1 x 64x64, inference', mmatm=(2, None), peer=(4, None)),
        entry('FFNet 1, 1 x 64x64, inference', mmatm=(3, None)),
        entry('xt, 1 x 64x64, training', mmatm=(5, 70), peer=(6, None)),
    ]
    assert list(_panels(entries)) == [
        (
            'time, 1 x 64x64, inference',
            {'ATMNet xt': dict(mmatm=(2, 1, 3), peer=(4, 3, 5)), 'FFNet 1': dict(mmatm=(3, 2, 4))},
            'ms',
        ),
        ('time, 1 x 64x64, training', {'ATMNet xt': dict(mmatm=(5, 4, 6), peer=(6, 5, 7))}, 'ms'),
        ('memory, 1 x 64x64, training', {'ATMNet xt': dict(mmatm=(70, 70, 70))}, 'MiB at the peak'),
    ]


@pytest.mark.parametrize('way', Problem('backbone', 't', 1, 224, 224, False).ways)
def test_peers_run(way):
    prepare(Problem('backbone', 't', 1, 224, 224, False), way, 'cpu', None, False)()


def test_copy_moves_the_bytes_of_the_operation():
    problem = Problem('operation', 't', 1, 64, 64, False, 0)
    b, h, w, c, groups = problem.token_map()
    assert (b, h, w, c, groups) == (1, 16, 16, 64, 32)


RECORD = json.loads((ROOT / 'docs/benchmarks_cpu.json').read_text())


@pytest.mark.parametrize('path', sorted((ROOT / 'docs').glob('benchmarks_*.json')), ids=lambda path: path.stem)
def test_the_page_shows_the_record(path, tmp_path):
    """`write_page` renders both anew if this fails."""
    record = json.loads(path.read_text())
    shutil.copy(ROOT / 'docs/benchmarks.md', tmp_path)
    written = command.write_page(record, tmp_path, path.stem.removeprefix('benchmarks_'))
    assert [each.name for each in written] == ['benchmarks.md', f'{path.stem}.svg']
    for each in written:
        assert each.read_text() == (ROOT / 'docs' / each.name).read_text()
    assert record['ratios'] == pytest.approx(ratios(record['results']))


def test_problems_are_those_of_the_record():
    found = problems(LEVELS, [(ATMNET, arch) for arch in ATMNet.SIZES], 'cpu')
    assert [(str(p), list(p.ways)) for p in found] == [(e['name'], list(e['ways'])) for e in RECORD['results']]


def test_any_backbone_beside_the_peers():
    args = command.parse(['--device', 'cpu', '--networks', 'mmatm.CASViT:xs', 'mmatm.RIFormer:s12'])
    found = problems(args.levels, args.networks, 'cpu')
    assert [str(p) for p in found[::4]] == [
        'backbone CASViT xs, 1 x 224x224, inference',
        'backbone RIFormer s12, 1 x 224x224, inference',
    ]
    ways = {str(p).partition(',')[0] + p.training * ', training': p.ways for p in found}
    assert ways == {
        'backbone CASViT xs': ('mmatm', "authors' operations", *PEERS),
        'backbone CASViT xs, training': ('mmatm', "authors' operations", *PEERS),
        'backbone RIFormer s12': ('mmatm', 'mmatm fused', *PEERS),
        'backbone RIFormer s12, training': ('mmatm', *PEERS),
    }
    options = ['--device', 'cpu', '--networks', 'mmatm.TransXNet:t', '--no-peers']
    args = command.parse([*options, '--sizes', '800x1344'])
    assert args.name == 'cpu-backbones-800x1344'
    found = problems(args.levels, args.networks, 'cpu', args.sizes, args.peers)
    assert [(str(p), p.ways) for p in found] == [
        ('backbone TransXNet t, 1 x 800x1344, inference', ('mmatm', "authors' operations", 'mmatm fused')),
        ('backbone TransXNet t, 1 x 800x1344, training', ('mmatm', "authors' operations")),
    ]
    args = command.parse([*options, '--sizes', '2x800x1344'])
    assert args.name == 'cpu-backbones-2x800x1344'
    found = problems(args.levels, args.networks, 'cpu', args.sizes, args.peers)
    assert {problem.batch for problem in found} == {2}
    default = command.parse(['--device', 'cpu'])
    assert default.networks == [(ATMNET, arch) for arch in ATMNet.SIZES]
    assert set(default.levels) == {*LEVELS, 'precision', 'profile'}


def test_authors_operations_of_transxnet_give_the_same():
    """At a size at which the position bias is resized, in both passes."""
    for training in (False, True):
        torch.manual_seed(0)
        ours = TransXNet(FAMILIES['TransXNet'].tiny).train(training)
        nn.init.normal_(ours.stages[0].bias)
        theirs = use_authors_operations(copy.deepcopy(ours))
        changed = {type(module).__name__ for module in theirs.modules() if type(module).__name__.startswith('Plain')}
        assert len(changed) == 8
        x = torch.randn(2, 3, 96, 160)
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('name', 'parts'), [('DFFormer', 3), ('CDFFormer', 4), ('AFFNet', 1), ('DSM', 3)])
def test_authors_spectral_operations_give_the_same(name, parts):
    """Where filters are resized, too."""
    torch.manual_seed(0)
    ours = tiny(name)
    theirs = BASELINES[f'mmatm.{name}'][1](copy.deepcopy(ours))
    changed = {type(module).__name__ for module in theirs.modules() if type(module).__name__.startswith('Plain')}
    assert len(changed) == parts
    x = torch.randn(2, 3, 96, 170)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-4)


def test_other_backbones_run():
    for kind, arch in (('mmatm.CASViT', 'xs'), ('mmatm.RIFormer', 's12')):
        prepare(Problem('backbone', arch, 1, 64, 64, training=True, backbone=kind), 'mmatm', 'cpu', None, False)()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--docs', 'nowhere'], 'nowhere/benchmarks.md'),
        (['--docs', 'docs', '--device', 'cpu', '--compile'], 'no lines <!-- begin cpu-compiled -->'),
        (['--sizes', '2x'], '--sizes: 2x is not of the form BxHxW or HxW'),
        (['--networks', 'mmatm.ATMNet:huge'], 'mmatm.ATMNet:huge has no size of ATMNet'),
        (['--ways', 'Swin'], 'there is no Swin; there are .*Swin-T'),
        (['--networks', 'mmatm.CASViT'], 'mmatm.CASViT has no size of CAS-ViT; there are mmatm.CASViT:xs, '),
        (['--networks', 'mmpretrain.ResNet:50'], 'mmpretrain.ResNet is not a backbone of mmatm'),
        (['--networks', 'mmatm.CASViT:s', '--levels', 'mixer'], 'add one of them to --levels'),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        command.parse(arguments)
    assert re.search(message, capsys.readouterr().err)
