"""Prediction of images through the toolboxes' inferencers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSIFIER, DETECTOR, SEGMENTOR, write_config, write_weights
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from PIL import Image
from torch import nn

from mmatm.apis.inference import find_images, load_model
from mmatm.config import load_config
from mmatm.datasets.shapes import SEMANTIC_CLASSES, SHAPES
from mmatm.errors import InputError


@pytest.fixture
def images(shapes):
    return sorted((shapes / 'ade/images/validation').glob('*.jpg'))


def results(out, name):
    drawn = np.asarray(Image.open(out / f'vis/{name}.png').convert('RGB'))
    return drawn, json.loads((out / f'preds/{name}.json').read_text())


def test_segmentor(tmp_path, shapes, images, command):
    """Against mmsegmentation's own way of predicting one image."""
    from mmseg.apis import inference_model

    config = write_config(tmp_path, shapes, SEGMENTOR)
    weights = write_weights(config)
    output = command('image_demo.py', config, weights, images[0], images[1], '--out', tmp_path / 'out')
    assert 'semantic segmentation: images in' in output
    model = load_model(cfg := load_config(str(config)), str(weights))
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    model.cfg = cfg
    for image in images[:2]:
        drawn, found = results(tmp_path / 'out', image.stem)
        expected = inference_model(model, str(image)).pred_sem_seg.data[0].numpy()
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f'out/preds/{image.stem}.png')), expected)
        assert found['shares'] == {
            name: n for i, name in enumerate(SEMANTIC_CLASSES) if (n := (expected == i).mean()) > 0
        }
        assert found['image'] == str(image)
        assert drawn.shape[:2] == expected.shape
        assert (drawn != np.asarray(Image.open(image))).mean() > 0.5


def test_detector(tmp_path, shapes, images, command):
    """Against mmdet's own way of predicting one image."""
    from mmdet.apis import inference_detector

    config = write_config(tmp_path, shapes, DETECTOR)
    weights = write_weights(config)
    options = '--cfg-options', 'model.test_cfg.rcnn.score_thr=0.0', '--score-thr', 0.0
    output = command('image_demo.py', config, weights, images[0], '--out', tmp_path / 'out', *options)
    assert 'detection: images in' in output
    cfg = load_config(str(config), {'model.test_cfg.rcnn.score_thr': 0.0})
    model = load_model(cfg, str(weights))
    model.cfg = cfg
    expected = inference_detector(model, str(images[0])).pred_instances
    drawn, found = results(tmp_path / 'out', images[0].stem)
    torch.testing.assert_close(torch.tensor(found['bboxes']), expected.bboxes)
    torch.testing.assert_close(torch.tensor(found['scores']), expected.scores)
    assert len(found['masks']) == len(found['bboxes']) > 0
    assert found['classes'] == [SHAPES[label] for label in expected.labels]
    assert (drawn != np.asarray(Image.open(images[0]))).any()


def test_classifier(tmp_path, shapes, images, command):
    """Against mmpretrain's own way of predicting one image."""
    from mmpretrain.apis import ImageClassificationInferencer

    config = write_config(tmp_path, shapes, CLASSIFIER)
    weights = write_weights(config)
    assert 'classification' in command('image_demo.py', config, weights, images[0], '--out', tmp_path / 'out')
    expected = ImageClassificationInferencer(str(config), str(weights))(str(images[0]))[0]
    drawn, found = results(tmp_path / 'out', images[0].stem)
    assert found['labels'][0] == expected['pred_label']
    np.testing.assert_allclose(found['scores'], np.sort(expected['pred_scores'])[::-1][:5], rtol=1e-6)
    assert found['classes'][0] == sorted(SHAPES)[expected['pred_label']]
    assert (drawn != np.asarray(Image.open(images[0]))).any()


def test_find_images(tmp_path, images, monkeypatch):
    (tmp_path / 'a/b').mkdir(parents=True)
    for name in ('a/1.jpg', 'a/b/2.JPG', 'a/b/3.txt'):
        shutil.copy(images[0], tmp_path / name)
    whole, deep = tmp_path / 'a/1.jpg', tmp_path / 'a/b/2.JPG'
    assert find_images([str(tmp_path)]) == [whole, deep]
    assert find_images([f'{tmp_path}/a/*/*.JPG', str(whole), str(tmp_path / 'a')]) == [deep, whole]
    monkeypatch.chdir(tmp_path / 'a')
    assert find_images(['1.jpg', str(whole), '../a/b']) == [Path('1.jpg'), Path('../a/b/2.JPG')]
    with pytest.raises(InputError, match='no images in b/3'):
        find_images(['1.jpg', 'b/3*'])


