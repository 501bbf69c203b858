"""Sequence layers: torch modules around one memory each, from tokens and a state to tokens and the next state."""

from nestmem.layers.attention import Attention, KeyValues
from nestmem.layers.base import GatedOutput, LayerState, Mixer, ShortConv
from nestmem.layers.continuum import ContinuumMemory, teach_signal
from nestmem.layers.delta import DeltaNet
from nestmem.layers.fast import FastLevel, merge
from nestmem.layers.feedforward import SwiGLU
from nestmem.layers.linear import Retention
from nestmem.layers.self_modifying import SelfModifying
from nestmem.layers.titans import Titans, TitansMAC, TitansMAG, TitansMAL
from nestmem.layers.ttt import TTT

__all__ = [
    "TTT",
    "Attention",
    "ContinuumMemory",
    "DeltaNet",
    "FastLevel",
    "GatedOutput",
    "KeyValues",
    "LayerState",
    "Mixer",
    "Retention",
    "SelfModifying",
    "ShortConv",
    "SwiGLU",
    "Titans",
    "TitansMAC",
    "TitansMAG",
    "TitansMAL",
    "merge",
    "teach_signal",
]
