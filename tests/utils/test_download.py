"""Weights at http addresses, from a server on this machine that fails in every way."""

import errno
import hashlib
import io
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import write_weights
from local_server import Server, serve

from mmatm.checkpoint import read_checkpoint
from mmatm.errors import InputError
from mmatm.utils import files
from mmatm.utils.download import download


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with serve() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch/hub/checkpoints'


def weights(value: float, count: int = 1000) -> bytes:
    """The file of a checkpoint."""
    file = io.BytesIO()
    torch.save({'state_dict': {'a': torch.full((count,), float(value))}}, file)
    return file.getvalue()


def value(path: str) -> float:
    return read_checkpoint(path)['state_dict']['a'][-1].item()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def error(function: Callable, *arguments: object) -> str:
    with pytest.raises(InputError) as raised:
        function(*arguments)
    return str(raised.value)


def accept(path: Path) -> None:
    """A check that finds nothing."""


def test_fetched_once_and_then_read_without_network(server, cache, tmp_path):
    server.files['a.pth'] = weights(1)
    url = server.url('a.pth')
    assert value(url) == value(url) == 1
    assert server.requests == [('/a.pth', None, 200)]
    server.files.clear()
    assert value(url) == 1
    (name,) = names(cache)  # and no lock, nothing partial
    assert read_checkpoint(url, digest=True)['sha256'] == hashlib.sha256((cache / name).read_bytes()).hexdigest()
    assert len(server.requests) == 1


def test_one_name_at_two_addresses(server, cache):
    for path, number in (('old/a.pth', 1), ('new/a.pth', 2), ('a.pth?version=3', 3)):
        server.files[path] = weights(number)
        assert value(server.url(path)) == number
    assert value(server.url('old/a.pth')) == 1
    assert len(names(cache)) == 3


def test_hash_in_the_name(server, cache):
    content = weights(1)
    name = f'a-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    server.files[name] = weights(2)
    assert f'not with {name[2:10]} as its name says' in error(value, server.url(name))
    assert not names(cache)
    server.files[name] = content
    assert value(server.url(name)) == 1
    assert names(cache) == [name], "torch's own name"
    # What torch or MMEngine fetched.
    torch_name = 'b-0123456789.pth'
    (cache / torch_name).write_bytes(weights(3))
    assert value(server.url(torch_name)) == 3
    assert len(server.requests) == 2
    server.files['b-20210831.pth'] = content  # a date
    assert value(server.url('b-20210831.pth')) == 1


def test_cut_short_goes_on_from_there(server, cache):
    content = server.files['a.pth'] = weights(1, 500_000)
    server.cut = 1_200_000
    url = server.url('a.pth')
    message = error(value, url)
    assert f'{url} was cut short after 1,200,000 of {len(content):,} bytes. Run this again to resume' in message
    assert [name.partition('.pth')[2] for name in names(cache)] == ['.partial', '.partial.json']
    server.cut = None
    assert value(url) == 1
    assert server.requests == [('/a.pth', None, 200), ('/a.pth', 'bytes=1200000-', 206)]
    assert len(names(cache)) == 1


@pytest.mark.parametrize(
    ('change', 'statuses'),
    [
        (lambda server: setattr(server, 'ranges', False), [200]),
        (lambda server: setattr(server, 'etag', '"second"'), [200]),
        (lambda server: server.__dict__.update(etag='"second"', heeds_if_range=False), [206, 200]),
        (lambda server: server.__dict__.update(etag=None, heeds_if_range=False), [206, 200]),
        (lambda server: server.files.update({'a.pth': b'new'}), [416, 200]),
    ],
    ids=['whole files only', 'another file', 'another file, unheeded', 'nothing to tell by', 'a shorter file'],
)
def test_begins_anew_where_the_rest_may_be_of_another_file(server, tmp_path, change, statuses):
    server.files['a.pth'], server.cut = b'old' * 1000, 500
    path = tmp_path / 'a.pth'
    assert '500 of 3,000' in error(download, server.url('a.pth'), path, accept)
    server.files['a.pth'], server.cut = b'new' * 1000, None
    change(server)
    download(server.url('a.pth'), path, accept)
    assert path.read_bytes() == server.files['a.pth']
    assert [status for *_, status in server.requests[1:]] == statuses
    assert names(tmp_path) == ['a.pth']


