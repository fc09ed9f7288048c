"""The check of a dataset's files: what is refused, what is not ours to refuse, and what it costs."""

import copy
import io
import json
import os
import re
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.fileio import BaseStorageBackend, register_backend
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, LoadBiomedicalAnnotation, LoadBiomedicalImageFromFile
from PIL import Image
from torch import nn

import mmatm.datasets.data_check
import mmatm.engine.machines
from forked import free_port, start, wait, wait_until
from mmatm.config import load_config
from mmatm.datasets.data_check import check_dataset, check_images
from mmatm.engine.machines import once_per_machine
from mmatm.engine.runner import Runner
from mmatm.errors import InputError


class Samples(BaseDataset):
    """Of dicts that are given."""

    def __init__(self, samples, pipeline, **more):
        self.samples = samples
        super().__init__(pipeline=pipeline, **more)

    def load_data_list(self):
        return self.samples


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch'


@pytest.fixture
def log(monkeypatch):
    """A function that gives what was logged since its last call."""
    lines = []
    monkeypatch.setattr(mmatm.datasets.data_check, 'print_log', lambda line, *rest: lines.append(line))
    return lambda: '\n'.join([lines.pop(0) for _ in range(len(lines))])


@pytest.fixture
def looked_at(monkeypatch):
    """The names of the files that were looked at."""
    names = []
    look_at = mmatm.datasets.data_check._look_at
    monkeypatch.setattr(
        mmatm.datasets.data_check, '_look_at', lambda file: names.append(Path(file.path).name) or look_at(file)
    )
    return names


def images(folder: Path, count: int) -> list[dict]:
    """Files that end as JPEGs do."""
    folder.mkdir(exist_ok=True)
    samples = [{'img_path': str(folder / f'{i}.jpg')} for i in range(count)]
    for sample in samples:
        Path(sample['img_path']).write_bytes(b'\xff\xd8\xff\xd9')
    return samples


def segmentation(shapes: Path, folder: str = 'training', **more) -> BaseSegDataset:
    more = {'pipeline': [LoadImageFromFile(), LoadAnnotations()], 'reduce_zero_label': True, **more}
    prefix = {'img_path': f'images/{folder}', 'seg_map_path': f'annotations/{folder}'}
    return BaseSegDataset(data_root=str(shapes), data_prefix=prefix, **more)


def check(dataset) -> None:
    check_dataset(dataset, nn.Module())


def test_memory_does_not_grow_with_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(mmatm.datasets.data_check, '_WINDOW', 64, raising=False)
    dataset = Samples(images(tmp_path / 'data', 2000), [LoadImageFromFile()])
    check(Samples(images(tmp_path / 'other', 64), [LoadImageFromFile()]))  # what is made once
    tracemalloc.start()
    try:
        check(dataset)
        assert tracemalloc.get_traced_memory()[1] < 2000 * 600, 'bytes an image'
    finally:
        tracemalloc.stop()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_on_a_terminal_only(tmp_path, monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    dataset = Samples(images(tmp_path / 'data', 7), [LoadImageFromFile()])
    for stream, drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, 'stderr', stream)
        check(dataset)
        assert (re.search(r'checking the data.*7/7', stream.getvalue()) is not None) == drawn


