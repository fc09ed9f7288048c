"""Reading checkpoints: the authors' layouts, our own, and files that must be refused."""

import os
import pickle
import re

import pytest
import torch
from conftest import write_config
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import load_checkpoint
from torch import nn

import golden_data
import stand_ins
from mmatm.apis.inference import load_model
from mmatm.checkpoint import fill_model, latest_checkpoint, read_checkpoint
from mmatm.config import load_config
from mmatm.engine.runner import Runner
from mmatm.errors import InputError
from mmatm.models import ATMNet
from mmatm.models.loading import read_backbone
from mmatm.models.whole_model import for_model


@pytest.fixture(scope='module')
def golden():
    return golden_data.load('mini_a')


@pytest.fixture
def classifier(golden):
    return golden_data.authors_weights(golden['classifier_shapes'])


@pytest.fixture
def pyramid(golden):
    return golden_data.authors_weights(golden['pyramid_shapes'])


def start(golden, path, **options):
    """A backbone that starts from a file, as the toolboxes start it."""
    model = ATMNet(golden['atmnet_arch'], init_cfg={'type': 'Pretrained', 'checkpoint': str(path), **options})
    model.init_weights()
    return model


def assert_holds(model, authors_weights, prefix=''):
    """That a model holds exactly the authors' values; returns the names that it took."""
    own = model.state_dict()
    taken = {prefix + ATMNet.PUBLISHED.own_name(name): weight for name, weight in authors_weights.items()}
    for name, weight in taken.items():
        torch.testing.assert_close(own[name].flatten(), weight.flatten(), rtol=0, atol=0)
    return set(taken)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_imagenet_file_starts_a_backbone_with_the_averaged_weights(golden, classifier, tmp_path, prefix):
    model = start(golden, stand_ins.imagenet_file(tmp_path / 'a.pth', classifier, prefix))
    backbone = {name: weight for name, weight in classifier.items() if not name.startswith('head.')}
    assert set(model.state_dict()) - assert_holds(model, backbone) == {
        f'norm{i}.{entry}' for i in range(3) for entry in ('weight', 'bias')
    }


def test_upernet_file_starts_a_backbone(golden, pyramid, tmp_path):
    path = stand_ins.upernet_file(tmp_path / 'a.pth', pyramid, golden['arch']['embed_dims'], 5, 16, 8)
    model = start(golden, path)
    assert assert_holds(model, pyramid) == set(model.state_dict())


def test_upernet_file_loads_into_any_part_of_the_outputs(golden, pyramid):
    model = ATMNet(golden['atmnet_arch'], out_indices=[1])
    model.load_state_dict(pyramid)
    case = golden['cases'][0]
    (y,) = model.eval()(golden_data.golden_image(case['height'], case['width']))
    assert y.mean().item() == pytest.approx(case['pyramid'][1]['mean'], abs=1e-4)


def test_own_classifier_starts_a_backbone(golden, classifier, tmp_path):
    source = ATMNet(golden['atmnet_arch'], out_indices=[3])
    weights = {f'backbone.{name}': weight for name, weight in source.state_dict().items()}
    torch.save({'state_dict': {**weights, 'head.fc.bias': torch.ones(3)}}, tmp_path / 'own.pth')
    for options in ({}, {'prefix': 'backbone'}, {'prefix': 'backbone.'}):
        model = start(golden, tmp_path / 'own.pth', **options)
        for name, weight in source.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=0)
    assert read_backbone(str(tmp_path / 'own.pth'), ATMNet.PUBLISHED)[1] == 'head (1 tensors)'
    with pytest.raises(
        InputError, match=r"no parameter's name begins with 'encoder\.'; the names begin with \['backbone', 'head'\]"
    ):
        start(golden, tmp_path / 'own.pth', prefix='encoder')


def test_imagenet_file_as_a_whole_classifier(golden, classifier, tmp_path):
    weights = read_checkpoint(str(stand_ins.imagenet_file(tmp_path / 'a.pth', classifier)))['state_dict']
    model = nn.ModuleDict({
        'backbone': ATMNet(golden['atmnet_arch'], out_indices=[3]),
        'head': nn.ModuleDict({'fc': nn.Linear(*reversed(classifier['head.weight'].shape))}),
    })  # fmt: skip
    model.load_state_dict(for_model(weights, model))
    case = golden['cases'][0]
    (y,) = model['backbone'].eval()(golden_data.golden_image(case['height'], case['width']))
    logits = model['head']['fc'](y.mean((2, 3))).flatten()
    torch.testing.assert_close(logits[:16], torch.tensor(case['logits']['first16']), rtol=0, atol=1e-4)


@pytest.mark.parametrize('size', ['xt', 't', 's', 'b', 'l'])
@pytest.mark.parametrize('pyramid', [False, True])
def test_names_of_every_size(size, pyramid):
    shapes = stand_ins.authors_shapes(ATMNet.SIZES[size], pyramid)
    with torch.device('meta'):
        model = ATMNet(size, out_indices=range(4) if pyramid else [3])
    expected = {name: (*weight.shape,) for name, weight in model.state_dict().items()}
    for name, shape in shapes.items():
        if not name.startswith('head.'):
            flat = shape[:2] if name.endswith(('atm_w.weight', 'atm_h.weight')) else shape
            assert expected.pop(ATMNet.PUBLISHED.own_name(name)) == flat
    assert not expected


