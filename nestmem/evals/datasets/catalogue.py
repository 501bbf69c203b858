"""The tasks of the judge by name. `nestmem.evals.datasets.base` says what they yield."""

from __future__ import annotations

from nestmem.evals.datasets import (
    beam,
    conflict,
    editing,
    episodic,
    forgetting,
    growing,
    incorporation,
    learning,
    lives,
    locomo,
    longmemeval,
    longrange,
    personamem,
    retrieval,
    sort,
)
from nestmem.evals.datasets.base import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        locomo.TASK,
        *longmemeval.TASKS,
        beam.TASK,
        personamem.TASK,
        *retrieval.TASKS,
        *learning.TASKS,
        longrange.TASK,
        *conflict.TASKS,
        growing.TASK,
        sort.TASK,
        episodic.TASK,
        *editing.TASKS,
        incorporation.TASK,
        *forgetting.TASKS,
        lives.TASK,
    )
}
