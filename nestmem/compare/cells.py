"""The cells of a comparison: one model trained on one task with one rate and seed, each in a folder of its own.

A cell that has a result is not run again, and one that was stopped goes on, so a comparison may be run in slices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nestmem.compare.plan import Suite, Text
from nestmem.errors import InputError, ModelError
from nestmem.evals.record import environment, write_json
from nestmem.evals.tasks import judge, make, reader
from nestmem.models import NestmemConfig, NestmemForCausalLM, config_for, matched, parameters
from nestmem.models.config import FORMAT
from nestmem.train.lm import LMConfig, load_tokenizer, train_lm
from nestmem.train.loop import FitConfig, Step, fit
from nestmem.train.packing import Source, document_key, is_held_out
from nestmem.train.tokenizer import train_tokenizer

VALIDATION = 128


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is trained on what."""

    task: str
    model: str
    rate: float
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its run and its result are."""
        return (
            out
            / "cells"
            / self.task
            / self.model.replace(" ", "_").replace(",", "")
            / (f"rate{self.rate:g}-seed{self.seed}")
        )


def config_of(suite: Suite, model: str, vocab_size: int) -> NestmemConfig:
    """The config of one of the suite's models, with the suite's sizes and number of parameters."""
    if model not in suite.models:
        raise InputError(f"the suite has no model {model!r}; it has {', '.join(suite.models)}")
    given = dict(suite.models[model])
    name = given.pop("preset")
    sizes = suite.sizes | {"vocab_size": vocab_size} | given
    return matched(name, suite.parameters, **sizes) if suite.parameters else config_for(name, **sizes)


def tuning(suite: Suite, tasks: list[str], models: list[str]) -> Iterator[Cell]:
    """Every rate with the first seed."""
    for task in tasks:
        for model in models:
            for rate in suite.rates:
                yield Cell(task=task, model=model, rate=rate, seed=suite.seeds[0])


def repeats(suite: Suite, tasks: list[str], models: list[str], out: Path) -> Iterator[Cell]:
    """The other seeds with the rate that was best, seed by seed, so that a slice has all models with as many seeds."""
    for seed in suite.seeds[1:]:
        for task in tasks:
            for model in models:
                yield Cell(task=task, model=model, rate=best_rate(suite, task, model, out), seed=seed)


def best_rate(suite: Suite, task: str, model: str, out: Path) -> float:
    """The rate whose run has the lowest validation loss; InputError when one of them has no result."""
    found = tuned(suite, task, model, out)
    missing = sorted(set(suite.rates) - set(found))
    if missing:
        raise InputError(
            f"{model} has not been trained on {task} with rate {missing[0]:g} and the first seed yet"
        )
    return min(found, key=lambda rate: found[rate])


def tuned(suite: Suite, task: str, model: str, out: Path) -> dict[float, float]:
    """Rate -> validation loss with the first seed; infinite where a run ended in numbers that are not finite."""
    found = {}
    for rate in suite.rates:
        result = read_result(Cell(task=task, model=model, rate=rate, seed=suite.seeds[0]), out)
        if result is not None:
            found[rate] = result["validation"]["loss"] if "error" not in result else math.inf
    return found


def read_result(cell: Cell, out: Path) -> dict[str, Any] | None:
    """What a finished cell measured; None before that."""
    path = cell.folder(out) / "result.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    # A language model's own run leaves a result without a cell when it is stopped at the wrong moment.
    return found if "task_version" in found else None


def _identity(cell: Cell, suite: Suite, text: tuple[Path, ...]) -> dict[str, Any]:
    """What decides a cell's result beside the code: results with another identity are not mixed with it."""
    options = suite.tasks[cell.task]
    told: dict[str, Any] = {
        "options": asdict(options) if isinstance(options, Text) else options,
        "model": suite.models[cell.model],
        "sizes": suite.sizes,
        "parameters": suite.parameters,
        "steps": suite.steps,
        "batch": suite.batch,
        "weight_decay": suite.weight_decay,
        "format": FORMAT,
    }
    if isinstance(options, Text):
        told["text"] = Source(files=text).digest() if text else ""
    return json.loads(json.dumps(told))


def _check_known(known: dict[str, Any], identity: dict[str, Any], folder: Path) -> None:
    old = known.get("identity") or {}
    differ = sorted(name for name in identity if old.get(name) != identity[name])
    if differ:
        raise InputError(
            f"{folder} has a result of another comparison: {', '.join(differ)} differ; give another --out, or remove it"
        )


