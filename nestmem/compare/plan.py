"""What is compared: suites of tasks, the models that are trained on them, and the budget that all of them get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestmem.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Text:
    """Language modelling on the user's text files, for a suite's task: see the fields of `train.lm.LMConfig`."""

    tokens: int
    context: int = 512
    vocabulary: int = 2048
    packing: str = "pack"
    held_out_share: float = 0.03
    held_out_rows: int = 64


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One comparison.

    about       what it asks
    tasks       synthetic tasks by name, with their options (`nestmem.evals.tasks.make`), or a name with a `Text`, whose
                steps are its tokens
    models      label -> fields of a config beside `sizes`; "preset" names the architecture
    sizes       fields of every config
    parameters  the feed-forward width is chosen to come near so many; 0: as in `sizes`
    steps       of training, and batch, sequences of a step
    rates       learning rates: each is tried with the first seed, and the one that is best on validation data is used
                for the others, so every model has the same tuning
    seeds       of weights and data; the report has the mean and standard error over them
    examples    test sequences of a length
    """

    about: str
    tasks: dict[str, dict[str, Any] | Text]
    models: dict[str, dict[str, Any]]
    sizes: dict[str, Any]
    parameters: int = 0
    steps: int = 1000
    batch: int = 32
    rates: tuple[float, ...] = (1e-3, 3e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    examples: int = 256
    weight_decay: float = 0.01


# For states that flip, a write has to act at every token: chunks of 1, and a memory that is read after its write.
_TRACKING = {
    "self_modifying": {
        "chunk": 1,
        "depth": 1,
        "rate": 0.5,
        "decay": 0.99,
        "read": "token",
        "objective": "square",
    },
    # No period ends within a string, so the levels are MLPs that are not written.
    "continuum": {"periods": [256, None], "objective": "lm", "learn_rate": False},
}
_EVERY: dict[str, dict[str, Any]] = {
    "transformer": {"preset": "transformer"},
    "window": {"preset": "window", "options": {"window": {"window": 32}}},
    "retnet": {"preset": "retnet"},
    "deltanet": {"preset": "deltanet"},
    "gated_deltanet": {"preset": "gated_deltanet"},
    "ttt_linear": {"preset": "ttt_linear"},
    "ttt_mlp": {"preset": "ttt_mlp"},
    "titans_lmm": {"preset": "titans_lmm", "options": {"titans": {"chunk": 16}}},
    "titans_mac": {"preset": "titans_mac", "options": {"titans_mac": {"segment": 32}}},
    "titans_mag": {"preset": "titans_mag", "options": {"titans_mag": {"chunk": 16, "window": 32}}},
    "titans_mal": {"preset": "titans_mal", "options": {"titans_mal": {"chunk": 16, "window": 32}}},
    "hope": {
        "preset": "hope",
        "options": {
            "self_modifying": {"chunk": 16},
            "continuum": {"periods": [32, 128], "objective": "kv"},
        },
    },
    "hope_attention": {
        "preset": "hope_attention",
        "options": {"continuum": {"periods": [32, 128], "objective": "kv"}},
    },
    "ttt_e2e": {
        "preset": "ttt_e2e",
        "options": {"window": {"window": 32, "qk_norm": True}},
        "prime": {"share": 0.5, "period": 32, "rate": 1.0, "clip": 1.0},
    },
    # Two by two, so that two layers are enough for one of attention.
    "hybrid": {
        "preset": "hybrid",
        "pattern": ["titans", "attention"],
        "options": {"titans": {"chunk": 16}},
    },
}

SUITES: dict[str, Suite] = {
    "formal": Suite(
        about="Formal languages (Nested Learning, Table 5): does a model keep a state, at lengths it was not trained on?",
        tasks={"parity": {}, "aa": {}, "abab": {}, "anbn": {}, "anbncn": {}, "shuffle2": {}},
        models={
            "transformer": {"preset": "transformer"},
            "deltanet": {"preset": "deltanet"},
            "deltanet, eigenvalues to -1": {
                "preset": "deltanet",
                "options": {"deltanet": {"negative_eigenvalues": True}},
            },
            # One head: a state lives in the directions of one memory, whose lengths must not drift apart.
            "hope": {"preset": "hope", "num_attention_heads": 1, "options": _TRACKING},
        },
        sizes={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        parameters=16_000,
        steps=1200,
        rates=(5e-3, 1e-2),
    ),
    "recall": Suite(
        about="Associative recall (MQAR) and needles, at training length and past it",
        tasks={
            "mqar": {"vocab_size": 64, "pairs": 6, "length": 64, "lengths": (64, 128, 256)},
            "needle_s2": {"keys": 16, "values": 16, "noise": 30, "length": 64, "lengths": (64, 128, 256)},
        },
        models=_EVERY,
        sizes={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        parameters=120_000,
        steps=600,
        rates=(3e-3,),
    ),
    "text": Suite(
        about="Language modelling on text files (--text), packed by document: loss on held-out documents",
        tasks={"text": Text(tokens=1_200_000)},
        models=_EVERY,
        sizes={"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
        parameters=1_000_000,
        batch=8,
        rates=(3e-3,),
        weight_decay=0.1,
    ),
}

# What `nestmem compare speed` measures: chunks of 64, windows of 128.
SPEED: dict[str, dict[str, Any]] = {
    "transformer": {"preset": "transformer"},
    "window": {"preset": "window"},
    "retnet": {"preset": "retnet"},
    "deltanet": {"preset": "deltanet"},
    "gated_deltanet": {"preset": "gated_deltanet"},
    "ttt_linear": {"preset": "ttt_linear"},
    "ttt_mlp": {"preset": "ttt_mlp"},
    "titans_lmm": {"preset": "titans_lmm"},
    "titans_mac": {"preset": "titans_mac"},
    "titans_mag": {"preset": "titans_mag", "options": {"titans_mag": {"window": 128}}},
    "titans_mal": {"preset": "titans_mal", "options": {"titans_mal": {"window": 128}}},
    "self_modifying": {"preset": "self_modifying"},
    "hope, chunk 64": {
        "preset": "hope",
        "options": {"continuum": {"periods": [64, 256], "objective": "kv"}},
    },
    "hope, chunk 16": {
        "preset": "hope",
        "options": {"self_modifying": {"chunk": 16}, "continuum": {"periods": [64, 256], "objective": "kv"}},
    },
    "hope, lm": {"preset": "hope", "options": {"continuum": {"periods": [64, 256], "objective": "lm"}}},
    "ttt_e2e": {"preset": "ttt_e2e"},
}


def suite(name: str) -> Suite:
    """The suite of that name."""
    if name not in SUITES:
        raise InputError(f"no suite is called {name!r}; there are {', '.join(SUITES)}")
    return SUITES[name]
