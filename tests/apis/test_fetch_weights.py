"""tools/fetch_weights.py: published files, from a server on this machine and a stand-in of gdown."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from local_server import Server, serve

import golden_data
import stand_ins
from mmatm.checkpoint import read_checkpoint
from mmatm.config import load_config
from mmatm.datasets.shapes import SEMANTIC_CLASSES, SHAPES
from mmatm.models import ATMNet
from mmatm.utils.download import _DRIVE

# Small configs in the places of the published ones.
CLASSIFIER, SEGMENTOR = 'atmnet_mini_shapes', 'upernet_atmnet_mini_shapes'
ARCH = load_config(str(ROOT / f'configs/{CLASSIFIER}.py')).model.backbone.arch.to_dict()
DRIVE = 'https://drive.google.com/file/d/1aB_c-d/view'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'checkpoints'


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with serve() as server:
        for name in (CLASSIFIER, SEGMENTOR):
            monkeypatch.setitem(ATMNet.PUBLISHED.links, name, server.url(f'{name}.pth'))
        yield server


@pytest.fixture(scope='module')
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The authors' files for the small configs, by name."""
    path = tmp_path_factory.mktemp('published') / 'file.pth'
    shapes = stand_ins.authors_shapes(ARCH, pyramid=False)
    shapes.update({'head.weight': (len(SHAPES), 128), 'head.bias': (len(SHAPES),)})
    classifier = stand_ins.imagenet_file(path, golden_data.authors_weights(shapes)).read_bytes()
    pyramid = golden_data.authors_weights(stand_ins.authors_shapes(ARCH, pyramid=True))
    segmentor = stand_ins.upernet_file(path, pyramid, ARCH['channels'], len(SEMANTIC_CLASSES), 64, 32).read_bytes()
    return {CLASSIFIER: classifier, SEGMENTOR: segmentor}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def fails(error_of, capsys, *arguments: str) -> str:
    """What the command says of what failed."""
    message = error_of('fetch_weights.py', *arguments)
    assert message.startswith('error: these could not be fetched, see above: ')
    return capsys.readouterr().err


def test_what_is_published_is_of_configs_and_can_be_fetched():
    for name, address in ATMNet.PUBLISHED.links.items():
        assert (ROOT / f'configs/{name}.py').is_file()
        assert re.fullmatch(r'[\w-]{33}', _DRIVE.match(address)[1])


def test_list_and_fetch(server, published, folder, command):
    server.files.update({f'{name}.pth': content for name, content in published.items()})
    listed = [line.split(maxsplit=3) for line in command('fetch_weights.py', '--list').splitlines()]
    drive = ATMNet.PUBLISHED.links['atmnet_t_in1k']
    assert ['atmnet_t_in1k', drive, 'checkpoints/atmnet_t_in1k.pth', 'not there'] in listed
    assert [CLASSIFIER, server.url(f'{CLASSIFIER}.pth'), f'checkpoints/{CLASSIFIER}.pth', 'not there'] in listed
    printed = command('fetch_weights.py', CLASSIFIER, SEGMENTOR)
    for name, content in published.items():
        assert f'checkpoints/{name}.pth was fetched and fits {name}.py' in printed
        assert (folder / f'{name}.pth').read_bytes() == content
    assert names(folder) == [f'{name}.pth' for name in published]
    assert re.search(rf'^{CLASSIFIER} .* is there$', command('fetch_weights.py', '--list'), re.M)
    assert 'exists already and fits' in command('fetch_weights.py', CLASSIFIER)
    assert len(server.requests) == 2


def test_all_are_tried(server, published, folder, error_of, capsys):
    server.files[f'{SEGMENTOR}.pth'] = published[SEGMENTOR]
    said = fails(error_of, capsys, 'atmnet_t_in1', 'nonsense', 'atmnet_s_in1k', CLASSIFIER, SEGMENTOR)
    assert 'there is no config atmnet_t_in1; did you mean atmnet_t_in1k?' in said
    assert 'nonsense: there is no config nonsense; --list shows what there is' in said
    assert 'no weights of atmnet_s_in1k: the authors do not publish them' in said
    assert f'{CLASSIFIER}: {server.url(CLASSIFIER)}.pth: the server answers 404' in said
    assert f'put it at checkpoints/{CLASSIFIER}.pth' in said
    assert names(folder) == [f'{SEGMENTOR}.pth']


@pytest.mark.parametrize('arguments', [[], ['--list', CLASSIFIER]])
def test_usage(arguments, error_of):
    assert error_of('fetch_weights.py', *arguments) == 'error: give either names of configs or --list'


