"""What a recorded result says about the run it came from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import nestmem


def environment() -> dict[str, Any]:
    """Commit of the source tree (None when installed without one), machine and versions."""
    here = Path(nestmem.__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    torch = sys.modules.get("torch")
    return {
        "nestmem": nestmem.__version__,
        "commit": commit,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "torch": torch.__version__ if torch else None,
        "numpy": metadata.version("numpy"),
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes the whole record or nothing. Numbers that do not exist (nan) become null."""
    text = json.dumps(plain(record), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def plain(value: Any) -> Any:
    """A value as JSON holds it: keys as text, sequences as lists, numbers to six places, nan as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if value == value and abs(value) != float("inf") else None
    return value


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
