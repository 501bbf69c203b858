"""LoCoMo (arXiv 2402.17753): does recall bring the turns that hold the answer, within a token budget?

Each conversation is one user. Its turns go through `Memory.observe` one by one, as they were said, into
a ledger on disk; each question goes through `Memory.recall`. A question of the data set names its
evidence, the turns (dia_ids) that hold the answer; a turn counts as recalled when it stands in the packed
context. Categories 1 to 4 make the headline (5 asks for what was never said). No reader is involved.

Per question: `share` of its evidence that was recalled, and `all` (1 when none is missing). Both are
means over questions, with standard errors clustered by conversation.
"""

import gzip
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestmem import embedders
from nestmem.agent import messages
from nestmem.agent.controller import Memory
from nestmem.agent.recall import Weights, embed_missing
from nestmem.errors import InputError
from nestmem.evals.record import environment, write_json
from nestmem.evals.stats import clustered_mean, percentile
from nestmem.store import Ledger, Scope

VERSION = "locomo-evidence/1"
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
HEADLINE = (1, 2, 3, 4)
BUDGETS = (500, 1000, 2000, 4000)

# Opens a memory on a new file; the evaluation closes it.
MemoryFactory = Callable[[Path, embedders.Embedder | None], Memory]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, its category (1..5), and the dia_ids of its evidence that exist in the conversation."""

    text: str
    category: int
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One sample: its sessions as messages (dia_id in each message's meta) and its questions.

    left_out counts what could not be used: evidence that names no turn ("malformed"), a turn that is
    not there ("unknown"), and questions left without any evidence ("questions").
    """

    id: str
    sessions: tuple[messages.Session, ...]
    questions: tuple[Question, ...]
    left_out: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How much of one question's evidence was recalled within one budget."""

    conversation: str
    category: int
    budget: int
    share: float
    tokens: int
    milliseconds: float

    @property
    def all(self) -> float:
        """1.0 when no evidence is missing."""
        return float(self.share == 1.0)


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


def read(data: Path) -> list[Conversation]:
    """The conversations of a file (JSON, also gzipped) or of the first such file in a folder."""
    path = _file(data)
    raw = path.read_bytes()
    try:
        samples = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is not LoCoMo's JSON ({error}); expected a list of samples") from error
    if not isinstance(samples, list) or not all(isinstance(s, dict) and "qa" in s for s in samples):
        raise InputError(
            f"{path} is not LoCoMo's JSON; expected a list of samples with 'conversation' and 'qa'"
        )
    return [_conversation(sample, path) for sample in samples]


def run(
    data: Path,
    *,
    embedder: str = "auto",
    budgets: Sequence[int] = BUDGETS,
    json_path: Path | None = None,
    progress: bool = True,
    memory_factory: MemoryFactory | None = None,
) -> dict[str, Any]:
    """Evaluates recall on all conversations and returns the whole record, also written to `json_path`.

    embedder: as in `embedders.load`. The ledgers are files in a temporary folder, so the times of observe
    include reaching the disk. Vectors are made after the conversation was told, before the questions.
    """
    conversations = read(Path(data))
    loaded = embedders.load(embedder)
    asked: list[Asked] = []
    observe_ms: list[float] = []
    stored = {"bytes": 0, "text_bytes": 0, "embedding_ms": 0.0}
    with tempfile.TemporaryDirectory(prefix="nestmem-locomo-") as folder:
        for number, conversation in enumerate(conversations, 1):
            file = Path(folder) / f"{number}.db"
            with (memory_factory or _memory)(file, loaded) as memory:
                ids = _tell(memory, conversation, observe_ms, stored)
                asked += _ask(memory, conversation, ids, budgets, stored)
                memory.ledger.scrub()
                stored["bytes"] += memory.ledger.bytes_on_disk()
            if progress:
                done = f"{number}/{len(conversations)} {conversation.id}: {len(conversation.questions)} questions"
                print(done, file=sys.stderr, flush=True)
    record = _record(conversations, asked, observe_ms, stored, budgets, loaded)
    if json_path is not None:
        write_json(Path(json_path), record)
    return record


