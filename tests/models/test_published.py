"""Each backbone against its authors: golden numbers, names, shapes, counts. For ATMNet see test_golden.py."""

import pytest
import torch
from families import FAMILIES, OWN, each_backbone, golden_weights, tiny
from mmengine.registry import MODELS
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from golden.fill_mixers import image
from mmatm.apis.inference import load_model
from mmatm.build import build_model
from mmatm.config import load_config
from mmatm.models import RIFormer
from mmatm.models.whole_model import for_model

NETWORKS = [
    (name, network) for name, family in FAMILIES.items() if family.golden for network in family.numbers()['networks']
]
WITH_NAMES = [name for name, family in FAMILIES.items() if family.golden]


@pytest.mark.parametrize(('name', 'network'), NETWORKS)
@pytest.mark.parametrize(
    ('dtype', 'tolerance', 'gradient_tolerance'),
    [(torch.float64, 1e-9, 1e-7), (torch.float32, 1e-4, 1e-3)],
    ids=['float64', 'float32'],
)
def test_maps_and_gradients(name, network, dtype, tolerance, gradient_tolerance):
    golden = FAMILIES[name].numbers()['networks'][network]
    published = OWN[name].PUBLISHED
    arch = FAMILIES[name].to_arch({**golden['arch'], 'options': golden.get('options')}, golden.get('image_size'))
    model = OWN[name](arch, **FAMILIES[name].options)
    model.load_state_dict(golden_weights({**golden['parameter_shapes'], **golden['buffer_shapes']}))
    model = model.to(dtype).eval()
    for case in golden['cases']:
        x = torch.from_numpy(image(case['height'], case['width'])).to(dtype).requires_grad_()
        maps = model(x)
        for got, expected in zip(maps, case['pyramid'], strict=True):
            assert list(got.shape) == expected['shape']
            assert_within(got.flatten()[expected['index']], expected['value'], tolerance)
            assert got.double().mean().item() == pytest.approx(expected['mean'], abs=tolerance)
            assert got.double().std().item() == pytest.approx(expected['std'], rel=tolerance)
        loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view(y.shape)).mean() for y in maps)
        assert loss.item() == pytest.approx(case['loss'], rel=tolerance, abs=tolerance * 1e-2)
        model.zero_grad()
        loss.backward()
        gradient = case['input_grad']
        assert x.grad.norm().item() == pytest.approx(gradient['norm'], rel=gradient_tolerance)
        assert_within(x.grad.flatten()[gradient['index']], gradient['value'], gradient_tolerance)
        norms = {published.own_name(key): norm for key, norm in case['parameter_grad_norm'].items()}
        assert set(norms) == {key for key, _ in model.named_parameters()}
        for key, parameter in model.named_parameters():
            assert parameter.grad.norm().item() == pytest.approx(norms[key], rel=gradient_tolerance, abs=1e-9), key


