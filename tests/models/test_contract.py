"""What every backbone does, those that are registered and those that will be. Exactness is in test_published.py."""

import copy
import io
import pickle
import re
from functools import partial
from itertools import combinations

import pytest
import torch
from families import FAMILIES, OWN, bare, each_backbone, tiny
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from forked import free_port, kill, start, wait
from mmatm.errors import InputError
from mmatm.models import backbone_class


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def loss_of(maps):
    """One in which each value of each map has a weight of its own: norms of the outputs fix their means and squares."""
    return sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).mean() for y in maps)


def test_every_backbone_is_tested():
    assert set(FAMILIES) == set(OWN)


@each_backbone
@pytest.mark.parametrize(('height', 'width'), [(32, 32), (33, 47), (64, 96), (97, 35), (32, 203)])
def test_output_shapes(name, height, width):
    model = tiny(name).eval()
    maps = model(torch.randn(1, 3, height, width))
    assert isinstance(maps, tuple)
    assert model.out_strides == (4, 8, 16, 32)
    assert model.out_channels == tuple(FAMILIES[name].tiny['channels'])
    for y, channels, stride in zip(maps, model.out_channels, model.out_strides, strict=True):
        assert y.shape[:2] == (1, channels)
        for side, pixels in zip(y.shape[2:], (height, width), strict=True):
            assert pixels / stride - 1 <= side <= pixels / stride + 1


