"""Memories that write an orthogonalised step: Atlas (every token) and LaCT (once per chunk)."""

from nestmem.ops.muon.chunk import chunked
from nestmem.ops.muon.gated import Gated
from nestmem.ops.muon.naive import recurrent
from nestmem.ops.muon.start import init

__all__ = ["Gated", "chunked", "init", "recurrent"]
