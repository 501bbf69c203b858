"""`nestmem train lm`: pretraining of any model of nestmem from text."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nestmem.cli import show
from nestmem.cli.options import quiet_libraries
from nestmem.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nestmem.train.loop import Step

DATA, MODEL, STEPS, RUN = "What is read", "What is trained", "How", "The run"
WITH_CONFIG = ("config", "out", "minutes", "device", "threads")
"""Options that a saved config leaves free."""


def lm(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder of the run: config, log, checkpoints, model, curves. Given again, the run goes on.",
            rich_help_panel=RUN,
        ),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            help="A text file or a folder of them: .txt, .md or .jsonl, plain, .gz or .xz. Repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            help="Instead of --data, a Hugging Face dataset: a folder written by save_to_disk, or 'name' or "
            "'name:configuration' on the hub.",
            rich_help_panel=DATA,
        ),
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="The split of --dataset.", rich_help_panel=DATA)
    ] = "train",
    field: Annotated[
        str,
        typer.Option(
            "--field", help="The field with the text, of .jsonl and --dataset.", rich_help_panel=DATA
        ),
    ] = "text",
    separator: Annotated[
        str,
        typer.Option(
            "--separator",
            help="What stands between documents in plain text, \\n for a line end; a file is a document when left out.",
            rich_help_panel=DATA,
        ),
    ] = "",
    held_out: Annotated[
        float,
        typer.Option(
            "--held-out",
            help="Share of the documents, chosen by hash, that is only measured.",
            rich_help_panel=DATA,
        ),
    ] = 0.01,
    packing: Annotated[
        str,
        typer.Option(
            "--packing",
            help="pack: memories start anew with every document. stream: documents flow into each other.",
            rich_help_panel=DATA,
        ),
    ] = "pack",
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            help="A folder or a Hugging Face name; that of --from, or a new one, when left out.",
            rich_help_panel=DATA,
        ),
    ] = "",
    vocabulary: Annotated[
        int, typer.Option("--vocabulary", help="Tokens of a new tokenizer.", rich_help_panel=DATA)
    ] = 8192,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            help="Folder for tokenised text, to share between runs; OUT/tokens.",
            rich_help_panel=DATA,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="An architecture: transformer, retnet, deltanet, gated_deltanet, ttt_linear, ttt_mlp, titans_lmm, "
            "titans_mac, titans_mag, titans_mal, self_modifying, hope, hope_attention, ttt_e2e, hybrid.",
            rich_help_panel=MODEL,
        ),
    ] = "transformer",
    width: Annotated[int, typer.Option("--width", help="Width of the model.", rich_help_panel=MODEL)] = 128,
    layers: Annotated[int, typer.Option("--layers", help="Number of blocks.", rich_help_panel=MODEL)] = 4,
    heads: Annotated[int, typer.Option("--heads", help="Heads of a layer.", rich_help_panel=MODEL)] = 4,
    parameters: Annotated[
        int,
        typer.Option(
            "--parameters",
            help="Choose the feed-forward width to come near so many parameters in all; 0: 8/3 of the width.",
            rich_help_panel=MODEL,
        ),
    ] = 0,
    sizes: Annotated[
        str,
        typer.Option(
            "--sizes",
            help="Other fields of the model's config as JSON, such as "
            '\'{"pattern": ["titans", "attention"], "options": {"titans": {"chunk": 32}}}\'.',
            rich_help_panel=MODEL,
        ),
    ] = "",
    start: Annotated[
        str,
        typer.Option(
            "--from",
            help="Instead of --model: go on from a model, a folder or a Hugging Face name. A folder with config.json "
            "and without weights: a new model of that config.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    length: Annotated[
        int, typer.Option("--context", help="Tokens of a row, the context.", rich_help_panel=STEPS)
    ] = 512,
    batch: Annotated[
        int, typer.Option("--batch", help="Rows of a step, of all processes together.", rich_help_panel=STEPS)
    ] = 8,
    steps: Annotated[int, typer.Option("--steps", help="Steps in all.", rich_help_panel=STEPS)] = 1000,
    tokens: Annotated[
        int,
        typer.Option("--tokens", help="Instead of --steps: tokens to read in all.", rich_help_panel=STEPS),
    ] = 0,
    optimizer: Annotated[
        str,
        typer.Option(
            "--optimizer",
            help="adamw; or muon or m3 for the matrices inside the blocks, the rest by Adam.",
            rich_help_panel=STEPS,
        ),
    ] = "adamw",
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr", help="The highest learning rate; 0.001 (adamw), 0.02 (muon, m3).", rich_help_panel=STEPS
        ),
    ] = None,
    warm_up: Annotated[
        int,
        typer.Option(
            "--warm-up",
            help="Steps in which the rate rises; then it falls as a cosine.",
            rich_help_panel=STEPS,
        ),
    ] = 50,
    final: Annotated[
        float, typer.Option("--final", help="The last rate, as a share of --lr.", rich_help_panel=STEPS)
    ] = 0.1,
    weight_decay: Annotated[
        float,
        typer.Option("--weight-decay", help="Decoupled decay of the matrices.", rich_help_panel=STEPS),
    ] = 0.1,
    betas: Annotated[tuple[float, float], typer.Option("--betas", help="Of Adam.", rich_help_panel=STEPS)] = (
        0.9,
        0.95,
    ),
    clip: Annotated[
        float, typer.Option("--clip", help="The gradient's largest norm; 0: any.", rich_help_panel=STEPS)
    ] = 1.0,
    accumulation: Annotated[
        int,
        typer.Option(
            "--accumulation",
            help="Parts that a process takes its rows in, to save memory.",
            rich_help_panel=STEPS,
        ),
    ] = 1,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="float32; or bf16: float32 weights, products in bfloat16.",
            rich_help_panel=STEPS,
        ),
    ] = "float32",
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Compute blocks again in the backward pass, to save memory.",
            rich_help_panel=STEPS,
        ),
    ] = False,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes",
            help="Stop after so many minutes, with a checkpoint; the same command goes on. 0: no limit.",
            rich_help_panel=RUN,
        ),
    ] = 0.0,
    checkpoint_every: Annotated[
        int,
        typer.Option(
            "--checkpoint-every",
            help="Steps between checkpoints; the two last are kept.",
            rich_help_panel=RUN,
        ),
    ] = 200,
    evaluate_every: Annotated[
        int,
        typer.Option(
            "--evaluate-every", help="Steps between measures of the held-out loss.", rich_help_panel=RUN
        ),
    ] = 200,
    log_every: Annotated[
        int, typer.Option("--log-every", help="Steps between lines of the log.", rich_help_panel=RUN)
    ] = 10,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, cuda:0 ...", rich_help_panel=RUN)
    ] = "cpu",
    threads: Annotated[
        int,
        typer.Option("--threads", help="CPU threads; with 1, runs repeat bit for bit.", rich_help_panel=RUN),
    ] = 1,
    seed: Annotated[
        int,
        typer.Option("--seed", help="Seed of the model and of the order of the data.", rich_help_panel=RUN),
    ] = 0,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Do again what a run's config.json says, in another --out.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Pretrain a language model from text, and save it as transformers loads it.

    Several processes: torchrun --nproc-per-node 2 -m nestmem.cli train lm ...
    """
    quiet_libraries()
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    from nestmem.train import distributed
    from nestmem.train.lm import LMConfig, read_config, train_lm
    from nestmem.train.loop import FitConfig
    from nestmem.train.packing import Source

    with distributed.process_group(device) as own_device:
        if config is not None:
            others = sorted(given - {*WITH_CONFIG})
            if others:
                raise InputError(
                    f"--config says everything but --out, --minutes, --device and --threads; leave out "
                    f"{', '.join('--' + name.replace('_', '-') for name in others)}"
                )
            made = read_config(config, out=out, cache=None)
            free: dict[str, Any] = {"minutes": minutes, "threads": threads}
            kept = {name: value for name, value in free.items() if name in given}
            made = replace(made, fit=replace(made.fit, **kept, device=own_device))
        else:
            if start and given & {"model", "width", "layers", "heads"}:
                raise InputError(
                    "--from brings its own sizes; leave out --model, --width, --layers and --heads"
                )
            own = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
            made = LMConfig(
                out=out,
                data=Source(
                    files=tuple(data or ()),
                    dataset=dataset,
                    split=split,
                    field=field,
                    separator=separator.replace("\\n", "\n"),
                ),
                held_out_share=held_out,
                model=model,
                sizes={**({} if start else own), **_sizes(sizes)},
                parameters=parameters,
                start=start,
                tokenizer=tokenizer,
                vocabulary=vocabulary,
                context=length,
                batch=batch,
                tokens=tokens,
                packing=packing,
                cache=cache,
                fit=FitConfig(
                    steps=steps,
                    lr=lr,
                    warm_up=warm_up,
                    final=final,
                    optimizer=optimizer,
                    weight_decay=weight_decay,
                    betas=betas,
                    clip=clip,
                    accumulation=accumulation,
                    precision=precision,
                    gradient_checkpointing=gradient_checkpointing,
                    checkpoint_every=checkpoint_every,
                    evaluate_every=evaluate_every,
                    log_every=log_every,
                    minutes=minutes,
                    seed=seed,
                    device=own_device,
                    threads=threads,
                ),
            )
        if distributed.rank() != 0:
            train_lm(made)
            return
        with following(made.fit.steps) as on_step, interruptible() as stop:
            folder = train_lm(made, on_step=on_step, on_event=_note, stop=stop)
        print(folder)


