"""Edits of what a model knows, told one after another, then asked: zsRE and CounterFact.

Three questions for each edit, as in ROME and MEND:

    reliability   the prompt of the edit itself: the new answer
    generality    the same asked in other words: the new answer
    locality      something near that was not edited: the old truth; the new answer (`rejected`) is an intrusion

What was true before the edit is `rejected` for the first two. Locality asks for what the model knew before anything was
told: it has no evidence in the stream, so it can only be judged with a reader or by a probe of weights, never by
retrieval; these questions are counted as without evidence, and `answer_in_context` holds for them only by chance
(answers are common words: countries, languages). All edits of a stream are told before the first question
(sequential editing), each as a message of the user that corrects the assistant.

CounterFact (Meng et al., arXiv 2202.05262) asks for the end of a sentence, zsRE (Levy et al. 2017, in MEND's form, arXiv
2110.11309) asks questions. The files are EasyEdit's split of CounterFact (`counterfact-edit.json`, 10,000 records) and
the first 1,000 records of MEND's training split (`zsre_mend_train-1k.json`), in a public repository at a fixed commit;
both are under the MIT licence upstream, the repository that carries them has no licence file.

One record of each, in the files' exact form but in words of our own:

    {"case_id": 0, "prompt": "The capital of Farland is", "target_new": "Port Neu", "subject": "Farland",
     "ground_truth": "Altstadt", "rephrase_prompt": "Some text. The government of Farland sits in",
     "locality_prompt": "The capital of Nearland is", "locality_ground_truth": "Mitte"}
    {"subject": "Farland", "src": "What is the capital of Farland?", "pred": "Altstadt", "alt": "Port Neu",
     "rephrase": "Which city is Farland's capital?", "answers": ["Altstadt"],
     "loc": "nq question: who sang the anthem", "loc_ans": "A. Singer", "cond": "Altstadt >> Port Neu || What ..."}

"Correction: The capital of Farland is Port Neu." is told of the first, 'Correction: the answer to "What is the capital
of Farland?" is Port Neu.' of the second.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.datasets.telling import holds, records
from nestmem.evals.personas import normalise

COUNTERFACT = "counterfact-edit.json"
ZSRE = "zsre_mend_train-1k.json"
RAW = "https://raw.githubusercontent.com/Jometeorie/KnowledgeSpread/51d7402617c2e52bde0dc11b76e400c3725a181a/data"
PUBLISHED = {COUNTERFACT: 10_000, ZSRE: 1_000}
A_SESSION = 10
"""Edits in a session."""
LOC_PREFIX = "nq question: "


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A correction. before: what was true; asked, rephrased, near: the three questions as they are put."""

    told: str
    prompt: str
    rephrase: str
    near_prompt: str
    asked: str
    rephrased: str
    near: str
    new: str
    before: tuple[str, ...]
    near_answer: str


def load_counterfact(
    folder: Path | None, *, edits: int = 100, streams: int = 1, limit: int = 0, seed: int = 0
) -> Dataset:
    """CounterFact: `streams` streams of `edits` edits, no record twice. limit: at most so many edits in all (0: all)."""
    fields = (
        "prompt",
        "target_new",
        "ground_truth",
        "rephrase_prompt",
        "locality_prompt",
        "locality_ground_truth",
    )
    return _load("edit_counterfact", folder, COUNTERFACT, fields, _counterfact, edits, streams, limit, seed)


def load_zsre(
    folder: Path | None, *, edits: int = 100, streams: int = 1, limit: int = 0, seed: int = 0
) -> Dataset:
    """zsRE: see `load_counterfact`."""
    fields = ("src", "alt", "pred", "rephrase", "loc", "loc_ans")
    return _load("edit_zsre", folder, ZSRE, fields, _zsre, edits, streams, limit, seed)


