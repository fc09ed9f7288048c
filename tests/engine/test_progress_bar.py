"""The progress bar, on a terminal that keeps what is written to it."""

import errno
import io
import logging
import re
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

import mmatm.engine.curves
import mmatm.engine.progress_bar
from toy import Layer, Numbers, toy_runner

EPOCHS, ITERATIONS = {'max_epochs': 3}, {'max_iters': 12}


class Terminal(io.StringIO):
    """Codes that it does not know are errors."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines, column = [''], 0
        for code, command, text in re.findall(r'\x1b\[([?\d;]*)(\w)|([^\x1b\r\n]+|[\r\n])', self.getvalue()):
            if text == '\n':
                lines.append('')
            elif text and text != '\r':
                lines[-1] = lines[-1][:column].ljust(column) + text + lines[-1][column + len(text) :]
            elif command == 'K':
                assert code == '2'
                lines[-1] = ''
            else:
                assert text or command == 'm' or code == '?25', f'unknown: {code}{command}'
            column = column + len(text) if text not in '\r\n' else column if command else 0
        return [line.rstrip() for line in lines]

    def bars(self) -> list[str]:
        """All that the bar showed, in the order of time."""
        lines = re.split(r'[\r\n]|\x1b\[\?25.', self.getvalue())
        return [re.sub(r'\x1b\[[\d;]*[mK]', '', line) for line in lines if ' left ' in line]

    def cursor_is_visible(self) -> bool:
        return self.getvalue().rfind('\x1b[?25h') > self.getvalue().rfind('\x1b[?25l')


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(mmatm.engine.curves, 'draw_curves', lambda path, *rest: path.touch())
    for name in ('FORCE_COLOR', 'NO_COLOR', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE'):
        monkeypatch.delenv(name, raising=False)
    for name, value in {'TERM': 'xterm', 'COLUMNS': '80', 'LINES': '24'}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


@pytest.fixture
def clock(monkeypatch):
    """A second passes in every training iteration, none else."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    forward = Layer.forward

    def slow(self, inputs, mode='tensor'):
        clock.now += mode == 'loss'
        return forward(self, inputs, mode)

    monkeypatch.setattr(Layer, 'forward', slow)
    monkeypatch.setattr(mmatm.engine.progress_bar, 'time', clock)
    return clock


def iteration_lines(text):
    return re.findall(r'(?:Epoch|Iter)\((?:train|val|test)\) .*(?:loss|eta): .*', text)


