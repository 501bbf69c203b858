"""`nestmem eval task`: a trained language model on one of the tasks by which sequence models are judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from nestmem.cli import show
from nestmem.cli.evaluate import bar, check_folder, percent


def task(
    name: str,
    *,
    model: Path,
    data: Path | None,
    lengths: str | None,
    examples: int | None,
    options: Sequence[str],
    seed: int,
    batch_size: int,
    device: str,
    json_path: Path | None,
) -> None:
    """Runs the task, shows its table, writes its record."""
    from nestmem.evals.record import write_json
    from nestmem.evals.tasks import running

    check_folder(json_path)
    asked = running.Asked(
        task=name,
        model=model,
        data=data,
        lengths=running.lengths_of(lengths) if lengths else None,
        examples=examples,
        options=running.options_of(options),
        seed=seed,
        batch_size=batch_size,
        device=device,
    )
    with bar() as progress:
        record = running.run(asked, progress=progress)
    if json_path is not None:
        write_json(json_path, record)
    config = record["config"]
    show.line(f"{record['task']}: {config['architecture']} of {config['parameters']:,} parameters")
    for table in tables(record):
        show.out.print(table)
    show.line(f"{record['seconds']:.1f} s in all", "dim")


def tables(record: dict[str, Any]) -> list[Table]:
    """What a record holds, for a terminal."""
    if "variants" in record:
        return [_by_position(record)]
    if "methods" in record:
        return [_by_group(record)]
    if "sets" in record:
        return [_by_set(record)]
    if all("exact" in found for found in record["lengths"].values()):
        return [_by_length(record)]
    return [_by_story(record)]


def _table(*columns: str) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _share(found: dict[str, Any]) -> str:
    """A share with its interval of 95 %, which says something of four right answers out of four, too."""
    return f"{percent(found['mean'])} ({percent(found['low'])}-{percent(found['high'])})"


def _mean(found: dict[str, Any]) -> str:
    """A mean of shares with its standard error."""
    return f"{percent(found['mean'])} ± {percent(found['se'])}"


def _by_length(record: dict[str, Any]) -> Table:
    table = _table("length", "n", "whole % (95 %)", "tokens %", "nats")
    for length, found in record["lengths"].items():
        exact, tokens, loss = found["exact"], found["tokens"], found["loss"]
        table.add_row(length, str(found["n"]), _share(exact), _mean(tokens), f"{loss['mean']:.3f}")
    return table


def _by_story(record: dict[str, Any]) -> Table:
    lengths = record["lengths"]
    table = _table("task", "n", *(f"{length} tokens %" for length in lengths))
    first = next(iter(lengths.values()))
    for name, found in first["tasks"].items():
        table.add_row(name, str(found["n"]), *(_share(part["tasks"][name]) for part in lengths.values()))
    table.add_row("all", str(first["all"]["n"]), *(_share(part["all"]) for part in lengths.values()))
    return table


def _by_position(record: dict[str, Any]) -> Table:
    table = _table("variant", "position", "tokens", "nats/token", "bits/byte", "minus plain")
    for name, variant in record["variants"].items():
        for found in [*variant["buckets"], {"from": "all", **variant["all"]}]:
            place = found["from"] if found["from"] == "all" else f"{found['from']}-{found['to'] - 1}"
            nats, bits, gap = found["nats_per_token"], found["bits_per_byte"], found.get("minus_first")
            table.add_row(
                name,
                str(place),
                str(found["tokens"]),
                f"{nats['mean']:.3f} ± {nats['se']:.3f}",
                f"{bits['mean']:.3f}",
                f"{gap['mean']:+.3f} ± {gap['se']:.3f}" if gap else "",
            )
    return table


def _by_group(record: dict[str, Any]) -> Table:
    table = _table("method", *(f"after {i + 1}" for i in range(record["groups"])), "forgetting")
    for name, found in record["methods"].items():
        lost = found["forgetting"]
        cells = [percent(part["mean"]) for part in found["after"]]
        table.add_row(name, *cells, percent(lost["mean"]) if lost else "")
    return table


def _by_set(record: dict[str, Any]) -> Table:
    table = _table("set", "n", "acc %", "acc_norm %", "perplexity")
    for name, found in record["sets"].items():
        norm = percent(found["acc_norm"]) if "acc_norm" in found else ""
        perplexity = f"{found['perplexity']:.1f}" if "perplexity" in found else ""
        accuracy = f"{percent(found['acc'])} ± {100 * found['acc_se']:.1f}"
        table.add_row(name, str(found["n"]), accuracy, norm, perplexity)
    return table