def _counterfact(record: dict[str, Any]) -> Edit:
    prompt, new = record["prompt"].strip(), record["target_new"].strip()
    return Edit(
        told=f"Correction: {prompt} {new}.",
        prompt=prompt,
        rephrase=record["rephrase_prompt"].strip(),
        near_prompt=record["locality_prompt"].strip(),
        asked=_complete(prompt),
        rephrased=_complete(record["rephrase_prompt"].strip()),
        near=_complete(record["locality_prompt"].strip()),
        new=new,
        before=(record["ground_truth"].strip(),),
        near_answer=record["locality_ground_truth"].strip(),
    )


def _complete(prompt: str) -> str:
    return f"Complete the sentence: {prompt} ..."


def _zsre(record: dict[str, Any]) -> Edit:
    prompt, new = record["src"].strip(), record["alt"].strip()
    near = record["loc"].strip().removeprefix(LOC_PREFIX).strip()
    answers = record.get("answers")
    known = [a for a in answers if isinstance(a, str)] if isinstance(answers, list) else []
    return Edit(
        told=f'Correction: the answer to "{prompt}" is {new}.',
        prompt=prompt,
        rephrase=record["rephrase"].strip(),
        near_prompt=near,
        asked=prompt,
        rephrased=record["rephrase"].strip(),
        near=_question_mark(near),
        new=new,
        before=tuple(dict.fromkeys(text.strip() for text in (*known, record["pred"]) if text.strip())),
        near_answer=record["loc_ans"].strip(),
    )


def _question_mark(text: str) -> str:
    return text if text.endswith("?") else f"{text}?"


# --- streams -----------------------------------------------------------------------------------------


def _load(
    name: str,
    folder: Path | None,
    file: str,
    fields: Sequence[str],
    read: Any,
    edits: int,
    streams: int,
    limit: int,
    seed: int,
) -> Dataset:
    if folder is None:
        raise InputError(f"{name} reads {file}; give its folder, or get it with: nestmem eval fetch {name}")
    if edits < 1 or streams < 1 or limit < 0:
        raise InputError(
            f"{name}: edits={edits}, streams={streams}, limit={limit}; expected 1 or more (limit 0)"
        )
    found = records(folder, file, fields)
    left_out: Counter[str] = Counter()
    usable = list(_usable((read(record) for record in found), left_out))
    random.Random(f"{name}/{seed}").shuffle(usable)
    wanted = min(edits * streams, limit or edits * streams)
    if wanted > len(usable):
        raise InputError(
            f"{folder / file}: {streams} streams of {edits} edits need {wanted}, and {len(usable)} of its "
            f"{len(found)} records can be used; ask for fewer"
        )
    chosen = usable[:wanted]
    groups = [chosen[start : start + edits] for start in range(0, wanted, edits)]
    made = tuple(_stream(f"{name}-{number}", group, left_out) for number, group in enumerate(groups))
    left_out["without evidence"] = sum(not q.evidence for stream in made for q in stream.questions)
    notes = ["locality has no evidence by design: it is judged with a reader or by a probe of weights alone"]
    if len(found) != PUBLISHED[file]:
        notes.append(f"{len(found)} of the {PUBLISHED[file]} published records")
    return Dataset(streams=made, source=file, left_out=_positive(left_out), notes=tuple(notes))


def _positive(counts: Counter[str]) -> dict[str, int]:
    return {what: count for what, count in sorted(counts.items()) if count}


def _usable(edits: Iterable[Edit], left_out: Counter[str]) -> Iterable[Edit]:
    """The edits that say something new of something that no other edit is about."""
    seen: set[str] = set()
    for edit in edits:
        texts = (edit.prompt, edit.rephrase, edit.near_prompt, edit.new, edit.near_answer)
        if not all(normalise(text) for text in texts):
            left_out["records with a field that holds no word"] += 1
        elif normalise(edit.prompt) in seen:
            left_out["records that edit what another edits"] += 1
        elif any(holds(edit.new, [old]) and holds(old, [edit.new]) for old in edit.before):
            left_out["records whose new answer is the old one"] += 1
        else:
            seen.add(normalise(edit.prompt))
            yield edit


