"""Recall: what of a user's history is worth its tokens for a question. No language model is asked.

Every passage gets one score, the weighted sum of arms that each lie between 0 and about 1:

    turn     BM25 of the passage's own words (porter stems, stop list)
    window   BM25 of the passage with two neighbours on either side: an answer seldom repeats the question
    segment  BM25 of the stretch of the session it stands in
    speaker  1 when the question names who said it ("I" and "my" name the user)
    meaning  cosine with the question (names left out), and its mean over the window; with an embedder
    time     the question asks when and the passage says when; the question names a date near it

A memory's question is another wording of its passage: the better of the two counts.

The passage of a memory that answers have rested on is raised by how near the memory is (strength.py), by at most
the factor `1 + Weights.strength`, and never over the best that holds every word of the question: what is unused
needs more of a cue, and with the cue it is found. Without any use, and in a look into the past, nothing is raised.

Passages are taken best first until the budget is full and shown in the order they were said. A history that fits
the budget is returned whole. docs/decisions/002-recall.md has the measurements behind the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from nestmem.agent import dates, strength
from nestmem.agent.types import Embedder
from nestmem.errors import EmbedderChanged, EmbedderError, InputError, LedgerLocked
from nestmem.store import Event, Ledger, MemoryRecord, Scope, ranking
from nestmem.store.passages import words
from nestmem.store.search import PassageTable
from nestmem.store.sqlite import holds

CHARS_PER_TOKEN = 4
WINDOW_REACH = 2
SEGMENT_PASSAGES = 40
EMBED_BATCH = 256
# People tell things some days after they happened.
LATE_DAYS = 14
# How many of the best passages are read for words of time.
READ_PASSAGES = 120
_FIRST_PERSON = frozenset(("i", "me", "my", "mine", "myself", "we", "our", "us"))
_SECOND_PERSON = frozenset(("you", "your", "yours"))
_ROLES = {"user": _FIRST_PERSON, "assistant": _SECOND_PERSON}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How much each arm counts; `strength` is no arm but what the strongest memory's passage is raised by."""

    turn: float = 1.0
    window: float = 0.7
    segment: float = 0.3
    speaker: float = 0.8
    meaning: float = 1.3
    meaning_window: float = 0.4
    says_when: float = 0.4
    near_date: float = 0.5
    strength: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Item:
    """One recalled piece of an event, as it is shown.

    score: the sum of the arms (higher is closer; only comparable within one recall). overlap: the share
    of the question's words, weighted by rarity, that the piece holds (0..1). cosine: nearness in meaning,
    None without an embedder. status: "superseded" when a memory read from it no longer holds; `until` says
    since when, and `ended` which characters of the text that memory was read from: the rest of it holds.
    sources: ids of the events it came from.
    """

    id: str
    kind: str
    text: str
    date: datetime
    score: float
    sources: tuple[str, ...]
    speaker: str
    session: str
    span: tuple[int, int]
    overlap: float
    cosine: float | None
    memory_ids: tuple[str, ...] = ()
    status: str = "active"
    until: datetime | None = None
    ended: tuple[tuple[int, int, datetime | None], ...] = ()

    @property
    def holding(self) -> str:
        """The text without what no longer holds; empty when no word of it is left."""
        if self.status == "superseded" and not self.ended:
            return ""
        kept, done = [], 0
        for start, end, _ in self.ended:
            kept.append(self.text[done:start])
            done = end
        rest = "".join([*kept, self.text[done:]]).strip()
        return rest if words(rest) else ""

    @property
    def marked(self) -> str:
        """The text, with a note behind each part of it that no longer holds."""
        if self.status == "superseded" and not self.ended:
            return self.text + _ending(self.until)
        parts, done = [], 0
        for _, end, until in self.ended:
            parts.append(self.text[done:end] + _ending(until))
            done = end
        return "".join([*parts, self.text[done:]])


@dataclass(frozen=True, kw_only=True)
class Context:
    """Recalled text and its pieces in the order they were said. `tokens` is counted as in `count_tokens`.

    whole: nothing was left out. notes: what the reader of the result should know (an arm that was not
    there). trace: with explain=True, how the ranking came about.
    """

    text: str
    items: list[Item]
    tokens: int
    whole: bool = False
    notes: tuple[str, ...] = ()
    trace: dict[str, Any] | None = None


