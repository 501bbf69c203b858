"""What a training run leaves behind: its config, a JSONL log, and curves."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Commit, hardware and versions of this run."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": git.stdout.strip() or "unknown",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


class RunLog:
    """Append-only `log.jsonl` in the folder of a run, one line per event, seconds since the start of the run."""

    def __init__(self, folder: Path, config: Any):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"
        self.start = time.time()
        header = {"config": asdict(config), "environment": environment()}
        (folder / "config.json").write_text(json.dumps(header, indent=1, default=str) + "\n")

    def seconds(self) -> float:
        """Seconds since this process began the run."""
        return time.time() - self.start

    def write(self, **values: Any) -> None:
        values = {key: round(v, 5) if isinstance(v, float) else v for key, v in values.items()}
        values["seconds"] = round(self.seconds(), 1)
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        print(json.dumps(values), flush=True)


def save_checkpoint(path: Path, values: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the one before it or this one, never half."""
    temporary = path.with_suffix(".tmp")
    torch.save(values, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this program's own making (tensors and plain values only)."""
    return torch.load(path, map_location="cpu", weights_only=True)
