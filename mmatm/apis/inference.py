"""Loading of models with their weights, and prediction of images."""

import json
from collections.abc import Callable, Iterable, Sequence
from os.path import abspath, commonpath
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import list_from_file
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from mmatm.build import build_model
from mmatm.checkpoint import fill_model, read_checkpoint
from mmatm.config import innermost_dataset
from mmatm.datasets.data_check import check_images
from mmatm.errors import InputError
from mmatm.models import fuse_backbones
from mmatm.models.whole_model import containers, for_model
from mmatm.utils.quiet import init_weights

IMAGE_SUFFIXES = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}


def load_model(cfg: Config, checkpoint: str | None, fuse: bool = False) -> BaseModel:
    """Builds the model of a config in evaluation mode, on the CPU.

    Args:
        cfg: A config of any task, as `mmatm.config.load_config` gives it. Its pretrained weights are not read.
        checkpoint: Weights of the whole model; None draws them at random.
        fuse: Turn the backbone into its form for inference.

    Returns:
        The model. Its `dataset_meta` has the `classes` and their `palette`, as far as the checkpoint, or else the
        config's test dataset, knows them.

    Raises:
        InputError: The checkpoint cannot be read or does not fill the model, or its backbone has no such form.
    """
    model = build_model(cfg)
    meta = {}
    if checkpoint is None:
        init_weights(model)
    else:
        read = read_checkpoint(checkpoint, containers=containers(model))
        meta = read.get('meta', {})
        meta = meta.get('dataset_meta', meta)  # toolboxes before MMEngine had the classes in the meta itself
        try:
            fill_model(model, for_model(read['state_dict'], model))
        except InputError as error:
            raise InputError(f'{checkpoint}: {error}') from None
    meta = {key.lower(): value for key, value in meta.items()}
    known = _dataset_meta(cfg)
    model.dataset_meta = {key: v for key in ('classes', 'palette') if (v := meta.get(key) or known.get(key))}
    palette = model.dataset_meta.pop('palette', ())
    # Not that of other classes, nor a name.
    if len(palette) == len(model.dataset_meta.get('classes', ())) > 0 and not isinstance(palette, str):
        model.dataset_meta['palette'] = [tuple(colour) for colour in palette]  # mmdet takes a tuple for one colour
    if fuse:
        fuse_backbones(model)
    model.eval()  # some of mmpretrain's return None
    return model


def _dataset_meta(cfg: Config) -> dict:
    """The metainfo of the test dataset, by its class and config. Building it may need its data."""
    dataset = _test_dataset(cfg)
    if dataset is None:
        return {}
    with DATASETS.switch_scope_and_registry(None) as registry:
        kind = registry.get(dataset['type'])
    meta = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    if 'classes' in dataset:  # mmpretrain
        meta['classes'] = dataset['classes']
    if isinstance(meta.get('classes'), str):
        meta['classes'] = list_from_file(meta['classes'])
    return meta


def _test_dataset(cfg: Config) -> dict | None:
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    return innermost_dataset(dataset) if dataset else None


def require_task(cfg: Config, task: str) -> None:
    """Checks the task of a config's model, without building it.

    Args:
        cfg: A config with a model.
        task: ``'detection'``, ``'semantic segmentation'`` or ``'classification'``.

    Raises:
        InputError: The model is for another task. Unknown types pass: building the model refuses them.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    kind = (cfg.get('model') or {}).get('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if isinstance(kind, type) and _task(kind) != task:
        raise InputError(
            f'{kind.__name__} of this config is for {_task(kind) or "another task"}; this command is for {task}'
        )


def _task(kind: type) -> str | None:
    bases = {base.__name__ for base in kind.__mro__}
    return next((task for base, (task, _) in _TASKS.items() if base in bases), None)


def find_images(places: Sequence[str]) -> list[Path]:
    """The images that files, folders (with all below them) and patterns like `street/*.jpg` stand for, each once.

    Raises:
        InputError: A place has none; an image is damaged.
    """
    found: dict[str, Path] = {}
    for place in places:
        path = Path(place)
        if path.is_file():
            images = [path]
        else:
            candidates = path.rglob('*') if path.is_dir() else _matching(path)
            images = sorted(path for path in candidates if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not images:
            raise InputError(f'no images in {place}; give files, folders or quoted patterns like "street/*.jpg"')
        for image in images:
            found.setdefault(abspath(image), image)  # noqa: PTH100 (links keep their names)
    images = list(found.values())
    check_images(list(map(str, images)))
    return images


def _matching(pattern: Path) -> list[Path]:
    try:
        return list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except ValueError as error:
        raise InputError(f'{pattern}: {error}') from None


def figure_paths(images: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The PNG to write for each image: `folder/NAME.png`; of images from several folders, in such folders too.

    Raises:
        InputError: Two images have one name.
    """
    paths = {image: Path(abspath(image)) for image in images}  # noqa: PTH100
    root = commonpath([path.parent for path in paths.values()])
    first: dict[Path, Path] = {}
    for image, path in paths.items():
        figure = folder / path.relative_to(root).with_suffix('.png')
        if figure in first:
            raise InputError(f'the results of {first[figure]} and {image} would both be written to {figure}')
        first[figure] = image
    return {image: figure for figure, image in first.items()}