def test_stand_in_shapes_are_the_golden_ones(golden):
    for key, pyramid in (('classifier_shapes', False), ('pyramid_shapes', True)):
        shapes = stand_ins.authors_shapes(ATMNet.SIZES['xt'], pyramid)
        assert {name: list(shape) for name, shape in shapes.items()} == golden_data.load('xt')[key]


def test_own_checkpoints_of_mmengine_are_read(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(
        {'state_dict': {'a': torch.ones(1)}, 'message_hub': {'log': buffer}, 'meta': {'seed': 3}}, tmp_path / 'a.pth'
    )
    checkpoint = read_checkpoint(str(tmp_path / 'a.pth'))
    assert checkpoint['message_hub']['log'].mean() == 1.5
    assert checkpoint['meta'] == {'seed': 3}


def test_latest_checkpoint_is_the_newest_whole_one(tmp_path):
    assert latest_checkpoint(str(tmp_path)) is None
    for i in (5, 20, 100):
        torch.save({'state_dict': {}, 'meta': {'iter': i, 'time': f'20260101_{i:06}'}}, tmp_path / f'iter_{i}.pth')
    torch.save({'state_dict': {}}, tmp_path / 'iter_500.pth')  # does not record its training
    (tmp_path / 'best_mIoU_iter_200.pth').write_bytes((tmp_path / 'iter_5.pth').read_bytes())
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_100.pth')
    whole = (tmp_path / 'iter_100.pth').read_bytes()
    (tmp_path / 'iter_100.pth').write_bytes(whole[: len(whole) // 2])
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_20.pth')


def all_ways(golden, path):
    """Every way of getting a file's weights into a backbone."""
    yield lambda: start(golden, path)
    model = nn.Module()
    model.backbone = ATMNet(golden['atmnet_arch'])
    yield lambda: load_checkpoint(model, str(path))  # load_from, with anybody's training script
    yield lambda: load_checkpoint(model.backbone, str(path))


def test_averaged_weights_of_timm_are_taken(tmp_path):
    """timm's training script writes `state_dict`, and the averaged weights beside it."""
    file = {
        'arch': 'atmnet_t',
        'state_dict': {'a': torch.zeros(1)},
        'state_dict_ema': {'module.a': torch.ones(1)},
        'metric': 71.5,
    }
    torch.save(file, tmp_path / 'timm.pth.tar')
    read = read_checkpoint(str(tmp_path / 'timm.pth.tar'))
    assert read == {'arch': 'atmnet_t', 'metric': 71.5, 'state_dict': {'a': torch.ones(1)}}


def test_weights_of_another_network_are_shown_by_their_own_names(golden, tmp_path, shapes):
    names = 'encoder.conv1.weight', 'encoder.bn1.weight', 'encoder.bn1.bias', 'encoder.fc.weight'
    torch.save({'state_dict': {name: torch.zeros(3) for name in names}}, tmp_path / 'other.pth')
    shown = 'their names are like encoder.conv1.weight, encoder.bn1.weight, encoder.bn1.bias and 1 more'
    with pytest.raises(InputError, match=shown):
        start(golden, tmp_path / 'other.pth')
    config = load_config(str(write_config(tmp_path, shapes)))
    with pytest.raises(InputError, match=rf'other\.pth: these are not weights of ATMNet; {shown}'):
        load_model(config, str(tmp_path / 'other.pth'))
    config.load_from = str(tmp_path / 'other.pth')
    runner = Runner.from_cfg(config)
    with pytest.raises(InputError, match=rf'other\.pth: these are not weights of ATMNet; {shown}'):
        runner.load_or_resume()
    model = nn.Module()
    model.backbone = ATMNet(golden['atmnet_arch'])
    with pytest.raises(InputError, match=r'not weights of ATMNet; none of their names begins with backbone\.'):
        load_checkpoint(model, str(tmp_path / 'other.pth'))  # in anybody's training script, which knows the others


def test_many_names_are_for_the_log_file(golden, tmp_path, capsys):
    small = golden_data.load('mini_b')
    torch.save({'model': golden_data.authors_weights(small['classifier_shapes'])}, tmp_path / 'b.pth')
    logger = MMLogger.get_instance('named', log_file=str(tmp_path / 'log'))
    with pytest.raises(InputError) as refused:
        start(golden, tmp_path / 'b.pth')
    message = str(refused.value)
    assert re.search(r'of another shape: stem\.weight, \S+, \S+ and \d+ more', message)
    assert message.endswith(f'; all names are in {tmp_path}/log')
    assert len(message) < 800
    with torch.device('meta'):
        own = ATMNet(golden['atmnet_arch'])
    logged = (tmp_path / 'log').read_text()
    listed = set(re.search('missing: (.*)', logged)[1].split(', '))
    assert listed >= {name for name in own.state_dict() if name.startswith('stages.0.blocks.')} - {
        ATMNet.PUBLISHED.own_name(name) for name in small['classifier_shapes']
    }
    printed = ''.join(capsys.readouterr())
    assert 'stem.weight' not in printed
    logger.handlers.clear()

    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    for weights, kind in (
        ({}, 'missing: 0.weight, 0.bias, 1.weight and 15 more'),
        ({f'{i}.weight': torch.zeros(3) for i in range(9)}, 'size mismatch for 2.weight.* and 6 more'),
    ):
        with pytest.raises(InputError, match=f'(?s){kind}$'):
            fill_model(model, weights)


def test_half_matching_files_are_refused_with_the_names(golden, pyramid, tmp_path):
    names = 'blocks.0.1.norm1.weight', 'blocks.2.0.atm.atm_w.bias'
    for name in names:
        del pyramid[name]
    pyramid['blocks.0.0.extra.weight'] = torch.zeros(1)
    path = stand_ins.upernet_file(tmp_path / 'a.pth', pyramid, golden['arch']['embed_dims'], 5, 16, 8)
    message = (
        r'missing: stages\.0\.blocks\.1\.norm1\.weight, stages\.2\.blocks\.0\.mixer\.fc_w\.bias; '
        r'unknown: stages\.0\.blocks\.0\.extra\.weight$'
    )
    ways = list(all_ways(golden, path))
    for way in ways[:2]:
        with pytest.raises(InputError, match=message):
            way()
    with pytest.raises(InputError, match='these are not weights of ATMNet'):
        ways[2]()  # whole-model names into a bare backbone, without anybody to take the prefix off


def test_other_sizes_and_networks_are_refused(golden, tmp_path):
    small = golden_data.load('mini_b')
    torch.save({'model': golden_data.authors_weights(small['classifier_shapes'])}, tmp_path / 'b.pth')
    message = (
        r'weights of ATMNet of a custom size \(depths \[3, 4, 7, 3\].* do not fill .*of another shape: stem\.weight'
    )
    with pytest.raises(InputError, match=message):
        start(golden, tmp_path / 'b.pth')
    torch.save({'state_dict': {'backbone.conv1.weight': torch.zeros(64, 3, 7, 7)}}, tmp_path / 'resnet.pth')
    for way in all_ways(golden, tmp_path / 'resnet.pth'):
        with pytest.raises(InputError, match=r'not weights of ATMNet; their names are like'):
            way()
    torch.save(golden_data.authors_weights(stand_ins.authors_shapes(ATMNet.SIZES['xt'], False)), tmp_path / 'xt.pth')
    with pytest.raises(InputError, match=r'weights of ATMNet xt \(depths \[2, 2, 4, 2\]\) do not fill'):
        start(golden, tmp_path / 'xt.pth')


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TakesAttribute:
    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol 4')
@pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle', 'getattr'])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(golden, pyramid, tmp_path, kind):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    content = {'state_dict': pyramid, 'meta': TakesAttribute() if kind == 'getattr' else RunsCode(trace)}
    message = r'evil\.pth holds more than weights \((posix\.mkdir|builtins\.getattr)\).* It could run code'
    if kind == 'pickle':
        path.write_bytes(pickle.dumps({**content, 'state_dict': {}}))
        message = r'evil\.pth is damaged or was not written by torch\.save; it was not loaded'
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != 'legacy')
    with pytest.raises(InputError, match=message):
        start(golden, path)
    for way in list(all_ways(golden, path))[1:]:
        with pytest.raises(pickle.UnpicklingError):  # PyTorch's own refusal, in anybody's training script
            way()
    assert not trace.exists()


def test_damaged_files_are_refused(golden, pyramid, tmp_path):
    with pytest.raises(InputError, match=r'there is no checkpoint .*absent\.pth'):
        start(golden, tmp_path / 'absent.pth')
    torch.save(pyramid, tmp_path / 'cut.pth')
    whole = (tmp_path / 'cut.pth').read_bytes()
    torch.save(pyramid, tmp_path / 'legacy.pth', _use_new_zipfile_serialization=False)
    legacy = (tmp_path / 'legacy.pth').read_bytes()
    for content, sizes in (
        (whole, (0, 10, 1000, len(whole) // 2, len(whole) - 10)),
        (legacy, range(0, len(legacy) - 1, len(legacy) // 20)),
    ):
        for size in sizes:
            (tmp_path / 'cut.pth').write_bytes(content[:size])
            with pytest.raises(
                InputError, match=r'cut\.pth (is|holds more than weights .*, or is) (cut short|damaged)'
            ):
                start(golden, tmp_path / 'cut.pth')
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    with pytest.raises(InputError, match=r'text\.pth is (cut short or not a PyTorch checkpoint|damaged)'):
        start(golden, tmp_path / 'text.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(InputError, match='holds a list, not a dict of weights'):
        start(golden, tmp_path / 'list.pth')
    torch.save({'epoch': 3}, tmp_path / 'none.pth')
    with pytest.raises(InputError, match='holds no weights'):
        start(golden, tmp_path / 'none.pth')
