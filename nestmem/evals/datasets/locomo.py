"""LoCoMo (Maharana et al., ACL 2024, arXiv 2402.17753): questions about the long talk of two friends.

What is asked: facts, dates and inferences from up to 35 sittings between two people, who also share photographs
(their captions are told as "[shares CAPTION]"). What is scored: token F1 of the answer with a reader; without one,
how much of the evidence that the key names stands in the recalled text.

Version: `data/locomo10.json` of github.com/snap-research/LoCoMo at a fixed commit: 10 conversations, 1,986
questions, 1,540 of them in categories 1 to 4. Licence: CC BY-NC 4.0, so for evaluation only; nothing of it is in
this package. The two people are told apart by name, and a question is asked when everything was said, at the time
of the last sitting (the data does not date questions).

Categories in the file, by number: 1 multi-hop, 2 temporal, 3 open-domain, 4 single-hop, 5 adversarial. The headline
is over 1 to 4: `token_f1` and `exact` leave category 5 out. A question of category 5 asks for what was never said, or
said of the other person: it is not answerable, its score is `abstains`, and its trap (`adversarial_answer`) is a
rejected reply. What its entry names as evidence is where the trap was made from, so it has no evidence here;
`adversarial=0` leaves category 5 out of the questions.

An example in the form of the file, in words of our own:

    {"sample_id": "conv-0",
     "conversation": {"speaker_a": "Ada", "speaker_b": "Bo",
                      "session_1_date_time": "1:56 pm on 8 May, 2023",
                      "session_1": [{"speaker": "Ada", "dia_id": "D1:1", "text": "I adopted a ferret, Nimbus."},
                                    {"speaker": "Bo", "dia_id": "D1:2", "text": "Look!",
                                     "blip_caption": "a photo of an oboe"}]},
     "qa": [{"question": "What is Ada's ferret called?", "answer": "Nimbus", "evidence": ["D1:1"], "category": 4},
            {"question": "What is Bo's ferret called?", "adversarial_answer": "Nimbus", "evidence": ["D1:1"],
             "category": 5}]}

    Question(id="conv-0/0", text="What is Ada's ferret called?", kind="single-hop", after=2, answers=("Nimbus",),
             evidence=("D1:1",))
    Question(id="conv-0/1", text="What is Bo's ferret called?", kind="adversarial", after=2, answerable=False,
             rejected=("Nimbus",))
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nestmem.agent import messages
from nestmem.errors import InputError
from nestmem.evals import files
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.files import find

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ADVERSARIAL = 5
CONVERSATIONS = 10
QUESTIONS = 1986
COMMIT = "3eb6f2c585f5e1699204e3c3bdf7adc5c28cb376"
NAMES = ("locomo10.json", "locomo.json")


def parse_evidence(given: Iterable[str]) -> tuple[list[str], int]:
    """The dia_ids that a list of evidence names, and how many of its entries name none.

    >>> parse_evidence(["D8:6; D9:17", "D:11:26", "D3:04", "D"])
    (['D8:6', 'D9:17', 'D11:26', 'D3:4'], 1)
    """
    found: list[str] = []
    malformed = 0
    for entry in given:
        named = re.findall(r"D:?(\d+):(\d+)", entry)
        malformed += not named
        found += [f"D{int(session)}:{int(turn)}" for session, turn in named]
    return list(dict.fromkeys(found)), malformed


def load(folder: Path | None, *, limit: int = 0, adversarial: int = 1) -> Dataset:
    """One stream per conversation. limit: of conversations (0: all). adversarial: 0 leaves category 5 out."""
    if folder is None:
        raise InputError("locomo reads LoCoMo's file; give the folder of the data sets with --data")
    path = find(folder, NAMES, "LoCoMo's JSON, a list of conversations with their questions")
    samples = _samples(path)
    counts: Counter[str] = Counter()
    streams = tuple(
        _stream(sample, f"{path}, {sample.get('sample_id') or f'sample {number}'}", bool(adversarial), counts)
        for number, sample in enumerate(samples[: limit or None])
    )
    said = {
        "without evidence": "without evidence",
        "malformed": "evidence entries that name no turn",
        "unknown": "evidence ids whose turn is not there",
        "category 5": "adversarial questions (adversarial=0)",
    }
    left_out = {text: counts[name] for name, text in said.items() if counts[name]}
    return Dataset(
        streams=streams, source=path.name, left_out=left_out, notes=_notes(samples, streams, counts)
    )


def _samples(path: Path) -> list[dict[str, Any]]:
    try:
        samples = json.loads(files.text(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected LoCoMo's list of samples") from error
    good = isinstance(samples, list) and bool(samples)
    if not good or not all(isinstance(s, dict) and {"qa", "conversation"} <= set(s) for s in samples):
        raise InputError(
            f"{path} is not LoCoMo's JSON; expected a list of samples, each with 'conversation' and 'qa'"
        )
    return samples


def _stream(sample: Mapping[str, Any], where: str, adversarial: bool, counts: Counter[str]) -> Stream:
    turns = _turns(sample, where)
    if not isinstance(sample["qa"], list):
        raise InputError(f"{where}: 'qa' is {type(sample['qa']).__name__}; expected a list of questions")
    known = {turn.id for turn in turns}
    asked = [
        _question(item, f"{sample.get('sample_id', '')}/{number}", turns, known, where, counts)
        for number, item in enumerate(sample["qa"])
    ]
    kept = [question for question in asked if adversarial or question.kind != CATEGORIES[ADVERSARIAL]]
    counts["category 5"] += len(asked) - len(kept)
    repeated = Counter(question.text.strip().casefold() for question in kept)
    counts["repeated"] += sum(count - 1 for count in repeated.values())
    return Stream(id=str(sample.get("sample_id", "")), turns=tuple(turns), questions=tuple(kept))


def _turns(sample: Mapping[str, Any], where: str) -> list[Turn]:
    try:
        sessions = messages.parse([dict(sample)])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    turns = []
    for session in sessions:
        for message in session.messages:
            if "dia_id" not in message.meta:
                raise InputError(f"{where}, {session.id}: a turn of {message.name} has no 'dia_id'")
            turns.append(
                Turn(
                    id=str(message.meta["dia_id"]),
                    session=session.id,
                    role="user",
                    text=message.content,
                    at=message.occurred_at,
                    speaker=message.name,
                    group=True,
                )
            )
    return turns


def _question(
    item: Any, id_: str, turns: list[Turn], known: set[str], where: str, counts: Counter[str]
) -> Question:
    if not isinstance(item, dict) or not isinstance(item.get("question"), str):
        raise InputError(f"{where}, question {id_}: has no text 'question'")
    category = item.get("category")
    if category not in CATEGORIES:
        raise InputError(f"{where}, question {id_}: category is {category!r}; it is a number from 1 to 5")
    trap = category == ADVERSARIAL
    answers, rejected = _answers(item, category)
    counts["with an answer"] += trap and "answer" in item
    counts["without an answer"] += not trap and not answers
    entries = item.get("evidence") or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"{where}, question {id_}: evidence is {entries!r}; expected a list of dia_ids")
    named, malformed = parse_evidence(entries)
    counts["irregular"] += sum(not re.fullmatch(r"D[1-9]\d*:[1-9]\d*", entry) for entry in entries)
    evidence = tuple(dia_id for dia_id in named if dia_id in known)
    counts["malformed"] += malformed
    counts["unknown"] += len(named) - len(evidence)
    counts["without evidence"] += not trap and not evidence
    return Question(
        id=id_,
        text=item["question"],
        kind=CATEGORIES[category],
        after=len(turns),
        at=turns[-1].at,
        answers=answers,
        answerable=not trap,
        evidence=() if trap else evidence,
        rejected=rejected,
    )


def _answers(item: Mapping[str, Any], category: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(accepted, rejected). An answer may be a number in the file. In open-domain answers the part before the
    first semicolon is the answer and the rest its reason, and upstream scores against that part: both are
    accepted."""
    if category == ADVERSARIAL:
        given = str(item.get("adversarial_answer", "")).strip()
        return (), (given,) if given else ()
    whole = str(item.get("answer", "")).strip()
    parts = [whole.split(";")[0].strip(), whole] if category == 3 else [whole]
    return tuple(dict.fromkeys(part for part in parts if part)), ()


