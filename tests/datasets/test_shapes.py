"""The dataset of shapes, in both layouts."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmatm.datasets.shapes import SEMANTIC_CLASSES, SHAPES, draw_object, draw_scene, write_shapes
from mmatm.errors import InputError


def digest(folder):
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def test_same_arguments_same_images(tmp_path):
    for name, count, seed in (('a', 4, 0), ('b', 4, 0), ('c', 8, 0), ('d', 4, 1)):
        write_shapes(tmp_path / name, count=count, size=48, seed=seed)
    a, b, c, d = (digest(tmp_path / name) for name in 'abcd')
    assert a == b
    images = [name for name in a if name.endswith('.jpg')]
    assert len(images) == 2 * 5 + 4 * 5  # scenes in two layouts, single shapes
    assert all(a[name] == c[name] for name in images)
    assert not any(a[name] == d[name] for name in images)


def test_single_shapes(shapes):
    for split, count in (('train', 4 * 24), ('val', 4 * 6)):
        found = {kind: len(list((shapes / 'imagenet' / split / kind).glob('*.jpg'))) for kind in SHAPES}
        assert found == dict.fromkeys(SHAPES, count // len(SHAPES))
    same = [draw_object(kind, 48, np.random.default_rng(0)) for kind in (0, 0, 1)]
    assert np.array_equal(same[0], same[1])
    assert not np.array_equal(same[0], same[2])
    assert (same[0].shape, same[0].dtype) == ((48, 48, 3), np.uint8)


def test_both_layouts_agree(shapes):
    coco = COCO(str(shapes / 'coco/annotations/instances_train2017.json'))
    assert len(coco.imgs) == 24
    assert [c['name'] for c in coco.cats.values()] == list(SHAPES)
    for image in coco.imgs.values():
        stem = image['file_name'].removesuffix('.jpg')
        with Image.open(shapes / 'ade/annotations/training' / f'{stem}.png') as file:
            labels = np.array(file)
        assert labels.shape == (image['height'], image['width']) == (64, 64)
        covered = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image['id']]:
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation['area']
            assert (labels[mask] == annotation['category_id']).all()
            assert not covered[mask].any()  # occlusion: masks do not overlap
            covered[mask] = 1
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
            assert annotation['iscrowd'] == 0
        assert coco.imgToAnns[image['id']]  # every image has something in it


def test_content():
    images = [draw_scene(96, np.random.default_rng(i)) for i in range(60)]
    share = np.bincount(np.concatenate([p.labels.ravel() for p in images]), minlength=8) / (60 * 96 * 96)
    assert len(share) == 1 + len(SEMANTIC_CLASSES)
    assert share.min() > 0.01  # every class and the unlabelled blobs occur
    colours = {kind: [] for kind in range(len(SHAPES))}
    areas = []
    for scene in images:
        for kind, mask in scene.instances:
            colours[kind].append(scene.image[mask].mean(0))
            areas.append(mask.sum())
    means = np.array([np.mean(c, 0) for c in colours.values()])
    spread = np.mean([np.std(c, 0).mean() for c in colours.values()])
    assert np.ptp(means, axis=0).max() < spread  # a class has no colour of its own
    assert max(areas) > 10 * min(areas)


@pytest.mark.parametrize('options', [{'count': 0}, {'size': 31}, {'seed': -1}])
def test_bad_arguments(tmp_path, options):
    with pytest.raises(InputError, match='count must be 1 or more'):
        write_shapes(tmp_path, **options)


def test_other_folders_are_left_alone(tmp_path):
    for name in ('thesis.txt', 'ade/ADEChallengeData2016/images.txt'):
        folder = tmp_path / name.partition('.')[0].partition('/')[0]
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text('precious')
        with pytest.raises(InputError, match='is not a dataset of shapes'):
            write_shapes(folder)
        assert (folder / name).read_text() == 'precious'


def test_a_data_set_of_shapes_is_replaced(tmp_path):
    for count in (3, 2):
        write_shapes(tmp_path, count=count, size=32)
        assert len(list((tmp_path / 'ade/images/training').iterdir())) == count
