"""Settings for the whole test suite."""

import os

# One thread per process: the tests share the machine, and sums do not depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test reaches the Hugging Face hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