def _notes(
    samples: list[dict[str, Any]], streams: tuple[Stream, ...], counts: Counter[str]
) -> tuple[str, ...]:
    asked = sum(len(sample["qa"]) for sample in samples[: len(streams)])
    notes = []
    if len(streams) < CONVERSATIONS:
        notes.append(
            f"{len(streams)} of the {CONVERSATIONS} published conversations, with {asked} of {QUESTIONS:,} questions"
        )
    said = {
        "irregular": "evidence entries that are not written as one dia_id (several in one, zeros, colons)",
        "malformed": "evidence entries that name no turn at all",
        "unknown": "evidence ids whose turn is not there",
        "without evidence": "questions of categories 1 to 4 without usable evidence (only their answers are scored)",
        "without an answer": "questions of categories 1 to 4 without an answer",
        "with an answer": "questions of category 5 with an ordinary answer, which upstream's scoring does not use "
        "(they count as not answerable)",
        "repeated": "questions that stand twice in their conversation (both are asked)",
    }
    return tuple(
        notes + [f"in the key: {text}: {counts[name]}" for name, text in said.items() if counts[name]]
    )


TASK = Task(
    name="locomo",
    version="locomo/1",
    title="LoCoMo, questions about a long talk of two friends",
    paper="arXiv 2402.17753",
    source=f"github.com/snap-research/LoCoMo, data/locomo10.json at {COMMIT[:12]}",
    licence=Licence(name="CC BY-NC 4.0", redistribution="no"),
    load=load,
    scorers=(
        "token_f1",
        "exact",
        "contains",
        "abstains",
        "stale",
        "judged",
        "evidence_all",
        "evidence_share",
        "answer_in_context",
        "session_any@5",
        "session_all@5",
        "session_any@10",
        "session_all@10",
        "turn_any@5",
        "turn_all@5",
        "turn_any@10",
        "turn_all@10",
        "mrr",
    ),
    without_reader="evidence_all",
    folder="locomo",
    options={"limit": 0, "adversarial": 1},
    fetch=(
        Part(
            file="locomo10.json",
            url=f"https://raw.githubusercontent.com/snap-research/LoCoMo/{COMMIT}/data/locomo10.json",
            bytes=2_805_274,
            sha256="79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4",
        ),
    ),
    known_errors=(
        "Category 1 is multi-hop and category 4 single-hop; many repositories give them the other way round.",
        "About 99 of the 1,540 answers of categories 1 to 4 are reported to be wrong, a ceiling of 93 to 94 % "
        "(github.com/MemPalace issue 29, locomo issue 23; reported by others, not verified here).",
        "Malformed evidence ('D', 'D:11:26', 'D8:6; D9:17') and evidence that names missing turns: counted in the "
        "notes of each run.",
        "Category 5 questions with an ordinary 'answer', and repeated questions: counted in the notes of each run.",
    ),
)
