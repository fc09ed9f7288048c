"""docs/recipes.md: each recipe is trained in a detector and in a segmentor, and has the effect that the page names."""

import re
from math import isclose

import pytest
import torch
from conftest import DETECTOR, ROOT, SEGMENTOR, write_config
from mmengine.optim import build_optim_wrapper

from mmatm.build import build_model
from mmatm.checkpoint import read_checkpoint
from mmatm.config import load_config

TEXT = (ROOT / 'docs/recipes.md').read_text()
SECTIONS = dict(re.findall(r'^## (.*?)\n(.*?)(?=^## |\Z)', TEXT, re.M | re.S))
RECIPES = [(title, text) for title, body in SECTIONS.items() for text in re.findall(r'```python\n(.*?)```', body, re.S)]
# Four iterations of two images each.
SHORT = """
train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
val_cfg = val_dataloader = val_evaluator = None
"""
SHORT_SEGMENTOR = SHORT + 'train_cfg = dict(max_iters=4)\ndefault_hooks = dict(checkpoint=dict(interval=4))\n'
SHORT_DETECTOR = SHORT + "train_dataloader['dataset'] = dict(indices=8, **dataset)\n"
TASKS = {'segmentor': (SEGMENTOR + SHORT_SEGMENTOR, 'iter_4'), 'detector': (DETECTOR + SHORT_DETECTOR, 'epoch_1')}


def layer_decay(checkpoint, model, printed):
    groups = checkpoint['optimizer']['param_groups']
    rates = sorted({group['initial_lr'] for group in groups})
    # The stem is the ninth below the norms of the outputs; heads may learn ten times faster.
    assert isclose(rates[0], 1e-4 * 0.8**9)
    assert any(isclose(rate, 1e-4) for rate in rates)
    assert len(groups) <= 24
    assert len(re.findall(r'backbone, depth \d of 9: lr \* ', printed)) == 10


def freezing(checkpoint, model, printed):
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert {name.rpartition('.blocks')[0] for name in frozen if '.blocks.' in name} == {
        'backbone.stages.0', 'backbone.stages.1'
    }  # fmt: skip
    trained = sum(len(group['params']) for group in checkpoint['optimizer']['param_groups'])
    assert trained == len(list(model.parameters())) - len(frozen)


def drop_path(checkpoint, model, printed):
    rates = [block.drop_path.rate for stage in model.backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.3 * i / 7 for i in range(8)])


def accumulation(checkpoint, model, printed):
    assert {int(state['step']) for state in checkpoint['optimizer']['state'].values()} == {1}


def ema(checkpoint, model, printed):
    average, plain = checkpoint['state_dict'], checkpoint['ema_state_dict']
    name = 'backbone.stem.weight'
    assert not torch.equal(average[name], plain[f'module.{name}'])


def mixed_precision(checkpoint, model, printed):
    if torch.cuda.is_available():
        assert checkpoint['optimizer']['loss_scaler']['scale'] > 1
    else:
        assert printed.count('no CUDA here: ') == 1


EFFECTS = {
    'AdamW with layer decay': layer_decay,
    'Freezing': freezing,
    'Drop path': drop_path,
    'Gradient accumulation': accumulation,
    'Averaged weights (EMA)': ema,
    'Mixed precision': mixed_precision,
}


def test_the_page_has_these_recipes():
    assert {title for title, _ in RECIPES} == set(SECTIONS) == set(EFFECTS)


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize(('title', 'text'), RECIPES, ids=[title for title, _ in RECIPES])
def test_recipe(title, text, task, tmp_path, shapes, command):
    short, name = TASKS[task]
    base = write_config(tmp_path, shapes, short)
    base_line, _, changes = text.partition('\n')
    if '::' in base_line:  # a toolbox's config with its own data: what it does to the optimizer
        changes = changes[changes.index('optim_wrapper') :]
    path = tmp_path / 'my_config.py'
    path.write_text(f"_base_ = '{base}'\n{changes}")
    printed = command('train.py', path)
    checkpoint = read_checkpoint(str(tmp_path / f'work/{name}.pth'))
    steps = {int(state['step']) for state in checkpoint['optimizer']['state'].values()}
    assert title == 'Gradient accumulation' or steps == {4}
    EFFECTS[title](checkpoint, build_model(load_config(str(path)), 'meta'), printed)


@pytest.mark.parametrize('text', [text for _, text in RECIPES], ids=[title for title, _ in RECIPES])
def test_whole_config(text, tmp_path):
    """As it stands on the page, it is a config whose model and optimizer can be built."""
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'my_config.py').write_text(text)
    cfg = load_config(str(tmp_path / 'my_config.py'))
    wrapper = {key: value for key, value in cfg.optim_wrapper.items() if key not in ('type', 'loss_scale')}
    model = build_model(cfg, 'meta')
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    trained = sum(p.requires_grad for p in model.parameters())
    assert sum(len(group['params']) for group in groups) == trained
