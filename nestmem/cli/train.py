"""`nestmem train`: language models from text; the embedded model, to the folder that ships; the write of any model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from nestmem.cli import show
from nestmem.cli.train_lm import lm
from nestmem.cli.train_rl import rl
from nestmem.errors import InputError

training = typer.Typer(
    help="Train a language model, the embedded model, or the way any model is written to; a run given its --out again "
    "resumes.",
    no_args_is_help=True,
)

Text = Annotated[
    list[Path] | None,
    typer.Option(
        "--text", help="Plain text to learn from: .txt, .md or .jsonl, plain, .gz or .xz. Repeatable."
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the run: config, log, checkpoint, model.")]
Minutes = Annotated[
    float,
    typer.Option(
        "--minutes",
        help="Stop after this many minutes in all, evaluations included, if the stage's steps take longer; the learning "
        "rate falls until then. 0: no limit.",
    ),
]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of data and of what starts random.")]


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
def meta(
    out: Annotated[Path, typer.Option("--out", help="Folder of the run: config, log, checkpoint, settings.")],
    model: Annotated[
        str, typer.Option("--model", help="The frozen base: 'mini', a Hugging Face name, or a folder.")
    ] = "mini",
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            help="How a write is done: sessions or fit (ridge steps, which the rules take over), perk or dynamic (for "
            "comparison; no rule takes them over).",
        ),
    ] = "sessions",
    order: Annotated[
        str, typer.Option("--order", help="Derivatives through the writes: truncated, first, full or es.")
    ] = "truncated",
    keep: Annotated[int, typer.Option("--keep", help="How many last writes 'truncated' differentiates.")] = 2,
    data: Annotated[
        Path | None, typer.Option("--data", help="JSONL file of streams; generated personas when left out.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            help="Unrelated text on which the base must stay as it is, files as `mini` takes them; a few chats and "
            "sentences of nestmem's when left out. Repeatable.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Outer steps in all.")] = 500,
    minutes: Annotated[
        float,
        typer.Option("--minutes", help="Stop after this many minutes of outer steps in all; 0: no limit."),
    ] = 0.0,
    users: Annotated[int, typer.Option("--users", help="Streams side by side.")] = 4,
    sessions: Annotated[
        int,
        typer.Option(
            "--sessions", help="Sessions of a stream: 1 to this many in a step, this many in an evaluation."
        ),
    ] = 8,
    facts: Annotated[int, typer.Option("--facts", help="Facts a generated persona tells in a session.")] = 2,
    rank: Annotated[int, typer.Option("--rank", help="Rank of the banks, where the model brings none.")] = 32,
    last: Annotated[
        int, typer.Option("--last", help="Blocks that carry banks, where the model brings none.")
    ] = 4,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Start from calibrated rates though the model brings learned ones (which presets perk and dynamic never "
            "start from).",
        ),
    ] = False,
    inner_steps: Annotated[
        int, typer.Option("--inner-steps", help="Steps of a write, each with its own rates; 0: the preset's.")
    ] = 0,
    protect: Annotated[
        float | None,
        typer.Option(
            "--protect",
            help="Tokens' worth of unrelated keys that a ridge write starts protecting; the preset's when left out (fit: "
            "300, sessions: 0). Not with perk and dynamic.",
        ),
    ] = None,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", help="Outer steps between scores and checkpoints.")
    ] = 50,
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            help="The inner rate to start from; 0: the preset's (perk), else the model's own, else calibrated.",
        ),
    ] = 0.0,
    scalar_rate: Annotated[
        float, typer.Option("--scalar-rate", help="Outer rate of the learned numbers (of tensors: 0.001).")
    ] = 0.01,
    copy_base: Annotated[
        bool,
        typer.Option(
            "--copy-base",
            help="Also write OUT/model: the base with the learned settings. Presets sessions and fit only.",
        ),
    ] = False,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:0 ...")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="A torch dtype by name.")] = "float32",
    threads: Threads = 1,
    seed: Seed = 0,
) -> None:
    """Learn how to write into the weights of a frozen model: rates, ridges, decays, token weights, gate.

    OUT/banks.safetensors holds what the rules write by; presets perk and dynamic leave OUT/learned.safetensors only.
    """
    from nestmem.train.meta import preset as configured
    from nestmem.train.meta import train_meta

    values = {
        "model": model,
        "out": out,
        "data": data,
        "text": _files(text),
        "order": order,
        "keep": keep,
        "steps": steps,
        "minutes": minutes,
        "users": users,
        "sessions": sessions,
        "facts": facts,
        "rank": rank,
        "last": last,
        "fresh": fresh,
        "scalar_rate": scalar_rate,
        "evaluate_every": evaluate_every,
        "copy_base": copy_base,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "seed": seed,
    }
    config = configured(preset, **values, **({"rate": rate} if rate else {}))
    inner = replace(config.inner, steps=inner_steps or config.inner.steps)
    inner = replace(inner, protect=config.inner.protect if protect is None else protect)
    config = replace(config, inner=inner)
    if not config.for_rules:
        show.err.print(
            f"nestmem: preset {preset!r} writes by {inner.step} steps, which no rule of nestmem takes: OUT will hold "
            "learned.safetensors, and no banks.safetensors",
            markup=False,
            soft_wrap=True,
        )
    print(train_meta(config))


training.command()(lm)
training.command()(rl)


@training.command()
def package(
    run: Annotated[Path, typer.Option("--run", help="The folder of stage two: its --out.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the model, as nestmem/mini is.")],
) -> None:
    """Write the finished model: float16 weights, and the limits of the fixed-point statistics."""
    from nestmem.train.package import package as write

    print(write(run, out))


@training.command()
def plot(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="The folder of a run; several runs of lm are drawn in one picture. rl draws its own.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")],
) -> None:
    """Draw a run's curves, from its log: of lm, losses and speed by tokens; of the others, losses and recall by step."""
    from nestmem.train.plot import is_language_run, plot_language, plot_run

    print(
        plot_run(runs[0], out)
        if len(runs) == 1 and not is_language_run(runs[0])
        else plot_language(runs, out)
    )


def _files(text: list[Path] | None) -> tuple[Path, ...]:
    for path in text or []:
        if not path.exists():
            raise InputError(
                f"--text {path} does not exist; expected a .txt, .md or .jsonl file, plain, .gz or .xz"
            )
    return tuple(text or ())