def count_tokens(text: str) -> int:
    """Tokens of a text, estimated as a quarter of its characters, rounded up: the rule of every budget here.

    >>> count_tokens("12345")
    2
    """
    return -(-len(text) // CHARS_PER_TOKEN)


def recall(
    ledger: Ledger,
    embedder: Embedder | None,
    scope: Scope,
    query: str,
    *,
    budget_tokens: int = 2000,
    as_of: datetime | None = None,
    at: datetime | None = None,
    explain: bool = False,
    weights: Weights = Weights(),
) -> Context:
    """What the scope holds about `query`, in at most `budget_tokens`, headers and dates counted.

    as_of: only what had been recorded by then. at: only what had been said by then, and as it was true
    then. Passages without a vector are embedded first (see `embed_missing`).
    """
    if budget_tokens <= 0:
        raise InputError(f"budget_tokens is {budget_tokens}; expected a positive number")
    view = _view(ledger, scope, as_of=as_of, at=at)
    if not len(view):
        return Context(text="", items=[], tokens=0, whole=True, trace={} if explain else None)
    notes: list[str] = []
    question = _question(view, query)
    arms = _lexical_arms(ledger, scope, view, question)
    arms |= _meaning_arms(ledger, scope, view, embedder, question, notes)
    arms["near_date"] = _near_date(view, question, at)
    score_N = np.zeros(len(view))
    for name in sorted(arms.keys() - {"overlap"}):
        score_N += getattr(weights, name) * arms[name]
    arms["says_when"] = _says_when(ledger, scope, view, question, score_N)
    score_N += weights.says_when * arms["says_when"]
    if as_of is None and at is None:
        score_N = _with_strength(ledger, scope, view, score_N, arms, weights.strength)
    order = _best_first(score_N)
    ended = _ended(ledger, scope, view, as_of=as_of, at=at)
    packer = _Packer(view, ended, budget_tokens * CHARS_PER_TOKEN)
    whole = packer.fits_all()
    chosen = list(range(len(view))) if whole else packer.pack(order)
    items = _items(ledger, scope, view, chosen, score_N, arms, ended)
    text = render(items)
    trace = _trace(question, arms, score_N, chosen, order, view) if explain else None
    return Context(
        text=text, items=items, tokens=count_tokens(text), whole=whole, notes=tuple(notes), trace=trace
    )


def embed_missing(ledger: Ledger, embedder: Embedder, scope: Scope) -> int:
    """Embeds the passages that have no vector of this embedder yet and returns how many.

    Recall does this when needed; call it in idle time so that recall does not wait. Vectors of another
    embedder or dimension are left alone: they are simply not those asked for.
    """
    missing = ledger.missing_vectors(scope, embedder.name, embedder.dim)
    for start in range(0, len(missing), EMBED_BATCH):
        part = missing[start : start + EMBED_BATCH]
        matrix = _embed(embedder, [text for _, text in part])
        ledger.add_vectors(scope, [owner for owner, _ in part], embedder.name, matrix)
    return len(missing)


def render(items: Sequence[Item]) -> str:
    """The items as text: a line with the date whenever it changes, then "speaker: text" lines."""
    lines: list[str] = []
    day = ""
    for item in items:
        if _day(item.date) != day:
            day = _day(item.date)
            lines.append(f"[{day}]")
        lines.append(f"{item.speaker}: {item.marked}")
    return "\n".join(lines)


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _ending(until: datetime | None) -> str:
    return "" if until is None else f" (no longer true since {_day(until)})"


# The view: the passages that may be seen, session by session.


@dataclass(frozen=True, kw_only=True)
class _View:
    """Rows of the passage table that this recall may see, those of one session together, in order.

    `rows` are positions in the table; `alias_rows` those of memories' questions, and `alias_of` the
    place in the view that each of them points to. `segment` numbers stretches of a session from 0.
    """

    table: PassageTable
    rows: np.ndarray
    alias_rows: np.ndarray
    alias_of: np.ndarray
    segment: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def spread(self, values_P: np.ndarray) -> np.ndarray:
        """Values of all passages to those of the view; a memory's question lifts its passage to its own value."""
        values_N = values_P[self.rows]
        if len(self.alias_rows):
            np.maximum.at(values_N, self.alias_of, values_P[self.alias_rows])
        return values_N


def _view(ledger: Ledger, scope: Scope, *, as_of: datetime | None, at: datetime | None) -> _View:
    table = ledger.passages(scope)
    rows, aliases = table.event_rows, table.memory_rows
    if as_of is not None or at is not None or scope.session is not None:
        seen = _seen(table, scope.session, as_of=as_of, at=at)
        rows, aliases = rows[seen[rows]], aliases[seen[aliases]]
    out_of_date = {record.id for record in ledger.superseded(scope) if not holds(record, as_of=as_of, at=at)}
    if out_of_date:
        aliases = aliases[[memory_id not in out_of_date for memory_id in table.memory[aliases]]]
    places = _places(table, rows, table.seq[aliases], table.start[aliases])
    return _View(
        table=table,
        rows=rows,
        alias_rows=aliases[places >= 0],
        alias_of=places[places >= 0],
        segment=_segments(table.session[rows]),
    )


def _seen(
    table: PassageTable, session: str | None, *, as_of: datetime | None, at: datetime | None
) -> np.ndarray:
    seen = np.ones(len(table), dtype=bool)
    if as_of is not None:
        seen &= table.recorded <= as_of.timestamp()
    if at is not None:
        seen &= table.when <= at.timestamp()
    if session is not None:
        seen &= table.session == (table.sessions.index(session) if session in table.sessions else -1)
    return seen


def _places(table: PassageTable, rows: np.ndarray, seq_A: np.ndarray, start_A: np.ndarray) -> np.ndarray:
    """For each (event, character) the place in the view of the passage that holds it, -1 when it is not seen."""
    if not len(rows):
        return np.full(len(seq_A), -1)
    key_N = table.seq[rows] * _KEY + table.start[rows]
    order = np.argsort(key_N)
    found = np.searchsorted(key_N[order], seq_A * _KEY + start_A, side="right") - 1
    place_A = order[np.maximum(found, 0)]
    return np.where((found >= 0) & (table.seq[rows[place_A]] == seq_A), place_A, -1)


# Above the length of any event in characters.
_KEY = 1 << 32


def _segments(session_N: np.ndarray) -> np.ndarray:
    """Numbers stretches of at most SEGMENT_PASSAGES passages of one session, from 0."""
    if not len(session_N):
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.r_[True, session_N[1:] != session_N[:-1]])
    lengths = np.diff(np.r_[starts, len(session_N)])
    inside = np.arange(len(session_N)) - np.repeat(starts, lengths)
    fresh = (inside % SEGMENT_PASSAGES) == 0
    return np.cumsum(fresh) - 1


