"""Builds a config's model and runs it on dummy inputs on the CPU: whether its parts fit each other."""

from dataclasses import dataclass

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmatm.build import build_module, model_config
from mmatm.config import dicts
from mmatm.errors import InputError
from mmatm.models import Backbone, image_channels
from mmatm.pretrained import PretrainedWeights, without_pretrained
from mmatm.utils.quiet import init_weights

# Few models need more than the first: fixed crops, extra levels without padding.
SIZES = (128, 512)
# Most of a two-stage detector's time goes into proposals: so many are enough to see that it runs.
_FEW = {'nms_pre': 200, 'max_per_img': 50, 'num': 64}
# Up to here a number may be that of a model's queries, which have to be as many.
_QUERIES = 300


@dataclass(frozen=True)
class CheckedModel:
    """What a model did.

    Attributes:
        size: Pixels of a side of the images.
        loss: The sum of its losses; None if it has none to compute.
        no_loss: Why it has none.
    """

    size: int
    loss: float | None
    no_loss: str = ''

    def __str__(self) -> str:
        loss = f'loss {self.loss:.3f}' if self.loss is not None else f'no loss: {self.no_loss}'
        return f'the model was built and ran on images of {self.size}x{self.size}; {loss}'


class ModelCheckError(Exception):
    """A model could not be built, or did not run.

    Attributes:
        stage: ``'build'``, ``'forward'`` or ``'loss'``.
    """

    def __init__(self, stage: str, error: BaseException) -> None:
        self.stage = stage
        words = ' '.join(str(error).split())[:300]
        super().__init__(f'{stage}: {type(error).__name__}: {words}')


def check_model(cfg: Config) -> CheckedModel:
    """Builds the model of a config, predicts on a dummy image of a small size, and computes the loss on two.

    Where the loss gives a parameter of the backbone no gradient, distributed training would stop: that is an error too,
    unless the config has `find_unused_parameters`.

    Args:
        cfg: Of a detector, segmentor, tracker or classifier. Of its pretrained weights only those of this project's
            backbones are read.

    Raises:
        InputError: Weights or options of the backbone that cannot work.
        ModelCheckError: The model could not be built, or did not run.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    for size in SIZES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                model = _build(checked_part(cfg, size))
            except InputError:
                raise
            except Exception as error:
                raise ModelCheckError('build', error) from error
            try:
                return _run(model, size, cfg.get('find_unused_parameters', False))
            except ModelCheckError:
                if size == SIZES[-1]:
                    raise
    raise AssertionError


def checked_part(cfg: Config, size: int) -> ConfigDict:
    """The model's config as it is checked: few proposals, pretrained weights for this project's backbones only."""
    model = without_pretrained(model_config(cfg), _of_own_backbone)
    for _, node in dicts(model):
        for key, few in _FEW.items():
            if isinstance(node.get(key), int) and node[key] > _QUERIES:
                node[key] = few
        if node.get('batch_augments'):  # that pad to the size of the training
            node['batch_augments'] = None
    preprocessor = model.get('data_preprocessor') or {}
    if preprocessor.get('size'):
        preprocessor['size'] = (size, size)
    return model


def _of_own_backbone(found: PretrainedWeights) -> bool:
    return found.backbone is not None


def _build(model_cfg: ConfigDict) -> nn.Module:
    model = build_module(model_cfg, keep=_of_own_backbone)
    for progress in ('epoch', 'iter'):  # which some losses ask for
        MessageHub.get_current_instance().update_info(progress, 0)
    init_weights(model)  # some heads give boxes without a size before
    return model


def _run(model: nn.Module, size: int, may_be_unused: bool) -> CheckedModel:
    try:
        model.eval()
        data = _data(model, size, 1, training=False)
        with torch.no_grad():
            model(**model.data_preprocessor(data, False), mode='predict')
    except Exception as error:
        raise ModelCheckError('forward', error) from error
    if no_loss := _why_no_loss(model):
        return CheckedModel(size, None, no_loss)
    try:
        model.train()
        data = _data(model, size, 2, training=True)
        own = [(name, p) for name, module in model.named_modules() if isinstance(module, Backbone)
               for name, p in module.named_parameters(name) if p.requires_grad]  # fmt: skip
        with torch.set_grad_enabled(bool(own)):
            loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
        if not loss.isfinite():
            raise ArithmeticError(f'the loss is {loss.item()}')
        if own and loss.requires_grad and not may_be_unused:
            gradients = torch.autograd.grad(loss, [p for _, p in own], allow_unused=True)
            unused = [name for (name, _), gradient in zip(own, gradients, strict=True) if gradient is None]
            if unused:
                raise RuntimeError(f'parameters without gradient, which stop distributed training: {", ".join(unused)}')
    except NotImplementedError:
        return CheckedModel(size, None, f'{type(model).__name__} does not train as a whole')
    except Exception as error:
        raise ModelCheckError('loss', error) from error
    return CheckedModel(size, loss.item())


def _why_no_loss(model: nn.Module) -> str:
    if _is(model, 'mmdet.models', 'SemiBaseDetector'):
        return 'it trains on labelled and unlabelled images in several views, of which there are no dummy inputs'
    return ''


def _is(model: nn.Module, module: str, name: str) -> bool:
    """Whether a model is of a toolbox's class; a toolbox that is not loaded has no models."""
    return any(cls.__name__ == name and cls.__module__.startswith(module) for cls in type(model).__mro__)


