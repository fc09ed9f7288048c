"""Figures of segmentation: images, ground truth and predictions."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from PIL import Image

from mmatm.apis.inference import load_model, require_task
from mmatm.errors import InputError

_UNLABELLED = (255, 255, 255)


@torch.no_grad()
def draw_segmentation(cfg: Config, checkpoint: str, out: str, count: int = 6) -> None:
    """Draws image, ground truth and prediction of a segmentor side by side, a row for each image, above a legend.

    Args:
        cfg: Config of a segmentor; its test dataset is drawn from.
        checkpoint: The model's weights.
        out: The figure to write, as PNG or any format of Matplotlib.
        count: Images to draw, spread evenly over the dataset.

    Raises:
        InputError: The checkpoint cannot be read or does not fill the model, the model is not a segmentor, or count is
            below 1.
    """
    if count < 1:
        raise InputError(f'count must be 1 or more, not {count}')
    require_task(cfg, 'semantic segmentation')
    model = load_model(cfg, checkpoint)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    classes, palette = dataset.metainfo['classes'], dataset.metainfo['palette']
    colours = np.array([*palette, *[_UNLABELLED] * (256 - len(palette))], np.uint8)

    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    samples = [model.test_step(pseudo_collate([dataset[index]]))[0] for index in chosen.tolist()]
    height, width = samples[0].ori_shape
    row_height = 3 * height / width + 0.1
    figure, axes = plt.subplots(len(samples), 3, figsize=(9, row_height * len(samples) + 1), squeeze=False)
    present = set()
    for row, sample in zip(axes, samples, strict=True):
        ground_truth, prediction = (
            field.data[0].cpu().numpy().astype(np.uint8) for field in (sample.gt_sem_seg, sample.pred_sem_seg)
        )
        present |= set(np.unique(ground_truth)) | set(np.unique(prediction))
        image = np.asarray(Image.open(sample.img_path).convert('RGB'))
        for axis, content in zip(row, (image, colours[ground_truth], colours[prediction]), strict=True):
            axis.imshow(content, interpolation='nearest')
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(Path(sample.img_path).name, fontsize=8)
    for axis, title in zip(axes[0], ('image', 'ground truth', 'prediction'), strict=True):
        axis.set_title(title)
    entries = [(name, colour) for i, (name, colour) in enumerate(zip(classes, palette, strict=True)) if i in present]
    if any(value >= len(classes) for value in present):
        entries.append(('unlabelled', _UNLABELLED))
    patches = [Patch(facecolor=np.array(c) / 255, edgecolor='black', label=name) for name, c in entries]
    figure.legend(handles=patches, loc='lower center', ncols=min(len(patches), 6), fontsize=9)
    legend_rows = -(-len(patches) // 6)
    figure.tight_layout(rect=(0, (0.25 * legend_rows + 0.1) / figure.get_figheight(), 1, 1))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