# The question and the arms.


@dataclass(frozen=True, kw_only=True)
class _Question:
    text: str
    terms: list[str]
    speakers: list[int]
    without_names: str
    asks_when: bool


def _question(view: _View, query: str) -> _Question:
    said = words(query)
    names = {word for name in view.table.speakers if name not in _ROLES for word in words(name)}
    speakers = [code for code, name in enumerate(view.table.speakers) if _names(name, set(said))]
    terms = [word for word in dict.fromkeys(said) if word not in ranking.STOP_WORDS and word not in names]
    kept = [
        part for part in query.split() if not set(words(part.removesuffix("'s").removesuffix("’s"))) & names
    ]
    return _Question(
        text=query,
        terms=terms,
        speakers=speakers,
        without_names=" ".join(kept) or query,
        asks_when=dates.asks_when(query),
    )


def _names(speaker: str, said: set[str]) -> bool:
    """Whether the question's words name this speaker, by name or as "I" and "you"."""
    return bool(said & (_ROLES[speaker] if speaker in _ROLES else set(words(speaker))))


def _lexical_arms(ledger: Ledger, scope: Scope, view: _View, question: _Question) -> dict[str, np.ndarray]:
    hits_WP = np.zeros((len(question.terms), len(view.table)), dtype=np.float32)
    for row, found in enumerate(ledger.postings(scope, question.terms)):
        hits_WP[row, found] = 1.0
    hits_WN = np.array([view.spread(hits_P) for hits_P in hits_WP if hits_P.any()], dtype=np.float32)
    hits_WN = hits_WN.reshape(-1, len(view))
    idf_W = ranking.idf(hits_WN)
    lengths_N = view.table.words[view.rows].astype(float)
    windows_N = ranking.window_sum(lengths_N, view.segment, WINDOW_REACH)
    segments = int(view.segment[-1]) + 1
    counts_WS = ranking.segment_sum(hits_WN, view.segment, segments)
    lengths_S = np.bincount(view.segment, lengths_N, minlength=segments)
    segment_S = ranking.bm25(counts_WS, ranking.idf(counts_WS), lengths_S)
    speaker_N = np.isin(view.table.speaker[view.rows], question.speakers).astype(float)
    total = idf_W.sum()
    return {
        "turn": ranking.to_unit(ranking.bm25(hits_WN, idf_W, lengths_N)),
        "window": ranking.to_unit(
            ranking.bm25(ranking.window_sum(hits_WN, view.segment, WINDOW_REACH), idf_W, windows_N)
        ),
        "segment": ranking.to_unit(segment_S)[view.segment],
        "speaker": speaker_N,
        "overlap": (idf_W @ hits_WN) / total if total > 0 else np.zeros(len(view)),
    }