def test_cut_short_where_nothing_tells_whether_the_file_changes(server, tmp_path):
    server.files['a.pth'], server.cut, server.etag = b'old' * 1000, 500, None
    path = tmp_path / 'a.pth'
    assert 'Run this again to start over' in error(download, server.url('a.pth'), path, accept)
    server.cut = None
    download(server.url('a.pth'), path, accept)
    assert server.requests[-1] == ('/a.pth', None, 200)
    assert path.read_bytes() == server.files['a.pth']


def test_a_partial_file_of_another_address_is_not_gone_on_with(server, tmp_path):
    server.files['a.pth'], server.files['b.pth'], server.cut = b'a' * 1000, b'b' * 1000, 500
    path = tmp_path / 'a.pth'
    error(download, server.url('a.pth'), path, accept)
    server.cut = None
    download(server.url('b.pth'), path, accept)
    assert path.read_bytes() == server.files['b.pth']


def test_killed_between_the_last_byte_and_the_check(server, tmp_path):
    server.files['a.pth'] = b'a' * 1000
    path = tmp_path / 'a.pth'

    def kill(partial: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url('a.pth'), path, kill)
    download(server.url('a.pth'), path, accept)
    assert path.read_bytes() == server.files['a.pth']
    assert len(server.requests) == 1


@pytest.mark.parametrize('record', ['', '{"url": "ht'])
def test_killed_while_writing_down_what_it_fetches(server, tmp_path, record):
    server.files['a.pth'] = b'a' * 1000
    (tmp_path / 'a.pth.partial').write_bytes(b'b' * 10)
    (tmp_path / 'a.pth.partial.json').write_text(record)
    (tmp_path / 'a.pth.lock').write_text('half an error')
    download(server.url('a.pth'), tmp_path / 'a.pth', accept)
    assert (tmp_path / 'a.pth').read_bytes() == server.files['a.pth']
    assert names(tmp_path) == ['a.pth']


class RunsCode:
    def __reduce__(self) -> tuple:
        return os.mkdir, ('trace',)


def with_code() -> bytes:
    file = io.BytesIO()
    torch.save({'state_dict': {'a': torch.ones(1)}, 'meta': RunsCode()}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'<!DOCTYPE html><title>Please log in</title>', 'not a PyTorch checkpoint|not written by torch.save'),
        (weights(1)[:2000], 'cut short'),
        (with_code(), r'holds more than weights \(posix\.mkdir\)'),
    ],
    ids=['html', 'cut', 'code'],
)
@pytest.mark.parametrize('says_length', [True, False])
def test_wrong_file_is_not_kept(server, cache, tmp_path, monkeypatch, content, reason, says_length):
    monkeypatch.chdir(tmp_path)
    server.files['a.pth'], server.says_length = content, says_length
    url = server.url('a.pth')
    with pytest.raises(InputError, match=rf'the file from {url} is not the right one and was removed: .*({reason})'):
        value(url)
    assert not names(cache)
    assert not (tmp_path / 'trace').exists()
    server.files['a.pth'] = weights(2)
    assert value(url) == 2


def test_no_such_file(server, cache):
    message = error(value, server.url('a.pth'))
    assert message.startswith(f'{server.url("a.pth")}: the server answers 404 Not Found. Fetch it elsewhere and put it')
    assert not names(cache)


def test_no_network(server, cache, tmp_path):
    with socket.socket() as deaf:
        deaf.bind(('127.0.0.1', 0))  # and does not listen
        url = f'http://127.0.0.1:{deaf.getsockname()[1]}/a.pth'
        message = error(value, url)
    assert f'cannot be reached to fetch {url} ([Errno {errno.ECONNREFUSED}] Connection refused)' in message
    (tmp_path / 'a.pth').write_bytes(weights(1))
    place = message.partition('put it at ')[2].partition(', or name another file')[0]
    shutil.copy(tmp_path / 'a.pth', place)
    assert value(url) == 1
    for nonsense in ('http://', 'http://127.0.0.1:port/a.pth'):
        assert 'cannot be reached' in error(value, nonsense)


def test_server_that_stops_sending(server, cache, monkeypatch):
    monkeypatch.setattr('mmatm.utils.download._SECONDS', 0.2)
    server.files['a.pth'], server.go_on = weights(1, 500_000), threading.Event()
    message = error(value, server.url('a.pth'))
    assert 'was cut short (TimeoutError)' in message
    server.go_on.set()
    assert value(server.url('a.pth')) == 1
    assert server.requests[1][2] == 206


