"""The commands. Each opens the memory, calls one of its methods, and prints the result.

Heavy imports are inside the commands, so that `nestmem --help` is fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestmem.cli import judge, show
from nestmem.cli.compare import comparing
from nestmem.cli.options import Where, debugging, on_memory, quiet_libraries
from nestmem.cli.train import training
from nestmem.errors import InputError, NestmemError

if TYPE_CHECKING:
    from nestmem.agent.types import Arm

app = typer.Typer(
    name="nestmem",
    help="Memory for language models: text you can audit, and weights that learned it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
evaluations = typer.Typer(help="Measure a memory.", no_args_is_help=True)
judge.commands(evaluations)
app.add_typer(evaluations, name="eval")
app.add_typer(training, name="train")
app.add_typer(comparing, name="compare")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="What was believed at this ISO time.")]
At = Annotated[str | None, typer.Option("--at", help="What was true at this ISO time.")]


def run() -> None:
    """Runs the command line. Bad input ends in one line on stderr and exit code 2, an unexpected error in
    one line and exit code 1; with NESTMEM_DEBUG=1 the stack trace follows."""
    try:
        app()
    except NestmemError as error:
        _fail(error, str(error), 2)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()
            sys.exit(141)
        _fail(error, f"{error.filename or 'the system'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the outermost layer: a person is waiting for one line
        hint = "this is a fault of nestmem; set NESTMEM_DEBUG=1 to see where, and please report it"
        _fail(error, f"unexpected {type(error).__name__}: {error} ({hint})", 1)


def _fail(error: BaseException, message: str, code: int) -> None:
    if debugging():
        raise error
    show.err.print(f"nestmem: {' '.join(message.split())}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def version(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if show_version:
        from nestmem import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Keep the demo's database at this path.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", envvar="NESTMEM_MODEL", help="The model that learns, or 'none'.")
    ] = "mini",
    embedder: Annotated[
        str, typer.Option("--embedder", envvar="NESTMEM_EMBEDDER", help="As in the other commands.")
    ] = "auto",
) -> None:
    """Play a conversation of several sessions, ask about it in four arms, forget one fact."""
    from nestmem.cli.demo import play

    play(keep=keep, model=None if model == "none" else model, embedder=embedder)


@app.command()
@on_memory
def chat(
    where: Where,
    sleep_after: Annotated[
        float | None,
        typer.Option("--sleep-after", help="Sleep once nothing was said for so many seconds.", min=0.1),
    ] = None,
) -> None:
    """Talk to a memory. /why, /forget, /memory, /help and /quit inside."""
    from nestmem.cli.chat import talk

    talk(where, sleep_after=sleep_after)


@app.command()
@on_memory
def observe(
    where: Where,
    file: Annotated[
        Path | None,
        typer.Argument(help="OpenAI messages (JSON, JSONL), a transcript, or LoCoMo; '-' reads stdin."),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="One message of the user, instead of a file.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="ISO time of messages that name none.")] = None,
    source: Annotated[str, typer.Option("--source", help="user, tool, web or import.")] = "user",
    learn: Annotated[bool, typer.Option(help="Also learn from what was stored.")] = True,
) -> None:
    """Store messages, then learn from them."""
    from nestmem.cli.intake import store

    store(where, file=file, text=text, at=at, source=source, learn=learn)


@app.command()
@on_memory
def learn(
    where: Where,
    all_users: Annotated[bool, typer.Option("--all", help="Of every user in the file.")] = False,
) -> None:
    """Learn what waits: after `observe --no-learn`, or work that failed."""
    with where.open() as memory:
        scopes = (
            sorted({scope.owner for scope in memory.ledger.scopes()}, key=str)
            if all_users
            else [where.scope()]
        )
        with show.out.status("learning ..."):
            reports = memory.learn_many(scopes)
    for scope, report in zip(scopes, reports, strict=True):
        if all_users:
            show.line(scope.user, "bold")
        show.learned(report)


@app.command()
@on_memory
def sleep(
    where: Where,
    all_users: Annotated[bool, typer.Option("--all", help="Every user in the file.")] = False,
    json: Json = False,
) -> None:
    """Take what was learned into the slow weights: study, consolidate, check, commit or refuse."""
    from nestmem.cli.sleeping import through

    with where.open() as memory:
        scopes = memory.ledger.scopes() if all_users else [where.scope().owner]
        done, failed = through(memory, scopes, quiet=json)
    if json and all_users:
        show.as_json(
            [{"tenant": s.tenant, "user": s.user, "agent": s.agent, **vars(r)} for s, r in done.items()]
        )
    elif json and not failed:
        show.as_json(done[where.scope().owner])
    if failed:
        raise failed[0]


@app.command()
@on_memory
def recall(
    where: Where,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    budget: Annotated[int, typer.Option("--budget", min=1, help="Tokens of recalled text.")] = 2000,
    as_of: AsOf = None,
    at: At = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show how each item was found.")] = False,
    json: Json = False,
) -> None:
    """Find what was said, with dates and sources. Calls no model."""
    with where.open_text(reads=True, embedder=True) as memory:
        context = memory.recall(
            query, where.scope(), budget_tokens=budget, as_of=as_of, at=at, explain=explain
        )
    if json:
        show.as_json(context)
        return
    show.line(context.text or "nothing was found")
    for note in context.notes:
        show.line(note, "yellow")
    show.line(f"{len(context.items)} items · {context.tokens} tokens", "dim")
    if explain:
        show.as_json(context.trace)


@app.command()
@on_memory
def ask(
    where: Where,
    question: Annotated[str, typer.Argument(help="The question.")],
    arm: Annotated[str, typer.Option("--arm", help="none, text, weights or both.")] = "both",
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget", min=1, help="Tokens of recalled text; by default what the model reads well."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Answer a question, saying which half of the memory spoke, with its sources."""
    with where.open(reads=True) as memory:
        scope = where.scope()
        given = memory.answer(question, scope, arm=_arm(arm), budget_tokens=budget)
        if json:
            show.as_json(given)
            return
        show.answer(
            given, [f"{event} {memory.ledger.event(scope, event).content}" for event in given.sources]
        )