def render(record: dict[str, Any]) -> str:
    """The record as a table: share / all evidence in percent with standard errors, by budget and category."""
    lines = [
        f"LoCoMo evidence recall, embedder {record['config']['embedder'] or 'none'}, {record['n']['questions']} questions"
    ]
    names = {str(number): name for number, name in CATEGORIES.items()}
    lines.append(f"{'tokens':>6}  {'':22}{'share %':>14}{'all %':>14}{'n':>7}")
    for budget, found in record["evidence"].items():
        lines.append(_row(budget, "categories 1-4", found))
        lines += [_row("", f"  {key} {names[key]}", part) for key, part in found["by_category"].items()]
    latency = record["latency_ms"]
    lines.append(
        f"observe p50 {latency['observe']['p50']:.2f} ms, p95 {latency['observe']['p95']:.2f} ms (durable); "
        f"recall p50 {latency['recall']['p50']:.2f} ms, p95 {latency['recall']['p95']:.2f} ms"
    )
    size = record["stored"]
    lines.append(f"{size['bytes']:,} bytes stored for {size['text_bytes']:,} bytes of text")
    left_out = record["n"]["left_out"]
    lines.append(
        f"left out: {left_out['malformed']} malformed and {left_out['unknown']} unknown evidence ids, "
        f"{left_out['questions']} questions without evidence"
    )
    return "\n".join(lines)


def _row(budget: str, name: str, part: dict[str, Any]) -> str:
    share, every = (f"{100 * part[key]:.1f} ± {100 * part[f'{key}_se']:.1f}" for key in ("share", "all"))
    return f"{budget:>6}  {name:22}{share:>14}{every:>14}{part['n']:>7}"


def _file(data: Path) -> Path:
    if data.is_dir():
        found = sorted([*data.glob("*.json"), *data.glob("*.json.gz")])
        if not found:
            raise InputError(
                f"{data} holds no .json or .json.gz file; expected LoCoMo, for example locomo10.json"
            )
        return found[0]
    if not data.is_file():
        raise InputError(f"{data} does not exist; expected LoCoMo's JSON file or its folder")
    return data


def _conversation(sample: dict[str, Any], path: Path) -> Conversation:
    sessions = tuple(messages.parse([sample]))
    known = {m.meta.get("dia_id") for session in sessions for m in session.messages}
    left_out = {"malformed": 0, "unknown": 0, "questions": 0}
    questions = []
    for number, item in enumerate(sample["qa"]):
        if not isinstance(item, dict) or not isinstance(item.get("question"), str):
            raise InputError(
                f"{path}, sample {sample.get('sample_id')}, question {number}: has no text 'question'"
            )
        named, malformed = parse_evidence(item.get("evidence") or ())
        evidence = tuple(dia_id for dia_id in named if dia_id in known)
        left_out["malformed"] += malformed
        left_out["unknown"] += len(named) - len(evidence)
        if evidence and item.get("category") in CATEGORIES:
            questions.append(Question(text=item["question"], category=item["category"], evidence=evidence))
        else:
            left_out["questions"] += 1
    return Conversation(
        id=str(sample.get("sample_id", "")), sessions=sessions, questions=tuple(questions), left_out=left_out
    )


def _memory(path: Path, embedder: embedders.Embedder | None) -> Memory:
    return Memory(Ledger(path), embedder=embedder)


