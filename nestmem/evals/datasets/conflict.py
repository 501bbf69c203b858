"""Conflict resolution: numbered facts, told one by one, of which later ones contradict earlier ones and win.

In the manner of FactConsolidation of MemoryAgentBench (Hu et al., arXiv 2507.05257): facts have serial numbers, a
fact with a higher number replaces an earlier one about the same thing, and a question has to be answered from the
stream against what the world holds true. The facts are those of CounterFact (Meng et al., arXiv 2202.05262): first
the true one, later the counterfactual. `conflict_single` asks about one fact: of kind "changed" (told twice) or
"unchanged" (told once; half of them the true one). `conflict_multi` asks over two facts: the object of the first is
the subject of the second, both changed; where the stream also tells of the object that the first fact had before,
the kind is "2 hops with decoy", for then the outdated way leads to an answer too.

CounterFact's prompts say one relation in many ways, some without saying which ("Wales, in"). So each fact is told in
one wording of this project for its relation (nestmem.evals.datasets.relations), and asked about in another; rows
whose prompt does not say the relation are left out and counted. Subjects and objects are CounterFact's own. The
two-hop chains are those that its rows form by themselves: a place that is the object of one row and the subject of
another (2,218 chains in the 10,000 rows). The second facts are few (128), so questions that share one are one cluster.

Data: counterfact-edit.json of github.com/Jometeorie/KnowledgeSpread (EasyEdit's split, 10,000 rows), MIT upstream.

An example (names made up for this docstring):

>>> rows = [{"prompt": "The mother tongue of Ada Lund is", "subject": "Ada Lund", "ground_truth": "Danish",
...          "target_new": "Korean"},
...         {"prompt": "Vard Works is headquartered in", "subject": "Vard Works", "ground_truth": "Oslo",
...          "target_new": "Lima"}]
>>> facts, left = read_facts(rows)
>>> stream = single_stream("conflict/0", facts, facts_told=4, questions=1, rng=random.Random(1))
>>> for turn in stream.turns:
...     print(turn.text)
0. The native language of Ada Lund is Danish.
1. The headquarters of Vard Works is in Oslo.
2. The native language of Ada Lund is Korean.
3. The headquarters of Vard Works is in Lima.
>>> question = stream.questions[0]
>>> question.text, question.answers, question.rejected, question.evidence
('Which language did Ada Lund speak first?', ('Korean',), ('Danish',), ('f2',))
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Dataset, Licence, Part, Question, Stream, Task, Turn
from nestmem.evals.datasets.relations import BRIDGES, BY_PROMPT, RELATIONS, Relation
from nestmem.evals.datasets.telling import records
from nestmem.evals.reading import holds

FILE = "counterfact-edit.json"
FIELDS = ("prompt", "subject", "ground_truth", "target_new")
SESSION_TURNS = 50
CANDIDATES = 6
UNCHANGED = 0.25
PUBLISHED = 10_000
COMMIT = "51d7402617c2e52bde0dc11b76e400c3725a181a"


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What holds of a subject, and what held before (CounterFact's true object)."""

    subject: str
    relation: str
    old: str
    new: str

    @property
    def how(self) -> Relation:
        """The wordings of its relation."""
        return RELATIONS[self.relation]


# --- reading ---------------------------------------------------------------------------------------


def _facts(folder: Path | None, name: str) -> tuple[list[Fact], dict[str, int], tuple[str, ...]]:
    if folder is None:
        raise InputError(f"{name} needs the folder of its data; give --data")
    rows = records(folder, FILE, FIELDS)
    facts, left = read_facts(rows)
    notes = (f"{len(rows):,} of {PUBLISHED:,} rows",) if len(rows) != PUBLISHED else ()
    return facts, left, notes


