"""The deep memory of Titans: `nestmem.ops.deep.chunked` in a complete layer against the layer of titans-pytorch.

    python benchmarks/deep.py [--threads 1 2] [--expansion 4 1] [--quick] [--head plain] [--cap-seconds 60] [--json FILE]

Needs `pip install titans-pytorch==0.5.5` for the comparison; without it, our side is measured alone. float32, CPU.

Both sides are one layer from [B, T, dim] to [B, T, dim] with the same parameters: RMS norms before reading and
writing, projections to queries, keys and values, gates per token and head (rate, decay, momentum), a memory per head
that is an MLP of two matrices with a GELU, an output gate per head, and a projection of the heads together. Ours also
scales queries and keys to unit length (part of the time, not of the comparison of outputs). --head plain: the memory
is the MLP alone on both sides, so that with gates per token the two layers are the same function; the run prints how
far they differ with shared parameters. --head norm: x + norm(MLP(x)), the default of titans-pytorch, which also
writes the norm's gain; ours keeps it as an outer parameter.

Modes. `a` equal semantics: gates per token, gradients at weights frozen for 64 tokens (theirs chunk_size=1,
batch_size=64; ours chunk=64). `b` theirs pools gates and reads over 64 tokens (chunk_size=64, batch_size=64), ours as
in a. `c` theirs pools over 16 (chunk_size=16, batch_size=16), ours chunk=16 with gates per token.

Every row is a process of its own, with one thread count: an untimed pass of each side, then ours and theirs in turn.
Ratios are of neighbouring passes: median and range. With one thread read the tokens per CPU-second, with two the
tokens per second of wall time. Peak memory is resident memory of a further process, less what it held after a short
pass. A side that needs more than the cap of seconds in one row, or more memory than is free, is skipped and says so.
Roofline: the FLOPs of `flops` per second, over those of a 1024 x 1024 product in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from nestmem.core import MLP, Gates
from nestmem.evals.record import environment, write_json
from nestmem.ops import deep

PEER = "titans-pytorch==0.5.5"
SIZES = ((128, 2, 512), (256, 4, 2048))  # dim, heads, tokens
BATCHES = (1, 4)
# name -> (theirs chunk_size, theirs batch_size, our chunk)
MODES = {"a": (1, 64, 64), "b": (64, 64, 64), "c": (16, 16, 16)}
PASSES = ("forward", "forward and backward")
CONTEXTS = (1_024, 8_192, 32_768, 131_072)
# Both sides start at the same gates: rate in 0 .. 0.1, decay about 0.999, momentum about a half. With much more decay
# both memories fade to nothing within 2,048 tokens, and what is timed is arithmetic on denormal numbers.
LARGEST_RATE = 0.1
DECAY_BIAS = -7.0
Row = dict[str, Any]


class Layer(nn.Module):
    """A Titans memory layer, [B, T, dim] -> [B, T, dim], with gates per token."""

    def __init__(
        self, dim: int, heads: int, hidden: int, chunk: int, head: str = "plain", unit: bool = True
    ) -> None:
        super().__init__()
        width = dim // heads
        self.heads, self.chunk, self.unit = heads, chunk, unit
        self.model = MLP((width, hidden, width), residual=head == "norm", norm=head == "norm")
        self.read_norm, self.write_norm = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.queries, self.keys, self.values = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.gates = nn.Linear(dim, 3 * heads)
        self.gate = nn.Linear(dim, heads, bias=False)
        self.combine = nn.Linear(dim, dim, bias=False)
        nn.init.constant_(self.gates.bias[heads : 2 * heads], DECAY_BIAS)
        self.weights = nn.ParameterDict(
            {name: nn.Parameter(w[0].clone()) for name, w in self.model.init(1, heads).items()}
        )
        self.gain = nn.Parameter(torch.ones(heads, width)) if head == "norm" else None

    def inner(self) -> MLP:
        """The memory's function, with the learned gain of its norm."""
        if self.gain is None:
            return self.model
        return MLP(self.model.sizes, residual=True, norm=True, norm_weight=self.gain)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        read, write = self.read_norm(x), self.write_norm(x)

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.queries(read)), split(self.keys(write)), split(self.values(write))
        if self.unit:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        rate, forget, momentum = self.gates(write).sigmoid().mT.chunk(3, 1)
        # Theirs takes the mean of the squared error over the width, ours the sum.
        gates = Gates(rate=rate * (LARGEST_RATE / q.shape[-1]), decay=1 - forget, momentum=momentum)
        start = deep.init(self.model, batch, weights=dict(self.weights.items()), momentum=True)
        y, _ = deep.chunked(q, k, v, gates, start, model=self.inner(), chunk=self.chunk)
        y = y * self.gate(read).sigmoid().mT[..., None]
        return self.combine(y.transpose(1, 2).flatten(2))

    def load_peer(self, peer: Any) -> None:
        """Take over every parameter of a layer of titans-pytorch."""
        pairs = [
            (self.read_norm.weight, peer.retrieve_norm.weight),
            (self.write_norm.weight, peer.store_norm.weight),
            (self.queries.weight, peer.to_queries.weight),
            (self.keys.weight, peer.to_keys.weight),
            (self.values.weight, peer.to_values.weight),
            (self.gate.weight, peer.retrieve_gate[0].weight),
            (self.combine.weight, peer.combine_heads.weight),
        ]
        gates = [peer.to_adaptive_step[0], peer.to_decay_factor[0], peer.to_momentum[0]]
        pairs.append((self.gates.weight, torch.cat([g.weight for g in gates])))
        pairs.append((self.gates.bias, torch.cat([g.bias for g in gates])))
        pairs += zip(self.weights.values(), peer.memory_model_parameters, strict=True)
        with torch.no_grad():
            for ours, theirs in pairs:
                ours.copy_(theirs)