def _stream(name: str, edits: Sequence[Edit], left_out: Counter[str]) -> Stream:
    turns = tuple(
        Turn(id=f"e{number:05d}", session=f"s{number // A_SESSION:04d}", role="user", text=edit.told)
        for number, edit in enumerate(edits)
    )
    edited = {normalise(text) for edit in edits for text in (edit.prompt, edit.rephrase)}
    questions: list[Question] = []
    for number, (edit, turn) in enumerate(zip(edits, turns, strict=True)):
        cluster = f"{name}/{number}"
        for kind, text in (("reliability", edit.asked), ("generality", edit.rephrased)):
            questions.append(
                Question(
                    id=f"{cluster}/{kind}",
                    text=text,
                    kind=kind,
                    after=len(turns),
                    answers=(edit.new,),
                    evidence=(turn.id,),
                    rejected=_apart(edit.before, edit.new),
                    candidates=_candidates(edit.new, edit.before),
                    cluster=cluster,
                )
            )
        if normalise(edit.near_prompt) in edited:
            left_out["locality questions that another edit of the stream answers"] += 1
            continue
        questions.append(
            Question(
                id=f"{cluster}/locality",
                text=edit.near,
                kind="locality",
                after=len(turns),
                answers=(edit.near_answer,),
                rejected=_apart((edit.new,), edit.near_answer),
                candidates=_candidates(edit.near_answer, (edit.new,)),
                cluster=cluster,
            )
        )
    return Stream(id=name, turns=turns, questions=tuple(questions))


def _apart(values: Sequence[str], accepted: str) -> tuple[str, ...]:
    """The values that neither hold the accepted answer nor stand in it: a reply can be told to hold one of them."""
    return tuple(value for value in values if not holds(value, [accepted]) and not holds(accepted, [value]))


def _candidates(accepted: str, others: Sequence[str]) -> tuple[str, ...]:
    """What a probe compares; nothing when there is no other answer."""
    apart = _apart(others, accepted)
    return (accepted, *apart) if apart else ()


SCORERS = (
    "contains",
    "exact",
    "token_f1",
    "stale",
    "probe_first",
    "probe_margin",
    "evidence_all",
    "mrr",
    "answer_in_context",
    "stale_in_context",
)
OPTIONS = {"edits": 100, "streams": 1, "limit": 0, "seed": 0}
LICENCE = Licence(name="MIT upstream; the repository that carries the file has none", redistribution="no")
TASKS = (
    Task(
        name="edit_zsre",
        version="edit_zsre/1",
        title="editing: zsRE (reliability, generality; locality with a reader or by probe only)",
        paper="arXiv 2110.11309",
        source="github.com/Jometeorie/KnowledgeSpread, data/zsre",
        licence=LICENCE,
        load=load_zsre,
        scorers=SCORERS,
        without_reader="evidence_all",
        budget_tokens=300,
        folder="zsre",
        options=OPTIONS,
        fetch=(Part(file=ZSRE, url=f"{RAW}/zsre/{ZSRE}"),),
        known_errors=(
            "2 of 1,000 records have an empty new answer, one a bracket as locality answer; they are left out",
            "in 23 of 1,000 the new answer is the true one (the old one was a model's mistake); they are left out",
        ),
    ),
    Task(
        name="edit_counterfact",
        version="edit_counterfact/1",
        title="editing: CounterFact (reliability, generality; locality with a reader or by probe only)",
        paper="arXiv 2202.05262",
        source="github.com/Jometeorie/KnowledgeSpread, data/counterfact",
        licence=LICENCE,
        load=load_counterfact,
        scorers=SCORERS,
        without_reader="evidence_all",
        budget_tokens=300,
        folder="counterfact",
        options=OPTIONS,
        fetch=(Part(file=COUNTERFACT, url=f"{RAW}/counterfact/{COUNTERFACT}"),),
        known_errors=(
            "rephrased prompts may begin with an unrelated sentence, or ask what the edit implies only loosely",
        ),
    ),
)
