"""Classes of the data against those of the annotation file and of the model, as a new user gets them wrong."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import DETECTOR, write_config
from mmdet.datasets import CocoDataset, CocoPanopticDataset, LVISV1Dataset, MultiImageMixDataset, XMLDataset
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import ADE20KDataset, BaseSegDataset, CityscapesDataset
from mmseg.registry import MODELS as SEGMENTORS
from torch import nn

import mmatm.datasets.class_check
import mmatm.datasets.data_check
from mmatm.config import installed_file, walk
from mmatm.datasets.class_check import ClassCheck
from mmatm.datasets.data_check import check_dataset
from mmatm.errors import InputError

CLASSES = ('cat', 'dog', 'person')


@pytest.fixture(autouse=True)
def log(monkeypatch):
    """What was logged."""
    lines = []
    for module in (mmatm.datasets.class_check, mmatm.datasets.data_check):
        monkeypatch.setattr(module, 'print_log', lambda line, *rest: lines.append(line))
    return lines


@pytest.fixture
def coco(tmp_path):
    """Makes a dataset of three images, with boxes of a cat, of a dog and two persons, of a person, as is asked."""

    def make(classes=CLASSES, kind=CocoDataset, categories=CLASSES, first='categories', **more):
        (tmp_path / 'images').mkdir(exist_ok=True)
        images = [{'id': i, 'file_name': f'{i}.jpg', 'width': 64, 'height': 64} for i in range(3)]
        for image in images:
            (tmp_path / 'images' / image['file_name']).write_bytes(b'\xff\xd8\xff\xd9')
        annotations = [
            {'id': i, 'image_id': image, 'category_id': category, 'bbox': [1, 1, 9, 9], 'area': 81, 'iscrowd': 0}
            for i, (image, category) in enumerate([(0, 1), (1, 2), (1, 3), (1, 3), (2, 3)])
        ]
        numbered = [{'id': i + 1, 'name': name} for i, name in enumerate(categories)]
        parts = {'images': images, 'annotations': annotations, 'categories': numbered}
        parts = {first: parts[first], **parts}
        path = tmp_path / 'instances.json'
        path.write_text(json.dumps({'info': {'categories': ['none']}, **parts}, ensure_ascii=False))
        metainfo = {} if classes is None else {'metainfo': {'classes': classes}}
        pipeline = [{'type': 'LoadImageFromFile'}]
        init_default_scope('mmdet')
        return kind(
            ann_file=str(path), data_prefix={'img': str(tmp_path / 'images')}, pipeline=pipeline, **metainfo, **more
        )

    return make


def model(**heads) -> nn.Module:
    """A model with heads of so many classes by their paths."""
    root = nn.Module()
    for path, number in heads.items():
        node = root
        for name in path.split('__'):
            if not hasattr(node, name):
                node.add_module(name, nn.Module())
            node = getattr(node, name)
        node.num_classes = number
    return root


def two_stage(number: int) -> nn.Module:
    return model(rpn_head=1, roi_head__bbox_head__0=number, roi_head__bbox_head__1=number, roi_head__mask_head=number)


@pytest.mark.parametrize('number', [1, 2, 80])
def test_detector_of_other_classes_than_the_data(coco, number):
    with pytest.raises(InputError) as error:
        check_dataset(coco(), two_stage(number))
    told = ' and '.join(f'roi_head.{name}.num_classes={number}' for name in ('bbox_head.0', 'bbox_head.1', 'mask_head'))
    assert f'the data has 3 classes (cat, dog, person), but the model has {told}. Set num_classes=3' in str(error.value)


def test_detector_of_the_commands(error_of, shapes, tmp_path):
    config = write_config(tmp_path, shapes, DETECTOR)
    for number in (2, 80):
        options = [f'model.roi_head.{name}.num_classes={number}' for name in ('bbox_head', 'mask_head')]
        message = error_of('train.py', config, '--cfg-options', *options)
        assert re.search(rf'the data has \d+ classes .*roi_head\.bbox_head\.num_classes={number} and', message)


def test_counts_in_one_line(coco, log):
    check_dataset(coco(), two_stage(3))
    assert log == [
        'checked the data of 3 samples: 3 images and 0 label maps, all undamaged',
        'images/boxes by class: cat 1/1, dog 1/1, person 2/3',
    ]


@pytest.mark.parametrize('first', ['categories', 'images'])
@pytest.mark.parametrize('names', [CLASSES, ('猫', 'x' * 100_000, 'person')], ids=['short', 'long'])
def test_misspelt_class(coco, first, names):
    for wrong in ('persn', 'Person'):
        with pytest.raises(InputError) as error:
            check_dataset(coco((names[0], names[1], wrong), categories=names, first=first), two_stage(3))
        hint = f'(did you mean person for {wrong}?); its classes are {names[0]}, '
        assert f'instances.json has no classes {wrong} {hint}' in str(error.value)


def test_class_that_is_not_in_the_file(coco, log):
    # The labels of what is behind it would be another class's.
    with pytest.raises(InputError, match=r'instances\.json has no classes zebra; its classes are cat, dog, person'):
        check_dataset(coco(('cat', 'zebra', 'dog', 'person')), two_stage(4))
    with pytest.raises(InputError, match='has no classes zebra'):
        check_dataset(coco(('zebra',)), two_stage(1))
    assert not log
    check_dataset(coco((*CLASSES, 'zebra')), two_stage(4))
    assert 'instances.json has no classes zebra' in log
    assert 'the data has no samples of 1 classes: zebra' in log


def test_classes_in_another_order(coco, log):
    check_dataset(coco(('person', 'dog', 'cat')), two_stage(3))
    expected = r"instances\.json lists the classes in another order.*metainfo\.classes to \('cat', 'dog', 'person'\)"
    assert re.match(expected, log[0])


def test_classes_that_are_left_out(coco, log):
    check_dataset(coco(('cat', 'person')), two_stage(2))
    assert log[0] == 'the boxes of 1 classes of instances.json are not used: dog'
    assert log[2] == 'images/boxes by class: cat 1/1, person 2/3'


def test_classes_that_are_a_text(coco):
    with pytest.raises(InputError, match=r"is the string 'person'; for a single class write \('person',\)"):
        check_dataset(coco('person'), two_stage(6))


def test_labels_by_number_whatever_the_names(coco, log, monkeypatch):
    class ByNumber(CocoDataset):
        """As LVIS is read."""

        def load_data_list(self):
            self._metainfo, classes = {'classes': CLASSES}, self._metainfo['classes']
            samples = super().load_data_list()
            self._metainfo['classes'] = classes
            return samples

    check_dataset(coco(('felis', 'canis', 'homo'), ByNumber), two_stage(3))
    assert log[1:] == ['images/boxes by class: felis 1/1, canis 1/1, homo 2/3']


def test_file_without_classes(coco, log):
    dataset = coco()
    Path(dataset.ann_file).write_text('{"images": []}')
    check_dataset(dataset, two_stage(3))
    assert len(log) == 2


def test_wrapped_and_joined(coco, log):
    first = coco()
    unlabelled = copy.copy(first)
    unlabelled.get_data_info = lambda index: {**first.get_data_info(index), 'instances': []}
    joined = ConcatDataset([first, coco(indices=[0]), unlabelled])
    check_dataset(joined, two_stage(3))
    assert log[-1] == 'images/boxes by class: cat 2/2, dog 1/1, person 2/3'
    for wrapped in (RepeatDataset(first, 5), ClassBalancedDataset(first, 0.9), MultiImageMixDataset(first, [])):
        check_dataset(wrapped, two_stage(3))
        assert log[-1] == 'images/boxes by class: cat 1/1, dog 1/1, person 2/3'
    log.clear()
    check_dataset(unlabelled, two_stage(3))
    assert log[1:] == ['the data has no boxes']
    with pytest.raises(InputError, match='the data has 3 classes'):
        check_dataset(joined, two_stage(2))


def test_many_classes_in_one_line(coco, log):
    names = tuple(f'class {i}' for i in range(200))
    check_dataset(coco(names, categories=names), two_stage(200))
    assert log[1] == (
        'images/boxes by class, for 200 classes: fewest class 3 0/0, median class 103 0/0, most class 2 2/3'
    )
    assert log[2] == 'the data has no samples of 197 classes: class 3, class 4, class 5, class 6, class 7 and 192 more'


def segmentation(classes: int, **more) -> BaseSegDataset:
    dataset = BaseSegDataset(metainfo={'classes': [f'c{i}' for i in range(classes)]}, lazy_init=True, **more)
    dataset.data_list, dataset.serialize_data, dataset._fully_initialized = [], False, True
    return dataset


def test_segmentor_of_other_classes_than_the_data(log):
    heads = {'decode_head__0': 150, 'decode_head__1': 150, 'auxiliary_head': 150}
    check_dataset(segmentation(11), model(**heads))
    told = 'decode_head.0.num_classes=150 and decode_head.1.num_classes=150 and auxiliary_head.num_classes=150'
    assert log[0] == (
        f'the data has 11 classes (c0, c1, c2, c3, c4 and 6 more), but the model has {told}, so some of '
        'its classes have no samples'
    )
    with pytest.raises(InputError, match=r'151 classes .* decode_head\.0\.num_classes=150'):
        check_dataset(segmentation(151), model(**heads))
    log.clear()
    check_dataset(segmentation(2), model(decode_head=1))
    assert len(log) == 1


def test_classifier_of_other_classes_than_the_data(shapes, log, tmp_path, error_of):
    init_default_scope('mmpretrain')
    folder = shapes / 'imagenet/train'
    dataset = CustomDataset(data_prefix=str(folder), pipeline=[])
    count = len(dataset.CLASSES)
    check_dataset(dataset, model(head=count))
    each = len(dataset) // count
    assert log[-1] == 'images by class: ' + ', '.join(f'{name} {each}' for name in dataset.CLASSES)
    with pytest.raises(InputError, match=rf'the data has {count} classes .*head\.num_classes={count - 1}'):
        check_dataset(dataset, model(head=count - 1))
    check_dataset(dataset, model(head=1000))
    assert any('head.num_classes=1000, so some of its classes have no samples' in line for line in log)
    # Labels without names, from a list of files.
    (tmp_path / 'list.txt').write_text(''.join(f'{i}.jpg {i}\n' for i in range(4)))
    dataset = CustomDataset(ann_file=str(tmp_path / 'list.txt'), data_prefix=str(folder), pipeline=[])
    check_dataset(dataset, model(head=4))
    assert log[-1] == 'images by class: 0 1, 1 1, 2 1, 3 1'
    with pytest.raises(InputError, match=r'the data has label 3, but the model has .*=3: it must be at least 4'):
        check_dataset(dataset, model(head=3))


def built(name: str, registry) -> nn.Module:
    """The model of a toolbox's config, without weights."""
    cfg = copy.deepcopy(Config.fromfile(installed_file(name)).model)
    for node in [cfg, *(node for _, node in walk(cfg))]:
        if isinstance(node, dict):
            node.pop('init_cfg', None)
            node.pop('pretrained', None)
    cfg.pop('data_preprocessor', None)
    init_default_scope(name.split('::')[0])
    with torch.device('meta'):
        return registry.build(cfg)