def test_bad_input_is_refused_before_the_model_is_built(tmp_path, images, error_of):
    def error(*places):
        return error_of('image_demo.py', 'absent.py', 'absent.pth', *places)

    assert 'no images in' in error(tmp_path)
    assert 'no images in nothing*.jpg; give files, folders or quoted patterns' in error('nothing*.jpg')
    (tmp_path / 'cut.jpg').write_bytes(images[0].read_bytes()[:600])
    assert f'{tmp_path}/cut.jpg: cut short or not an image' in error(images[0], tmp_path)
    assert 'there is no config absent.py' in error(images[0])


def test_the_former_order_of_arguments_is_refused_by_name(images, error_of):
    for places in ([images[0]], ['a folder', 'street/*.jpg']):
        message = error_of('image_demo.py', *places, 'mmseg::upernet/x.py', 'w.pth', '--out', 'out')
        assert 'the arguments are now CONFIG CHECKPOINT IMAGE..., as in all tools: ' in message
        quoted = [f"'{place}'" if place in ('a folder', 'street/*.jpg') else str(place) for place in places]
        assert f'python tools/image_demo.py mmseg::upernet/x.py w.pth {" ".join(quoted)} and' in message
    # Images in a folder that is named as a config would be.
    assert 'no images in x.py' in error_of('image_demo.py', 'absent.py', 'x.py', 'x.py')


def test_results_do_not_overwrite_each_other(tmp_path, config, images, error_of, command):
    weights = write_weights(config)
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        shutil.copy(images[0], tmp_path / name / 'same.jpg')
    command('image_demo.py', config, weights, tmp_path / 'a', tmp_path / 'b', '--out', tmp_path / 'out')
    assert (tmp_path / 'out/vis/a/same.png').exists()
    assert (tmp_path / 'out/preds/b/same.json').exists()
    shutil.copy(images[0], tmp_path / 'a/same.jpeg')
    assert 'would both be written to' in error_of('image_demo.py', config, weights, tmp_path / 'a')


def test_images_beside_the_working_folder(tmp_path, shapes, images, command, monkeypatch):
    config = write_config(tmp_path, shapes, CLASSIFIER)
    weights = write_weights(config)
    for name in ('here/deep/a.jpg', 'there/b.jpg'):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(images[0], tmp_path / name)
    monkeypatch.chdir(tmp_path / 'here')
    command('image_demo.py', config, weights, 'deep/a.jpg', '../there/b.jpg', '--out', 'out')
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.suffix in ('.png', '.json')}
    assert written == {f'here/out/{name}' for name in (
        'vis/here/deep/a.png', 'vis/there/b.png', 'preds/here/deep/a.json', 'preds/there/b.json'
    )}  # fmt: skip


@MODELS.register_module()
class NoTask(BaseModel):
    def __init__(self, data_preprocessor=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise AssertionError('not to be called')


def test_what_cannot_be_predicted_is_refused(tmp_path, config, shapes, images, error_of):
    def error(*options):
        return error_of('image_demo.py', path, weights, images[0], '--out', tmp_path / 'out', *options)

    path = write_config(tmp_path, shapes, CLASSIFIER)
    weights = write_weights(path)
    assert 'the model cannot be moved to device nowhere' in error('--device', 'nowhere')
    state_dict = torch.load(weights)['state_dict']
    del state_dict['head.fc.bias']
    torch.save({'state_dict': state_dict}, weights)
    assert f'{weights}: the weights do not fill the model; missing: head.fc.bias' in error()
    path.write_text(path.read_text() + "model = dict(_delete_=True, type='NoTask')\n")
    write_weights(path)
    assert 'NoTask is not a detector, segmentor or classifier of images' in error()
    path.write_text("model = dict(type='NoTask')\n")
    assert 'the config has no test_dataloader' in error()
    assert not (tmp_path / 'out').exists()


def test_classes_without_names_are_refused(tmp_path, shapes, images, error_of):
    path = write_config(tmp_path, shapes, SEGMENTOR)
    weights = write_weights(path)
    options = '--cfg-options', 'test_dataloader.dataset.metainfo.classes=None'
    message = error_of('image_demo.py', path, weights, images[0], *options)
    assert 'neither the checkpoint nor the test dataset of the config names the classes' in message
    options = '--cfg-options', 'test_dataloader.dataset.metainfo.classes=[one]', '+visualizer=None'
    message = error_of('image_demo.py', path, weights, images[0], *options, '--out', tmp_path / 'out')
    assert 'but there are names for 1 classes only' in message