def test_each_file_is_looked_at_once(tmp_path, shapes, cache, looked_at, log):
    root = shutil.copytree(shapes / 'ade', tmp_path / 'ade')
    files = sorted(root.rglob('*'))
    check(segmentation(root, metainfo={'classes': tuple('abcdefg')}))
    assert len(looked_at) == len(set(looked_at)) == 48
    assert '24 images and 24 label maps, all undamaged' in log()
    looked_at.clear()
    # The same files as they are validated on, and repeated.
    check(segmentation(root, metainfo={'classes': tuple('abcdefg')}, indices=9, test_mode=True))
    check(RepeatDataset(segmentation(root, metainfo={'classes': tuple('abcdefg')}), 3))
    assert not looked_at
    assert '72 samples: 24 images and 24 label maps, all undamaged (48 of these files were checked earlier)' in log()
    # Other classes are another question to the label maps.
    with pytest.raises(InputError, match='the highest class is 3'):
        check(segmentation(root, metainfo={'classes': tuple('abc')}))
    assert len(looked_at) == 24
    looked_at.clear()
    os.utime(root / 'images/training/000003.jpg', (1, 1))
    label = root / 'annotations/training/000004.png'
    whole = label.read_bytes()
    label.write_bytes(whole[:-50])
    for _ in range(2):
        with pytest.raises(InputError, match=r'damaged data:\n  .*000004\.png: cut short'):
            check(segmentation(root, metainfo={'classes': tuple('abcdefg')}))
    label.write_bytes(whole)
    check(segmentation(root, metainfo={'classes': tuple('abcdefg')}))
    # What was damaged is looked at until it is whole.
    assert looked_at == ['000003.jpg', '000004.png', '000004.png', '000004.png']
    assert sorted(root.rglob('*')) == files
    assert [path.name for path in (cache / 'hub/mmatm').iterdir()] == ['whole_files']


def test_where_nothing_can_be_noted(tmp_path, cache, log, looked_at):
    cache.touch()
    dataset = Samples(images(tmp_path / 'data', 2), [LoadImageFromFile()])
    for _ in range(2):
        check(dataset)
        assert re.search(r'the result of the data check cannot be saved, so the next start repeats it: .*torch', log())
    assert len(looked_at) == 4


def test_switch(config, tmp_path, shapes, monkeypatch):
    root = shutil.copytree(shapes / 'ade', tmp_path / 'ade')
    (root / 'images/training/000003.jpg').write_bytes(b'')
    runner = Runner.from_cfg(load_config(str(config), {'train_dataloader.dataset.data_root': str(root)}))
    with pytest.raises(InputError, match='damaged data'):
        runner.build_dataloader(copy.deepcopy(runner.cfg.train_dataloader))
    runner.cfg.merge_from_dict(load_config(str(config), {'check_data': False}))
    runner.cfg.train_dataloader.dataset.data_root = str(root)
    assert len(runner.build_dataloader(runner.cfg.train_dataloader).dataset) == 24


@register_backend('mapped')
class Mapped(BaseStorageBackend):
    """Files under other names, as in an archive."""

    root = Path()

    def get(self, filepath):
        return (self.root / filepath.removeprefix('bucket:')).read_bytes()

    def get_text(self, filepath):
        raise NotImplementedError


@pytest.mark.parametrize('key', ['000003.jpg', 'bucket:000003.jpg'])
def test_what_a_backend_maps_is_no_local_file(shapes, key, log, monkeypatch):
    monkeypatch.setattr(Mapped, 'root', shapes / 'ade/images/training')
    load = LoadImageFromFile(backend_args={'backend': 'mapped'})
    check(Samples([{'img_path': key}, {'img_path': 'not looked for'}], [load]))
    assert '2 files not on local disks were not checked' in log()
    with pytest.raises(InputError, match=r'absent\.jpg: does not exist'):
        check(Samples([{'img_path': 'absent.jpg'}, {'img_path': key}], [load]))


def test_keys_with_a_scheme_are_no_local_files():
    # No client for it is installed here.
    with pytest.raises(InputError, match=r's3://bucket/a\.jpg: cannot be read \('):
        check(Samples([{'img_path': 's3://bucket/a.jpg'}], [LoadImageFromFile()]))


class LoadNumpyImage(BaseTransform):
    def transform(self, results):
        results['img'] = np.load(results['img_path'])
        return results


class Decrypt(BaseTransform):
    """Reads as nobody else does."""

    def transform(self, results):
        return results


