"""The command line. `run` is what `nestmem` and `python -m nestmem.cli` start."""

from nestmem.cli.main import run

__all__ = ["run"]
