"""`python -m nestmem.cli` is `nestmem`."""

from nestmem.cli import run

run()
