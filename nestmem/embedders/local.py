"""An embedder from a sentence-transformers folder on this machine."""

import hashlib
from pathlib import Path

from nestmem.embedders.bert import BertEmbedder
from nestmem.errors import EmbedderError

NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
_POOLING = "1_Pooling/config.json"


def load(folder: Path, *, device: str = "cpu") -> BertEmbedder:
    """The encoder in `folder`. Its name holds a digest of the weights, so that other weights in the
    same folder are another embedder. EmbedderError when a file is missing or the pooling is not the mean."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise EmbedderError(
            f"{folder} lacks {', '.join(missing)}; expected a sentence-transformers folder with "
            f"{', '.join(NEEDED)} (model.save(folder) writes one)"
        )
    pooling = folder / _POOLING
    if pooling.is_file() and '"pooling_mode_mean_tokens": true' not in pooling.read_text(encoding="utf-8"):
        raise EmbedderError(
            f"{pooling} asks for a pooling other than the mean, which is the only one read here"
        )
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return BertEmbedder(folder, name=f"{folder.name}@{digest[:12]}", device=device)