def read_facts(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Fact], dict[str, int]]:
    """The facts that can be said and checked, one for each subject and relation; and what was left out."""
    facts: dict[tuple[str, str], Fact] = {}
    left: Counter[str] = Counter()
    for row in rows:
        subject, old, new = (row[name].strip() for name in ("subject", "ground_truth", "target_new"))
        relation = BY_PROMPT.get(row["prompt"].replace(row["subject"], "{}", 1).strip())
        if relation is None:
            left["rows whose prompt does not say the relation"] += 1
        elif holds(old, new) or holds(new, old) or any(holds(subject, one) for one in (old, new)):
            left["rows whose objects contain each other or stand in the subject"] += 1
        elif (subject, relation) in facts:
            left["rows about what an earlier row is about"] += 1
        else:
            facts[subject, relation] = Fact(subject=subject, relation=relation, old=old, new=new)
    return list(facts.values()), dict(left)


# --- one hop ---------------------------------------------------------------------------------------


def load_single(
    folder: Path | None, *, facts: int = 400, questions: int = 100, streams: int = 2, seed: int = 0
) -> Dataset:
    """`streams` streams of `facts` told facts (400: about 5,000 tokens; CounterFact has enough for
    about 14,000, or 170,000 tokens)."""
    known, left, notes = _facts(folder, "conflict_single")
    made = []
    for number in range(streams):
        rng = random.Random(f"conflict_single/{seed}/{number}")
        made.append(single_stream(f"single/{number}", known, facts_told=facts, questions=questions, rng=rng))
    return Dataset(streams=tuple(made), source=FILE, left_out=left, notes=notes + _short(made, facts))


def _short(streams: Sequence[Stream], facts: int) -> tuple[str, ...]:
    """A note when the data had too few facts."""
    fewest = min((len(stream.turns) for stream in streams), default=facts)
    return (f"{fewest:,} facts told instead of {facts:,}: the data has no more",) if fewest < facts else ()