def _tell(
    memory: Memory, conversation: Conversation, observe_ms: list[float], stored: dict[str, Any]
) -> dict[str, str]:
    """Observes every turn by itself; returns event id -> dia_id."""
    ids: dict[str, str] = {}
    for session in conversation.sessions:
        scope = Scope(user=conversation.id, session=session.id)
        for message in session.messages:
            started = time.perf_counter()
            [event_id] = memory.observe([message], scope, source="import")
            observe_ms.append((time.perf_counter() - started) * 1000)
            ids[event_id] = message.meta["dia_id"]
            stored["text_bytes"] += len(message.content.encode())
    return ids


def _ask(
    memory: Memory,
    conversation: Conversation,
    ids: dict[str, str],
    budgets: Sequence[int],
    stored: dict[str, Any],
) -> list[Asked]:
    scope = Scope(user=conversation.id)
    if memory.embedder is not None:
        started = time.perf_counter()
        embed_missing(memory.ledger, memory.embedder, scope)
        stored["embedding_ms"] += (time.perf_counter() - started) * 1000
    asked = []
    for question in conversation.questions:
        for budget in budgets:
            started = time.perf_counter()
            context = memory.recall(question.text, scope, budget_tokens=budget)
            took = (time.perf_counter() - started) * 1000
            shown = {ids[source] for item in context.items for source in item.sources}
            asked.append(
                Asked(
                    conversation=conversation.id,
                    category=question.category,
                    budget=budget,
                    share=sum(dia_id in shown for dia_id in question.evidence) / len(question.evidence),
                    tokens=context.tokens,
                    milliseconds=took,
                )
            )
    return asked


def _record(
    conversations: list[Conversation],
    asked: list[Asked],
    observe_ms: list[float],
    stored: dict[str, Any],
    budgets: Sequence[int],
    embedder: embedders.Embedder | None,
) -> dict[str, Any]:
    questions = [question for conversation in conversations for question in conversation.questions]
    headline = [question for question in questions if question.category in HEADLINE]
    return {
        "task": VERSION,
        "config": {
            "embedder": None if embedder is None else f"{embedder.name}/{embedder.dim}",
            "budgets_tokens": list(budgets),
            "tokens": "ceil(characters / 4), dates and speakers included",
            "weights": asdict(Weights()),
            "source": "import",
            "seed": None,
        },
        "n": {
            "conversations": len(conversations),
            "turns": len(observe_ms),
            "questions": len(headline),
            "by_category": {str(key): sum(q.category == key for q in questions) for key in CATEGORIES},
            "evidence": sum(len(question.evidence) for question in headline),
            "left_out": {
                what: sum(conversation.left_out[what] for conversation in conversations)
                for what in ("malformed", "unknown", "questions")
            },
        },
        "evidence": {str(budget): _by_budget([a for a in asked if a.budget == budget]) for budget in budgets},
        "latency_ms": {
            "observe": _latency(observe_ms),
            "recall": _latency([a.milliseconds for a in asked]),
            "embedding_total": stored["embedding_ms"],
        },
        "stored": {"bytes": stored["bytes"], "text_bytes": stored["text_bytes"]},
        "environment": environment(),
    }


def _by_budget(asked: list[Asked]) -> dict[str, Any]:
    by_category = {
        str(key): _estimates(part) for key in CATEGORIES if (part := [a for a in asked if a.category == key])
    }
    return {
        **_estimates([a for a in asked if a.category in HEADLINE]),
        "max_tokens": max((a.tokens for a in asked), default=0),
        "by_category": by_category,
    }


def _estimates(asked: list[Asked]) -> dict[str, Any]:
    clusters = [a.conversation for a in asked]
    share = clustered_mean([a.share for a in asked], clusters)
    every = clustered_mean([a.all for a in asked], clusters)
    return {
        "share": share.mean,
        "share_se": share.se,
        "all": every.mean,
        "all_se": every.se,
        "n": len(asked),
        "clusters": share.clusters,
    }


def _latency(milliseconds: list[float]) -> dict[str, float]:
    return {"p50": percentile(milliseconds, 50), "p95": percentile(milliseconds, 95), "n": len(milliseconds)}
