"""The two last checkpoints of a run, each a file that proves itself whole."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nestmem.errors import InputError

NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")


class Loaded(NamedTuple):
    """What `Checkpoints.load` found: the values (None: there is no checkpoint), and the damaged files passed over."""

    values: dict[str, Any] | None
    damaged: list[Path]


class Checkpoints:
    """A folder with the `keep` last checkpoints of a run, `step-<step>-<digest>.pt`.

    The digest in the name is the start of the file's own SHA-256, so a file that was cut or changed is found out. A kill
    at any moment leaves the checkpoints before as they were: a new one gets its name after it is written out, and older
    ones go after that.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self.keep = keep
        self._damaged: set[Path] = set()

    def files(self) -> list[Path]:
        """Checkpoints by name, the newest first."""
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*.pt")]
        return [path for match, path in sorted(((int(m[1]), p) for m, p in found if m), reverse=True)]

    def save(self, step: int, values: dict[str, Any]) -> Path:
        """Write a checkpoint of tensors and plain values, then remove what is older than the last `keep`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"step-{step:08d}.tmp"
        with temporary.open("wb") as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        path = self.folder / f"step-{step:08d}-{_digest(temporary)}.pt"
        temporary.replace(path)
        self._damaged.discard(path)
        good = [other for other in self.files() if other not in self._damaged]
        for other in self.files():
            if other not in good[: self.keep]:
                other.unlink()
        return path

    def load(self) -> Loaded:
        """The values of the newest checkpoint that is whole. Raises `InputError` when there are some and none is."""
        for path in self.files():
            if _digest(path) == path.stem.rpartition("-")[2]:
                values = torch.load(path, map_location="cpu", weights_only=True)
                return Loaded(values, sorted(self._damaged))
            self._damaged.add(path)
        if self._damaged:
            names = ", ".join(str(path) for path in sorted(self._damaged))
            raise InputError(
                f"no checkpoint in {self.folder} is whole: {names} were cut or changed after they were written. "
                "Put a copy of one of them back, or delete the folder to start this run from its first step"
            )
        return Loaded(None, [])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
