"""Makes a dataset of small images of shapes, in the layouts of ADE20K, COCO and ImageNet, to try everything on.

A class is a shape. Each shape has a texture of its own in most images; colours of shapes and background are random, and
the background is textured too. Shapes occlude each other. Irregular blobs among them belong to no class: they are
unlabelled in the label maps and no instances. The images for classification show one whole shape each.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from mmatm.errors import InputError

SHAPES = ('disk', 'square', 'triangle', 'star', 'ring', 'cross')
SEMANTIC_CLASSES = (*SHAPES, 'background')
PALETTE = (
    (214, 69, 65),
    (65, 131, 215),
    (38, 166, 91),
    (244, 179, 80),
    (142, 68, 173),
    (27, 188, 155),
    (110, 110, 110),
)
MIN_SIZE = 32
_UNLABELLED, _BACKGROUND = 0, len(SEMANTIC_CLASSES)
_TEXTURES = ('plain', 'rows', 'columns', 'diagonals', 'checks', 'dots')  # of the shapes, in their order
_OWN_TEXTURE = 0.95  # how often a shape wears its own
_MIN_VISIBLE = 0.25  # of a shape's area, for it to count as an instance
_OBJECTS = 4  # images for classification, by those of scenes


@dataclass
class Scene:
    """An image and what is in it.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        labels: (H, W) uint8; 0 unlabelled, else 1 + index into `SEMANTIC_CLASSES`.
        instances: (index into `SHAPES`, visible mask (H, W) bool) each.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: list[tuple[int, np.ndarray]]


def draw_scene(size: int, rng: Generator) -> Scene:
    """Draws a scene of shapes, size x size pixels."""
    image = _background(size, rng)
    labels = np.full((size, size), _BACKGROUND, np.uint8)
    layers: list[tuple[int | None, np.ndarray, int]] = []  # kind, visible mask, whole area
    for _ in range(rng.integers(5, 10)):
        kind = int(rng.integers(len(SHAPES))) if rng.random() > 0.12 else None
        radius = size * rng.uniform(0.14, 0.32)
        mask = _outline(kind, size, rng.uniform(0, size, 2), radius, rng)
        _paint(image, kind, mask, rng)
        labels[mask] = _UNLABELLED if kind is None else 1 + kind
        layers = [(other, visible & ~mask, area) for other, visible, area in layers] + [(kind, mask, mask.sum())]
    instances = [
        (kind, visible)
        for kind, visible, area in layers
        if kind is not None and visible.sum() > max(_MIN_VISIBLE * area, 16)
    ]
    return Scene(_photograph(image, rng), labels, instances)


def draw_object(kind: int, size: int, rng: Generator) -> np.ndarray:
    """Draws one shape in front of a blob: an image (size, size, 3) uint8, BGR; kind is its index into `SHAPES`."""
    image = _background(size, rng)
    for part, smallest in ((None, 0.2), (kind, 0.25)):
        centre = size * rng.uniform(0.35, 0.65, 2)
        _paint(image, part, _outline(part, size, centre, size * rng.uniform(smallest, 0.35), rng), rng)
    return _photograph(image, rng)


def _background(size: int, rng: Generator) -> np.ndarray:
    return _texture(size, 'gradient' if rng.random() < 0.5 else 'clouds', rng)


def _paint(image: np.ndarray, kind: int | None, mask: np.ndarray, rng: Generator) -> None:
    """Paints a shape, or a blob for None, in its own texture or any, in place."""
    own = kind is not None and rng.random() < _OWN_TEXTURE
    texture = _TEXTURES[kind if own else rng.integers(len(_TEXTURES))]
    image[mask] = _texture(len(image), texture, rng)[mask]


