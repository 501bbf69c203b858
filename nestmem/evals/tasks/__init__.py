"""Tasks by which sequence models are trained and judged.

`make("mqar", pairs=16)` gives a synthetic task by its name, with options: a frozen value whose `batch(step, size)`
draws training and test batches, and whose `score(logits, batch)` judges them; `judge(task, logits_fn)` runs a
model on all test lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from torch import nn

from nestmem.errors import InputError
from nestmem.evals.tasks.base import Batch, Length, Logits, LogitsFunction, Task, answer_loss, judge
from nestmem.evals.tasks.formal import LANGUAGES, Formal
from nestmem.evals.tasks.mad import (
    AutoEncoder,
    Compression,
    FuzzyRecall,
    Memorization,
    Recall,
    SelectiveCopying,
)
from nestmem.evals.tasks.mqar import Mqar
from nestmem.evals.tasks.needle import KINDS, Needle, TextNeedle

__all__ = [
    "SYNTHETIC",
    "AutoEncoder",
    "Batch",
    "Compression",
    "Formal",
    "FuzzyRecall",
    "Length",
    "Logits",
    "LogitsFunction",
    "Memorization",
    "Mqar",
    "Needle",
    "Recall",
    "SelectiveCopying",
    "Task",
    "TextNeedle",
    "answer_loss",
    "judge",
    "make",
    "reader",
]

# Name -> what makes the task, with its options as keywords.
SYNTHETIC: dict[str, Callable[..., Task]] = {
    "mqar": Mqar,
    **{language: partial(Formal, language=language) for language in LANGUAGES},
    **{f"needle_{kind}": partial(Needle, kind=kind) for kind in KINDS},
    "mad_recall": Recall,
    "mad_noisy_recall": partial(Recall, vocab_size=32, noise=0.2, noise_vocab=16),
    "mad_fuzzy_recall": FuzzyRecall,
    "mad_copying": SelectiveCopying,
    "mad_compression": Compression,
    "mad_memorization": Memorization,
}


def make(name: str, **options: Any) -> Task:
    """The synthetic task of that name; options are the fields of its class.

    >>> make("parity", lengths=(2, 20)).train_length
    (2, 20)
    """
    if name not in SYNTHETIC:
        raise InputError(f"no task is called {name!r}; expected one of {', '.join(SYNTHETIC)}")
    try:
        return SYNTHETIC[name](**options)
    except TypeError as error:
        made = SYNTHETIC[name]
        kind: Any = made.func if isinstance(made, partial) else made
        known = ", ".join(f.name for f in fields(kind))
        raise InputError(f"{name} does not take these options ({error}); it has {known}") from error


def reader(task: Task, model: nn.Module) -> nn.Module:
    """The module input_ids [B, T] -> logits [B, T, V] by which a model is trained and judged on a task.

    Its parameters are the model's, and for compression those of a decoder besides. The training loss:
    `cross_entropy(reader(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())`, which skips labels of -100.
    """
    return AutoEncoder(task, model) if isinstance(task, Compression) else Logits(model)