def _sizes(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"--sizes {text!r} is not JSON ({error}); expected such as '{{\"intermediate_size\": 256}}'"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f'--sizes {text!r}: expected a JSON object, such as {{"intermediate_size": 256}}')
    return found


def _note(message: str) -> None:
    show.err.print(message, markup=False, soft_wrap=True)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within it, the first Ctrl-C asks for a stop after the step, with a checkpoint; the second ends the program."""
    asked: list[int] = []

    def first(number: int, _frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        _note("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, first)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def following(steps: int) -> Iterator[Callable[[Step], None]]:
    """Shows a run's steps on stderr: a bar with loss, speed and time left on a terminal, else a line per log row."""
    if not sys.stderr.isatty():
        yield _line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=show.err) as progress:
        task = progress.add_task("training", total=steps, now="")

        def on_step(step: Step) -> None:
            now = f"loss {step.loss:.3f}, {step.tokens_per_second:,.0f} tokens/s"
            progress.update(task, completed=step.step, now=now)

        yield on_step


def _line(step: Step) -> None:
    """One line for what was logged: step, losses, rate, speed, and the time left at the speed so far."""
    if step.row is None:
        return
    row = step.row
    parts = [f"step {step.step}/{step.steps}"]
    parts += [f"loss {row['loss']:.4f}"] if "loss" in row else []
    parts += [f"held-out loss {row['held_out_loss']:.4f}"] if "held_out_loss" in row else []
    parts += [f"lr {step.lr:.3g}", f"{row.get('tokens_per_second', step.tokens_per_second):,.0f} tokens/s"]
    _note("  ".join([*parts, f"{step.seconds:,.0f} s"]))
