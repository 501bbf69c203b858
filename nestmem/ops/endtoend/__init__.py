"""Fast weights that learn by the model's own loss: TTT-E2E, and the Continuum Memory System."""

from nestmem.ops.endtoend.chunk import chunked
from nestmem.ops.endtoend.levels import EndToEndState, Level, init
from nestmem.ops.endtoend.naive import recurrent

__all__ = ["EndToEndState", "Level", "chunked", "init", "recurrent"]