def _meaning_arms(
    ledger: Ledger,
    scope: Scope,
    view: _View,
    embedder: Embedder | None,
    question: _Question,
    notes: list[str],
) -> dict[str, np.ndarray]:
    """Cosines; empty when there is no embedder or it does not answer, which is then in the notes."""
    if embedder is None:
        return {}
    try:
        cosine_P = _cosines(ledger, scope, embedder, question.without_names, len(view.table), notes)
    except EmbedderChanged:
        raise
    except EmbedderError as error:
        notes.append(f"recalled by words alone: {error}")
        return {}
    cosine_N = view.spread(cosine_P)
    around_N = ranking.window_sum(np.ones(len(view)), view.segment, WINDOW_REACH)
    return {
        "meaning": cosine_N,
        "meaning_window": ranking.window_sum(cosine_N, view.segment, WINDOW_REACH) / around_N,
    }


def _cosines(
    ledger: Ledger, scope: Scope, embedder: Embedder, query: str, passages: int, notes: list[str]
) -> np.ndarray:
    """Cosine of the query with every passage of the table; 0 for one that has no vector."""
    positions, matrix = ledger.vectors(scope, embedder.name, embedder.dim)
    if len(positions) < passages:
        if ledger.read_only:
            notes.append(f"{passages - len(positions)} passages have no vector and the ledger is read-only")
        else:
            try:
                embed_missing(ledger, embedder, scope)
            except LedgerLocked as error:
                notes.append(f"new vectors were not stored: {error}")
            positions, matrix = ledger.vectors(scope, embedder.name, embedder.dim)
    [query_D] = _embed(embedder, [query])
    cosine_P = np.zeros(passages)
    cosine_of_rows = matrix @ query_D
    # Another process may have added passages, with vectors, since the table was read.
    known = positions < passages
    cosine_P[positions[known]] = cosine_of_rows[known]
    return cosine_P


def _embed(embedder: Embedder, texts: list[str]) -> np.ndarray:
    matrix = embedder.embed(texts)
    if matrix.shape != (len(texts), embedder.dim):
        raise EmbedderChanged(
            f"embedder {embedder.name!r} gave vectors of shape {matrix.shape} for {len(texts)} texts; it said that "
            f"its dimension is {embedder.dim}. Open the memory again so that its dimension is asked anew"
        )
    return matrix


def _near_date(view: _View, question: _Question, at: datetime | None) -> np.ndarray:
    """1 for passages said on a day that the question names, or at most two weeks later."""
    when_N = view.table.when[view.rows]
    ranges = dates.find(question.text, at or datetime.fromtimestamp(when_N.max(), UTC))
    if not ranges:
        return np.zeros(len(view))
    days, inverse_N = np.unique(np.floor(when_N / 86400), return_inverse=True)
    named = [_names_day(ranges, datetime.fromtimestamp(day * 86400, UTC).date()) for day in days]
    return np.array(named, dtype=float)[inverse_N]


def _names_day(ranges: Sequence[dates.DateRange], day: date) -> bool:
    return any(named.holds(day, late_days=LATE_DAYS) for named in ranges)


def _says_when(
    ledger: Ledger, scope: Scope, view: _View, question: _Question, score_N: np.ndarray
) -> np.ndarray:
    """1 for those of the best passages that hold words of time, when the question asks for one."""
    says_N = np.zeros(len(view))
    if question.asks_when:
        best = _best_first(score_N)[:READ_PASSAGES]
        ids = view.table.ids[view.rows[best]]
        texts = ledger.passage_texts(scope, ids.tolist())
        says_N[best] = [dates.has_time_words(texts.get(int(id_), "")) for id_ in ids]
    return says_N