@pytest.mark.parametrize(
    ('name', 'registry', 'kind', 'number'),
    [
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', DETECTORS, CocoDataset, 80),
        ('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', DETECTORS, CocoPanopticDataset, 80),
        ('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py', DETECTORS, CocoPanopticDataset, 133),
        ('mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py', DETECTORS, LVISV1Dataset, 1203),
        ('mmdet::rpn/rpn_r50_fpn_1x_coco.py', DETECTORS, CocoDataset, None),
        ('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', SEGMENTORS, CityscapesDataset, 19),
        ('mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py', SEGMENTORS, ADE20KDataset, 150),
    ],
)
def test_toolboxes_own_pairs_are_no_alarm(name, registry, kind, number, log):
    network = built(name, registry)
    if registry is DETECTORS:
        dataset = kind(ann_file='', data_prefix={'img': '', 'seg': ''}, lazy_init=True)
        dataset.cat2label = {}
    else:
        dataset = kind(lazy_init=True)
    ClassCheck(network).compare(dataset)
    assert not log
    if number is None:
        return
    # And that some other number would be one.
    for module in network.modules():
        if getattr(module, 'num_classes', None) == number:
            module.num_classes = number - 1
    with pytest.raises(InputError, match=f'num_classes={number - 1}'):
        ClassCheck(network).compare(dataset)


def test_heads_that_do_not_tell_classes_apart(coco):
    network = two_stage(3)
    network.roi_head.mask_head.num_classes = 80
    network.roi_head.mask_head.class_agnostic = True
    check_dataset(coco(), network)
    # Classes that the model is given as text.
    check_dataset(coco(return_classes=True), two_stage(256))


def test_videos_keep_classes_that_are_not_tracked(log):
    from mmdet.datasets import MOTChallengeDataset

    ClassCheck(model(detector__roi_head__bbox_head=1)).compare(MOTChallengeDataset(lazy_init=True))
    assert not log


def test_voc_counts(tmp_path, log):
    init_default_scope('mmdet')
    for name, text in {
        'list.txt': 'a',
        'Annotations/a.xml': '<annotation><size><width>9</width><height>9</height></size><object><name>dog</name>'
        '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    dataset = XMLDataset(
        ann_file=str(tmp_path / 'list.txt'),
        data_prefix={'sub_data_root': str(tmp_path)},
        metainfo={'classes': ('dog', 'persn')},
        pipeline=[],
    )
    check_dataset(dataset, model(bbox_head=2))
    assert log[-2:] == ['images/boxes by class: dog 1/1, persn 0/0', 'the data has no samples of 1 classes: persn']