def test_no_room(server, cache, monkeypatch):
    server.files['a.pth'] = weights(1, 1_000_000)
    url = server.url('a.pth')
    with monkeypatch.context() as patch:
        usage = namedtuple('usage', 'total used free')
        patch.setattr(shutil, 'disk_usage', lambda path: usage(10, 9, 1_000_000))
        message = error(value, url)
    assert f'no room in {cache} for {url} (4,00' in message
    assert not [name for name in names(cache) if name.endswith('.partial')], 'it was known before the first byte'
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, limits[1]))  # as where a quota ends
    try:
        message = error(value, url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f'no room in {cache} for {url} (File too large). Make room and run this again to resume' in message
    assert value(url) == 1
    assert server.requests[-1][1:] == ('bytes=2500000-', 206)


def test_folder_that_cannot_be_written_to(server, cache, tmp_path):
    (tmp_path / 'torch').write_text('a file')
    assert f'{server.url("a.pth")} cannot be put at {cache}' in error(value, server.url('a.pth'))


READ = "import sys; from mmatm.checkpoint import read_checkpoint; print('has', *read_checkpoint(sys.argv[1]))"


def test_two_processes_at_once_fetch_once(server, cache):
    server.files['a.pth'], server.go_on = weights(1), threading.Event()
    command = [sys.executable, '-W', 'ignore', '-c', READ, server.url('a.pth')]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    first_lines = [process.stdout.readline() for process in started]
    assert sorted('waiting for another process' in line for line in first_lines) == [False, True]
    server.go_on.set()
    for process in started:
        output, _ = process.communicate(timeout=60)
        assert 'has state_dict' in output
        assert process.returncode == 0
    assert len(server.requests) == 1
    assert len(names(cache)) == 1


def test_those_who_waited_share_the_error(server, tmp_path, monkeypatch):
    """In threads: a lock is of an open file, not of a process."""
    waiting = threading.Semaphore(0)
    monkeypatch.setattr(files, 'print_log', lambda *args: waiting.release())
    server.files['a.pth'], server.cut, server.go_on = b'a' * 1000, 100, threading.Event()
    (tmp_path / 'a.pth.lock').write_text('of a process that was killed')
    messages: list[str] = []

    def fetch() -> None:
        try:
            download(server.url('a.pth'), tmp_path / 'a.pth', accept)
        except InputError as error:
            messages.append(str(error))

    threads = [threading.Thread(target=fetch, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert waiting.acquire(timeout=60)
    server.go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(server.requests) == 1
    assert len(messages) == 3
    assert len(set(messages)) == 1
    assert '600 of 1,000' in messages[0]


def test_where_files_cannot_be_locked(server, cache, monkeypatch):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(files.fcntl, 'flock', flock)
    server.files['a.pth'] = weights(1)
    assert value(server.url('a.pth')) == 1
    assert len(names(cache)) == 1


def test_training_fetches_pretrained_weights_before_it_begins(server, cache, tmp_path, config, error_of):
    server.files['other.pth'] = weights(1)
    init = '+model.backbone.init_cfg.type=Pretrained', '+model.backbone.init_cfg.checkpoint='
    for name, message in (('absent.pth', '404 Not Found'), ('other.pth', 'not weights of ATMNet')):
        url = server.url(name)
        found = error_of('train.py', config, '--cfg-options', init[0], init[1] + url)
        assert url in found
        assert message in found
        assert (tmp_path / 'work').exists() == (name == 'other.pth')
    assert len(server.requests) == 2


def test_tested_with_by_address(server, cache, tmp_path, config, command):
    path = write_weights(config)
    server.files['mini.pth'] = path.read_bytes()
    command('test.py', config, server.url('mini.pth'))
    result = json.loads((tmp_path / 'work/result_mini.json').read_text())
    assert result['checkpoint_sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(server.requests) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_on_a_terminal_only(server, tmp_path, monkeypatch):
    server.files['a.pth'] = b'a' * 3_000_000
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setattr(sys, 'stderr', Terminal())
    download(server.url('a.pth'), tmp_path / 'a.pth', accept)
    assert '3.0/3.0 MB' in sys.stderr.getvalue()
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    download(server.url('a.pth'), tmp_path / 'b.pth', accept)
    assert sys.stderr.getvalue() == f'fetching {server.url("a.pth")} to {tmp_path}\n'