def _with_strength(
    ledger: Ledger,
    scope: Scope,
    view: _View,
    score_N: np.ndarray,
    arms: dict[str, np.ndarray],
    weight: float,
) -> np.ndarray:
    """Scores raised by how near the memories of each passage are; the same scores when none was ever used.

    Strength is no cue: a passage without a word of the question is raised as far as it is near in meaning, and not
    at all without an embedder. One that does not hold every word of the question (of those that are in the history)
    is not raised over the best that does. The present is the moment of the last message or use.
    """
    uses = ledger.uses(scope)
    memory_ids = view.table.memory[view.alias_rows].tolist() if uses else []
    used = [place for place, memory_id in enumerate(memory_ids) if memory_id in uses]
    if not used:
        return score_N
    found = [uses[memory_ids[place]] for place in used]
    last_U = np.array([use.last_used.timestamp() for use in found])
    present = max(float(view.table.when[view.rows].max()), float(last_U.max()))
    told_U = view.table.when[view.alias_rows[used]]
    activation_U = strength.activation(
        (present - told_U) / strength.DAY_SECONDS,
        (present - last_U) / strength.DAY_SECONDS,
        np.array([use.uses for use in found], dtype=float),
    )
    near_N = np.zeros(len(view))
    np.maximum.at(near_N, view.alias_of[used], strength.nearness(activation_U))
    arms["strength"] = near_N
    cue_N = np.maximum(arms["overlap"] > 0, arms.get("meaning", 0.0))
    raised_N = score_N + weight * near_N * cue_N * np.maximum(score_N, 0.0)
    exact_N = arms["overlap"] > _ALL_WORDS
    if exact_N.any():
        below = np.nextafter(raised_N[exact_N].max(), -np.inf)
        raised_N = np.where(exact_N, raised_N, np.maximum(score_N, np.minimum(raised_N, below)))
    return raised_N


# A share of the question's words that is 1 but for rounding.
_ALL_WORDS = 1 - 1e-6


def _best_first(score_N: np.ndarray) -> np.ndarray:
    """Places by score; of two with the same score the later one first."""
    backwards = np.argsort(-score_N[::-1], kind="stable")
    return len(score_N) - 1 - backwards


# What no longer holds.


def _ended(
    ledger: Ledger, scope: Scope, view: _View, *, as_of: datetime | None, at: datetime | None
) -> dict[int, list[MemoryRecord]]:
    """Place in the view -> the memories read from it that do not hold any more in this view."""
    found: dict[int, list[MemoryRecord]] = {}
    records = [record for record in ledger.superseded(scope) if not holds(record, as_of=as_of, at=at)]
    if not records:
        return found
    wanted = dict.fromkeys(record.event_id for record in records)
    seqs = {event.id: event.seq for event in ledger.events(scope, ids=wanted)}
    records = [record for record in records if record.event_id in seqs]
    seq_A = np.array([seqs[record.event_id] for record in records], dtype=np.int64)
    start_A = np.array([record.span[0] for record in records], dtype=np.int64)
    for record, place in zip(records, _places(view.table, view.rows, seq_A, start_A), strict=True):
        if place >= 0:
            found.setdefault(int(place), []).append(record)
    return found


def _until(records: list[MemoryRecord]) -> datetime | None:
    ends = [record.valid_to for record in records if record.valid_to is not None]
    return max(ends) if ends else None


def _ended_parts(
    records: list[MemoryRecord], text: str, offset: int
) -> tuple[tuple[int, int, datetime | None], ...]:
    """What of a passage, which begins at `offset` of its event, the records were read from: (start, end, until)
    within the passage, in order and apart, each with the punctuation that ends it."""
    parts: list[tuple[int, int, datetime | None]] = []
    for record in sorted(records, key=lambda record: record.span):
        start, end = record.span[0] - offset, min(record.span[1] - offset, len(text))
        while end < len(text) and text[end] in _CLOSING:
            end += 1
        until = record.valid_to
        if parts and start < parts[-1][1]:
            before, before_end, before_until = parts.pop()
            start, end = before, max(before_end, end)
            until = max((u for u in (before_until, until) if u is not None), default=None)
        parts.append((start, end, until))
    return tuple(parts)


_CLOSING = ".!?。！？\"'”’)"


# Packing.