def our_layer(row: Row, unit: bool = True) -> Layer:
    """The layer of a row."""
    hidden = row["dim"] // row["heads"] * row["expansion"]
    return Layer(row["dim"], row["heads"], hidden, MODES[row["mode"]][2], row["head"], unit)


def peer_layer(row: Row) -> nn.Module:
    """The layer of titans-pytorch for a row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]
    chunk, batch, _ = MODES[row["mode"]]
    return NeuralMemory(
        dim=row["dim"],
        heads=row["heads"],
        dim_head=row["dim"] // row["heads"],
        chunk_size=chunk,
        batch_size=batch,
        mem_model_norm_add_residual=row["head"] == "norm",
        default_step_transform_max_lr=LARGEST_RATE,
        init_decay_bias=DECAY_BIAS,
        default_model_kwargs={"depth": 2, "expansion_factor": float(row["expansion"])},
    )


def passes(layer: nn.Module, x: Tensor) -> dict[str, Callable[[], None]]:
    """A forward pass without graph, and a forward and backward pass to all parameters and the input."""

    def output(x: Tensor) -> Tensor:
        y = layer(x)
        return y[0] if isinstance(y, tuple) else y

    def forward() -> None:
        with torch.no_grad():
            output(x)

    def both() -> None:
        layer.zero_grad()
        output(x.detach().requires_grad_()).sum().backward()

    return dict(zip(PASSES, (forward, both), strict=True))


def flops(row: Row, which: str) -> float:
    """FLOPs of the matrix products of our layer for a whole batch; two per multiply-add.

    With C the chunk, d the width of a head, h the hidden width, the products of `Span.__call__` for each chunk and
    head are, in multiply-adds: keys through both layers and the error back through one, 3 C d h; queries through the
    weights and the momentum of both layers, 4 C d h; both written in both layers, 4 C d h; the overlaps Y X^T and
    their products with D, 2 C^2 (d + h). The mixing matrix adds C^3. The projections add 4 dim^2 + 4 dim heads for
    each token. The backward pass has two products of the same size for each of these.
    """
    d = row["dim"] // row["heads"]
    h, c = d * row["expansion"], min(MODES[row["mode"]][2], row["tokens"])
    chunk = 11 * c * d * h + 2 * c * c * (d + h) + c**3
    token = row["heads"] * chunk / c + 4 * row["dim"] ** 2 + 4 * row["dim"] * row["heads"]
    return 2 * row["batch"] * row["tokens"] * token * (1 if which == "forward" else 3)


class Timeout(Exception):
    """A side's time for this row is spent."""


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """(CPU seconds of all threads, wall seconds) of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def limited(side: str, row: Row, work: Callable[[], Any]) -> Any:
    """The result of work(), or the reason why there is none, as a string. Only their side is given up on."""
    if side == "ours":
        return work()
    try:
        signal.setitimer(signal.ITIMER_REAL, max(row["deadline"] - time.monotonic(), 1e-3))
        return work()
    except Timeout:
        return f"skipped: more than {row['cap_seconds']:g} s"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        return f"skipped: more than {row['cap_gb']:g} GB"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _expired(*_: object) -> None:
    raise Timeout


def prepare(row: Row) -> None:
    """Threads and limits of this process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(row["threads"])
    torch.manual_seed(0)
    signal.signal(signal.SIGALRM, _expired)
    limit = int(row["cap_gb"] * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    row["deadline"] = time.monotonic() + row["cap_seconds"]


def layers(row: Row) -> dict[str, nn.Module]:
    """side -> layer, for the sides of this row."""
    makers = {"ours": our_layer, "theirs": peer_layer}
    return {side: makers[side](row) for side in row["sides"]}


def speed_here(row: Row) -> Row:
    """Seconds of both sides in turn, in this process."""
    prepare(row)
    x = torch.randn(row["batch"], row["tokens"], row["dim"])
    works = {side: passes(layer, x) for side, layer in layers(row).items()}
    result: Row = {}
    start = time.monotonic()
    for which, share in zip(PASSES, (0.25, 1.0), strict=True):
        row["deadline"] = start + row["cap_seconds"] * share
        first = {side: limited(side, row, partial(timed, work[which])) for side, work in works.items()}
        skipped = {side: reason for side, reason in first.items() if isinstance(reason, str)}
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in works}
        left = row["deadline"] - time.monotonic()
        once = sum(seconds[1] for side, seconds in first.items() if side not in skipped)
        for _ in range(max(3, min(row["repeats"], int(left / once)))):
            found = {
                side: limited(side, row, partial(timed, work[which]))
                for side, work in works.items()
                if side not in skipped
            }
            for side, seconds in found.items():
                if not isinstance(seconds, str):
                    times[side].append(seconds)
            if any(isinstance(seconds, str) for seconds in found.values()):
                # The cap; what was measured before it counts.
                break
        while len(times["ours"]) < 3:
            times["ours"].append(timed(works["ours"][which]))
        for side in set(works) - set(skipped):
            # Where the cap left time for one pass, it is the first one.
            times[side] = times[side] or [first[side]]
        result[which] = {"seconds": times, "skipped": skipped}
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    products = [timed(lambda: a @ b) for _ in range(12)][2:]
    result["product_seconds"] = [statistics.median(each) for each in zip(*products, strict=True)]
    return result