@each_backbone
@pytest.mark.parametrize('indices', [c for n in (1, 2, 3, 4) for c in combinations(range(4), n)], ids=str)
def test_each_subset_of_levels(name, indices, x):
    whole = tiny(name).eval()
    model = tiny(name, out_indices=indices).eval()
    model.load_state_dict(whole.state_dict())
    maps = model(x)
    for y, i in zip(maps, indices, strict=True):
        assert torch.equal(y, whole(x)[i])
    assert [child for child, _ in model.named_children() if child.startswith('norm')] == [
        f'norm{i}' for i in indices if model.NORM is not None
    ]
    loss_of(model.train()(x)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # or distributed training stops


@each_backbone
def test_every_parameter_gets_a_gradient(name, x):
    model = tiny(name)
    loss_of(model(x)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@each_backbone
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages(name, frozen_stages, x):
    """A training step moves nothing that is frozen, statistics of batch norms included."""
    options = {'norm_eval': False} if any(isinstance(m, _BatchNorm) for m in tiny(name).stages.modules()) else {}
    model = tiny(name, frozen_stages=frozen_stages, **options).double().train()
    frozen = () if frozen_stages < 0 else ('stem.', *(f'stages.{i}.' for i in range(frozen_stages)))
    before = copy.deepcopy(model.state_dict())
    if frozen_stages == 4 and not model.has_norms:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        return
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    loss_of(model(x.double())).backward()
    optimizer.step()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    for key, after in model.state_dict().items():
        # Before a batch norm, a bias has no effect, and a gradient of nothing but rounding.
        rounding = key.endswith('bias') and gradients[key] is not None and gradients[key].abs().max() < 1e-12
        if not rounding:
            assert torch.equal(before[key], after) == key.startswith(frozen), key
    for key, module in model.named_modules():
        if key:
            assert module.training != f'{key}.'.startswith(frozen), key


@each_backbone
def test_norm_eval(name, x):
    inner = {key for key, m in tiny(name).named_modules() if isinstance(m, _BatchNorm) and not key.startswith('norm')}
    if not inner:
        pytest.skip('it has no batch norms inside')
    for norm_eval in (False, True):
        model = tiny(name, norm_eval=norm_eval).train()
        before = copy.deepcopy(model.state_dict())
        loss_of(model(x)).backward()
        for key, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                kept = norm_eval and key in inner
                assert module.training != kept
                assert torch.equal(before[f'{key}.running_mean'], module.running_mean) == kept
                assert module.weight.grad is not None


@each_backbone
def test_with_cp_keeps_gradients_and_statistics(name, x):
    results, kept = [], []
    state = tiny(name).state_dict()
    for with_cp in (False, True):
        model = tiny(name, drop_path_rate=0.5, with_cp=with_cp)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.train()
        model.load_state_dict(state)
        sizes = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = loss_of(model(x))
        kept.append(sum(sizes))
        loss.backward()
        gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
        results.append({**gradients, **dict(model.named_buffers())})
    assert_close(results[1], results[0])
    assert kept[1] < 0.6 * kept[0]


@each_backbone
def test_with_cp_serves_two_backward_passes(name, x):
    model = tiny(name, with_cp=True)
    loss = loss_of(model(x))
    (first, *_) = torch.autograd.grad(loss, model.stem.parameters(), retain_graph=True)
    (second, *_) = torch.autograd.grad(loss, model.stem.parameters())
    assert_close(first, second)


@each_backbone
def test_what_a_subclass_adds_to_a_frozen_stage_is_frozen(name):
    model = tiny(name, frozen_stages=1)
    model.stages[0].gate = nn.Parameter(torch.ones(1))
    model.requires_grad_(True)
    model.train()
    assert not model.stages[0].gate.requires_grad
    assert not any(parameter.requires_grad for parameter in model.stem.parameters())


@each_backbone
def test_subclasses_with_a_constructor_of_their_own(name, tmp_path):
    """What a checkpoint lacks is named; batch norms without a count are filled, also by strict loading."""

    class Gated(OWN[name]):
        def __init__(self, *, gate):
            super().__init__(FAMILIES[name].tiny, **FAMILIES[name].options)
            self.gate = nn.Parameter(torch.full((1,), gate))

    state = tiny(name).state_dict()
    with pytest.raises(InputError, match=r'do not fill Gated of a custom size .* missing: gate\..*allow_missing'):
        Gated(gate=0.5).load_state_dict(state)
    for key in [key for key in state if key.endswith('num_batches_tracked')]:
        del state[key]
    tiny(name).load_state_dict(state, strict=True)


@each_backbone
def test_train_and_eval_return_self(name):
    model = tiny(name)
    assert model.eval() is model
    assert model.train() is model


@each_backbone
def test_samples_do_not_mix(name, x):
    model = tiny(name).double().eval()
    x = x.double()
    for whole, *parts in zip(model(x), model(x[:1]), model(x[1:]), strict=True):
        assert_close(torch.cat(parts), whole)


@each_backbone
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(name, dtype, x):
    model = tiny(name)
    expected = model(x)
    with torch.autocast('cpu', dtype=dtype):
        maps = model(x)
    assert len({y.dtype for y in maps}) == 1
    loss_of([y.float() for y in maps]).backward()
    for got, y in zip(maps, expected, strict=True):
        assert not torch.equal(got.float(), y)  # it did run in lower precision
        assert (got.float() - y).norm() < 0.1 * y.norm()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@each_backbone
def test_compiles_to_one_graph(name, x, compile_model):
    model = tiny(name, out_indices=(0, 1)).eval()  # two stages, as tracing takes its time
    compiled = compile_model(model, backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@each_backbone
def test_exports_with_open_sizes(name, x):
    model = tiny(name, out_indices=(0, 1)).eval()  # two stages, as tracing takes its time
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=(sizes,), strict=False)
        other = torch.randn(3, 3, 75, 51)
        assert_close(program.module()(other), model(other), rtol=1e-4, atol=1e-4)


@each_backbone
def test_runs_without_data(name):
    with torch.device('meta'):
        maps = tiny_on_meta(name)(torch.empty(1, 3, 64, 96))
    assert [y.shape[1] for y in maps] == FAMILIES[name].tiny['channels']


def tiny_on_meta(name):
    return bare(name)


@each_backbone
def test_copies_and_pickles(name, x):
    model = tiny(name).eval()
    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    for other in (copied, pickled):
        for got, expected in zip(other(x), model(x), strict=True):
            assert torch.equal(got, expected)


@each_backbone
def test_layer_depth_rises_from_image_to_outputs(name):
    model = tiny(name)
    depths = {key: model.get_layer_depth(f'backbone.{key}', 'backbone.') for key, _ in model.named_parameters()}
    blocks = sum(FAMILIES[name].tiny['depths'])
    assert {count for _, count in depths.values()} == {blocks + 2}
    # Parameters are registered in the order in which images meet them, but for what a stage shares.
    in_blocks = [depth for key, (depth, _) in depths.items() if '.blocks.' in key]
    assert in_blocks == sorted(in_blocks)
    assert set(in_blocks) == set(range(1, blocks + 1))
    for key, (depth, _) in depths.items():
        if key.startswith('stem.'):
            assert depth == 0
        elif key.startswith('norm'):
            assert depth == blocks + 1
        elif '.blocks.' not in key:
            assert depth == depths[next(k for k in depths if k.startswith(f'{key[:8]}.blocks.0.'))][0]
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (blocks + 1, blocks + 2)


@each_backbone
def test_exempt_from_decay(name):
    model = tiny(name)
    for key, parameter in model.named_parameters():
        owner = model.get_submodule(key.rpartition('.')[0])
        norm_or_bias = isinstance(owner, (nn.LayerNorm, nn.GroupNorm, _BatchNorm)) or key.endswith('bias')
        if norm_or_bias:
            assert model.decay_free(key), key
        elif parameter.ndim > 1 and not key.endswith(model.NO_DECAY):
            assert not model.decay_free(key), key
    for ending in model.NO_DECAY:
        assert any(key.endswith(ending) for key, _ in model.named_parameters())


@each_backbone
def test_fused_form(name, x):
    model = tiny(name).eval()
    with torch.no_grad():
        expected = model(x)
        assert model.fuse() is model
        assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert not model.training
    if model.is_fused:
        with pytest.raises(InputError, match='fused for inference and cannot be trained'):
            model.train()
        assert model.eval() is model


@each_backbone
@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (torch.zeros(1, 1, 64, 64), r'takes images \(B, 3, H, W\), not \(1, 1, 64, 64\)'),
        (torch.zeros(3, 64, 64), r'takes images \(B, 3, H, W\), not \(3, 64, 64\)'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r'not torch\.uint8; convert'),
        (torch.zeros(1, 3, 31, 64), '32x32 or more, not 31x64'),
    ],
)
def test_bad_input(name, bad, message):
    model = tiny(name)
    with pytest.raises(InputError, match=f'^{re.escape(model.TITLE)} .*{message}'):
        model(bad)


