"""The views: all that can be drawn of what a backbone does to an image, by name. All that draws goes through here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import nn

from mmatm.errors import InputError
from mmatm.models import Backbone

from .attention import draw_attention, draw_heads, find_attention
from .features import Features, find_layers
from .filters import draw_filters, find_mixers, last_of_stages
from .kernels import draw_kernels, find_dynamic
from .offsets import draw_distribution, draw_offsets, find_offset_layers
from .panels import InputImage, Point
from .receptive_field import draw_receptive_field


def _last_of_third_stage(layers: Sequence[str]) -> list[str]:
    return ([layer for layer in layers if layer.startswith('stages.2.')] or list(layers))[-1:]


def _middle(image: InputImage) -> Point:
    height, width = (side / image.scale for side in image.pixels.shape[:2])
    return width // 2, height // 2


@dataclass(frozen=True)
class View:
    """Something to draw of what a backbone does to an image.

    Attributes:
        name: On the command line.
        shows: A sentence without its end, with the backbones that have it.
        find: The layers of a backbone that it can be drawn of; raises an `InputError` that says why there are none.
        draw_panels: Draws it for features, their image, layers and points.
        of_layers: Whether layers are chosen; else it is drawn for all.
        of_points: Whether it is drawn for points.
        differentiable: Whether it takes features that are.
        usual: Which layers are drawn where none are chosen, from all that can be.
    """

    name: str
    shows: str
    find: Callable[[Backbone], dict[str, nn.Module]]
    draw_panels: Callable[[Features, InputImage, Sequence[str], Sequence[Point]], Figure]
    of_layers: bool = True
    of_points: bool = True
    differentiable: bool = False
    usual: Callable[[Sequence[str]], list[str]] = _last_of_third_stage

    def layers(self, backbone: Backbone, chosen: Sequence[str] = ()) -> list[str]:
        """The chosen layers, or the usual ones.

        Raises:
            InputError: The backbone has no such view, or not of one of these layers; the message lists those it has.
        """
        found = list(self.find(backbone))
        if chosen and not self.of_layers:
            raise InputError(f'the view {self.name} shows all layers; leave out --layer')
        for layer in chosen:
            if layer not in found:
                raise InputError(f'the view {self.name} has no layer {layer}; the layers are {", ".join(found)}')
        return list(chosen) or self.usual(found)

    def check(self, backbone: Backbone, layers: Sequence[str], points: Sequence[Point]) -> list[str]:
        """The layers that would be drawn.

        Raises:
            InputError: As `layers` does, or the view is not of points.
        """
        if points and not self.of_points:
            raise InputError(f'the view {self.name} shows all tokens; leave out --point')
        return self.layers(backbone, layers)

    def draw(
        self, features: Features, image: InputImage, layers: Sequence[str] = (), points: Sequence[Point] = ()
    ) -> Figure:
        """Draws it.

        Args:
            features: Of the image, differentiable if the view is.
            image: As `read_image` returns it.
            layers: By default the usual ones.
            points: In pixels of the image's file; by default its middle.

        Raises:
            InputError: The backbone has no such view or no such layer, a point is outside the image, or the view is
                not of points.
        """
        chosen = self.check(features.backbone, layers, points)
        return self.draw_panels(features, image, chosen, points or [_middle(image)])


VIEWS = {
    view.name: view
    for view in (
        View(
            'offsets',
            "where the channels of a token look along its row and column, the paper's Figure 5 (ATMNet)",
            find_offset_layers,
            draw_offsets,
        ),
        View(
            'attention', 'how a token spreads its attention over the image (TransXNet)', find_attention, draw_attention
        ),
        View('heads', 'the same for each head of the attention (TransXNet)', find_attention, draw_heads),
        View('kernel', 'the kernels that were mixed for the image (TransXNet)', find_dynamic, draw_kernels),
        View(
            'spectrum',
            'which frequencies of the map a mixer lets through (DFFormer, CDFFormer, AFFNet, the reading of DSM)',
            find_mixers,
            lambda features, image, layers, points: draw_filters(features, layers),
            of_points=False,
            usual=last_of_stages,
        ),
        View(
            'receptive-field',
            'which pixels move what a layer returns for a token (any backbone)',
            find_layers,
            draw_receptive_field,
            differentiable=True,
        ),
        View(
            'distribution',
            'how far all tokens look, by stage (ATMNet)',
            find_offset_layers,
            lambda features, image, layers, points: draw_distribution(features),
            of_layers=False,
            of_points=False,
        ),
    )
}