def test_what_the_pipeline_reads_passes(tmp_path, log, monkeypatch):
    np.save(tmp_path / 'image.npy', np.zeros((4, 4, 12)))
    bands = [Image.fromarray(np.full((8, 8), i, np.uint16)) for i in range(5)]
    bands[0].save(tmp_path / 'bands.tif', save_all=True, append_images=bands[1:])
    volume, labels = tmp_path / 'volume.npy', tmp_path / 'labels.npy'
    np.save(volume, np.zeros((3, 4, 5)))
    np.save(labels, np.zeros((3, 4, 5)))
    check(Samples([{'img_path': str(tmp_path / 'image.npy')}], [LoadNumpyImage()]))
    with monkeypatch.context() as patch:
        patch.setattr(Image, 'open', None)  # which knows some of what OpenCV reads, and some of it otherwise
        check(Samples([{'img_path': str(tmp_path / 'bands.tif')}], [LoadImageFromFile(color_type='unchanged')]))
    loads = [
        LoadBiomedicalImageFromFile(decode_backend='numpy'),
        LoadBiomedicalAnnotation(decode_backend='numpy'),
    ]
    both = {'img_path': str(volume), 'seg_map_path': str(labels)}
    check(Samples([both], loads))
    check(Samples([{'img_path': [str(volume), str(labels)]}], [LoadNumpyArrays()]))
    assert 'not checked' not in log()
    check(Samples([{'img_path': str(tmp_path / 'absent.jpg')}], [Decrypt()]))
    assert 'the images of Samples are not checked: no loading transform was found in its pipeline' in log()
    check(Samples([{'img_path': str(tmp_path / 'absent.jpg')}], [LoadImageFromFile(ignore_empty=True)]))
    for path in (volume, labels, tmp_path / 'bands.tif'):
        path.write_bytes(path.read_bytes()[:100])
    for key, path in (('img_path', volume), ('seg_map_path', labels)):
        with pytest.raises(InputError, match=rf'{path.name}: cut short or not an image'):
            check(Samples([{key: str(path)}], loads))
    with pytest.raises(InputError, match=r'bands\.tif: cut short or not an image'):
        check(Samples([{'img_path': str(tmp_path / 'bands.tif')}], [LoadImageFromFile()]))


class LoadFromArchive(BaseTransform):
    """Images without files of their own."""

    def transform(self, results):
        if not results['img_path'].startswith('archive#'):
            raise FileNotFoundError
        results['read'].append(results['img_path'])


def test_names_that_only_the_pipeline_knows(log):
    read = []
    samples = [{'img_path': f'archive#{i}.jpg', 'read': read} for i in range(4)]
    check(Samples(samples, [LoadFromArchive()], serialize_data=False))
    assert '0 images and 0 label maps, all undamaged; 4 files not on local disks were not checked' in log()
    names = [f'{i}.jpg' for i in range(9)]
    with pytest.raises(InputError, match=r'(?s)damaged data:\n  0\.jpg: does not exist.*  4\.jpg: does not exist$'):
        check(Samples([{'img_path': name} for name in names], [LoadFromArchive()]))


class LoadNumpyArrays(BaseTransform):
    """`LoadMultiChannelImageFromFiles`, which takes a list of paths, for arrays."""

    def transform(self, results):
        return [np.load(path) for path in results['img_path']]


def test_label_maps_are_decoded_only_for_their_range(tmp_path, shapes, monkeypatch):
    opened = []
    monkeypatch.setattr(Image, 'open', lambda path, open=Image.open: opened.append(Path(path).name) or open(path))
    check(segmentation(shapes / 'ade'))
    assert not opened
    root = shutil.copytree(shapes / 'ade', tmp_path / 'ade')
    (root / 'annotations/training/000003.png').write_bytes(b'IEND')
    with pytest.raises(InputError, match=r'000003\.png: cut short or not an image'):
        check(segmentation(root))
    opened.clear()
    check(segmentation(shapes / 'ade', metainfo={'classes': tuple('abcdefg')}))
    assert len(opened) == 24


def test_labels_that_a_transform_of_ones_own_reads(tmp_path, shapes):
    class LoadColourAnnotations(LoadAnnotations):
        pass

    pipeline = [LoadImageFromFile(), LoadColourAnnotations()]
    check(segmentation(shapes / 'ade', metainfo={'classes': tuple('abc')}, pipeline=pipeline))


