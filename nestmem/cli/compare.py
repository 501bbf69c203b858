"""`nestmem compare`: sequence models trained on the same data with the same budget, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestmem.errors import InputError

comparing = typer.Typer(
    help="Train sequence models side by side and report; a comparison given its --out again goes on.",
    no_args_is_help=True,
)
Out = Annotated[
    Path, typer.Option("--out", help="Folder of the comparison: a run for each cell, and the report.")
]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads.")]
Device = Annotated[str, typer.Option("--device", help="'cpu' or 'cuda'.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only these tasks. Repeatable.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only these models. Repeatable.")]


@comparing.command("suites")
def suites() -> None:
    """The suites there are, with their tasks and models."""
    from nestmem.compare.plan import SUITES

    for name, suite in SUITES.items():
        print(f"{name}: {suite.about}")
        print(f"  tasks: {', '.join(suite.tasks)}")
        print(f"  models: {', '.join(suite.models)}")
        print(
            f"  {suite.steps} steps of {suite.batch}, rates {', '.join(f'{r:g}' for r in suite.rates)}, "
            f"{len(suite.seeds)} seeds"
        )


@comparing.command("run")
def run(
    name: Annotated[str, typer.Argument(help="The suite; `nestmem compare suites` lists them.")],
    out: Out,
    task: Tasks = None,
    model: Models = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Only so many of its seeds; 0: all.")] = 0,
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="Text files for the suite 'text': .txt, .md or .jsonl. Repeatable."),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Stop after so many minutes, to be continued; 0: no limit.")
    ] = 0.0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Train and judge every cell that has no result yet, then write the report."""
    import time
    from dataclasses import replace
    from itertools import chain

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from nestmem.compare import cells
    from nestmem.compare import report as reports
    from nestmem.compare.plan import suite as suite_of

    suite = suite_of(name)
    tasks, models = _among(task, suite.tasks, "task"), _among(model, suite.models, "model")
    if seeds:
        suite = replace(suite, seeds=suite.seeds[:seeds])
    began = time.monotonic()
    total = len(tasks) * len(models) * (len(suite.rates) + len(suite.seeds) - 1)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bar:
        whole = bar.add_task(f"{name}: cells", total=total)
        each = bar.add_task("", total=suite.steps)
        for cell in chain(cells.tuning(suite, tasks, models), cells.repeats(suite, tasks, models, out)):
            left = minutes - (time.monotonic() - began) / 60 if minutes else 0.0
            if minutes and left <= 0:
                bar.console.print("the time is over; the same command goes on")
                break
            bar.update(each, description=f"{cell.task}, {cell.model}, seed {cell.seed}", completed=0)
            result = cells.run(
                cell,
                suite,
                out,
                threads=threads,
                device=device,
                minutes=left,
                text=tuple(text or ()),
                on_step=lambda s: bar.update(each, completed=s.step),
                on_event=bar.console.print,
            )
            if result is not None:
                bar.advance(whole)
                bar.console.print(_line(result), soft_wrap=True)
    if reports.results(suite, out):
        report(name, out)


@comparing.command("speed")
def speed(
    out: Out,
    model: Models = None,
    contexts: Annotated[
        str, typer.Option("--contexts", help="Context lengths in tokens.")
    ] = "1024,4096,16384,65536",
    width: Annotated[int, typer.Option("--width", help="Width of every model.")] = 128,
    layers: Annotated[int, typer.Option("--layers", help="Blocks of every model.")] = 2,
    limit: Annotated[float, typer.Option("--limit", help="Seconds for one model's reading.")] = 300.0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Seconds per 1,000 tokens of prefill and decode, training tokens/s and state bytes, by context length."""
    import json

    import torch

    from nestmem.compare import report as reports
    from nestmem.compare import speed as speeds
    from nestmem.compare.plan import SPEED
    from nestmem.evals.record import environment, write_json
    from nestmem.models import NestmemForCausalLM, config_for

    torch.set_num_threads(threads)
    if not all(x.strip().isdigit() and int(x) for x in contexts.split(",")):
        raise InputError(f"--contexts {contexts}: expected numbers of tokens, such as 1024,4096")
    lengths = [int(x) for x in contexts.split(",")]
    path = out / "speed.json"
    record = json.loads(path.read_text()) if path.exists() else {"models": {}}
    told = {"width": width, "layers": layers, "device": device, "asked": lengths}
    if record["models"] and {name: record.get(name) for name in told} != told:
        raise InputError(
            f"{path} was measured with other --width, --layers, --device or --contexts; give another --out"
        )
    for name in _among(model, SPEED, "model"):
        if name in record["models"]:
            continue
        given = dict(SPEED[name])
        config = config_for(
            given.pop("preset"),
            vocab_size=256,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            **given,
        )
        torch.manual_seed(0)
        made = NestmemForCausalLM(config).to(device)
        found = {
            "parameters": made.num_parameters(),
            "training": speeds.training(made, batch=1, tokens=512),
            "contexts": speeds.by_context(made, lengths, limit_seconds=limit),
            "config": config.to_diff_dict(),
        }
        print(f"{name}: {found['training']['tokens_per_second']:,.0f} tokens/s in training", flush=True)
        for row in found["contexts"]:
            times = f"{row['prefill_seconds_per_1k']:.3f} s to read and {row['decode_seconds_per_1k']:.2f} s to decode"
            print(f"  at {row['context']:,} tokens: {times} 1,000, {row['state_bytes']:,} bytes", flush=True)
        record["models"][name] = found
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, record | told | {"environment": environment()})
    print("\n".join(reports.speed_table(json.loads(path.read_text()))))
    print(reports.plot_speed(reports.read_speed(out), out / "speed.png"))


@comparing.command("report")
def report(
    name: Annotated[str, typer.Argument(help="The suite.")],
    out: Out,
) -> None:
    """Write the tables and plots of what has been run so far."""
    from nestmem.compare import report as reports
    from nestmem.compare.plan import Text
    from nestmem.compare.plan import suite as suite_of

    suite = suite_of(name)
    page = reports.page(suite, out, title=f"Comparison: {name}")
    (out / f"{name}.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    if any(not isinstance(options, Text) for options in suite.tasks.values()):
        print(reports.plot(suite, out, out / f"{name}.png"))


def _among(given: list[str] | None, known: dict, kind: str) -> list[str]:
    strange = sorted(set(given or ()) - set(known))
    if strange:
        raise InputError(f"there is no {kind} {', '.join(strange)}; there are {', '.join(known)}")
    return list(given or known)


def _line(result: dict) -> str:
    if "error" in result:
        return f"{result['task']}, {result['model']}, seed {result['seed']}: {result['error']}"
    if "held out" in result["test"]:
        loss = f"{result['validation']['loss']:.3f} nats per held-out token"
        return f"{result['task']}, {result['model']}, rate {result['rate']:g}, seed {result['seed']}: {loss}"
    shares = ", ".join(f"{k}: {100 * v['exact']['mean']:.1f} %" for k, v in result["test"].items())
    return f"{result['task']}, {result['model']}, rate {result['rate']:g}, seed {result['seed']}: {shares}"
