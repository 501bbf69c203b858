"""`nestmem demo`: five sessions of two users, questions in four arms, and a forgotten fact."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

import nestmem
from nestmem.cli import show
from nestmem.cli.demo_phase import Played, conversation, live_through, parts
from nestmem.cli.options import quiet_libraries
from nestmem.errors import InputError, NestmemError

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory
    from nestmem.agent.types import Answer, Arm

MIN_WIDTH = 110


def play(*, keep: Path | None, model: str | None, embedder: str) -> None:
    """Plays the whole demo. The database is deleted at the end unless `keep` names a place for it."""
    quiet_libraries()
    if keep is not None and keep.exists():
        raise InputError(f"{keep} is already there; name a new file for --keep")
    show.out.width = max(show.out.width, MIN_WIDTH)
    began = time.perf_counter()
    told = conversation()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nestmem-demo-"))
        path = keep or Path(folder) / "demo.db"
        _tell([str(path), model or "none", embedder], told["sessions"])
        heading(
            "The questions, in a third process. The model sees one question at a time, and no conversation."
        )
        with show.out.status("opening the memory ..."):
            memory = stack.enter_context(nestmem.open(path, model=model, embedder=embedder))
        arms: list[Arm] = ["none", "text", "weights", "both"] if model else ["none", "text"]
        _ask_all(memory, told["questions"], arms)
        _forget_one(memory, told, arms, path)
    show.line(f"\n{time.perf_counter() - began:.1f} s, peak memory {_peak_megabytes():.0f} MB", "dim")
    if keep is not None:
        show.line(f"the memory is in {keep}: nestmem chat --db {keep} --user maya", "dim")


def heading(text: str) -> None:
    """A line that begins a part of the demo."""
    show.line(f"\n{text}", "bold cyan")


# --- telling ---------------------------------------------------------------------------------------


def _tell(setting: list[str], sessions: Sequence[dict[str, Any]]) -> None:
    """Plays the sessions, each part in a process of its own."""
    number = 0
    for part, cut in enumerate(parts(sessions)):
        if part:
            show.line("\n   the process ends here, and a new one opens the file", "yellow")
        heading(f"Process {part + 1}: {len(cut)} sessions, the context is cleared after each")
        for session, played in zip(cut, _run_part(setting, part), strict=True):
            number += 1
            _show_session(number, session, played)


def _run_part(setting: list[str], part: int) -> Iterator[Played]:
    """Starts a process for one part and yields what it reports of each session. `setting`: the database,
    the model and the embedder."""
    command = [sys.executable, "-m", "nestmem.cli.demo_phase", *setting, str(part)]
    with (
        show.out.status("starting ...") as status,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            played = json.loads(line)
            if "error" in played:
                raise NestmemError(played["error"])
            status.update("listening and learning ...")
            yield played
        if child.wait() != 0:
            raise NestmemError(f"the demo's process {part + 1} ended with code {child.returncode}")


def _show_session(number: int, session: dict[str, Any], played: Played) -> None:
    show.line(f"session {number} · {session['at'][:10]} · {session['user']}", "bold")
    for message in session["messages"]:
        if message["role"] == "user":
            show.line(f"   {message['content']}", "italic")
    for learned in played["learned"]:
        show.line(f"   -> {learned}", "green")
    older = f", {played['superseded']} older one superseded" if played["superseded"] else ""
    show.line(f"   -> {played['updates']} facts into the weights{older}, {played['ms']:.0f} ms", "green")
    for what in played["forgotten"]:
        show.line(f"   -> forgotten, as asked: {what}", "magenta")


# --- asking ----------------------------------------------------------------------------------------


def _ask_all(memory: Memory, questions: Sequence[dict[str, Any]], arms: Sequence[Arm]) -> None:
    table = Table(show_lines=True)
    for column in ("question", *arms, "source"):
        table.add_column(column, overflow="fold")
    right = dict.fromkeys(arms, 0)
    for asked in questions:
        answers = {arm: _answer(memory, asked, arm) for arm in arms}
        for arm in arms:
            right[arm] += _right(answers[arm], asked["answers"])
        cells = [_cell(answers[arm], asked["answers"]) for arm in arms]
        table.add_row(
            f"{asked['user']}: {asked['question']}", *cells, _source(memory, asked, answers[arms[-1]])
        )
    table.add_row("right", *(f"{right[arm]} of {len(questions)}" for arm in arms), "")
    show.out.print(table)
    show.line(
        "none: the model alone · text: recalled lines in the prompt · weights: no text, only what was", "dim"
    )
    show.line(
        "learned into this user's weights · both. Below each answer: tokens in the prompt, milliseconds",
        "dim",
    )


def _answer(memory: Memory, asked: dict[str, Any], arm: Arm) -> Answer:
    from nestmem.store.records import Scope

    return memory.answer(asked["question"], Scope(user=asked["user"]), arm=arm)


def _right(answer: Answer, accepted: Sequence[str]) -> bool:
    from nestmem.evals.personas import score

    return score(answer.text, accepted)[0]


def _cell(answer: Answer, accepted: Sequence[str]) -> Text:
    style = "green" if _right(answer, accepted) else "red"
    cost = f"\n{answer.tokens} tokens, {answer.milliseconds:.0f} ms"
    return Text.assemble((answer.text, style), (cost, "dim"))


def _source(memory: Memory, asked: dict[str, Any], answer: Answer) -> Text:
    from nestmem.store.records import Scope

    events = memory.ledger.events(Scope(user=asked["user"]), ids=answer.sources[:2])
    lines = [f"{event.when.date()} {event.content}" for event in events]
    return Text("\n".join(lines) or "-", style="dim")


# --- forgetting ------------------------------------------------------------------------------------


def _forget_one(memory: Memory, told: dict[str, Any], arms: Sequence[Arm], path: Path) -> None:
    from nestmem.store.records import Scope

    chosen = told["forget"]
    scope = Scope(user=chosen["user"])
    heading(f'{chosen["user"]} asks to forget: "{chosen["text"]}"')
    before = {arm: _answer(memory, chosen, arm) for arm in arms}
    receipt = memory.forget({"text": chosen["text"]}, scope)
    after = {arm: _answer(memory, chosen, arm) for arm in arms}
    table = Table()
    for column in (chosen["question"], *arms):
        table.add_column(column, overflow="fold")
    table.add_row("before", *(Text(before[arm].text) for arm in arms))
    table.add_row("after", *(Text(after[arm].text) for arm in arms))
    show.out.print(table)
    show.receipt(receipt)
    _prove(memory, told, path, receipt.digest_after)


def _prove(memory: Memory, told: dict[str, Any], path: Path, digest: str | None) -> None:
    """Two checks that anyone can repeat: the bytes on disk, and a life in which it was never said."""
    from nestmem.agent.controller import Memory as Another
    from nestmem.store.sqlite import Ledger

    chosen = told["forget"]
    files = [file for file in path.parent.glob(path.name + "*") if file.is_file()]
    copies = sum(file.read_bytes().count(value.encode()) for file in files for value in chosen["gone"])
    show.line(f"copies of {', '.join(chosen['gone'])} left in the database file: {copies}")
    if memory.learner is None:
        return
    with (
        show.out.status("living the same life without it ..."),
        Another(Ledger(":memory:"), learner=memory.learner) as other,
    ):
        for _ in live_through(other, _without(told["sessions"], chosen)):
            pass
        versions = other.versions(chosen["user"])
        same = bool(versions) and versions[-1].digest == digest
    verdict = "the same, bit for bit" if same else "DIFFERENT"
    show.line(f"weights of a life in which it was never said: {verdict}")


def _without(sessions: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """The sessions without the user's message that was forgotten."""

    def kept(session: dict[str, Any]) -> list[dict[str, Any]]:
        own = session["user"] == chosen["user"]
        return [m for m in session["messages"] if not (own and chosen["text"] in m["content"])]

    return [{**session, "messages": kept(session)} for session in sessions]


def _peak_megabytes() -> float:
    """The largest resident size of this process or one it started, in MB (0 where it is not reported)."""
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) * unit / 1e6
