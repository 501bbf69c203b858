"""Tasks by which sequence models are trained and judged.

`make("mqar", pairs=16)` gives a synthetic task by its name, with options: a frozen value whose `batch(step, size)`
draws training and test batches, and whose `score(logits, batch)` judges them; `judge(task, logits_fn)` runs a
model on all test lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.tasks.base import Batch, Length, LogitsFunction, Task, answer_loss, judge
from nestmem.evals.tasks.formal import LANGUAGES, Formal
from nestmem.evals.tasks.mqar import Mqar
from nestmem.evals.tasks.needle import KINDS, Needle, TextNeedle

__all__ = [
    "SYNTHETIC",
    "Batch",
    "Formal",
    "Length",
    "LogitsFunction",
    "Mqar",
    "Needle",
    "Task",
    "TextNeedle",
    "answer_loss",
    "judge",
    "make",
]

# Name -> what makes the task, with its options as keywords.
SYNTHETIC: dict[str, Callable[..., Task]] = {
    "mqar": Mqar,
    **{language: partial(Formal, language=language) for language in LANGUAGES},
    **{f"needle_{kind}": partial(Needle, kind=kind) for kind in KINDS},
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
        raise InputError(f"{name} does not take these options ({error})") from error