@each_backbone
def test_bad_options(name):
    arch = FAMILIES[name].tiny
    for options, message in (
        ({'arch': 'huge'}, f"no {OWN[name].TITLE} of size 'huge'; there are {', '.join(OWN[name].SIZES)}"),
        ({'arch': 3}, f'arch is one of {", ".join(OWN[name].SIZES)}.*, or a dict, not 3'),
        ({'arch': {k: v for k, v in arch.items() if k != 'depths'}}, r"missing: \['depths'\], unknown: \[\]"),
        ({'arch': {**arch, 'depth': [1, 1, 1, 1]}}, r"missing: \[\], unknown: \['depth'\]"),
        ({'arch': {**arch, 'depths': [2, 2, 2]}}, r"arch\['depths'\] must be 4 whole numbers above 0"),
        ({'arch': {**arch, 'channels': [8, 16, 16, 0]}}, r"arch\['channels'\] must be 4 whole numbers above 0"),
        ({'out_indices': (0, 4)}, r'out_indices must be rising numbers of stages 0 to 3, not \(0, 4\)'),
        ({'out_indices': ()}, 'out_indices'),
        ({'frozen_stages': 5}, 'frozen_stages must be -1'),
        ({'drop_path_rate': 1.0}, 'drop_path_rate must be at least 0 and below 1'),
        ({'in_channels': 0}, 'in_channels must be a whole number above 0'),
        ({'parts': {'head': nn.Identity}}, f'parts of {OWN[name].TITLE} are .*, not head'),
        ({'parts': {'mixer': 'NoSuchMixer'}}, r"parts\['mixer'\]: 'NoSuchMixer' is not a registered module"),
        ({'parts': {'mixer': [nn.Identity] * 3}}, r"parts\['mixer'\] is one class, or a list of 4, not of 3"),
        ({'init_cfg': dict(type='Pretrained', chekpoint='a.pth')}, 'Pretrained takes .*checkpoint.*, not chekpoint'),
        (
            {'init_cfg': dict(type='Pretrained', checkpoint='a', allow_missing='b.*')},
            'allow_missing of init_cfg must be a list',
        ),
        ({'init_cfg': [dict(type='Pretrained', checkpoint='a.pth')]}, 'one dict, not in a list'),
    ):
        with pytest.raises(InputError, match=message):
            OWN[name](**{'arch': arch, **options})
    with pytest.raises(TypeError, match='frozen_stage'):
        OWN[name](arch, frozen_stage=1)


@each_backbone
def test_other_channels_of_images(name, x, tmp_path):
    model = tiny(name).eval()
    torch.save(model.state_dict(), tmp_path / 'rgb.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'rgb.pth'))
    with pytest.raises(InputError, match=r'of another shape: stem\.(\S+\.)?weight.*fit_stem=True in init_cfg'):
        bare(name, in_channels=4, init_cfg=cfg).init_weights()
    four = bare(name, in_channels=4, init_cfg={**cfg, 'fit_stem': True})
    four.init_weights()
    assert_close(four.eval()(torch.cat((x, torch.randn(2, 1, 64, 96)), dim=1)), model(x))
    one = bare(name, in_channels=1, init_cfg={**cfg, 'fit_stem': True})
    one.init_weights()
    assert_close(one.eval()(x[:, :1]), model(x[:, :1].expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    two = bare(name, in_channels=2, init_cfg={**cfg, 'fit_stem': True})
    with pytest.raises(InputError, match='fits 3 channels to 1, or to more than 3, not to 2'):
        two.init_weights()


class Half(nn.Module):
    """A mixer of a user's, with a parameter of its own."""

    def __init__(self, channels):
        super().__init__()
        self.share = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x, *extra):
        return self.share * x


@each_backbone
def test_a_users_mixer_in_one_stage(name, x, tmp_path):
    model = tiny(name).eval()
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    mixers = {key.split('.')[4] for key, _ in model.named_parameters() if 'mixer' in key and key.startswith('stages.')}
    (mixer,) = mixers
    pattern = f'stages.2.blocks.*.{mixer}.*'
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'own.pth'))
    parts = dict(mixer=[None, None, Half, None])
    changed = bare(name, parts=parts, init_cfg=cfg)
    assert changed.is_changed
    assert not model.is_changed
    with pytest.raises(InputError, match=r'missing: stages\.2.*unknown: stages\.2.*allow_missing=\[\.\.\.\]'):
        changed.init_weights()
    allowed = dict(allow_missing=[pattern], allow_unused=[pattern])
    changed = bare(name, parts=parts, init_cfg={**cfg, **allowed}).eval()
    changed.init_weights()
    got, expected = changed(x), model(x)
    assert_close(got[:2], expected[:2])
    assert (got[2] - expected[2]).abs().max() > 1e-3
    assert {key for key in changed.state_dict() if key not in model.state_dict()} == {
        f'stages.2.blocks.{j}.{mixer}.share' for j in range(FAMILIES[name].tiny['depths'][2])
    }