@app.command()
@on_memory
def why(
    where: Where,
    id: Annotated[str, typer.Argument(help="Id of an event, a memory, a weight update or a version.")],
    json: Json = False,
) -> None:
    """Show where something came from, from the message to the weights."""
    with where.open_text(reads=True) as memory:
        found = memory.why(id, where.scope())
    if json:
        show.as_json(found)
    else:
        show.why(found)


@app.command()
@on_memory
def forget(
    where: Where,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of events or of a memory.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Forget what this finds, if it is one thing.")
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Forget all of the user.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")] = False,
    json: Json = False,
) -> None:
    """Remove messages, what was derived from them, and their part of the weights. Prints a receipt."""
    from nestmem.cli.forgetting import choose

    selector = choose(ids or [], text, where.session, everything)
    with where.open() as memory:
        if not (dry_run or yes) and ((not ids and text is None) or sys.stdin.isatty()):
            if sys.stdin.isatty():
                show.receipt(memory.forget(selector, where.scope(), dry_run=True))
            typer.confirm(f"Forget {selector} of user {where.user!r} for good?", abort=True)
        receipt = memory.forget(selector, where.scope(), dry_run=dry_run)
    if json:
        show.as_json(receipt)
        return
    if dry_run:
        show.line("nothing was removed (--dry-run); this would be:", "yellow")
    show.receipt(receipt)


@app.command()
@on_memory
def status(where: Where, json: Json = False) -> None:
    """Count what is stored, what waits, and what the weights hold."""
    with where.open_text(reads=True) as memory:
        found = memory.status(where.scope())
    if json:
        show.as_json(found)
    else:
        show.pairs(str(where.db), show.plain(found))


@app.command()
@on_memory
def versions(where: Where, json: Json = False) -> None:
    """List the versions of the user's weights, the newest last, with what the guard measured and refused."""
    from nestmem.cli.sleeping import listed

    with where.open_text(reads=True) as memory:
        found, reports = memory.versions(where.scope()), memory.reports(where.scope())
    if json:
        of = {one.id: [r for r in reports if r.version_id == one.id] for one in found}
        show.as_json([{**vars(one), "reports": of[one.id]} for one in found])
        return
    listed(found, reports)
    if not found:
        show.line("no version yet: nothing was learned into weights", "dim")