def test_images_of_many_pixels(tmp_path, shapes, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)  # 64 x 64 is more than twice that
    image = tmp_path / 'image.jpg'
    image.write_bytes((shapes / 'ade/images/training/000003.jpg').read_bytes() + b'more')
    check(Samples([{'img_path': str(image)}], [LoadImageFromFile()]))
    check_images([str(image)])
    message = r'more pixels than Pillow opens \(.*4096 pixels\).*; crop it, or read it with imdecode_backend=cv2'
    with pytest.raises(InputError, match=rf'image\.jpg: {message}'):
        check(Samples([{'img_path': str(image)}], [LoadImageFromFile(imdecode_backend='pillow')]))
    with pytest.raises(InputError, match=rf'000001\.png: {message}'):
        check(segmentation(shapes / 'ade', metainfo={'classes': tuple('abcdefg')}))
    pipeline = [LoadImageFromFile(), LoadAnnotations(imdecode_backend='cv2')]
    check(segmentation(shapes / 'ade', metainfo={'classes': tuple('abcdefg')}, pipeline=pipeline))


def test_only_some_damaged_files_are_named(tmp_path):
    samples = [{'img_path': str(tmp_path / f'{i}.jpg')} for i in range(3000)]
    with pytest.raises(InputError) as error:
        check(ConcatDataset([Samples(samples, [LoadImageFromFile()])]))
    lines = str(error.value).splitlines()
    assert lines[1:] == [*(f'  {tmp_path}/{i}.jpg: does not exist' for i in range(5)), '  and 2995 more']


def process_of_a_machine(rank: int, folder: Path, error: Exception | None) -> None:
    def work() -> None:
        (folder / f'works_{rank}').touch()
        if rank == 0:  # until the others are seen to wait, in no collective, and the other machine has finished
            wait_until(lambda: (folder / 'waits_1').exists(), 'waiting')
        if error and rank == 2:
            raise error

    sleep = mmatm.engine.machines.time.sleep
    mmatm.engine.machines.time.sleep = lambda seconds: (folder / f'waits_{rank}').touch() or sleep(seconds)
    torch.distributed.init_process_group('gloo')
    found = ''
    for _ in range(2):
        try:
            once_per_machine(work)
        except (InputError, KeyError) as raised:
            found = str(raised)
            break
        (folder / f'goes_on_{rank}').write_text(str(sorted(path.name for path in folder.glob('works_*'))))
    (folder / f'result_{rank}').write_text(json.dumps(found))
    wait_until(lambda: len([*folder.glob('result_*')]) == 3, 'the others, for which rank 0 has the store')


@pytest.mark.parametrize(
    ('fails', 'told'),
    [(None, ''), (InputError('damaged data'), 'damaged data'), (KeyError('classes'), "KeyError: 'classes'")],
    ids=['well', 'refusal', 'mistake'],
)
def test_first_process_of_each_machine_checks_and_the_others_wait(tmp_path, fails, told):
    with free_port() as port:
        processes = [
            start(
                *(process_of_a_machine, tmp_path / f'output_{rank}', rank, tmp_path, fails),
                RANK=str(rank),
                LOCAL_RANK=str(local),
                WORLD_SIZE='3',
                MASTER_ADDR='localhost',
                MASTER_PORT=str(port),
            )
            for rank, local in enumerate((0, 1, 0))
        ]
        codes = [wait(process) for process in processes]
    assert codes == [0, 0, 0], [(tmp_path / f'output_{rank}').read_text() for rank in range(3)]
    results = [json.loads((tmp_path / f'result_{rank}').read_text()) for rank in range(3)]
    others = f'{os.uname().nodename}: {told}' if fails else ''
    assert results == [others, others, str(fails or '')]
    for rank in range(3):
        path = tmp_path / f'goes_on_{rank}'
        assert not path.exists() if fails else path.read_text() == "['works_0', 'works_2']"
