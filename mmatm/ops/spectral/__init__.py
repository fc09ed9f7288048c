"""Operations on spectra of feature maps: the Fourier and the cosine transform, and filters that differ by sample."""

from .cosine import cosine_bands, dct2, idct2
from .filtering import COSINE, FOURIER, filter_planes, star_relu
from .fourier import irfft2, map_channels, multiply, resize_bank, rfft2

__all__ = [
    'COSINE',
    'FOURIER',
    'cosine_bands',
    'dct2',
    'filter_planes',
    'idct2',
    'irfft2',
    'map_channels',
    'multiply',
    'resize_bank',
    'rfft2',
    'star_relu',
]
