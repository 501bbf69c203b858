"""The delta rule: DeltaNet, Gated DeltaNet, negative eigenvalues."""

from nestmem.ops.delta.chunk import chunked
from nestmem.ops.delta.naive import recurrent
from nestmem.ops.linear.inputs import init

__all__ = ["chunked", "init", "recurrent"]