def assert_within(got, expected, tolerance):
    """Relative to the largest expected value: single values may be nearly 0."""
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_close(got.detach().double(), expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize('name', WITH_NAMES)
def test_names_and_shapes(name):
    """Those of a published size, as a pyramid and as a classifier with the authors' heads."""
    published = OWN[name].PUBLISHED
    for network, names in FAMILIES[name].numbers()['published_names'].items():
        size = network.rpartition('_')[2]
        family = FAMILIES[name]
        for kind, indices, options in (
            ('', range(4), family.pyramid_options),
            ('classifier_', [3], family.classifier_options),
        ):
            theirs = {**names[f'{kind}parameter_shapes'], **names[f'{kind}buffer_shapes']}
            with torch.device('meta'):
                own = {
                    key: list(w.shape)
                    for key, w in OWN[name](size, out_indices=list(indices), **options).state_dict().items()
                }
            renamed = {published.own_name(key): s for key, s in theirs.items() if not published.head_name(key)}
            assert renamed == own
            assert published.signature in theirs


@each_backbone
def test_parameter_counts(name):
    for size, count in FAMILIES[name].counts.items():
        with torch.device('meta'):
            model = OWN[name](size)
        assert sum(p.numel() for p in model.parameters()) == count, size
    for size, count in FAMILIES[name].classifiers.items():
        with torch.device('meta'):
            model = nn.ModuleList([OWN[name](size, out_indices=[3], **FAMILIES[name].classifier_options)])
            features = model[0].out_channels[0]
            if FAMILIES[name].neck:
                model.append(FAMILIES[name].neck(features, size))
                features = model[1]((torch.empty(2, features, 1, 1),))[0].shape[1]
            model.append(nn.Linear(features, 1000))
        assert sum(p.numel() for p in model.parameters()) == count, size


def test_two_heads_of_cas_vit_are_their_mean():
    """As its authors' classifier averages the logits of both in evaluation; files may have one or two."""
    model = nn.ModuleDict({
        'backbone': tiny('CASViT', out_indices=[3]),
        'head': nn.ModuleDict({'fc': nn.Linear(20, 5)}),
    }).eval()  # fmt: skip
    published = OWN['CASViT'].PUBLISHED
    theirs = {own: name for name, own in casvit_names().items()}
    weights = {theirs[key]: weight for key, weight in model['backbone'].state_dict().items()}
    assert published.signature in weights
    heads = [nn.Linear(20, 5) for _ in range(2)]
    for prefix, head in zip(('head', 'dist_head'), heads, strict=True):
        weights |= {f'{prefix}.{key}': weight for key, weight in head.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    pooled = model['backbone'](x)[0].mean((2, 3))
    model.load_state_dict(for_model(weights, model))
    assert_close(model['head']['fc'](pooled), sum(head(pooled) for head in heads) / 2)
    for key in ('dist_head.weight', 'dist_head.bias'):
        del weights[key]
    model.load_state_dict(for_model(weights, model))
    assert_close(model['head']['fc'](pooled), heads[0](pooled))


def casvit_names():
    """The authors' names of a tiny classifier's parameters -> ours, from those of a published size."""
    names = FAMILIES['CASViT'].numbers()['published_names']['rcvit_xs']
    published = OWN['CASViT'].PUBLISHED
    both = {**names['classifier_parameter_shapes'], **names['classifier_buffer_shapes']}
    return {key: published.own_name(key) for key in both if not published.head_name(key)}


@pytest.mark.parametrize('classifier', [False, True])
def test_riformer_is_mmpretrains(classifier, tmp_path):
    """MMPretrain's own network gives the same from the same checkpoint, in both of its forms."""
    arch = FAMILIES['RIFormer'].tiny
    theirs = MODELS.build(dict(
        type='mmpretrain.RIFormer',
        arch=dict(
            layers=arch['depths'],
            embed_dims=arch['channels'],
            mlp_ratios=arch['mlp_ratios'],
            layer_scale_init_value=arch['layer_scale'],
        ),
        out_indices=[6] if classifier else [0, 2, 4, 6],
    )).eval()  # fmt: skip
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save({'state_dict': {f'backbone.{k}': w for k, w in theirs.state_dict().items()}}, tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    model = RIFormer(arch, out_indices=[3] if classifier else [0, 1, 2, 3], init_cfg=init_cfg).eval()
    model.init_weights()
    x = torch.randn(2, 3, 75, 101)
    assert_close(model(x), theirs(x))
    theirs.switch_to_deploy()
    assert_close(model.fuse()(x), theirs(x))


# Archs whose parameters are among those of the published size with names.
CLASSIFIERS = {
    'TransXNet': ('transxnet_t', FAMILIES['TransXNet'].tiny),
    'FFNet': ('ffnet_1', {**FAMILIES['FFNet'].tiny, 'mlp_kernels': [3, 3, 3, 3], 'layer_scale': False}),
    'DFFormer': ('dfformer_s18', FAMILIES['DFFormer'].tiny),
    'CDFFormer': ('cdfformer_s18', FAMILIES['CDFFormer'].tiny),
    'AFFNet': ('affnet_et', FAMILIES['AFFNet'].tiny),
}


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_logits_of_the_authors_classifiers(name, tmp_path):
    """A file of the layout of their ImageNet files fills the classifier of the config."""
    size, arch = CLASSIFIERS[name]
    published = OWN[name].PUBLISHED
    cfg = load_config(f'configs/{name.lower()}/{size}_in1k.py')
    cfg.model.backbone.arch = arch
    cfg.model.head.update(in_channels=arch['channels'][-1], num_classes=5)
    if cfg.model.neck.type.startswith('mmatm.'):
        cfg.model.neck.channels = arch['channels'][-1]
    if 'out_channels' in cfg.model.neck:
        cfg.model.neck.out_channels = cfg.model.head.in_channels = 4 * arch['channels'][-1]
    names = FAMILIES[name].numbers()['published_names'][size]
    theirs = [*names['classifier_parameter_shapes'], *names['classifier_buffer_shapes']]
    shapes = {key: list(weight.shape) for key, weight in build_model(cfg).state_dict().items()}
    own = {key: published.head_name(key) or f'backbone.{published.own_name(key)}' for key in theirs}
    file = golden_weights({key: shapes[own[key]] for key in theirs if own[key] in shapes})
    assert len(file) == len([key for key in shapes if not key.startswith('data_preprocessor')])
    if name == 'TransXNet':
        file['classifier.2.weight'] = file['classifier.2.weight'][..., None, None]
    container = published.containers[0]
    torch.save(file if 'DFF' in name else {container: file, 'epoch': 1}, tmp_path / 'theirs.pth.tar')
    model = load_model(cfg, str(tmp_path / 'theirs.pth.tar'))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(x)
        (y,) = model.backbone(x)  # TransXNet's with its norm
        if name == 'FFNet':
            y = batch_norm(y, file, 'norm.')
            expected = F.linear(y.mean((2, 3)), file['head.weight'], file['head.bias'])
        elif name == 'AFFNet':
            y = F.conv2d(y, file['conv_1x1_exp.block.conv.weight'])
            y = F.silu(batch_norm(y, file, 'conv_1x1_exp.block.norm.'))
            expected = F.linear(y.mean((2, 3)), file['classifier.fc.weight'], file['classifier.fc.bias'])
        elif name != 'TransXNet':
            y = layer_norm(y.mean((2, 3)), file, 'norm.', 1e-6)
            y = F.relu(F.linear(y, file['head.fc1.weight'], file['head.fc1.bias'])).square()
            y = layer_norm(y, file, 'head.norm.', 1e-5)
            expected = F.linear(y, file['head.fc2.weight'], file['head.fc2.bias'])
        else:
            mean = y.mean((2, 3), keepdim=True)
            expected = F.conv2d(mean, file['classifier.2.weight'], file['classifier.2.bias']).flatten(1)
    assert_close(logits, (expected,) if isinstance(logits, tuple) else expected)


def layer_norm(x, weights, prefix, eps):
    return F.layer_norm(x, x.shape[-1:], weights[f'{prefix}weight'], weights[f'{prefix}bias'], eps)


def batch_norm(x, weights, prefix):
    mean, variance, weight, bias = (
        weights[prefix + key].view(-1, 1, 1) for key in ('running_mean', 'running_var', 'weight', 'bias')
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias
