"""Compares the classes of a dataset, its annotation file and the model before a training or test begins."""

import difflib
import json
import mmap
from collections import Counter
from collections.abc import Iterator, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from torch import nn

from mmatm.errors import InputError

# Heads that predict all classes of the data, by their names in the toolboxes' models. The semantic branches of instance
# segmentation have other names.
_HEADS = (
    *('bbox_head', 'mask_head', 'mask_iou_head', 'point_head', 'panoptic_head'),
    *('decode_head', 'auxiliary_head', 'head'),
)
_SHOWN = 5  # names in a message
_LISTED = 100  # classes in the log


class ClassCheck:
    """Compares the classes of a loader's data with the model's, and counts the images and boxes of each class."""

    def __init__(self, model: nn.Module) -> None:
        self._heads = dict(_heads(model))
        # Datasets of the same classes, as those of a ConcatDataset, are counted together.
        self._counts: dict[tuple[str, ...], _Count] = {}
        self._count_of: dict[int, _Count] = {}
        # Of labels that follow an annotation file.
        self.orders: set[tuple[str, ...]] = set()

    def compare(self, dataset: Any) -> None:
        """Compares names and numbers of classes; differences that may be intended lead to a warning.

        Args:
            dataset: A dataset of MMEngine's kind, no wrapper.

        Raises:
            InputError: A difference that cannot be intended.
        """
        classes = dataset.metainfo.get('classes')
        if isinstance(classes, str):
            raise InputError(
                f'metainfo.classes of the dataset is the string {classes!r}; for a single class write ({classes!r},)'
            )
        # Video datasets keep classes that their tracker leaves out.
        compared = classes and not hasattr(type(dataset), 'num_all_imgs')
        by_label = None
        if compared and hasattr(dataset, 'cat_ids') and getattr(dataset, 'ann_file', ''):
            by_label = _compare_names(dataset, list(classes))
        if by_label:
            self.orders.add(by_label)
        key = by_label or tuple(classes or ())
        count = self._count_of[id(dataset)] = self._counts.setdefault(key, _Count(key))
        count.is_training |= not getattr(dataset, 'test_mode', False)
        if not compared:
            return
        # Where the classes go into the model as text, it has room for more of them.
        if not getattr(dataset, 'return_classes', False):
            self._compare_heads(dataset, classes)

    def count(self, dataset: Any, sample: dict) -> None:
        """Counts a sample of a dataset that was compared."""
        count, labels = self._count_of[id(dataset)], _labels(sample)
        count.has_boxes |= 'instances' in sample
        for label in labels:
            count.labels[label] += 1
        for label in set(labels):
            count.images[label] += 1

    def report(self) -> None:
        """Logs the images and boxes of each class, and warns of classes without any.

        Raises:
            InputError: A label is beyond the classes of a classifier.
        """
        for count in self._counts.values():
            if not count.labels:
                if count.has_boxes and count.is_training:
                    print_log('the data has no boxes', 'current', WARNING)
                continue
            highest, head = max(count.labels), self._heads.get('head')
            if head is not None and highest >= head:
                raise InputError(
                    f'the data has label {highest}, but the model has head.num_classes={head}: it must be at least '
                    f'{highest + 1}'
                )
            print_log(count.describe(), 'current')
            absent = [name for label, name in enumerate(count.classes) if label not in count.labels]
            if absent and count.is_training:
                print_log(f'the data has no samples of {len(absent)} classes: {_some(absent)}', 'current', WARNING)

    def _compare_heads(self, dataset: Any, classes: Sequence[str]) -> None:
        things = dataset.metainfo.get('thing_classes') or classes
        numbers = {len(classes), len(things)}
        other = {name: number for name, number in self._heads.items() if number not in numbers}
        if not other:
            return
        told = ' and '.join(f'{name}.num_classes={number}' for name, number in other.items())
        text = f'the data has {len(classes)} classes ({_some(classes)}), but the model has {told}'
        # A detector's metric stops at labels that the data does not have, others' do not look at them.
        if hasattr(dataset, 'cat2label') or min(other.values()) < min(numbers):
            raise InputError(
                f'{text}. Set num_classes={len(classes)} in the model, or metainfo.classes in the datasets'
            )
        print_log(f'{text}, so some of its classes have no samples', 'current', WARNING)