@app.command()
@on_memory
def restore(where: Where, version_id: Annotated[str, typer.Argument(help="Id of a version.")]) -> None:
    """Make an older version of the weights the current one."""
    with where.open() as memory:
        restored = memory.restore(version_id, where.scope())
    show.line(f"restored {version_id} as version {restored.id}, weights {restored.digest[:12]}")


@app.command()
@on_memory
def export(where: Where, path: Annotated[Path, typer.Argument(help="The file to write.")]) -> None:
    """Write everything that is known of the user to a file that `import` reads."""
    if path.exists():
        raise InputError(f"{path} is already there; name a new file, or remove that one first")
    with where.open_text(reads=True) as memory:
        written = memory.export(path, where.scope())
    show.line(f"wrote {path}: {written} lines (weights are learned again from them)")


@app.command("import")
@on_memory
def import_(where: Where, path: Annotated[Path, typer.Argument(help="A file that `export` wrote.")]) -> None:
    """Read a file that `export` wrote, into a memory that may be new."""
    with where.open(create=True) as memory:
        read = memory.import_(path, where.scope())
        show.line(f"read {path}: {read} new messages")
        with show.out.status("learning ..."):
            report = memory.learn(where.scope())
        show.learned(report)


@app.command()
@on_memory
def doctor(where: Where) -> None:
    """Check Python, the libraries, the model, the database and the disk."""
    from nestmem.cli.doctor import examine

    if not examine(where):
        raise typer.Exit(1)


@evaluations.command("personas")
@on_memory
def eval_personas(
    where: Where,
    data: Annotated[
        Path | None, typer.Option("--data", help="A JSONL file of lives; else generated.")
    ] = None,
    lives: Annotated[int, typer.Option(min=1, help="How many lives to generate.")] = 10,
    sessions: Annotated[int, typer.Option(min=1, help="Sessions of each generated life.")] = 4,
    facts: Annotated[int, typer.Option(min=1, help="Facts told in each generated session.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the generator.")] = 0,
    arm: Annotated[
        str, typer.Option("--arm", help="Comma-separated: none,text,weights,both.")
    ] = "none,text,weights,both",
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget", min=1, help="Tokens of recalled text; by default what the model reads well."
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the whole record here.")] = None,
    log: Annotated[Path | None, typer.Option("--log", help="Write every question and answer here.")] = None,
) -> None:
    """Memory over streams of sessions: accuracy by arm, kind and age."""
    from nestmem.cli.evaluate import personas

    arms: list[Arm] = [_arm(name.strip()) for name in arm.split(",")]
    made = {"lives": lives, "sessions": sessions, "facts": facts, "seed": seed}
    personas(where, data=data, made=made, arms=arms, budget=budget, json_path=json, log_path=log)


@evaluations.command("task")
def eval_task(
    name: Annotated[str, typer.Argument(help="The task, for example mqar; an unknown name lists them all.")],
    model: Annotated[Path, typer.Option("--model", help="The folder of a trained language model.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="The folder of data sets, for tasks that read real data.")
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option("--lengths", help="Tokens, as 64,128 or 2-50,51-100; by default the task's own."),
    ] = None,
    examples: Annotated[
        int | None, typer.Option("--examples", min=1, help="How many of each length, task, class or set.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Of the task, as pairs=16; may be given again.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Sequences at a time.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    json: Annotated[Path | None, typer.Option("--json", help="Write the whole record here.")] = None,
) -> None:
    """A trained language model on a task: recall, needles, formal languages, loss by position, and others."""
    from nestmem.cli.evaluate_tasks import task

    quiet_libraries()
    task(
        name,
        model=model,
        data=data,
        lengths=lengths,
        examples=examples,
        options=option or (),
        seed=seed,
        batch_size=batch_size,
        device=device,
        json_path=json,
    )


def _arm(name: str) -> Arm:
    from nestmem.agent.types import ARMS

    for arm in ARMS:
        if arm == name:
            return arm
    raise InputError(f"--arm {name!r} is not an arm; choose from {', '.join(ARMS)}")
