"""Test-time learning: labels that mean nothing by themselves, learned from a few told examples.

In the manner of MemoryAgentBench's multi-class classification (Hu et al., arXiv 2507.05257): utterances are told
with the number of their class ("TEXT -> NUMBER"), and new utterances of the same classes are asked about when all
were told. The numbers are drawn for each stream, so neither a model's knowledge nor another stream gives them away.
No single turn is the evidence: the class has several examples, and any of them may do. Scored is the number; without
a reader, what the closest labelled turns vote for, and which number the weights find most likely of ten.

`learn_clinc`: CLINC150 (Larson et al., EMNLP 2019), github.com/clinc/oos-eval, CC BY 3.0, 150 intents, examples from
its train part and questions from its test part. `learn_banking`: Banking77 (Casanueva et al., arXiv 2003.04807),
github.com/PolyAI-LDN/task-specific-datasets, CC BY 4.0, 77 intents, train and test part likewise.

An example (the utterances are written for this docstring):

>>> told = {"alarm": ["wake me at six", "set an alarm"], "bus": ["when is the next bus", "bus times please"]}
>>> asked = [("alarm", "please wake me at seven")]
>>> stream = label_stream("learn/0", told, asked, labels={"alarm": "417", "bus": "230"}, rng=random.Random(0))
>>> for turn in stream.turns:
...     print(turn.text)
when is the next bus -> 230
wake me at six -> 417
set an alarm -> 417
bus times please -> 230
>>> stream.questions[0].text, stream.questions[0].answers, stream.questions[0].candidates
('Which label has: "please wake me at seven"?', ('417',), ('230', '417'))
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.files import find
from nestmem.evals.files import text as read_text
from nestmem.evals.personas import normalise

NUMBERS = range(100, 1000)
CANDIDATES = 10
SESSION_TURNS = 20
CLINC_COMMIT = "828f8093932c8fe6ca7936c3d2e52903b1c523de"
BANKING_COMMIT = "57ec275d8078af65b7731c2a98be812d844a6d6b"

# Intent -> its utterances.
Labelled = dict[str, list[str]]


def load_clinc(
    folder: Path | None,
    *,
    intents: int = 20,
    shots: int = 5,
    questions: int = 100,
    streams: int = 2,
    seed: int = 0,
) -> Dataset:
    """Streams of CLINC150: `intents` classes with `shots` examples each, then `questions`."""
    path = find(
        _given(folder, "learn_clinc"), ["data_full.json"], "CLINC150's {train, test: [[text, intent]]}"
    )
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}); fetch it again") from error
    parts = []
    for part in ("train", "test"):
        pairs = data.get(part) if isinstance(data, dict) else None
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)
            for pair in pairs
        ):
            raise InputError(
                f"{path} has no list {part!r} of [text, intent]; expected CLINC150's data_full.json"
            )
        parts.append(_by_intent(pairs))
    sizes = {"intents": intents, "shots": shots, "questions": questions, "streams": streams, "seed": seed}
    return _dataset("learn_clinc", path, parts[0], parts[1], published=150, **sizes)


def load_banking(
    folder: Path | None,
    *,
    intents: int = 20,
    shots: int = 5,
    questions: int = 100,
    streams: int = 2,
    seed: int = 0,
) -> Dataset:
    """Streams of Banking77: `intents` classes with `shots` examples each, then `questions`."""
    parts = []
    for part in ("train", "test"):
        path = find(_given(folder, "learn_banking"), [f"{part}.csv"], "Banking77's rows of text,category")
        reader = csv.DictReader(io.StringIO(read_text(path)))
        rows = list(reader)
        if not {"text", "category"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path} starts with {reader.fieldnames}; expected the columns text,category")
        bad = next((n for n, row in enumerate(rows, 1) if not (row["text"] and row["category"])), None)
        if bad is not None:
            raise InputError(f"{path}, row {bad}: the text or the category is empty; fetch it again")
        parts.append(_by_intent([(row["text"], row["category"]) for row in rows]))
    sizes = {"intents": intents, "shots": shots, "questions": questions, "streams": streams, "seed": seed}
    return _dataset(
        "learn_banking", _given(folder, "learn_banking"), parts[0], parts[1], published=77, **sizes
    )


def _given(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise InputError(f"{name} needs the folder of its data; give --data")
    return folder


def _by_intent(pairs: Sequence[Sequence[str]]) -> Labelled:
    """Utterances by intent, each once, in one line."""
    found: Labelled = defaultdict(list)
    seen = set()
    for text, intent in pairs:
        flat = " ".join(text.split())
        if flat and normalise(flat) not in seen:
            seen.add(normalise(flat))
            found[intent].append(flat)
    return dict(found)


def _dataset(
    name: str,
    path: Path,
    train: Labelled,
    test: Labelled,
    *,
    published: int,
    intents: int,
    shots: int,
    questions: int,
    streams: int,
    seed: int,
) -> Dataset:
    """`streams` streams, each with its own intents and its own numbers for them."""
    known = {normalise(text) for texts in train.values() for text in texts}
    asked = {
        intent: [text for text in texts if normalise(text) not in known] for intent, texts in test.items()
    }
    usable = sorted(intent for intent in train if len(train[intent]) >= shots and asked.get(intent))
    if len(usable) < intents or intents < 2 or shots < 1:
        raise InputError(
            f"{path}: {len(usable)} intents have {shots} examples and a question; {name} was asked for {intents} "
            "intents (2 or more) with at least one example"
        )
    made = []
    for number in range(streams):
        rng = random.Random(f"{name}/{seed}/{number}")
        chosen = rng.sample(usable, intents)
        labels = dict(zip(chosen, map(str, rng.sample(NUMBERS, intents)), strict=True))
        told = {intent: rng.sample(train[intent], shots) for intent in chosen}
        pool = [(intent, text) for intent in chosen for text in asked[intent]]
        drawn = rng.sample(pool, min(questions, len(pool)))
        made.append(label_stream(f"{name}/{number}", told, drawn, labels=labels, rng=rng))
    left = {
        "questions that are also told in the train part": sum(map(len, test.values()))
        - sum(map(len, asked.values()))
    }
    notes = (f"{len(train)} of the {published} published intents",) if len(train) != published else ()
    return Dataset(
        streams=tuple(made), source=path.name, left_out={k: v for k, v in left.items() if v}, notes=notes
    )


def label_stream(
    name: str,
    told: Mapping[str, Sequence[str]],
    asked: Sequence[tuple[str, str]],
    *,
    labels: Mapping[str, str],
    rng: random.Random,
) -> Stream:
    """The examples in random order, twenty to a session, then the questions (intent, text)."""
    examples = [(text, labels[intent]) for intent, texts in told.items() for text in texts]
    rng.shuffle(examples)
    turns = tuple(
        Turn(id=f"e{number}", session=f"s{number // SESSION_TURNS}", role="user", text=f"{text} -> {label}")
        for number, (text, label) in enumerate(examples)
    )
    questions = []
    for number, (intent, text) in enumerate(asked):
        others = sorted(set(labels.values()) - {labels[intent]})
        candidates = [labels[intent], *rng.sample(others, min(CANDIDATES - 1, len(others)))]
        questions.append(
            Question(
                id=f"{name}/{number}",
                text=f'Which label has: "{text}"?',
                kind="label",
                after=len(turns),
                answers=(labels[intent],),
                candidates=tuple(sorted(candidates)),
                cluster=f"{name}/{intent}",
            )
        )
    return Stream(id=name, turns=turns, questions=tuple(questions))


SCORERS = ("exact", "contains", "label_vote", "answer_in_context", "probe_first", "probe_margin")
OPTIONS = {"intents": 20, "shots": 5, "questions": 100, "streams": 2, "seed": 0}
CLINC = Task(
    name="learn_clinc",
    version="learn_clinc/1",
    title="test-time learning of labels on CLINC150",
    paper="arXiv 2507.05257",
    source="streams generated by nestmem.evals.datasets.learning from github.com/clinc/oos-eval",
    licence=Licence(name="CC BY 3.0", redistribution="yes"),
    load=load_clinc,
    scorers=SCORERS,
    without_reader="label_vote",
    budget_tokens=300,
    folder="clinc150",
    options=OPTIONS,
    fetch=(
        Part(
            file="data_full.json",
            url=f"https://raw.githubusercontent.com/clinc/oos-eval/{CLINC_COMMIT}/data/data_full.json",
        ),
    ),
)
BANKING = Task(
    name="learn_banking",
    version="learn_banking/1",
    title="test-time learning of labels on Banking77",
    paper="arXiv 2507.05257",
    source="streams generated by nestmem.evals.datasets.learning from github.com/PolyAI-LDN/task-specific-datasets",
    licence=Licence(name="CC BY 4.0", redistribution="yes"),
    load=load_banking,
    scorers=SCORERS,
    without_reader="label_vote",
    budget_tokens=300,
    folder="banking77",
    options=OPTIONS,
    fetch=tuple(
        Part(
            file=f"{part}.csv",
            url="https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/"
            f"{BANKING_COMMIT}/banking_data/{part}.csv",
        )
        for part in ("train", "test")
    ),
)
TASKS = (CLINC, BANKING)