@pytest.mark.parametrize('length', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations'])
def test_training_on_a_terminal(tmp_path, terminal, clock, length):
    with redirect_stdout(terminal):
        toy_runner(tmp_path, length).train()
        assert sys.stdout is terminal
        print('the end')
    assert terminal.cursor_is_visible()

    log = next(tmp_path.glob('*/*.log')).read_text()
    assert len(iteration_lines(log)) == 12 + 3 * 4
    screen = terminal.screen()
    assert not iteration_lines('\n'.join(screen))
    assert sum('Saving checkpoint at' in line for line in screen) == 3
    assert sum(' mean: ' in line for line in screen) == 3
    # One bar is left, as it stood at the end, below all that was printed meanwhile.
    (bar,) = [line for line in screen if '━' in line]
    assert screen[-3:] == [bar, 'the end', '']
    rate, loss = re.findall(r' lr: (\S+) .* loss: (\S+)', log)[-1]
    name, done = ('epoch 3/3', '4/4') if length is EPOCHS else ('train', '12/12')
    assert re.sub('━+', '━', bar) == f'{name} ━ {done} loss {loss} lr {float(rate):.1e} 0:00:12 left 0:00:00'

    drawn = terminal.bars()
    assert {len(bar) for bar in drawn} == {77}
    assert any(re.fullmatch(r'val ━+ 4/4 +0:00:00 left 0:00:00', bar) for bar in drawn)
    left = [bar[-7:] for bar in drawn if not bar.startswith('val')]
    assert list(dict.fromkeys(left)) == ['-:--:--', *(f'0:00:{seconds:02}' for seconds in range(10, -1, -1))]


def test_resumed_training_begins_where_it_was(tmp_path, terminal, clock):
    toy_runner(tmp_path, {'max_iters': 4}).train()
    with redirect_stdout(terminal):
        toy_runner(tmp_path, {'max_iters': 9}, resume=True).train()
    drawn = list(dict.fromkeys(re.sub(' ━*[ ╸╺━]*', ' ', bar, count=1) for bar in terminal.bars()))
    assert re.fullmatch(r'train 4/9 +0:00:00 left -:--:--', drawn[0])
    assert re.fullmatch(r'train 5/9 loss .* 0:00:01 left -:--:--', drawn[1])
    assert re.fullmatch(r'train 6/9 loss .* 0:00:02 left 0:00:03', drawn[2])


def test_what_else_is_written_stands_above_the_bar(tmp_path, terminal):
    before, begun = set(threading.enumerate()), set()

    class Talking(Numbers):
        def __getitem__(self, index):
            begun.update(set(threading.enumerate()) - before)
            print('[/no markup] :smile:', end='', flush=True)  # and no end of the line
            print('long ' * 30)
            print('mistake', file=sys.stderr)
            logging.getLogger('a library').warning('warned')
            return super().__getitem__(index)

    handler = logging.StreamHandler(terminal)
    logging.getLogger('a library').addHandler(handler)
    with redirect_stdout(terminal), redirect_stderr(io.StringIO()) as errors:
        runner = toy_runner(tmp_path, ITERATIONS, train_dataloader={
            'batch_size': 2, 'num_workers': 0, 'dataset': Talking(), 'sampler': {'type': 'InfiniteSampler'},
        })  # fmt: skip
        runner.train()
    logging.getLogger('a library').removeHandler(handler)
    screen = terminal.screen()
    for line, count in [('[/no markup] :smile:', 24), (('long ' * 30).rstrip(), 24), ('warned', 24), ('mistake', 0)]:
        assert screen.count(line) == count, line
    assert sum('━' in line for line in screen) == 1
    assert errors.getvalue().count('mistake\n') == 24
    assert handler.stream is terminal
    assert not begun


def test_interrupt_gives_the_terminal_back(tmp_path, terminal, monkeypatch):
    def interrupted(self, index):
        raise KeyboardInterrupt

    with redirect_stdout(terminal):
        runner = toy_runner(tmp_path, ITERATIONS)
        monkeypatch.setattr(Numbers, '__getitem__', interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.train()
        assert sys.stdout is terminal
        runner.logger.info('Iter(train) [1/12]')
    assert terminal.cursor_is_visible()
    assert terminal.screen()[-3].startswith('train')
    assert terminal.screen()[-2].endswith('Iter(train) [1/12]')


def test_training_outlives_its_terminal(tmp_path, terminal, monkeypatch):
    def write(text):
        if '2/12' in text or terminal.closed_:
            terminal.closed_ = True
            raise OSError(errno.EIO, 'Input/output error')
        return io.StringIO.write(terminal, text)

    terminal.closed_ = False
    terminal.write = write
    monkeypatch.setattr(mmatm.engine.progress_bar, '_SECONDS_BETWEEN_DRAWINGS', 0)
    with redirect_stdout(terminal), redirect_stderr(io.StringIO()):
        runner = toy_runner(tmp_path, ITERATIONS)
        runner.train()
        assert sys.stdout is terminal
    assert terminal.closed_
    assert len(runner.model.losses) == 12


@pytest.mark.parametrize(
    ('is_terminal', 'name', 'value'),
    [(False, 'FORCE_COLOR', '1'), (True, 'TERM', 'dumb'), (True, 'TTY_INTERACTIVE', '0')],
)
def test_without_a_terminal_there_are_the_usual_lines(tmp_path, terminal, monkeypatch, is_terminal, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(Terminal, 'isatty', lambda self: is_terminal)
    with redirect_stdout(terminal):
        toy_runner(tmp_path, ITERATIONS).train()
    assert len(iteration_lines(terminal.getvalue())) == 12 + 3 * 4
    assert not re.search('━|\x1b\\[2K', terminal.getvalue())


def test_tests_have_a_bar_too(tmp_path, terminal):
    with redirect_stdout(terminal):
        runner = toy_runner(tmp_path, ITERATIONS)
        runner.val()
        runner.val()
    assert len([line for line in terminal.screen() if re.match('val ━+ 4/4 ', line)]) == 2
    assert not iteration_lines('\n'.join(terminal.screen()))
