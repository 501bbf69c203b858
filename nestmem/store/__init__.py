"""The ledger: one SQLite file. Never imports torch.

`Ledger` (sqlite.py) is the door; `records.py` says what it holds. Things a caller should know:

- `append` takes `NewEvent`s. `Ledger.new_id(prefix)` makes ids ("ev_...", "me_..."); it and the clock
  are arguments of the ledger.
- Search units are passages (an event, or a piece of a long one; or a memory's question and answer,
  pointing to a span of its event). `passages(scope)` are arrays, `postings(scope, words)` the hits of
  each word, `vectors(scope, model, dim)` a matrix. Neighbour windows and sessions are computed
  from the hits at query time, so there is one word index and an append writes one row of it.
- `memories(as_of=..., at=...)`: see `holds`. `superseded_by` is set beside `supersedes`.
- `forget_plan` says what `forget` will do: also which memories become active again (`restored_ids`)
  and which events are queued anew because a removed memory also rested on them.
- A receipt must not hold the forgotten text.
- What hangs on a memory (its uses, why it is kept out of the weights) goes with it
  in a forget; saved states of the weights and an unfinished sleep go with any forget: see levels.py.
- `pending` includes work that failed; `failed` counts the attempt and keeps it in the queue.
- One transaction for several writes: `with ledger.transaction(): ...`.
"""

from nestmem.store.records import (
    Edge,
    Event,
    ForgetPlan,
    KeptOut,
    MemoryRecord,
    NewEvent,
    Receipt,
    Report,
    Scope,
    SleepRun,
    Use,
    WeightUpdate,
    WeightVersion,
    Work,
    utc_now,
)
from nestmem.store.sqlite import Ledger

__all__ = [
    "Edge",
    "Event",
    "ForgetPlan",
    "KeptOut",
    "Ledger",
    "MemoryRecord",
    "NewEvent",
    "Receipt",
    "Report",
    "Scope",
    "SleepRun",
    "Use",
    "WeightUpdate",
    "WeightVersion",
    "Work",
    "utc_now",
]
