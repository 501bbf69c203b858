"""Deep memories: an MLP written by frozen gradients (Titans, TTT, DLA, Omega, the biases of Miras)."""

from nestmem.ops.deep.chunk import Span, chunked
from nestmem.ops.deep.mixing import Mixing
from nestmem.ops.deep.naive import recurrent
from nestmem.ops.deep.state import init

__all__ = ["Mixing", "Span", "chunked", "init", "recurrent"]
