"""Linear attention with decay: plain, RetNet, simple GLA, GLA."""

from nestmem.ops.linear.chunk import chunked, retention_decay
from nestmem.ops.linear.inputs import init
from nestmem.ops.linear.naive import recurrent

__all__ = ["chunked", "init", "recurrent", "retention_decay"]