def peak_here(row: Row) -> Row:
    """Peak MB of one side for each pass, above what this process held before; for a process that did nothing else."""
    prepare(row)
    (side,) = row["sides"]
    layer = layers(row)[side]
    for work in passes(layer, torch.randn(1, 64, row["dim"])).values():
        work()
    x = torch.randn(row["batch"], row["tokens"], row["dim"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: Row = {}
    for which, work in passes(layer, x).items():
        found = limited(side, row, work)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result[which] = found if isinstance(found, str) else (after - before) / 1024
    return result


def agreement_here(row: Row) -> Row:
    """How far both layers differ at equal semantics and with shared parameters, relative to the output's size."""
    prepare(row)
    ours, theirs = our_layer(row, unit=False), peer_layer(row)
    ours.load_peer(theirs)
    x = torch.randn(row["batch"], row["tokens"], row["dim"])
    with torch.no_grad():
        a, b = ours(x), theirs(x)[0]
    return {"relative_difference": float((a - b).abs().max() / b.abs().max())}


def decode_here(row: Row, steps: int = 256) -> Row:
    """Microseconds of one token after each context length, which is read in pieces without gradients."""
    prepare(row)
    d, heads = row["dim"] // row["heads"], row["heads"]
    model = MLP((d, d * row["expansion"], d))
    chunk = MODES[row["mode"]][2]

    def some(tokens: int) -> tuple[Tensor, Tensor, Tensor, Gates]:
        q, k, v = torch.randn(3, row["batch"], heads, tokens, d).unbind()
        rate, decay, momentum = torch.rand(3, row["batch"], heads, tokens).unbind()
        gates = Gates(rate=rate * (LARGEST_RATE / d), decay=1 - 0.05 * decay, momentum=momentum)
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, gates

    state, found = deep.init(model, row["batch"], heads, momentum=True), []
    with torch.no_grad():
        for context in CONTEXTS:
            while state.position < context:
                piece = some(min(context - state.position, 8_192))
                _, state = deep.chunked(*piece, state, model=model, chunk=chunk)
            token, after, times = some(1), state, []
            for step in range(steps + 16):
                start = time.perf_counter()
                _, after = deep.chunked(*token, after, model=model, chunk=chunk, check=False)
                if step >= 16:
                    times.append(1e6 * (time.perf_counter() - start))
            times.sort()
            found.append(
                {
                    "context_tokens": context,
                    "median_us": round(statistics.median(times), 1),
                    "p95_us": round(times[int(0.95 * len(times))], 1),
                    "state_bytes": after.bytes(),
                }
            )
    return {"decode": found}


HERE = {"speed": speed_here, "peak": peak_here, "agreement": agreement_here, "decode": decode_here}


def child(task: str, row: Row) -> Row:
    """A task in a process of its own; where the process dies or hangs, {"failed": why}."""
    command = [sys.executable, __file__, "--child", task, json.dumps(row)]
    limit, threads = 4 * row["cap_seconds"] + 120, str(row["threads"])
    libraries = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=libraries)
    except subprocess.TimeoutExpired:
        return {"failed": f"skipped: more than {limit:g} s"}
    if done.returncode:
        if done.returncode < 0:
            return {"failed": f"skipped: ended by signal {-done.returncode}, most likely out of memory"}
        raise RuntimeError(f"{task} {row}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(row: Row, found: Row, which: str) -> Row:
    """Speeds, ratios and roofline of one row and pass."""
    one = found[which]
    tokens, clock = row["batch"] * row["tokens"], 0 if row["threads"] == 1 else 1
    result: Row = {
        **{n: row[n] for n in ("dim", "heads", "tokens", "batch", "expansion", "mode", "head", "threads")},
        "pass": which,
        "clock": "CPU seconds" if clock == 0 else "wall seconds",
    }
    for side in row["sides"]:
        seconds = [each[clock] for each in one["seconds"][side]]
        result[side] = one["skipped"].get(side) or {
            "tokens_per_second": round(tokens / statistics.median(seconds), 1),
            "tokens_per_cpu_second": round(tokens / statistics.median(s[0] for s in one["seconds"][side]), 1),
            "tokens_per_wall_second": round(
                tokens / statistics.median(s[1] for s in one["seconds"][side]), 1
            ),
            "repeats": len(seconds),
        }
    pairs = zip(one["seconds"]["ours"], one["seconds"].get("theirs", []), strict=False)
    ratios = [theirs[clock] / ours[clock] for ours, theirs in pairs]
    if ratios:
        result["times_theirs"] = round(statistics.median(ratios), 2)
        result["times_theirs_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    seconds = statistics.median(each[clock] for each in one["seconds"]["ours"])
    result["gflops"] = round(flops(row, which) / seconds / 1e9, 1)
    result["product_gflops"] = round(2 * 1024**3 / found["product_seconds"][clock] / 1e9, 1)
    result["share_of_product"] = round(result["gflops"] / result["product_gflops"], 3)
    return result


def shown(value: Any, unit: str = "") -> str:
    """A number with separators, a reason as it is."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,.0f}{unit}"


def table(rows: list[Row], expansion: int, threads: int) -> Table:
    """The rows of one expansion and thread count."""
    unit = "CPU-s" if threads == 1 else "s"
    made = Table(title=f"hidden width {expansion} x head width, {threads} thread(s)")
    for name in ("dim, heads, T", "batch", "mode", "pass"):
        made.add_column(name)
    for name in (f"ours tok/{unit}", f"theirs tok/{unit}", "x", "range", "MB ours", "theirs", "roofline"):
        made.add_column(name, justify="right")
    for r in rows:
        if (r["expansion"], r["threads"]) != (expansion, threads):
            continue
        ours, theirs, peaks = r["ours"], r.get("theirs"), r.get("peak_mb", {})
        made.add_row(
            f"{r['dim']}, {r['heads']}, {r['tokens']}",
            str(r["batch"]),
            r["mode"],
            r["pass"].replace("forward and backward", "both"),
            shown(ours if isinstance(ours, str) else ours["tokens_per_second"]),
            shown(theirs["tokens_per_second"] if isinstance(theirs, dict) else theirs),
            f"{r['times_theirs']:.1f}" if "times_theirs" in r else "-",
            "{:.1f}..{:.1f}".format(*r["times_theirs_range"]) if "times_theirs" in r else "-",
            shown(peaks.get("ours")),
            shown(peaks.get("theirs")),
            f"{r['share_of_product']:.0%}",
        )
    return made


def free_gb() -> float:
    """Memory that can be had without swapping; 16 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 16.0
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def measured(options: argparse.Namespace, console: Console, sides: list[str]) -> tuple[list[Row], list[Row]]:
    """All rows of the comparison, and the decode rows."""
    sizes = SIZES[:1] if options.quick else SIZES
    common = {
        "head": options.head,
        "cap_seconds": options.cap_seconds,
        "cap_gb": round(0.7 * free_gb(), 1),
        "repeats": options.repeats,
    }
    rows: list[Row] = []
    # Peaks do not depend on threads; they are taken once.
    peaks: dict[str, Row] = {}
    for threads in options.threads:
        for expansion in options.expansion:
            for dim, heads, tokens in sizes:
                for batch in BATCHES:
                    for mode in MODES:
                        row: Row = {
                            "dim": dim,
                            "heads": heads,
                            "tokens": tokens,
                            "batch": batch,
                            "expansion": expansion,
                            "mode": mode,
                        }
                        key = json.dumps(row)
                        row |= common | {"threads": threads, "sides": sides}
                        for side in sides:
                            name = f"{key} {side}"
                            if name not in peaks:
                                peaks[name] = child("peak", row | {"sides": [side]})
                        found = child("speed", row)
                        if "failed" in found:
                            reason, found = found["failed"], child("speed", row | {"sides": ["ours"]})
                            for which in PASSES:
                                found[which]["skipped"]["theirs"] = reason
                                found[which]["seconds"]["theirs"] = []
                        for which in PASSES:
                            one = summary(row, found, which)
                            one["peak_mb"] = {
                                side: peaks[f"{key} {side}"].get(which, peaks[f"{key} {side}"].get("failed"))
                                for side in sides
                            }
                            rows.append(one)
                        console.print(f"[dim]{key} {threads} thread(s): done", soft_wrap=True)
            console.print(table(rows, expansion, threads))
    decodes: list[Row] = []
    for dim, heads, _ in sizes:
        row = common | {"dim": dim, "heads": heads, "batch": 1, "expansion": 4, "mode": "a", "threads": 1}
        decodes.append({"dim": dim, "heads": heads, "expansion": 4, **child("decode", row)})
        for each in decodes[-1]["decode"]:
            console.print(
                f"decode dim {dim}, {heads} heads, after {each['context_tokens']:,} tokens: median "
                f"{each['median_us']:.0f} us, p95 {each['p95_us']:.0f} us; state {each['state_bytes']:,} bytes"
            )
    return rows, decodes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--expansion", type=int, nargs="+", default=[4, 1], help="hidden over head width")
    parser.add_argument("--head", choices=("plain", "norm"), default="plain")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--quick", action="store_true", help="T=512 only")
    parser.add_argument(
        "--cap-seconds", type=float, default=60, help="of a row, after which their side is given up"
    )
    parser.add_argument("--repeats", type=int, default=15, help="at most, of each side and pass")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        task, row = options.child
        print(json.dumps(HERE[task](json.loads(row))))
        return

    if max(options.threads) > 1 and os.getloadavg()[0] > 0.5:
        print(
            f"load average {os.getloadavg()[0]:.1f}: wall times with two threads will mislead",
            file=sys.stderr,
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    sides = ["ours", "theirs"]
    if options.only_ours or find_spec("titans_pytorch") is None:
        sides = ["ours"]
        if not options.only_ours:
            console.print(f"titans-pytorch is not installed; for the comparison: pip install {PEER}")
    record: Row = {
        "config": {n: v if isinstance(v, list | int | float) else str(v) for n, v in vars(options).items()},
        "environment": environment(),
        # More than nothing at the start means other work on the machine; it ruins wall times with two threads.
        "load_average": os.getloadavg()[0],
    }
    if "theirs" in sides:
        row = {
            "dim": 128,
            "heads": 2,
            "tokens": 256,
            "batch": 2,
            "expansion": 4,
            "mode": "a",
            "head": "plain",
        }
        limits = {"threads": 1, "cap_seconds": options.cap_seconds, "cap_gb": round(0.7 * free_gb(), 1)}
        record["agreement"] = child("agreement", row | limits)
        console.print(
            "mode a with shared parameters: largest difference of the outputs "
            f"{record['agreement']['relative_difference']:.1e} of the largest output"
        )
    record["rows"], record["decode"] = measured(options, console, sides)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, record)


if __name__ == "__main__":
    main()
