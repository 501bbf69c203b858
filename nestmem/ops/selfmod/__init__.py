"""Self-modifying Titans (Hope): memories that produce their own keys, values, rates, decays and targets."""

from nestmem.ops.selfmod.chunk import chunked
from nestmem.ops.selfmod.naive import recurrent
from nestmem.ops.selfmod.rule import MEMORIES, Readout, init

__all__ = ["MEMORIES", "Readout", "chunked", "init", "recurrent"]
