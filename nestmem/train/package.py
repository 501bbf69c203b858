"""From a finished run to the folder that ships: half-precision weights, bank settings with fixed-point limits."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from nestmem.adapters.banks import BankedModel
from nestmem.adapters.fast_weights import calibrated_settings
from nestmem.adapters.sites import find_sites
from nestmem.errors import InputError
from nestmem.personas import PersonaGenerator
from nestmem.train.mini_meta import episode

READING_TOKENS = 160
"""Recalled text, in the agent's tokens of four characters, that stage one trains the model to read."""


def package(run: Path, out: Path) -> Path:
    """Write the model of `run` (a folder of `train_mini_meta`) to `out`, with what it was trained by in `training.json`.

    Weights are rounded to float16 and read as float32; the limits of the int16 statistics are set on 64 facts of
    the training split. Raises `InputError` when the run has no model yet.
    """
    folder = run / "model"
    if not (folder / "banks.safetensors").exists():
        raise InputError(
            f"{run} holds no meta-trained model; run `nestmem train mini-meta --out {run}` first"
        )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float16)
    model.config.extractive = True
    model.config.reading_tokens = READING_TOKENS
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    model = model.float().requires_grad_(False)
    tensors = load_file(folder / "banks.safetensors")
    names = [site.name for site in find_sites(model, last=model.config.num_hidden_layers)]
    names = [name for name in names if f"{name}.basis" in tensors]
    bases = [tensors[f"{name}.basis"] for name in names]
    blocks = len(names) // len(find_sites(model, last=1))
    banked = BankedModel(model, rank=bases[0].shape[0], last=blocks, bases=bases)
    made = episode(PersonaGenerator("train"), tokenizer, random.Random(0), users=1, facts=64)
    settings = calibrated_settings(banked, *made.write[0], ridge=tuple(tensors["ridge"].tolist()))
    tensors["key_limit"] = torch.tensor(settings.key_limit)
    tensors["error_limit"] = torch.tensor(settings.error_limit)
    save_file(tensors, out / "banks.safetensors")
    header = json.loads((run / "config.json").read_text())
    config = header["config"]
    for name in ("start", "out"):
        config[name] = Path(config[name]).name
    config["text"] = [Path(path).name for path in config["text"]]
    (out / "training.json").write_text(json.dumps(header, indent=1) + "\n")
    (out / "generation_config.json").unlink(missing_ok=True)
    for file in out.iterdir():
        file.chmod(0o644)
    return out
