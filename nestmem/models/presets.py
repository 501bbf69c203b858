"""Named architectures, and configs of them with a wanted number of parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from nestmem.errors import InputError
from nestmem.models.config import NestmemConfig


class Preset(NamedTuple):
    """What a name stands for: what the config gets beside its sizes, and a line that says what it is."""

    about: str
    config: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "transformer": Preset(
        "Transformer++: softmax attention, rotary positions, SwiGLU", {"pattern": ["attention"]}
    ),
    "window": Preset("Transformer++ with a sliding window of 128 tokens", {"pattern": ["window"]}),
    "retnet": Preset("RetNet: linear attention with fixed decay", {"pattern": ["retention"]}),
    "deltanet": Preset("DeltaNet", {"pattern": ["deltanet"]}),
    "gated_deltanet": Preset("Gated DeltaNet", {"pattern": ["gated_deltanet"]}),
    "ttt_linear": Preset("TTT-Linear", {"pattern": ["ttt_linear"]}),
    "ttt_mlp": Preset("TTT-MLP", {"pattern": ["ttt_mlp"]}),
    "titans_lmm": Preset("Titans: the neural memory alone", {"pattern": ["titans"]}),
    "titans_mac": Preset("Titans: memory as a context of attention", {"pattern": ["titans_mac"]}),
    "titans_mag": Preset("Titans: memory as a gate of windowed attention", {"pattern": ["titans_mag"]}),
    "titans_mal": Preset("Titans: memory as a layer before windowed attention", {"pattern": ["titans_mal"]}),
    "self_modifying": Preset("self-modifying Titans, with SwiGLU", {"pattern": ["self_modifying"]}),
    "hope": Preset(
        "Hope: self-modifying Titans and a continuum memory",
        {"pattern": ["self_modifying"], "feed_forward": "continuum"},
    ),
    "hope_attention": Preset(
        "Hope-Attention: softmax attention and a continuum memory",
        {"pattern": ["attention"], "feed_forward": "continuum"},
    ),
    "ttt_e2e": Preset(
        "TTT-E2E: windowed attention; MLPs of the last quarter learn from the next-token loss",
        {
            "pattern": ["window"],
            "options": {"window": {"qk_norm": True, "theta": 500_000.0}},
            "post_norm": True,
            "prime": {"share": 0.25, "period": 128, "rate": 1.0, "clip": 1.0},
        },
    ),
    "hybrid": Preset(
        "three Titans layers to one of attention", {"pattern": ["titans", "titans", "titans", "attention"]}
    ),
}


def config_for(name: str, **sizes: Any) -> NestmemConfig:
    """The config of a named architecture; `sizes` are any fields of NestmemConfig, and win over the preset's.

    `options` are merged with the preset's, layer by layer.

    >>> config_for("hope", hidden_size=64, vocab_size=100).feed_forward
    'continuum'
    """
    if name not in PRESETS:
        raise InputError(f"no architecture is called {name!r}; there are {', '.join(PRESETS)}")
    known = set(NestmemConfig.__dataclass_fields__)
    strange = sorted(set(sizes) - known)
    if strange:
        raise InputError(f"a config has no {', '.join(strange)}; its fields are {', '.join(sorted(known))}")
    given = dict(PRESETS[name].config)
    options = {kind: dict(each) for kind, each in given.pop("options", {}).items()}
    for kind, each in (sizes.pop("options", None) or {}).items():
        options[kind] = options.get(kind, {}) | each
    return NestmemConfig(**(given | sizes), options=options)


def parameters(config: NestmemConfig) -> int:
    """Parameters of the model of a config, embeddings included, counted without making it."""
    from nestmem.models.model import NestmemForCausalLM

    with torch.device("meta"):
        return NestmemForCausalLM(config).num_parameters()


def matched(name: str, target: int, **sizes: Any) -> NestmemConfig:
    """The named architecture with the feed-forward width that brings it nearest to `target` parameters.

    Width, depth and heads stay as given, so that architectures differ in their layers and not in their shape.
    Raises InputError where the sequence layers alone hold more.
    """

    def at(columns: int) -> int:
        return parameters(config_for(name, **sizes, intermediate_size=columns))

    least = at(8)
    per_column = (at(16) - least) / 8
    if least > target * 1.1 or not per_column:
        raise InputError(
            f"{name} has {least:,} parameters with the narrowest feed-forward layer, and {target:,} are wanted; "
            "make hidden_size or num_hidden_layers smaller"
        )
    columns = max(8, round(8 + (target - least) / per_column))
    return config_for(name, **sizes, intermediate_size=columns)