@dataclass
class _Packer:
    """Takes passages until a number of characters is used, counting each as `render` shows it."""

    view: _View
    ended: dict[int, list[MemoryRecord]]
    budget_chars: int
    costs: np.ndarray = field(init=False)
    days: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        table, rows = self.view.table, self.view.rows
        names = np.array([len(name) for name in table.speakers] or [0])
        # "speaker: text\n"
        self.costs = (table.end - table.start)[rows] + names[table.speaker[rows]] + 3
        for place, records in self.ended.items():
            # Parts that overlap share one note: an upper bound.
            self.costs[place] += len({record.span for record in records}) * _ENDING_CHARS
        self.days = np.floor(table.when[rows] / 86400).astype(np.int64)

    def fits_all(self) -> bool:
        """Whether everything together is within the budget."""
        headers = 1 + int((self.days[1:] != self.days[:-1]).sum())
        return int(self.costs.sum()) + headers * _HEADER_CHARS - 1 <= self.budget_chars

    def pack(self, order: np.ndarray) -> list[int]:
        """Places in the order they were said. Each session's day is paid for once, an upper bound when
        sessions of one day stand together."""
        used, least = -1, int(self.costs.min())
        chosen: list[int] = []
        headers: set[tuple[int, int]] = set()
        sessions = self.view.table.session[self.view.rows]
        for place in order:
            header = (int(sessions[place]), int(self.days[place]))
            cost = int(self.costs[place]) + (0 if header in headers else _HEADER_CHARS)
            if used + cost <= self.budget_chars:
                used += cost
                headers.add(header)
                chosen.append(int(place))
            elif self.budget_chars - used < least:
                break
        return sorted(chosen)


_HEADER_CHARS = len("[2026-03-02]\n")
_ENDING_CHARS = len(" (no longer true since 2026-03-02)")


def _items(
    ledger: Ledger,
    scope: Scope,
    view: _View,
    chosen: list[int],
    score_N: np.ndarray,
    arms: dict[str, np.ndarray],
    ended: dict[int, list[MemoryRecord]],
) -> list[Item]:
    table = view.table
    seqs = {int(table.seq[view.rows[place]]) for place in chosen}
    events = {event.seq: event for event in ledger.events(scope, seqs=sorted(seqs))}
    memories: dict[int, list[str]] = {}
    shown = np.isin(view.alias_of, chosen)
    for row, place in zip(view.alias_rows[shown], view.alias_of[shown], strict=True):
        memories.setdefault(int(place), []).append(str(table.memory[row]))
    items = []
    for place in chosen:
        row = view.rows[place]
        event = events.get(int(table.seq[row]))
        # Another process may have forgotten it since the table was read.
        if event is not None:
            span = (int(table.start[row]), int(table.end[row]))
            items.append(
                _item(event, span, place, score_N, arms, memories.get(place, []), ended.get(place, []))
            )
    return items


def _item(
    event: Event,
    span: tuple[int, int],
    place: int,
    score_N: np.ndarray,
    arms: dict[str, np.ndarray],
    memory_ids: list[str],
    ended: list[MemoryRecord],
) -> Item:
    text = event.content[span[0] : span[1]]
    return Item(
        id=event.id,
        kind="event",
        text=text,
        date=event.when,
        score=float(score_N[place]),
        sources=(event.id,),
        speaker=event.speaker,
        session=event.scope.session or "default",
        span=span,
        overlap=float(arms["overlap"][place]),
        cosine=float(arms["meaning"][place]) if "meaning" in arms else None,
        memory_ids=(*memory_ids, *(record.id for record in ended)),
        status="superseded" if ended else "active",
        until=_until(ended),
        ended=_ended_parts(ended, text, span[0]),
    )


def _trace(
    question: _Question,
    arms: dict[str, np.ndarray],
    score_N: np.ndarray,
    chosen: list[int],
    order: np.ndarray,
    view: _View,
) -> dict[str, Any]:
    """How the ranking came about: the words searched for and each arm's part in the best passages."""
    return {
        "terms": question.terms,
        "speakers": [view.table.speakers[code] for code in question.speakers],
        "asks_when": question.asks_when,
        "passages": len(view),
        "chosen": len(chosen),
        "best": [
            {
                "seq": int(view.table.seq[view.rows[place]]),
                "score": round(float(score_N[place]), 4),
                **{name: round(float(values[place]), 4) for name, values in arms.items()},
            }
            for place in order[:20]
        ],
    }
