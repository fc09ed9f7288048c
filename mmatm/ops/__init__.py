"""Operations of the token mixers, a folder each."""

from .axial_sampling import axial_sample, axial_sample_stacked
from .onnx_forms import onnx_forms

__all__ = ['axial_sample', 'axial_sample_stacked', 'onnx_forms']