def run(
    cell: Cell,
    suite: Suite,
    out: Path,
    *,
    threads: int = 1,
    device: str = "cpu",
    minutes: float = 0.0,
    text: tuple[Path, ...] = (),
    on_step: Callable[[Step], None] | None = None,
    on_event: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Train and judge one cell. Returns its result, also written to its folder; None if `minutes` were over before.

    A run that ends in numbers that are not finite is a result, too: its error is recorded. `text` are the files that
    tasks of a suite with text are read from.
    """
    options = suite.tasks[cell.task]
    identity = _identity(cell, suite, text)
    known = read_result(cell, out)
    if known is not None:
        _check_known(known, identity, cell.folder(out))
        return known
    folder = cell.folder(out)
    if isinstance(options, Text):
        settings = {"threads": threads, "device": device, "minutes": minutes}
        return _run_text(cell, suite, options, text, out, settings, identity, on_step, on_event)
    task = make(cell.task, **options, seed=cell.seed)
    config = config_of(suite, cell.model, task.vocab_size)
    torch.manual_seed(cell.seed)
    model = NestmemForCausalLM(config)

    def batches(step: int) -> dict[str, torch.Tensor]:
        made = task.batch(step, suite.batch)
        return {"input_ids": made.input_ids, "labels": made.labels}

    settings = FitConfig(
        steps=suite.steps,
        lr=cell.rate,
        betas=(0.9, 0.98),
        weight_decay=suite.weight_decay,
        checkpoint_every=200,
        evaluate_every=0,
        log_every=50,
        seed=cell.seed,
        threads=threads,
        device=device,
        minutes=minutes,
    )
    about = {**asdict(cell), "task_version": task.version, "parameters": model.num_parameters()}
    about["identity"] = identity
    try:
        fitted = fit(
            model, batches, settings, out=folder, identity=identity, on_step=on_step, on_event=on_event
        )
    except ModelError as error:
        result = {**about, "error": str(error), "environment": environment()}
        write_json(folder / "result.json", result)
        return result
    if not fitted.finished:
        return None
    model.eval()
    logits = reader(task, model)
    validation = judge(
        task, logits, examples=VALIDATION, lengths=[task.train_length], split="validation", device=device
    )
    test = judge(task, logits, examples=suite.examples, device=device)
    with torch.no_grad():
        one = task.batch(0, 1, split="test").input_ids.to(device)
        memory = model(one, use_cache=True).past_key_values
    result = {
        **about,
        "steps": fitted.step,
        "train_loss": fitted.loss,
        "tokens_per_second": fitted.tokens / fitted.seconds,
        "state_bytes": memory.state.bytes(),
        "state_tokens": one.shape[1],
        "validation": {
            "loss": next(iter(validation.values()))["loss"]["mean"],
            "exact": next(iter(validation.values()))["exact"]["mean"],
        },
        "test": test,
        "config": config.to_diff_dict(),
        "environment": environment(),
    }
    write_json(folder / "result.json", result)
    return result


def _run_text(
    cell: Cell,
    suite: Suite,
    options: Text,
    text: tuple[Path, ...],
    out: Path,
    settings: dict[str, Any],
    identity: dict[str, Any],
    on_step: Callable[[Step], None] | None,
    on_event: Callable[[str], None],
) -> dict[str, Any] | None:
    """A cell of language modelling: one tokenizer and one set of tokens for all, the held-out loss as its result."""
    if not text:
        raise InputError(f"the task {cell.task!r} reads text files and none were given; add --text FILE")
    source = Source(files=text)
    tokenizer = out / "tokenizer"
    if not (tokenizer / "tokenizer.json").exists():
        share = options.held_out_share
        read = (each for each in source.documents() if not is_held_out(document_key(each), share))
        made = train_tokenizer(read, vocabulary=options.vocabulary)
        made.save_pretrained(tokenizer)
    model = config_of(suite, cell.model, len(load_tokenizer(tokenizer)))
    start = cell.folder(out) / "new"
    model.save_pretrained(start)
    config = LMConfig(
        out=cell.folder(out),
        data=source,
        held_out_share=options.held_out_share,
        start=str(start),
        tokenizer=str(tokenizer),
        context=options.context,
        batch=suite.batch,
        tokens=options.tokens,
        packing=options.packing,
        held_out_rows=options.held_out_rows,
        cache=out / "tokens",
        fit=FitConfig(lr=cell.rate, weight_decay=suite.weight_decay, seed=cell.seed, **settings),
    )
    about = {**asdict(cell), "task_version": "text/1", "identity": identity}
    path = cell.folder(out) / "result.json"
    try:
        train_lm(config, on_step=on_step, on_event=on_event)
    except ModelError as error:
        result = {**about, "parameters": parameters(model), "error": str(error), "environment": environment()}
        write_json(path, result)
        return result
    found = json.loads(path.read_text())
    if not found["finished"]:
        path.unlink()
        return None
    loss = {"loss": {"mean": found["held_out_loss"]}}
    result = {
        **about,
        "parameters": found["parameters"],
        "steps": found["step"],
        "train_loss": found["loss"],
        "tokens_per_second": found["tokens"] / found["seconds"],
        "validation": {"loss": found["held_out_loss"]},
        "test": {"held out": loss},
        "config": model.to_diff_dict(),
        "environment": environment(),
    }
    write_json(path, result)
    return result