def _photograph(image: np.ndarray, rng: Generator) -> np.ndarray:
    noisy = cv2.GaussianBlur(image, (3, 3), 0.6) + rng.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def _outline(kind: int | None, size: int, centre: np.ndarray, radius: float, rng: Generator) -> np.ndarray:
    """Mask (size, size) of a shape, or of a blob for None, at a random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    name = None if kind is None else SHAPES[kind]
    if name in ('disk', 'ring'):
        y, x = np.mgrid[:size, :size]
        distance = np.hypot(x - centre[0], y - centre[1])
        return (distance < radius) & (distance > (radius * 0.55 if name == 'ring' else -1))
    corners = {
        'square': [(45 + 90 * i, 1.0) for i in range(4)],
        'triangle': [(120 * i, 1.1) for i in range(3)],
        'star': [(36 * i, 1.15 if i % 2 == 0 else 0.5) for i in range(10)],
        'cross': [(90 * i + turn, length) for i in range(4) for turn, length in ((-17, 1.05), (17, 1.05), (45, 0.43))],
        None: [(24 * i, rng.uniform(0.5, 1.0)) for i in range(15)],
    }[name]
    degrees, lengths = np.array(corners).T
    angles = np.deg2rad(degrees) + angle
    points = centre + radius * lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    return mask.astype(bool)


def _texture(size: int, kind: str, rng: Generator) -> np.ndarray:
    """A float image (size, size, 3) of a texture in two random colours that differ."""
    y, x = np.mgrid[:size, :size].astype(float)
    period, angle = rng.uniform(5, 7), rng.uniform(0, 2 * np.pi)
    x, y = x + rng.uniform(0, period), y + rng.uniform(0, period)
    rows, columns = y % period > period / 2, x % period > period / 2
    slope = x * np.cos(angle) + y * np.sin(angle)
    mix = {
        'plain': np.zeros((size, size)),
        'rows': rows,
        'columns': columns,
        'diagonals': (x + y) % (1.4 * period) > 0.7 * period,
        'checks': rows ^ columns,
        'dots': np.hypot(x % period - period / 2, y % period - period / 2) < period / 3.5,
        'gradient': (slope - slope.min()) / np.ptp(slope),
        'clouds': cv2.resize(rng.random((size // 16 + 2,) * 2), (size, size), interpolation=cv2.INTER_CUBIC),
    }[kind][..., None]
    first = rng.uniform(30, 225, 3)
    second = first + rng.choice([-1, 1], 3) * rng.uniform(80, 140, 3)
    return (first * (1 - mix) + second * mix).clip(0, 255)


def write_shapes(folder: str | Path, count: int = 400, size: int = 96, seed: int = 0) -> None:
    """Writes a dataset: count images for training and a quarter of that for validation.

    `folder/ade` has ADE20K's layout, `folder/coco` that of COCO instances, with the same scenes, and `folder/imagenet`
    has four times as many images of one shape each, with a folder for each class. The same arguments write the same
    images; an image does not depend on the count.

    Args:
        folder: The output directory, created if needed. A dataset of shapes in it is replaced.
        count: Scenes for training, 1 or more.
        size: Height and width in pixels, 32 or more.
        seed: Different seeds give different images.

    Raises:
        InputError: An argument out of range, or a folder that holds something else.
    """
    if count < 1 or size < MIN_SIZE or seed < 0:
        raise InputError(f'count must be 1 or more, size {MIN_SIZE} or more and seed 0 or more')
    folder = Path(folder)
    marker = folder / 'shapes.json'
    if folder.exists() and not marker.is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f'{folder} exists and is not a dataset of shapes; choose another folder')
    for layout in ('ade', 'coco', 'imagenet'):
        if (folder / layout).exists():
            shutil.rmtree(folder / layout)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(dict(count=count, size=size, seed=seed)))
    for split, names in enumerate((('training', 'train2017', 'train'), ('validation', 'val2017', 'val'))):
        number = count if split == 0 else max(1, count // 4)
        _write_scenes(folder, *names[:2], (draw_scene(size, _rng(seed, split, i)) for i in range(number)))
        for i in range(_OBJECTS * number):
            kind = i % len(SHAPES)
            path = folder / 'imagenet' / names[2] / SHAPES[kind] / f'{i + 1:06d}.jpg'
            _write_jpeg(path, draw_object(kind, size, _rng(seed, 2 + split, i)))


def _write_scenes(folder: Path, ade: str, coco: str, scenes: Iterable[Scene]) -> None:
    """Writes the scenes of one split in both layouts."""
    images, annotations = [], []
    for i, scene in enumerate(scenes, start=1):
        _write_jpeg(folder / f'ade/images/{ade}/{i:06d}.jpg', scene.image)
        _write_jpeg(folder / f'coco/{coco}/{i:06d}.jpg', scene.image)
        labels = folder / f'ade/annotations/{ade}/{i:06d}.png'
        labels.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(labels), scene.labels)
        height, width = scene.labels.shape
        images.append(dict(id=i, file_name=f'{i:06d}.jpg', height=height, width=width))
        for kind, mask in scene.instances:
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=kind + 1, **_coco(mask)))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(SHAPES)]
    path = folder / f'coco/annotations/instances_{coco}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _rng(*key: int) -> Generator:
    return np.random.default_rng(key)


def _coco(mask: np.ndarray) -> dict:
    """COCO's description of a mask (H, W) bool, with run lengths, as holes and parts are common."""
    runs = np.flatnonzero(np.diff(mask.flatten(order='F'), prepend=False, append=not mask[-1, -1])).tolist()
    counts = np.diff([0, *runs]).tolist()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return dict(
        segmentation=dict(size=list(mask.shape), counts=counts),
        area=int(mask.sum()),
        bbox=[int(value) for value in box],
        iscrowd=0,
    )