class Closed(nn.Module):
    """A part that draws its own parameters."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.linear = nn.Linear(channels, channels)

    def init_parameters(self):
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.25)


@each_backbone
def test_parts_may_draw_their_own_parameters(name):
    model = bare(name, parts=dict(mixer=Closed))
    parts = [module for module in model.modules() if isinstance(module, Closed)]
    assert len(parts) == sum(FAMILIES[name].tiny['depths'][i] for i in FAMILIES[name].mixing_stages)
    assert all((parameter == 0.25).all() for part in parts for parameter in part.parameters())


@each_backbone
def test_is_found_by_its_type(name):
    assert backbone_class(f'mmatm.{name}') is backbone_class(OWN[name]) is OWN[name]
    assert backbone_class('mmatm.NoSuchNet') is None


def gradients_in_two(name, folder, rank):
    import torch.distributed as dist

    dist.init_process_group('gloo')
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(tiny(name))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loss_of(model(x[[int(rank)]])).backward()
    gradients = {key.removeprefix('module.'): parameter.grad for key, parameter in model.named_parameters()}
    torch.save(gradients, folder / f'{rank}.pth')
    dist.destroy_process_group()


def in_two(function, name, folder):
    """Runs function(name, folder, rank) in two processes, which have to end well."""
    with free_port() as port:
        ranks = []
        for rank in '01':
            variables = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1'}
            call = partial(function, name, folder, rank)
            ranks.append(start(call, folder / f'{rank}.log', **variables, MASTER_PORT=f'{port}'))
        try:
            ended = [wait(process) for process in ranks]
        finally:
            for process in ranks:
                kill(process)
    assert ended == [0, 0], [(folder / f'{rank}.log').read_text() for rank in '01']


def load_in_two(name, folder, rank):
    """Only the first process can read the checkpoint; neither can read the other one."""
    import torch.distributed as dist

    dist.init_process_group('gloo')
    cfg = dict(type='Pretrained', checkpoint=str(folder / ('own.pth' if rank == '0' else 'elsewhere.pth')))
    model = bare(name, init_cfg=cfg)
    model.init_weights()
    torch.save(model.state_dict(), folder / f'{rank}.pth')
    absent = bare(name, init_cfg=dict(type='Pretrained', checkpoint=str(folder / 'absent.pth')))
    with pytest.raises(InputError, match=r'there is no checkpoint .*absent\.pth'):
        absent.init_weights()
    dist.destroy_process_group()


@each_backbone
def test_one_of_two_processes_reads_the_checkpoint(name, tmp_path):
    expected = tiny(name).state_dict()
    torch.save(expected, tmp_path / 'own.pth')
    in_two(load_in_two, name, tmp_path)
    for rank in '01':
        assert_close(torch.load(tmp_path / f'{rank}.pth'), expected, rtol=0, atol=0)


@each_backbone
def test_two_processes(name, tmp_path):
    """Each process has one sample; both have the mean of the gradients."""
    in_two(gradients_in_two, name, tmp_path)
    torch.manual_seed(0)
    model = tiny(name)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    # The batch norms of the outputs see one sample at a time, as in the processes.
    (sum(loss_of(model(x[[i]])) for i in range(2)) / 2).backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    for rank in '01':
        assert_close(torch.load(tmp_path / f'{rank}.pth'), expected, rtol=1e-4, atol=1e-5)


def test_weights_reach_a_bare_buffer():
    """Pickling goes through bytes only: nothing in a network holds a file or a process."""
    for name in OWN:
        torch.save(tiny(name).state_dict(), io.BytesIO())
