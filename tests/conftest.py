"""Settings for the whole test suite."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# One thread per process: the tests share the machine, and sums do not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test reaches the Hugging Face hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Processes that tests start find the package, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
# The user's own settings are not part of a test.
for name in [name for name in os.environ if name.startswith("NESTMEM_")]:
    del os.environ[name]
