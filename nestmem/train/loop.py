"""The training loop of language models: batches by step in, a trained model, a log and checkpoints out.

A step is a function of the model, the optimizer's state, the config and the step's number alone: its batch is
`batches(step)`, and what is random in it is seeded by the run's seed and the step. So a run that was killed at any
moment and started again goes the way it would have gone; with one thread on a CPU, bit for bit.

    loss of a step = (1 / N) sum over all tokens t that are predicted of -log p(t | tokens before it, in its document)

N counts the whole batch, so neither `accumulation` nor the number of processes changes the step.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nestmem.errors import InputError, ModelError
from nestmem.optim import M3, Muon
from nestmem.train import distributed
from nestmem.train.checkpoints import Checkpoints
from nestmem.train.record import environment

Batch = dict[str, Tensor]
"""`input_ids` [B, T]; `labels` [B, T], the same tokens or -100 where nothing is to be predicted; and, in packed rows,
`document_ids` [B, T], equal within a document and -1 on padding. Shapes: B rows, T tokens, on the CPU."""

Batches = Callable[[int], Batch]
"""The whole batch of a step, the same whenever and in whichever process it is asked for."""

OPTIMIZERS = {"adamw": 1e-3, "muon": 0.02, "m3": 0.02}
"""The optimizers and the rate that `lr=None` means."""
PRECISIONS = ("float32", "bf16")
FREE = ("checkpoint_every", "evaluate_every", "log_every", "minutes", "device", "threads")
"""Fields of `FitConfig` that may be changed when a run goes on: the steps stay what they are."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a model is trained.

    steps           updates in all
    lr              the highest rate: of matrices for muon and m3. None: 1e-3 (adamw), 0.02 (muon, m3)
    warm_up         steps in which the rate rises from 0; then it falls as a cosine
    final           the rate at the end, as a share of lr
    optimizer       "adamw", or "muon" or "m3" for the matrices inside the blocks, the rest by Adam
    adam_ratio      muon and m3: Adam's rate, as a share of lr
    weight_decay    decoupled, of linear layers, embedding and head
    betas           of Adam
    clip            the largest norm of a step's gradient; 0: any
    accumulation    parts that a process takes its rows in, one after the other
    precision       "float32", or "bf16": float32 weights, products in bfloat16
    gradient_checkpointing   blocks are computed again in the backward pass instead of kept
    checkpoint_every, evaluate_every, log_every   in steps; 0: at the end only
    minutes         stop after so many minutes, with a checkpoint, to be continued by another call; 0: no limit
    device, threads the device, and the CPU threads of this process; threads 0: as torch has it
    """

    steps: int = 1000
    lr: float | None = None
    warm_up: int = 50
    final: float = 0.1
    optimizer: str = "adamw"
    adam_ratio: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    accumulation: int = 1
    precision: str = "float32"
    gradient_checkpointing: bool = False
    checkpoint_every: int = 200
    evaluate_every: int = 200
    log_every: int = 10
    minutes: float = 0.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer={self.optimizer!r}: expected one of {', '.join(OPTIMIZERS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision={self.precision!r}: expected one of {', '.join(PRECISIONS)}")
        for name, least in (
            ("steps", 1),
            ("warm_up", 0),
            ("accumulation", 1),
            ("checkpoint_every", 0),
            ("evaluate_every", 0),
            ("log_every", 0),
            ("seed", 0),
            ("threads", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name}={value!r}: expected a whole number, at least {least}")
        for name in ("lr", "adam_ratio", "weight_decay", "clip", "minutes"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name}={value!r}: expected a finite number of at least 0")
        if not 0 <= self.final <= 1:
            raise InputError(f"final={self.final}: expected a share of lr, from 0 to 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas={self.betas!r}: expected two numbers in [0, 1), such as (0.9, 0.95)")

    @property
    def rate(self) -> float:
        """The highest learning rate: `lr`, or the optimizer's own."""
        return OPTIMIZERS[self.optimizer] if self.lr is None else self.lr

    def factor(self, step: int) -> float:
        """The share of `rate` that step `step` (from 0) takes.

        >>> config = FitConfig(steps=12, warm_up=2, final=0.1)
        >>> [round(config.factor(step), 3) for step in (0, 1, 6, 11)]
        [0.5, 1.0, 0.55, 0.1]
        """
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        done = (step + 1 - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that was just made. `loss` in nats per predicted token; `tokens` of all steps so far, padding left out."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds: float
    row: dict[str, Any] | None = None
    """What was logged at this step, if anything."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Where a run stands. `finished`: all steps are made; if not, the same call goes on. `evaluation`: the last one."""

    step: int
    tokens: int
    seconds: float
    loss: float
    finished: bool
    evaluation: dict[str, float]


@dataclass(kw_only=True)
class _Position:
    """What the loop knows beside model and optimizer. `window`: losses, tokens and seconds since the last log row."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    evaluation: dict[str, float] = field(default_factory=dict)
    window: list[tuple[float, int, float]] = field(default_factory=list)


def fit(
    model: nn.Module,
    batches: Batches,
    config: FitConfig,
    *,
    out: Path | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    identity: dict[str, Any] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_event: Callable[[str], None] = print,
    stop: Callable[[], bool] | None = None,
) -> Fitted:
    """Train `model` in place on `batches(0)`, `batches(1)`, ... until `config.steps` or `config.minutes`.

    model       called as model(input_ids, labels, ...) and giving `.loss`, the mean over its predicted tokens, with
                labels shifted inside, as Hugging Face models do. It gets `document_ids` where batches have them (or
                `position_ids` that start again in every document, where its forward knows only those)
    out         the folder for `log.jsonl` and `checkpoints/`; when it holds checkpoints the run goes on from the last
                that is whole. None: nothing is written
    evaluate    numbers about the model, called in eval mode, without gradients, in every process alike; they are logged
    identity    plain values that say what is trained on what; a run that was begun with others is refused
    on_step     told about every step; on_event: about what a person should know, in a sentence
    stop        asked after every step; when it says so, the run stops with a checkpoint, as for `minutes`

    Under `torchrun` (see `distributed.process_group`) every process calls this with the same arguments. Rows of a batch
    are shared out in order, parameters are sharded by FSDP, and process 0 writes; checkpoints do not depend on the
    number of processes. Raises `InputError` when the run in `out` was begun with another identity or config, or none of
    its checkpoints is whole, and `ModelError` when loss or gradient are not finite: nothing was changed by that step.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = usable_device(config.device)
    model.to(device)
    if config.gradient_checkpointing:
        _recompute(model)
    call = _Caller(model, config)
    distributed.shard(model, device)
    optimizer = make_optimizer(model, config)
    told = {**{k: v for k, v in asdict(config).items() if k not in FREE}, **(identity or {})}
    run = _Run(out, json.loads(json.dumps(told, default=str)))
    position, notes = run.resume(model, optimizer)
    if distributed.rank() == 0:
        for note in notes:
            on_event(note)
        parameters = sum(p.numel() for p in model.parameters())
        run.write(
            event="start",
            step=position.step,
            parameters=parameters,
            processes=distributed.world(),
            environment=environment(),
            **({"notes": notes} if notes else {}),
        )
    began, before = time.perf_counter(), position.seconds
    model.train()
    while position.step < config.steps:
        report = _step(model, optimizer, batches(position.step), position, config, call)
        position.seconds = before + time.perf_counter() - began
        at_end = position.step == config.steps
        row = None
        if at_end or _due(position.step, config.log_every):
            row = _row(report, position)
        if evaluate and (at_end or _due(position.step, config.evaluate_every)):
            position.evaluation = evaluated(model, evaluate)
            row = {**(row or {"step": position.step}), **position.evaluation}
        position.seconds = before + time.perf_counter() - began
        if row is not None:
            row["seconds"] = round(position.seconds, 2)
            run.write(**row)
        if on_step:
            on_step(Step(**report, seconds=position.seconds, steps=config.steps, row=row))
        (late,) = distributed.summed(
            [
                float(config.minutes > 0 and time.perf_counter() - began > 60 * config.minutes)
                + float(stop is not None and stop())
            ],
            device,
        )
        if at_end or late or _due(position.step, config.checkpoint_every):
            run.save(model, optimizer, position)
        if late and not at_end:
            break
    return Fitted(
        step=position.step,
        tokens=position.tokens,
        seconds=position.seconds,
        loss=position.loss,
        finished=position.step == config.steps,
        evaluation=position.evaluation,
    )


def _recompute(model: nn.Module) -> None:
    """Have the model compute its blocks again in the backward pass. Raises `InputError` when it cannot."""
    # transformers renamed the method in version 5.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next((getattr(model, name) for name in names if hasattr(model, name)), None)
    if enable is None or not getattr(model, "supports_gradient_checkpointing", True):
        raise InputError(f"gradient_checkpointing=True: {type(model).__name__} cannot do that; leave it out")
    enable()


def usable_device(name: str) -> torch.device:
    """The device of that name. Raises `InputError` when there is none here."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device={name!r} cannot be used here: {str(error).splitlines()[0]} Give 'cpu', or 'cuda' where there is a "
            "GPU."
        ) from error
    return torch.device(name)


def evaluated(model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
    """`evaluate(model)` in eval mode and without gradients; the mode is put back."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            return evaluate(model)
    finally:
        model.train(was)


def mean_loss(model: nn.Module, batches: Iterable[Batch], config: FitConfig) -> float:
    """Mean loss in nats per predicted token over all batches; NaN without any. Each process takes a share of the rows."""
    call = _Caller(model, config)
    world, rank, device = distributed.world(), distributed.rank(), torch.device(config.device)
    total, count = 0.0, 0
    for batch in batches:
        batch = with_borders(batch)
        rows = len(batch["input_ids"])
        # All processes take part in every call, so one that has no row of its own repeats the first.
        mine = [row if row < rows else 0 for row in range(rank, -(-rows // world) * world, world)]
        part = {name: tensor[mine] for name, tensor in batch.items()}
        predicted = int(predictions(batch)[rank::world].sum())
        if rank + world * (len(mine) - 1) >= rows:
            part["labels"] = part["labels"].clone()
            part["labels"][-1] = -100
        loss = call(model, part)
        if predicted:
            total, count = total + float(loss.detach()) * predicted, count + predicted
    total, count = distributed.summed([total, float(count)], device)
    return total / count if count else math.nan


# -- a step --------------------------------------------------------------------------------------------------


def with_borders(batch: Batch) -> Batch:
    """The batch with label -100 on padding and on the first token of every document: nothing predicts those."""
    if "document_ids" not in batch:
        return batch
    ids_BT = batch["document_ids"]
    first_BT = torch.ones_like(ids_BT, dtype=torch.bool)
    first_BT[:, 1:] = ids_BT[:, 1:] != ids_BT[:, :-1]
    return {**batch, "labels": batch["labels"].masked_fill(first_BT | (ids_BT < 0), -100)}


def predictions(batch: Batch) -> Tensor:
    """How many tokens of each row [B] are predicted: those with a label, the first of the row left out."""
    return (batch["labels"][:, 1:] != -100).sum(1)


class _Caller:
    """Calls a model on a batch: the arguments its forward knows, on its device, in the precision asked for."""

    def __init__(self, model: nn.Module, config: FitConfig):
        known = inspect.signature(model.forward).parameters
        self.name = type(model).__name__
        self.documents = next((name for name in ("document_ids", "position_ids") if name in known), None)
        self.constants = {"use_cache": False} if "use_cache" in known else {}
        self.device = torch.device(config.device)
        self.half = config.precision == "bf16"

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        arguments = {name: tensor for name, tensor in batch.items() if name != "document_ids"}
        if "document_ids" in batch:
            if self.documents is None:
                raise InputError(
                    f"{self.name} takes neither document_ids nor position_ids, so packed documents would flow into "
                    "each other; use packing='stream', which means that they do"
                )
            own = batch["document_ids"]
            arguments[self.documents] = own if self.documents == "document_ids" else positions(own)
        arguments = {name: tensor.to(self.device, non_blocking=True) for name, tensor in arguments.items()}
        # Weights are not cached in half precision: a cache would outlive the inner gradients of models that learn.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            return model(**arguments, **self.constants).loss


def positions(document_ids_BT: Tensor) -> Tensor:
    """Positions [B, T] that start at 0 in every document.

    >>> positions(torch.tensor([[0, 0, 0, 1, 1, -1]])).tolist()
    [[0, 1, 2, 0, 1, 0]]
    """
    at_T = torch.arange(document_ids_BT.shape[1]).expand_as(document_ids_BT)
    new_BT = torch.ones_like(document_ids_BT, dtype=torch.bool)
    new_BT[:, 1:] = document_ids_BT[:, 1:] != document_ids_BT[:, :-1]
    return at_T - torch.where(new_BT, at_T, 0).cummax(1).values


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    position: _Position,
    config: FitConfig,
    call: _Caller,
) -> dict[str, Any]:
    """One update; moves `position` on. Returns the fields of `Step` that are known."""
    started = time.perf_counter()
    world, rank = distributed.world(), distributed.rank()
    torch.manual_seed(_seed(config.seed, position.step, rank))
    batch = with_borders(batch)
    parts = world * config.accumulation
    rows = len(batch["input_ids"])
    if rows % parts:
        raise InputError(
            f"a batch of {rows} rows cannot be split evenly over {world} processes x {config.accumulation} "
            f"accumulated parts; use a multiple of {parts}"
        )
    counts = predictions(batch).view(parts, -1).sum(1).tolist()
    if not all(counts):
        raise InputError(
            f"batch {position.step} has rows without a token to predict (every label is -100, or the first of its "
            "document); leave such rows out"
        )
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for part in range(rank * config.accumulation, (rank + 1) * config.accumulation):
        own = slice(part * rows // parts, (part + 1) * rows // parts)
        loss = call(model, {name: tensor[own] for name, tensor in batch.items()})
        share = counts[part] / sum(counts)
        # FSDP takes the mean of the processes' gradients.
        (loss * (share * world)).backward()
        total += float(loss.detach()) * share
    (total,) = distributed.summed([total], torch.device(config.device))
    norm = _clipped(model, config.clip)
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise ModelError(
            f"step {position.step + 1}: the loss is {total} and the gradient's norm {norm}. The step was not made, and "
            "the last checkpoint is as it was. Try a lower lr, a longer warm_up, or precision='float32', in a new run"
        )
    factor = config.factor(position.step)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    ids = batch.get("document_ids")
    tokens = batch["input_ids"].numel() if ids is None else int((ids >= 0).sum())
    seconds = time.perf_counter() - started
    position.step += 1
    position.tokens += tokens
    position.loss = total
    position.window.append((total, tokens, seconds))
    return {
        "step": position.step,
        "loss": total,
        "lr": config.rate * factor,
        "grad_norm": norm,
        "tokens": position.tokens,
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }


def _seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every run, step and process."""
    return (seed * 1_000_003 + step) * 4099 + rank


def _clipped(model: nn.Module, clip: float) -> float:
    """Scale the gradient down to the norm `clip` (0: leave it) and return the norm it had."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
    return float(distributed.whole(norm))


def _row(report: dict[str, Any], position: _Position) -> dict[str, Any]:
    """The log's row: means over the steps since the row before."""
    losses, tokens, seconds = zip(*position.window, strict=True)
    position.window = []
    rate = round(sum(tokens) / max(sum(seconds), 1e-9), 1)
    return {**report, "loss": sum(losses) / len(losses), "tokens_per_second": rate}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


# -- the optimizer -------------------------------------------------------------------------------------------


def make_optimizer(model: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """The optimizer of a config. Groups carry `base_lr`, the rate that the schedule scales.

    What a parameter is decides, not its shape, since gates and norms of heads are tables, too. adamw decays the weights
    of linear layers, the embedding and the head. muon and m3 take the linear layers inside the blocks. Everything else
    (norms, biases, gates, convolutions, initial memories) goes by Adam and is not decayed.
    """
    outer = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    outer |= {id(head.weight)} if head is not None else set()
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | Conv1D)}
    kinds: dict[str, list[nn.Parameter]] = {"matrices": [], "tables": [], "others": []}
    for p in model.parameters():
        if p.requires_grad:
            kinds["tables" if id(p) in outer else "matrices" if id(p) in linear else "others"].append(p)
    adam_rate = config.rate * (1.0 if config.optimizer == "adamw" else config.adam_ratio)
    groups: list[dict[str, Any]] = []
    for kind, params in kinds.items():
        decay = 0.0 if kind == "others" else config.weight_decay
        rate = config.rate if kind == "matrices" else adam_rate
        group = {"params": params, "lr": rate, "base_lr": rate, "weight_decay": decay}
        if config.optimizer != "adamw":
            group["adam"] = kind != "matrices"
        if params:
            groups.append(group)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.rate, betas=config.betas)
    method = {"muon": Muon, "m3": M3}[config.optimizer]
    return method(groups, lr=config.rate, adam_betas=config.betas)


# -- what a run leaves ---------------------------------------------------------------------------------------


class _Run:
    """The folder of a run: its log and its checkpoints. Without a folder nothing is written and nothing found."""

    def __init__(self, out: Path | None, identity: dict[str, Any]):
        self.identity = identity
        self.log = out / "log.jsonl" if out else None
        self.checkpoints = Checkpoints(out / "checkpoints") if out else None

    def write(self, **values: Any) -> None:
        """Append a row to the log; process 0 does."""
        if self.log and distributed.rank() == 0:
            with self.log.open("a") as file:
                file.write(json.dumps(values) + "\n")

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, position: _Position) -> None:
        """Write a checkpoint, whole tensors whatever the number of processes."""
        if self.checkpoints is None:
            return
        values = {
            "identity": json.dumps(self.identity),
            "position": json.dumps(asdict(position)),
            "model": full_state(model),
            "optimizer": _optimizer_state(model, optimizer),
        }
        if distributed.rank() == 0:
            self.checkpoints.save(position.step, values)
        distributed.barrier()

    def resume(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[_Position, list[str]]:
        """Where to go on, with model and optimizer set to it, and what a person should know about it.

        Log rows from after the checkpoint go: their steps are made again.
        """
        if self.checkpoints is None or self.log is None:
            return _Position(), []
        self.log.parent.mkdir(parents=True, exist_ok=True)
        values, damaged = self.checkpoints.load()
        distributed.barrier()
        position, notes = _Position(), []
        if values is not None:
            same_identity(json.loads(values["identity"]), self.identity, self.log.parent)
            position = _Position(**json.loads(values["position"]))
            load_state(model, values["model"])
            _load_optimizer(model, optimizer, values["optimizer"])
            notes = [
                f"{path} is damaged; going on from the checkpoint of step {position.step}" for path in damaged
            ]
        if distributed.rank() == 0:
            rows = read_log(self.log.parent) if self.log.exists() else []
            temporary = self.log.with_suffix(".tmp")
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= position.step]
            temporary.write_text("".join(kept if position.step else []))
            temporary.replace(self.log)
        return position, notes


def same_identity(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """Raise `InputError` naming the fields in which the run in `out` was begun with other values."""
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        lines = "; ".join(
            f"{name}: {old.get(name)!r} in the run, {new.get(name)!r} now" for name in differing
        )
        raise InputError(
            f"{out} holds a run that was begun with other values: {lines}. Give the run's own to go on with it, or "
            "another out for a new run"
        )


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's `log.jsonl`; a last line that a kill left half written is left out."""
    path = run / "log.jsonl"
    if not path.exists():
        raise InputError(f"{run} has no log.jsonl; expected the folder of a training run")
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state with whole tensors on the CPU. Every process must call it."""
    return {name: distributed.whole(tensor) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Take over what `full_state` gave. Raises `InputError` when it is of another model."""
    own = model.state_dict()
    differing = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if differing:
        raise InputError(
            f"the checkpoint is of another model: {len(differing)} tensors differ in name or shape, the first is "
            f"{differing[0]}; use the run's own model and sizes"
        )
    for name, tensor in own.items():
        tensor.copy_(distributed.spread(state[name], tensor))


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """{name of the parameter: its state}, whole tensors."""
    return {
        name: {
            slot: distributed.whole(value) if isinstance(value, Tensor) else value
            for slot, value in optimizer.state[p].items()
        }
        for name, p in model.named_parameters()
        if p in optimizer.state
    }


def _load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, dict[str, Any]]
) -> None:
    """Take over what `_optimizer_state` gave. Tensors of a parameter's shape are laid out as it is; the count of steps
    stays on the CPU."""

    def placed(slot: str, value: Any, p: Tensor) -> Any:
        if slot == "step" or not isinstance(value, Tensor):
            return value
        return distributed.spread(value, p) if value.shape == p.shape else value.to(p.device)

    for name, p in model.named_parameters():
        if name in state:
            optimizer.state[p] = {slot: placed(slot, value, p) for slot, value in state[name].items()}