# The results of an image: the overlay, the entries of its JSON file, the label map.
Predicted = tuple[np.ndarray, dict[str, Any], Image.Image | None]


def predictor(model: BaseModel, cfg: Config, score_thr: float = 0.3) -> tuple[str, Callable[[str], Predicted]]:
    """What predicts images with a model, through the toolbox's inferencer.

    Args:
        model: As `load_model` returns it, on its device.
        cfg: Its config; the test pipeline is used.
        score_thr: Boxes and masks below it are not drawn.

    Returns:
        The task: detection, semantic segmentation or classification; and a function of an image's path.

    Raises:
        InputError: The model is for another task, its classes have no names, or the config has no test pipeline.
    """
    dataset = _require_test_dataset(cfg)
    task = _task(type(model))
    predict = dict(_TASKS.values()).get(task)
    if predict is None:
        raise InputError(f'{type(model).__name__} is not a detector, segmentor or classifier of images')
    if 'classes' not in model.dataset_meta:
        raise InputError(
            'neither the checkpoint nor the test dataset of the config names the classes; give their names with '
            '--cfg-options +test_dataloader.dataset.metainfo.classes="[cat,dog]"'
        )
    cfg.test_dataloader.dataset = dataset
    return task, predict(model, cfg, score_thr)


def _require_test_dataset(cfg: Config) -> dict:
    dataset = _test_dataset(cfg)
    if dataset is None:
        raise InputError('the config has no test_dataloader; images are prepared by the pipeline of its dataset')
    return dataset


