"""Models to look into, and what they made of the images looked at last: what is behind the page of tools/explore.py."""

import shlex
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.model import BaseModel
from PIL import Image

from mmatm.apis.inference import Predicted, load_model, predictor
from mmatm.config import load_config
from mmatm.datasets.data_check import check_images
from mmatm.errors import InputError
from mmatm.models import Backbone

from .features import Features, require_backbone
from .panels import InputImage, Point, read_image
from .views import VIEWS, View

_IMAGES = 2  # of which features are kept, for each model; they are large
_PIXELS = 64 * 10**6  # of an image's file
_FORMATS = ('BMP', 'JPEG', 'PNG', 'TIFF', 'WEBP')  # by content; others would start programs
_LONG = 4  # times as long as wide: features are as large as the resized image


@dataclass(frozen=True)
class Subject:
    """A model to look into.

    Attributes:
        name: Of its config.
        words: Of the command line: config, checkpoint and options.
        model: In evaluation mode.
        backbone: In it.
        predict: As `mmatm.apis.inference.predictor` returns it, None where it refuses.
        refusal: Why it refuses.
    """

    name: str
    words: Sequence[str]
    model: BaseModel
    backbone: Backbone
    predict: Callable[[str], Predicted] | None
    refusal: str = ''

    @classmethod
    def load(cls, config: str, checkpoint: str, options: Mapping[str, Any] | None = None) -> 'Subject':
        """Loads a model and its weights.

        Raises:
            InputError: The checkpoint cannot be read or does not fill the model, or that has no backbone of mmatm.
        """
        cfg = load_config(config, options)
        model = load_model(cfg, checkpoint)
        backbone = require_backbone(model)
        words = [config, checkpoint]
        if options:
            words += ['--cfg-options', *(f'{key}={_written(value)}' for key, value in options.items())]
        try:
            _, predict = predictor(model, cfg)
        except InputError as error:
            return cls(Path(config).stem, words, model, backbone, None, str(error))
        return cls(Path(config).stem, words, model, backbone, predict)

    def layers(self, view: View) -> list[str]:
        """The layers of a view to choose from; none for a view that shows all.

        Raises:
            InputError: The backbone has no such view; the message says why.
        """
        found = list(view.find(self.backbone))
        return found if view.of_layers else []


def _written(value: object) -> str:
    """A value as `--cfg-options` reads it."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    items = ','.join(map(_written, value))
    return f'[{items}]' if isinstance(value, list) else f'({items})'


class Explorer:
    """What models predict for images, and every view of them; of the images looked at last it keeps what it computed.

    Args:
        subjects: The models.
        short_side: Pixels that the shorter side of images is resized to.
    """

    def __init__(self, subjects: Sequence[Subject], short_side: int) -> None:
        self.subjects = subjects
        self.short_side = short_side
        self._images: dict[Hashable, InputImage] = {}
        self._features: dict[Hashable, Features] = {}
        self._predictions: dict[Hashable, np.ndarray] = {}

    def image(self, path: str, which: int = 0) -> InputImage:
        """An image as a model takes it.

        Raises:
            InputError: It is damaged, too large, or too long.
        """
        return self._kept(self._images, (which, path), lambda: self._read(path, which))

    def predict(self, path: str, which: int) -> np.ndarray:
        """The image, of the size that `image` has, with a model's prediction over it.

        Raises:
            InputError: The model cannot predict, or the image is refused.
        """
        subject, (height, width) = self.subjects[which], self.image(path, which).pixels.shape[:2]
        if subject.predict is None:
            raise InputError(f'{subject.name} has no prediction: {subject.refusal}')

        def drawn() -> np.ndarray:
            return np.asarray(Image.fromarray(subject.predict(path)[0]).resize((width, height)))

        return self._kept(self._predictions, (which, path), drawn)

    def draw(self, path: str, which: int, view: str, layer: str | None, point: Point) -> Figure:
        """Draws a view, of a layer and of a point in pixels of the image's file where it is of such.

        Raises:
            InputError: The model has no such view, or the image is refused.
        """
        shown, image = VIEWS[view], self.image(path, which)
        shown.layers(self.subjects[which].backbone)  # refuses before the network runs
        return shown.draw(
            self.features(path, which), image, [layer] if layer else [], [point] if shown.of_points else []
        )

    def features(self, path: str, which: int) -> Features:
        """An image's way through a model's backbone.

        Raises:
            InputError: The image is refused.
        """
        image, backbone = self.image(path, which), self.subjects[which].backbone
        return self._kept(self._features, (which, path), lambda: Features(backbone, image.inputs, differentiable=True))

    def command(self, name: str, which: int, view: str, layer: str | None, point: Point, out: str) -> str:
        """The command line that draws the same, of an image by its name."""
        words = ['python', 'tools/visualize.py', *self.subjects[which].words[:2], name, '--view', view]
        words += self.subjects[which].words[2:]
        words += ['--layer', layer] if layer else []
        words += ['--point', *(f'{side:g}' for side in point)] if VIEWS[view].of_points else []
        return shlex.join([*words, '--short-side', str(self.short_side), '--out', out])

    def _read(self, path: str, which: int) -> InputImage:
        name = Path(path).name
        try:
            with Image.open(path, formats=_FORMATS) as file:  # reads its head alone
                width, height = file.size
            if width * height > _PIXELS or max(width, height) > _LONG * min(width, height):
                raise InputError(
                    f'{name} has {width}x{height} pixels; images here have {_PIXELS // 10**6} million at most, and are '
                    f'{_LONG} times as long as wide at most'
                )
        except (OSError, Image.DecompressionBombError):
            raise InputError(f'{name} is not an image, or far too large') from None
        try:
            check_images([path])
        except (OSError, InputError):
            raise InputError(f'{name} is cut short') from None
        return read_image(self.subjects[which].model, path, self.short_side)

    def _kept(self, cache: dict[Hashable, Any], key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under a key, made if it is not; what was used longest ago goes before anything is made."""
        found = cache.pop(key, None)
        if found is None:
            while len(cache) >= _IMAGES * len(self.subjects):
                del cache[next(iter(cache))]
            found = make()
        cache[key] = found
        return found
