"""README and docs/: commands run, links lead somewhere, examples in Python work.

Commands run in an empty folder, on small stand-ins of the configs, weights and images that they name: what is tested
is that the tools take them.
"""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import CLASSIFIER, DETECTOR, ROOT, SEGMENTOR, write_config, write_weights
from mmengine.config import Config
from PIL import Image

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
# Those whose blocks are run in their order, by tests/test_backbone_pages.py.
IN_ORDER = {'adding_a_backbone.md', 'changing_a_backbone.md'}

# What the commands that are not run here are run by.
RUN_ELSEWHERE = {
    'tools/demo.sh': 'tools/demo.sh',
    'tools/check.sh': '.ci/run',
    'tools/dist_train.sh': 'tests/test_tools.py::test_distributed_training_with_sync_bn',
    'tools/dist_test.sh': 'tests/test_tools.py::test_train_test_and_distributed_test',
    'tools/slurm_train.sh': 'tests/test_tools.py::test_slurm',
    'tools/swap_backbone.py': 'tests/swap/test_swap.py::test_a_users_project',
    'tools/export_onnx.py': 'tests/apis/test_export.py::test_segmentor_by_the_command',
    'tools/compare_mixers.py': 'tests/comparison/test_comparison.py::test_a_users_mixer_by_the_command',
    'tools/explore.py': 'tests/visualization/test_explorer.py::address',
    'tools/fetch_weights.py': 'tests/apis/test_fetch_weights.py::test_list_and_fetch',
    'mkdocs': 'tests/test_site.py::site',
    'mmatm.benchmark': 'tests/benchmark/test_benchmark.py::test_command',
}


def fences(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.M | re.S)


def commands(page):
    """The commands of a page's shell examples, as lists of words."""
    text = '\n'.join(fences(page, 'bash')).replace('\\\n', ' ')
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def program(words):
    """`tools/train.py` of `python tools/train.py ...`."""
    return next(word for word in words if word not in ('python', '-m'))


# By the first word of a config's name.
STAND_INS = {'upernet': SEGMENTOR, 'semantic': SEGMENTOR, 'mask': DETECTOR, 'atmnet': CLASSIFIER, 'my': DETECTOR}
CONFIG = re.compile(rf'(?:configs/)?({"|".join(STAND_INS)})_\w+\.py')

APART = [page for page in PAGES if page.name not in IN_ORDER]
COMMANDS = list(dict.fromkeys(shlex.join(words) for page in APART for words in commands(page)))
# Those that are the same on stand-ins are run once.
DISTINCT = {
    re.sub(r'work_dirs/\S+|checkpoints/\S+|CHECKPOINT', '', CONFIG.sub(r'\1', text)): text for text in COMMANDS
}.values()


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory, shapes):
    """A folder with images where the commands expect some."""
    folder = tmp_path_factory.mktemp('docs')
    (folder / 'data').mkdir()
    (folder / 'data/shapes').symlink_to(shapes)
    image = Image.open(shapes / 'ade/images/validation/000001.jpg').resize((320, 240))
    for name in ('street.jpg', 'more_streets/a.jpg', 'others/b.png'):
        (folder / name).parent.mkdir(exist_ok=True)
        image.save(folder / name)
    return folder


@pytest.fixture(scope='module')
def stand_in(sandbox, shapes):
    """The path of a small config, and of its weights, for a config by its first word."""
    made = {}

    def make(kind):
        if kind not in made:
            (sandbox / kind).mkdir()
            short = STAND_INS[kind].replace('max_iters=6, val_interval=6', 'max_iters=1, val_interval=1')
            # Collected loaders wait for their workers.
            short = short.replace('loader = dict(', 'loader = dict(num_workers=0, persistent_workers=False, ')
            path = write_config(sandbox / kind, shapes, short)
            made[kind] = path, write_weights(path)
        return made[kind]

    return make


@pytest.mark.parametrize('text', [text for text in DISTINCT if program(shlex.split(text)) not in RUN_ELSEWHERE])
def test_command(text, sandbox, stand_in, monkeypatch, command):
    monkeypatch.chdir(sandbox)
    words = shlex.split(text)
    assert words[0] == 'python', 'a command that nothing runs'
    if name := CONFIG.search(text):
        assert name[1] == 'my' or (ROOT / name[0]).is_file()
        config, weights = stand_in(name[1])
        Path('configs').mkdir(exist_ok=True)
        shutil.copy(config, name[0])
        for word in words:
            if word.endswith('.pth') or word == 'CHECKPOINT':
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(weights, word)
    if '--cfg-options' in words:  # the stand-in has other pipelines
        assert words[1] == 'tools/train.py'
        check_options(words)
        del words[words.index('--cfg-options') :]
    if words[1] == 'tools/make_shapes.py':
        words[2:] = ['other_shapes', '--count', '4']
    assert command(Path(words[1]).name, *words[2:]) or words[1] == 'tools/train.py'


def check_options(words):
    """The options are of the config itself."""
    from mmatm.config import load_config
    from mmatm.utils.command_line import config_parser

    path = next(word for word in words if word.startswith('configs/'))
    arguments = [str(ROOT / path), *words[words.index('--cfg-options') :]]
    args = config_parser('').parse_args(arguments)
    assert len(args.cfg_options) == len(arguments) - 2
    load_config(args.config, args.cfg_options)


def test_what_runs_the_other_commands_is_there():
    for path, _, name in (place.partition('::') for place in RUN_ELSEWHERE.values()):
        text = (ROOT / path).read_text()
        assert f'def {name}(' in text if name else text
    used = {program(shlex.split(text)) for text in COMMANDS}
    assert set(RUN_ELSEWHERE) <= used, 'an entry that no page has'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_paths(page):
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    targets = re.findall(r'\]\(([^)#\s]+)\)', text)
    broken = [target for target in targets if '://' not in target and not (page.parent / target).exists()]
    assert not broken
    named = re.findall(r'`((?:tools|tests|mmatm|docs)/[\w/]+\.\w+)`', text)
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize('page', [page for page in APART if fences(page, 'python')], ids=lambda page: page.name)
@pytest.mark.usefixtures('forget_mixers')
def test_examples_in_python(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    for i, text in enumerate(fences(page, 'python')):
        if text.startswith('>>>'):
            example = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
            assert doctest.DocTestRunner().run(example).failed == 0
        elif text.startswith('_base_'):
            (tmp_path / f'config_{i}.py').write_text(text)
            assert Config.fromfile(f'config_{i}.py').model.backbone.type == 'mmatm.ATMNet'
        else:
            exec(compile(text, f'{page.name}, example {i}', 'exec'), {})