class _Count:
    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.images: Counter[int] = Counter()
        self.labels: Counter[int] = Counter()
        self.has_boxes = self.is_training = False

    def describe(self) -> str:
        labels = range(max(len(self.classes), max(self.labels) + 1))
        names = [self.classes[i] if i < len(self.classes) else str(i) for i in labels]
        what = 'images/boxes' if self.has_boxes else 'images'
        numbers = [f'{self.images[i]}/{self.labels[i]}' if self.has_boxes else str(self.images[i]) for i in labels]
        if len(names) <= _LISTED:
            return f'{what} by class: ' + ', '.join(map(' '.join, zip(names, numbers, strict=True)))
        order = sorted(labels, key=self.labels.__getitem__)
        few, median, many = (f'{names[i]} {numbers[i]}' for i in (order[0], order[len(order) // 2], order[-1]))
        return f'{what} by class, for {len(names)} classes: fewest {few}, median {median}, most {many}'


def _labels(sample: dict) -> list[int]:
    """The labels of a sample's boxes, or of an image."""
    labels = sample.get('gt_label')
    if labels is None and isinstance(boxes := sample.get('instances'), list):
        labels = [box.get('bbox_label') for box in boxes if isinstance(box, dict) and not box.get('ignore_flag')]
    return [
        int(label) for label in (labels if hasattr(labels, '__iter__') else [labels]) if hasattr(label, '__index__')
    ]


def _heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in model.named_modules():
        name = next((part for part in reversed(path.split('.')) if not part.isdigit()), '')
        number = getattr(module, 'num_classes', None)
        if name not in _HEADS or not isinstance(number, int) or getattr(module, 'class_agnostic', False):
            continue
        # An RPN that is a detector by itself, borders between classes, and segmentors of one class and the rest.
        kind = type(module).__name__
        if kind != 'STDCHead' and 'RPN' not in kind and not (number == 1 and name in ('decode_head', 'auxiliary_head')):
            yield path, number


def _compare_names(dataset: Any, classes: list[str]) -> tuple[str, ...] | None:
    """Returns the names of the labels, if they are known."""
    names = _names(dataset)
    by_label = [names.get(number) for number in dataset.cat_ids]
    if not names or not set(by_label) <= set(classes):
        return None  # not known; or the labels are by number, whatever the names
    file = Path(dataset.ann_file).name
    missing = [name for name in classes if name not in by_label]
    unused = [name for name in names.values() if name not in classes]
    meant = {name: near for name in missing if (near := _nearest(name, unused))}
    if missing:
        hint = ', '.join(f'{near} for {name}' for name, near in list(meant.items())[:_SHOWN])
        text = f'{file} has no classes {_some(missing)}' + (f' (did you mean {hint}?)' if hint else '')
        # Labels are places in the list of what the file has of the classes.
        if meant or by_label != classes[: len(by_label)] or not by_label:
            raise InputError(
                f"{text}; its classes are {_some(list(names.values()))}. Set the dataset's metainfo.classes to the "
                'names in the file'
            )
        print_log(text, 'current', WARNING)
    elif by_label != classes:
        print_log(
            f'{file} lists the classes in another order than metainfo.classes. Labels follow the file, so figures will '
            f'show wrong names: set metainfo.classes to {tuple(by_label)}',
            'current',
            WARNING,
        )
    if unused:
        print_log(f'the boxes of {len(unused)} classes of {file} are not used: {_some(unused)}', 'current', WARNING)
    return (*by_label, *missing)


def _names(dataset: Any) -> dict[int, str]:
    """The classes of a COCO file by their numbers, without reading what else is in it."""
    decoder = json.JSONDecoder()
    with (
        get_local_path(dataset.ann_file, backend_args=getattr(dataset, 'backend_args', None)) as path,
        Path(path).open('rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        start = text.find(b'"categories"')
        while start >= 0:
            begin = text.find(b'[', start)
            length = 1 << 16 if text[start + 12 : begin].strip() == b':' else 0
            while length:
                try:
                    found, _ = decoder.raw_decode(text[begin : begin + length].decode(errors='ignore'))
                    return {category['id']: category['name'] for category in found}
                except ValueError:  # cut short here
                    length = 2 * length if begin + length < len(text) else 0
                except (KeyError, TypeError):  # something else of that name
                    length = 0
            start = text.find(b'"categories"', start + 1)
    return {}


def _nearest(name: str, others: list[str]) -> str | None:
    folded = {other.casefold(): other for other in others}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else None


def _some(names: Sequence[str]) -> str:
    return ', '.join(map(str, names[:_SHOWN])) + (f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else '')