def predict_images(
    cfg: Config,
    checkpoint: str,
    images: Sequence[Path],
    out: Path,
    device: str | None = None,
    score_thr: float = 0.3,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    fuse: bool = False,
) -> str:
    """Predicts images one by one through the toolbox's inferencer and writes the results.

    For `FOLDER/NAME.jpg` there is `out/vis/NAME.png`, the image with the prediction drawn over it, and
    `out/preds/NAME.json`; for semantic segmentation also `out/preds/NAME.png`, the label map. Where the images come
    from several folders, so do the results.

    Args:
        cfg: Config of a detector, a segmentor or a classifier; its test pipeline is used.
        checkpoint: The model's weights.
        images: As `find_images` gives them.
        out: The folder to write to.
        device: By default the GPU if there is one.
        score_thr: Boxes and masks below it are not drawn; the JSON file has all.
        progress: Called with the images, yields them one by one, as `rich.progress.track` does.
        fuse: Turn the backbone into its form for inference first.

    Returns:
        The task: detection, semantic segmentation or classification.

    Raises:
        InputError: The checkpoint does not fit, the model is for another task, its classes have no names, the device
            is not available, or two images have one name.
    """
    figures = figure_paths(images, out / 'vis')
    names = {image: path.relative_to(out / 'vis').with_suffix('') for image, path in figures.items()}
    _require_test_dataset(cfg)  # before the model is built

    model = load_model(cfg, checkpoint, fuse)
    try:
        model.to(device or get_device())
    except (RuntimeError, AssertionError) as error:
        raise InputError(f'the model cannot be moved to device {device}: {error}') from None
    task, predict_one = predictor(model, cfg, score_thr)
    for image in progress(images):
        drawn, prediction, label_map = predict_one(str(image))
        for folder in ('vis', 'preds'):
            (out / folder / names[image]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(out / 'vis' / f'{names[image]}.png')
        if label_map is not None:
            label_map.save(out / 'preds' / f'{names[image]}.png')
        text = json.dumps({'image': str(image), 'task': task, **prediction})
        (out / 'preds' / f'{names[image]}.json').write_text(text + '\n')
    return task


def _with_model(inferencer: type, model: BaseModel, cfg: Config, visualizer: str) -> Any:
    """An inferencer of mmdet or mmsegmentation on a model that is built and filled already."""
    # Nothing is recorded, and without a folder the toolboxes' recorders warn.
    cfg.visualizer = {**(cfg.get('visualizer') or {'type': visualizer}), 'vis_backends': None}
    ready = type(inferencer.__name__, (inferencer,), {'_init_model': lambda *_: model})(
        cfg, device=next(model.parameters()).device
    )
    ready.show_progress = False
    return ready


def _name(model: BaseModel, label: int) -> str:
    classes = model.dataset_meta['classes']
    if label >= len(classes):
        raise InputError(
            f'the model predicts class {label}, but there are names for {len(classes)} classes only: the names are '
            'not those of this model'
        )
    return classes[label]


def _detector(model: BaseModel, cfg: Config, score_thr: float) -> Callable[[str], Predicted]:
    from mmdet.apis import DetInferencer

    model.dataset_meta.setdefault('palette', 'random')
    inferencer = _with_model(DetInferencer, model, cfg, 'DetLocalVisualizer')

    def predict(path: str) -> Predicted:
        found = inferencer(path, return_vis=True, return_datasamples=True, pred_score_thr=score_thr)
        (sample,) = found['predictions']
        if 'pred_panoptic_seg' in sample or 'pred_instances' not in sample:
            raise InputError(
                f'{type(model).__name__} does not predict boxes alone or boxes with masks; panoptic segmentation, for '
                'one, is not supported'
            )
        prediction = inferencer.pred2dict(sample)
        prediction['classes'] = [_name(model, label) for label in prediction['labels']]
        return found['visualization'][0], prediction, None

    return predict


def _segmentor(model: BaseModel, cfg: Config, score_thr: float) -> Callable[[str], Predicted]:
    from mmseg.apis import MMSegInferencer

    count = len(model.dataset_meta['classes'])
    colours = np.random.default_rng(0).integers(0, 256, (count, 3)).tolist()
    model.dataset_meta.setdefault('palette', colours)
    inferencer = _with_model(MMSegInferencer, model, cfg, 'SegLocalVisualizer')

    def predict(path: str) -> Predicted:
        found = inferencer(path, return_vis=True)
        label_map = found['predictions']
        if np.issubdtype(label_map.dtype, np.floating):
            raise InputError(f'{type(model).__name__} does not predict label maps')
        labels, counts = np.unique(label_map, return_counts=True)
        shares = {_name(model, i): n / counts.sum() for i, n in zip(labels, counts, strict=True)}
        by_share = sorted(shares.items(), key=lambda item: -item[1])
        written = Image.fromarray(label_map.astype(np.uint8 if count <= 256 else np.uint16))
        return found['visualization'], {'shares': dict(by_share)}, written

    return predict


def _classifier(model: BaseModel, cfg: Config, score_thr: float) -> Callable[[str], Predicted]:
    import mmcv
    from mmpretrain.apis import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer

    model._config = cfg
    inferencer = ImageClassificationInferencer(model, pretrained=False)
    visualizer = UniversalVisualizer()

    def predict(path: str) -> Predicted:
        # Called as a whole it draws a progress bar for each image.
        (sample,) = inferencer.forward(next(inferencer.preprocess([path])))
        scores, labels = sample.pred_score.topk(min(5, len(sample.pred_score)))
        prediction = {'labels': labels.tolist(), 'scores': scores.tolist()}
        prediction['classes'] = [_name(model, label) for label in prediction['labels']]
        image = mmcv.imread(path, channel_order='rgb')
        drawn = visualizer.visualize_cls(image, sample, model.dataset_meta['classes'], draw_gt=False)
        return drawn, prediction, None

    return predict


_TASKS: dict[str, tuple[str, Callable[[BaseModel, Config, float], Callable[[str], Predicted]]]] = {
    'BaseDetector': ('detection', _detector),
    'BaseSegmentor': ('semantic segmentation', _segmentor),
    'BaseClassifier': ('classification', _classifier),
}
