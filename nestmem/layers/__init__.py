"""Sequence layers: torch modules around one memory each, from tokens and a state to tokens and the next state."""

from nestmem.layers.attention import Attention, KeyValues
from nestmem.layers.base import GatedOutput, LayerState, Mixer, ShortConv
from nestmem.layers.delta import DeltaNet
from nestmem.layers.feedforward import SwiGLU
from nestmem.layers.linear import Retention

__all__ = [
    "Attention",
    "DeltaNet",
    "GatedOutput",
    "KeyValues",
    "LayerState",
    "Mixer",
    "Retention",
    "ShortConv",
    "SwiGLU",
]
