"""Banks as a PEFT LoRA folder and back: lora_A = the frozen basis A, lora_B = the bank B, scale 1."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from nestmem.adapters.banks import BankedModel
from nestmem.errors import InputError

PREFIX = "base_model.model."


def export_peft(banked: BankedModel, banks: list[Tensor], folder: Path, *, base_name: str) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` that `peft.PeftModel.from_pretrained` loads.

    `banks` (O, R) per site. The LoRA adds exactly what the banks add: alpha = r for every site.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranks = {site.name: basis.shape[0] for site, basis in zip(banked.sites, banked.bases, strict=True)}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": isinstance(banked.sites[0].module, Conv1D),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {}
    for site, basis, bank in zip(banked.sites, banked.bases, banks, strict=True):
        tensors[f"{PREFIX}{site.name}.lora_A.weight"] = basis.contiguous().cpu()
        tensors[f"{PREFIX}{site.name}.lora_B.weight"] = bank.contiguous().cpu()
    save_file(tensors, folder / "adapter_model.safetensors")


def import_peft(banked: BankedModel, folder: Path, *, tolerance: float = 1e-3) -> list[Tensor]:
    """Banks (O, R) that add what the LoRA in `folder` adds.

    Its lora_A must lie in the span of this model's bases: the part outside, relative in Frobenius norm, may be at
    most `tolerance`. Raises `InputError` otherwise, and for sites the model does not have.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).exists():
            raise InputError(f"{folder} is no PEFT LoRA folder: {name} is missing")
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {name[len(PREFIX) :].rsplit(".lora_", 1)[0] for name in tensors}
    unknown = found - {site.name for site in banked.sites}
    if unknown:
        raise InputError(
            f"the LoRA in {folder} has layers without banks here: {', '.join(sorted(unknown)[:3])} ..."
        )
    banks = []
    for site, basis in zip(banked.sites, banked.bases, strict=True):
        if site.name not in found:
            banks.append(basis.new_zeros(site.d_out, basis.shape[0]))
            continue
        lora_a = tensors[f"{PREFIX}{site.name}.lora_A.weight"].to(basis)
        lora_b = tensors[f"{PREFIX}{site.name}.lora_B.weight"].to(basis)
        rank = lora_a.shape[0]
        alpha = config.get("alpha_pattern", {}).get(site.name, config["lora_alpha"])
        inside = torch.linalg.lstsq(basis.T.double(), lora_a.T.double()).solution.T.to(basis)
        outside = float((inside @ basis - lora_a).norm() / lora_a.norm().clamp(min=1e-12))
        if outside > tolerance:
            raise InputError(
                f"the LoRA in {folder} cannot be held at {site.name}: {outside:.1%} of its lora_A lies outside this "
                f"model's basis of rank {basis.shape[0]} (at most {tolerance:.1%}); export it from the same model"
            )
        banks.append(alpha / rank * lora_b @ inside)
    return banks