# Dummy inputs


def _data(model: nn.Module, size: int, count: int, training: bool) -> dict:
    """A batch as the model's data loader gives it."""
    if _is(model, 'mmseg', 'BaseSegmentor'):
        return _segmentation_data(model, size, count)
    if _is(model, 'mmdet', 'BaseMOTModel'):
        only_detector = training and model.data_preprocessor.use_det_processor
        return _detection_data(model.detector, size, count) if only_detector else _tracking_data(size)
    if _is(model, 'mmdet', 'BaseDetector'):
        return _detection_data(model, size, count)
    if _is(model, 'mmpretrain', 'BaseClassifier'):
        return _classification_data(model, size)
    raise InputError(f'there are no dummy inputs for a {type(model).__name__}, which is no model of a known task')


def _images(model: nn.Module, count: int, height: int, width: int) -> list[Tensor]:
    return list(torch.randint(0, 256, (count, image_channels(model), height, width), dtype=torch.uint8))


def _segmentation_data(model: nn.Module, size: int, count: int) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    heads = model.decode_head if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
    samples = []
    for _ in range(count):
        shape = {'img_shape': (size, size), 'ori_shape': (size, size), 'pad_shape': (size, size)}
        sample = SegDataSample(metainfo=shape)
        classes = max(2, heads[-1].num_classes)
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, size, size)))
        sample.gt_edge_map = PixelData(data=torch.randint(0, 2, (1, size, size)))
        samples.append(sample)
    return {'inputs': _images(model, count, size, size), 'data_samples': samples}


def _detection_data(model: nn.Module, size: int, count: int) -> dict:
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals

    shape = (image_channels(model), size, size)
    # Some assigners take masks of models without them for something else.
    with_mask = any('mask' in name for name, _ in model.named_modules()) or _is(
        model, 'mmdet', 'SingleStageInstanceSegmentor'
    )
    semantic_stride = 8 if getattr(getattr(model, 'roi_head', None), 'semantic_head', None) is not None else 1
    data = demo_mm_inputs(
        count,
        shape,
        num_items=[3] * count,
        num_classes=2,
        with_mask=with_mask,
        with_semantic=True,
        sem_seg_output_strides=semantic_stride,
    )
    for sample in data['data_samples']:
        sample.gt_instances.labels.zero_()  # every detector has one class at least
    if getattr(model, 'roi_head', None) is not None and not model.with_rpn:
        for sample, proposals in zip(data['data_samples'], demo_mm_proposals([shape] * count, 100), strict=True):
            sample.proposals = proposals
    return data


def _tracking_data(size: int) -> dict:
    from mmdet.testing import demo_track_inputs

    return demo_track_inputs(
        batch_size=1, num_frames=2, key_frames_inds=[0], image_shapes=(3, size, size), num_items=[3], with_mask=True
    )


def _classification_data(model: nn.Module, size: int) -> dict:
    if _is(model, 'mmdet', 'BaseReID'):
        from mmdet.structures import ReIDDataSample as DataSample

        height, width = 256, 128  # as its pooling expects
    else:
        from mmpretrain.structures import DataSample

        height, width = size, size
    labels = [0, 0, 1, 1]  # triplets need two of a kind
    samples = [DataSample().set_gt_label(label) for label in labels]
    return pseudo_collate(
        [
            {'inputs': image, 'data_samples': sample}
            for image, sample in zip(_images(model, len(labels), height, width), samples, strict=True)
        ]
    )