def test_cut_short_is_gone_on_with(server, published, folder, command, error_of, capsys):
    server.files[f'{CLASSIFIER}.pth'] = content = published[CLASSIFIER]
    server.cut = len(content) // 2
    assert 'Run this again to resume' in fails(error_of, capsys, CLASSIFIER)
    assert f'{CLASSIFIER}.pth' not in names(folder)
    server.cut = None
    command('fetch_weights.py', CLASSIFIER)
    assert [status for *_, status in server.requests] == [200, 206]
    assert names(folder) == [f'{CLASSIFIER}.pth']


def test_file_of_another_model(server, published, folder, error_of, capsys):
    server.files[f'{CLASSIFIER}.pth'] = published[SEGMENTOR]
    said = fails(error_of, capsys, CLASSIFIER)
    assert ' is not the right one and was removed' in said
    assert 'missing: head.fc.weight, head.fc.bias' in said
    assert names(folder) == []
    torch.save({'state_dict': {'backbone.conv1.weight': torch.zeros(8, 3, 7, 7)}}, folder / f'{SEGMENTOR}.pth')
    said = fails(error_of, capsys, SEGMENTOR)
    assert f'checkpoints/{SEGMENTOR}.pth exists, but does not hold the weights of {SEGMENTOR}; move it away' in said
    assert 'not weights of ATMNet' in said
    assert names(folder) == [f'{SEGMENTOR}.pth'], 'not ours to remove'


class Gdown(SimpleNamespace):
    """gdown, as far as it is used: what is cut short it keeps beside, under a name with eight letters and `.part`."""

    content = b''
    cut: int | None = None
    error: Exception | None = None

    def download(self, id: str, output: str, resume: bool, quiet: bool) -> str | None:
        self.asked = id
        part = Path(f'{output}abcdefgh.part')
        if resume and Path(output).is_file():
            return output
        if self.error:
            raise self.error
        self.started_at = part.stat().st_size if resume and part.is_file() else 0
        with part.open('ab') as file:
            file.write(self.content[self.started_at : self.cut])
        if self.cut is not None:
            raise RuntimeError('Download is incomplete:\n received 10 bytes')
        part.rename(output)
        return output


@pytest.fixture
def gdown(monkeypatch: pytest.MonkeyPatch) -> Gdown:
    monkeypatch.setitem(ATMNet.PUBLISHED.links, CLASSIFIER, DRIVE)
    module = Gdown()
    monkeypatch.setitem(sys.modules, 'gdown', module)
    return module


def test_google_drive(gdown, published, folder, command, error_of, capsys):
    gdown.content, gdown.cut = published[CLASSIFIER], 1000
    said = fails(error_of, capsys, CLASSIFIER)
    assert f'gdown cannot fetch {DRIVE} (Download is incomplete: received 10 bytes). Run this again to resume' in said
    assert f'or fetch it by hand from {DRIVE} and put it at checkpoints/{CLASSIFIER}.pth' in said
    gdown.cut = None
    command('fetch_weights.py', CLASSIFIER)
    assert gdown.started_at == 1000
    assert gdown.asked == '1aB_c-d'
    assert names(folder) == [f'{CLASSIFIER}.pth']
    assert read_checkpoint(str(folder / f'{CLASSIFIER}.pth'))['epoch'] == 299


def test_google_drive_sends_a_page(gdown, folder, error_of, capsys):
    """As it does instead of a file that many have fetched today."""
    gdown.content = b'<!DOCTYPE html><title>Quota exceeded</title>'
    assert f'the file from {DRIVE} is not the right one and was removed' in fails(error_of, capsys, CLASSIFIER)
    assert names(folder) == []


def test_gdown_fails(gdown, folder, error_of, capsys):
    gdown.error = OSError(28, 'No space left on device')
    assert 'no room in checkpoints' in fails(error_of, capsys, CLASSIFIER)
    gdown.download = lambda **arguments: None  # as before version 5
    assert 'gdown cannot fetch' in fails(error_of, capsys, CLASSIFIER)


def test_without_gdown(monkeypatch, error_of, capsys):
    monkeypatch.setitem(sys.modules, 'gdown', None)
    said = fails(error_of, capsys, 'atmnet_t_in1k')
    assert 'pip install gdown' in said
    address = ATMNet.PUBLISHED.links['atmnet_t_in1k']
    assert f'fetch it by hand from {address} and put it at checkpoints/atmnet_t_in1k.pth' in said
