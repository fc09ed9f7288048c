"""The backbone."""

from .atmnet import ATMNet

__all__ = ['ATMNet']