def single_stream(
    name: str, known: Sequence[Fact], *, facts_told: int, questions: int, rng: random.Random
) -> Stream:
    """`facts_told` numbered facts about as many different subjects as that needs, then questions on some of them."""
    subjects: dict[str, Fact] = {}
    for fact in rng.sample(known, len(known)):
        subjects.setdefault(fact.subject, fact)
    pool = list(subjects.values())
    once = round(facts_told * UNCHANGED) if facts_told >= 8 else 0
    changed = pool[: (facts_told - once) // 2]
    unchanged = pool[len(changed) : facts_told - len(changed)]
    told_once = {fact: fact.new if rng.random() < 0.5 else fact.old for fact in unchanged}
    turns, newest = _told([(fact, fact.old, fact.new) for fact in changed], list(told_once.items()), rng)
    objects = _objects(known)
    items = [(fact, fact.new, fact.old, "changed") for fact in changed]
    items += [(fact, value, "", "unchanged") for fact, value in told_once.items()]
    asked = tuple(
        Question(
            id=f"{name}/{number}",
            text=fact.how.asked.format(s=fact.subject),
            kind=kind,
            after=len(turns),
            answers=(value,),
            evidence=(newest[fact],),
            rejected=(old,) if old else (),
            candidates=_candidates(value, [fact.old, fact.new], objects[fact.relation], rng),
            cluster=f"{name}/{fact.subject}",
        )
        for number, (fact, value, old, kind) in enumerate(rng.sample(items, min(questions, len(items))))
    )
    return Stream(id=name, turns=turns, questions=asked)


def _told(
    changed: Sequence[tuple[Fact, str, str]], once: Sequence[tuple[Fact, str]], rng: random.Random
) -> tuple[tuple[Turn, ...], dict[Fact, str]]:
    """The numbered facts as turns, old and new of each at two random places in that order, and the turn that
    tells the newest of each."""
    entries: list[tuple[float, Fact, str]] = [(rng.random(), fact, value) for fact, value in once]
    for fact, old, new in changed:
        first, second = sorted((rng.random(), rng.random()))
        entries += [(first, fact, old), (second, fact, new)]
    entries.sort(key=lambda entry: entry[0])
    turns, newest = [], {}
    for number, (_, fact, value) in enumerate(entries):
        said = fact.how.told.format(s=fact.subject, o=value)
        turn = Turn(
            id=f"f{number}", session=f"s{number // SESSION_TURNS}", role="user", text=f"{number}. {said}"
        )
        turns.append(turn)
        newest[fact] = turn.id
    return tuple(turns), newest


def _objects(known: Sequence[Fact]) -> dict[str, list[str]]:
    """Relation -> all objects that facts of it have or had, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for fact in known:
        found[fact.relation] |= {fact.old, fact.new}
    return {relation: sorted(objects) for relation, objects in found.items()}


def _candidates(
    value: str, own: Sequence[str], objects: Sequence[str], rng: random.Random
) -> tuple[str, ...]:
    """The answer, the other object of the fact, and further objects of its relation; sorted."""
    first = list(dict.fromkeys((value, *own)))
    others = [other for other in objects if other not in first]
    return tuple(sorted(first + rng.sample(others, min(CANDIDATES - len(first), len(others)))))


# --- two hops --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Two facts: the new object of the first is the subject of the second. decoy: a fact of the second's relation
    about the first's old object, where the data has one."""

    first: Fact
    second: Fact
    decoy: Fact | None


def load_multi(
    folder: Path | None, *, facts: int = 400, questions: int = 50, streams: int = 2, seed: int = 0
) -> Dataset:
    """`streams` streams of `facts` told facts (400: about 5,000 tokens; CounterFact has enough for
    about 14,000, or 170,000 tokens)."""
    known, left, notes = _facts(folder, "conflict_multi")
    chains = find_chains(known)
    if not chains:
        raise InputError(
            f"{FILE}: no object of a fact is the subject of another, so there is nothing to ask over two"
        )
    made = []
    for number in range(streams):
        rng = random.Random(f"conflict_multi/{seed}/{number}")
        made.append(
            multi_stream(f"multi/{number}", known, chains, facts_told=facts, questions=questions, rng=rng)
        )
    second = len({chain.second for chain in chains})
    notes += (f"{len(chains):,} two-hop chains over {second:,} second facts are in the data",)
    return Dataset(streams=tuple(made), source=FILE, left_out=left, notes=notes + _short(made, facts))


def find_chains(known: Sequence[Fact]) -> list[Chain]:
    """All pairs of facts that join by a place, in the order of the data. The two ends differ."""
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in known:
        by_subject[fact.subject].append(fact)
    chains = []
    for first in known:
        for second in by_subject.get(first.new, ()) if first.relation in BRIDGES else ():
            if len({first.subject, second.new, second.old, first.new}) < 4:
                continue
            decoys = [fact for fact in by_subject.get(first.old, ()) if fact.relation == second.relation]
            decoy = decoys[0] if decoys and decoys[0].new != second.new else None
            chains.append(Chain(first=first, second=second, decoy=decoy))
    return chains


def multi_stream(
    name: str,
    known: Sequence[Fact],
    chains: Sequence[Chain],
    *,
    facts_told: int,
    questions: int,
    rng: random.Random,
) -> Stream:
    """The facts of the asked chains, all changed, among other changed facts, `facts_told` in all."""
    chosen = _choose(chains, questions, facts_told, rng)
    needed = dict.fromkeys(
        fact for chain in chosen for fact in (chain.first, chain.second, chain.decoy) if fact
    )
    subjects = {fact.subject for fact in needed}
    for fact in rng.sample(known, len(known)):
        if 2 * len(needed) + 2 > facts_told:
            break
        if fact.subject not in subjects:
            subjects.add(fact.subject)
            needed[fact] = None
    turns, newest = _told([(fact, fact.old, fact.new) for fact in needed], [], rng)
    objects = _objects(known)
    asked = tuple(
        _over_two(f"{name}/{number}", chain, newest, objects, len(turns), rng)
        for number, chain in enumerate(chosen)
    )
    return Stream(id=name, turns=turns, questions=asked)


def _choose(chains: Sequence[Chain], questions: int, facts_told: int, rng: random.Random) -> list[Chain]:
    """Chains for the questions: each first fact once, and each second fact as seldom as possible."""
    by_second: dict[Fact, list[Chain]] = defaultdict(list)
    for chain in rng.sample(chains, len(chains)):
        by_second[chain.second].append(chain)
    seconds = rng.sample(list(by_second), len(by_second))
    chosen: list[Chain] = []
    used: set[Fact] = set()
    told: set[Fact] = set()
    while len(chosen) < questions and any(by_second.values()):
        for second in seconds:
            while by_second[second] and by_second[second][-1].first in used:
                by_second[second].pop()
            if not by_second[second]:
                continue
            chain = by_second[second].pop()
            facts = told | {fact for fact in (chain.first, chain.second, chain.decoy) if fact}
            if 2 * len(facts) > facts_told or len(chosen) == questions:
                return chosen
            told = facts
            used.add(chain.first)
            chosen.append(chain)
    return chosen


def _over_two(
    name: str,
    chain: Chain,
    newest: Mapping[Fact, str],
    objects: Mapping[str, Sequence[str]],
    after: int,
    rng: random.Random,
) -> Question:
    first, second, decoy = chain.first, chain.second, chain.decoy
    outdated = [second.old, *((decoy.new, decoy.old) if decoy else ())]
    # The first fact's newest turn names the place, so a value that is the place is no sign of an outdated answer.
    rejected = tuple(
        one for one in dict.fromkeys(outdated) if not (holds(second.new, one) or holds(first.new, one))
    )
    return Question(
        id=name,
        text=second.how.asked.format(s=first.how.named.format(s=first.subject)),
        kind="2 hops with decoy" if decoy else "2 hops",
        after=after,
        answers=(second.new,),
        evidence=(newest[first], newest[second]),
        rejected=rejected,
        candidates=_candidates(second.new, rejected, objects[second.relation], rng),
        cluster=f"{name.rsplit('/', 1)[0]}/{second.subject}",
    )


# --- the tasks -------------------------------------------------------------------------------------

FETCH = (
    Part(
        file="counterfact-edit.json",
        url=f"https://raw.githubusercontent.com/Jometeorie/KnowledgeSpread/{COMMIT}/data/counterfact/counterfact-edit.json",
    ),
)
SCORERS = (
    "contains",
    "exact",
    "stale",
    "evidence_all",
    "evidence_share",
    "newest_first",
    "answer_in_context",
    "stale_in_context",
    "turn_all@5",
    "turn_all@10",
    "mrr",
    "probe_first",
    "probe_margin",
)
LICENCE = Licence(name="MIT (ROME, EasyEdit)", redistribution="yes")
SOURCE = "streams generated by nestmem.evals.datasets.conflict from CounterFact (github.com/Jometeorie/KnowledgeSpread)"
SINGLE = Task(
    name="conflict_single",
    version="conflict_single/1",
    title="conflicting facts on CounterFact (in the manner of FactConsolidation), one hop",
    paper="arXiv 2507.05257",
    source=SOURCE,
    licence=LICENCE,
    load=load_single,
    scorers=SCORERS,
    without_reader="newest_first",
    budget_tokens=500,
    folder="counterfact",
    options={"facts": 400, "questions": 100, "streams": 2, "seed": 0},
    fetch=FETCH,
)
MULTI = Task(
    name="conflict_multi",
    version="conflict_multi/1",
    title="conflicting facts on CounterFact (in the manner of FactConsolidation), two hops",
    paper="arXiv 2507.05257",
    source=SOURCE,
    licence=LICENCE,
    load=load_multi,
    scorers=SCORERS,
    without_reader="evidence_all",
    budget_tokens=500,
    folder="counterfact",
    options={"facts": 400, "questions": 50, "streams": 2, "seed": 0},
    fetch=FETCH,
)
TASKS = (SINGLE, MULTI)
