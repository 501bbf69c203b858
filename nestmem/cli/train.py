"""`nestmem train`: the embedded model, from text and generated dialogues to the folder that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestmem.errors import InputError

training = typer.Typer(
    help="Train the embedded model; every stage resumes where it was stopped.", no_args_is_help=True
)

Text = Annotated[
    list[Path] | None,
    typer.Option("--text", help="Plain text to learn from: .txt or .jsonl, plain, .gz or .xz. Repeatable."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the run: config, log, checkpoint, model.")]
Minutes = Annotated[float, typer.Option("--minutes", help="Stop after this many minutes of training in all.")]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of data and initial weights.")]


@training.command()
def mini(out: Out, text: Text = None, minutes: Minutes = 40.0, threads: Threads = 1, seed: Seed = 0) -> None:
    """Stage one: a language model that reads, writes question-answer pairs, and says that it does not know."""
    from nestmem.train.mini import MiniConfig, train_mini

    print(train_mini(MiniConfig(out=out, text=_files(text), minutes=minutes, threads=threads, seed=seed)))


@training.command()
def mini_meta(
    start: Annotated[
        Path, typer.Option("--start", help="The model of stage one, or of an earlier stage two.")
    ],
    out: Out,
    text: Text = None,
    minutes: Minutes = 60.0,
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Stage two: meta-training through the writes, so that what is told can be answered from the weights."""
    from nestmem.train.mini_meta import MiniMetaConfig, train_mini_meta

    if not (start / "config.json").exists():
        raise InputError(
            f"--start {start} is no model folder; give the folder that `nestmem train mini` printed"
        )
    config = MiniMetaConfig(
        start=start, out=out, text=_files(text), minutes=minutes, threads=threads, seed=seed
    )
    print(train_mini_meta(config))


@training.command()
def package(
    run: Annotated[Path, typer.Option("--run", help="The folder of stage two.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the model, as nestmem/mini is.")],
) -> None:
    """Write the finished model: float16 weights, and the limits of the fixed-point statistics."""
    from nestmem.train.package import package as write

    print(write(run, out))


@training.command()
def plot(
    run: Annotated[Path, typer.Option("--run", help="The folder of a stage.")],
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")],
) -> None:
    """Draw a run's loss and recall curves."""
    from nestmem.train.plot import plot_run

    print(plot_run(run, out))


def _files(text: list[Path] | None) -> tuple[Path, ...]:
    for path in text or []:
        if not path.exists():
            raise InputError(
                f"--text {path} does not exist; expected a .txt or .jsonl file, plain, .gz or .xz"
            )
    return tuple(text or ())
