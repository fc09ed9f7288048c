"""Operations of the token mixers, a folder each."""

from .axial_sampling import axial_sample, axial_sample_stacked

__all__ = ['axial_sample', 'axial_sample_stacked']
