"""The delta rule and linear attention: chunked against the loop over tokens, and decoding against context length.

    python benchmarks/delta.py [--tokens 2048 --dim 64 --heads 4 --batch 1 --chunk 64 --threads 1] [--json FILE]

float32. Three forms of each rule give the same numbers: `recurrent` is the paper's loop, `one by one` the chunked
form called with a token at a time as in decoding, `chunked` all tokens in one call. Speeds are tokens (of all
sequences, all heads) per CPU-second, median of the repeats. Peak memory is resident memory of a process of its own,
less what it held before, with the holes that the allocator leaves between a loop's small tensors. The roofline is a
1024 x 1024 float32 product in the same run; FLOPs are counted as in the README of each rule, a backward pass as two
forward ones.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestmem.evals.record import environment, write_json
from nestmem.ops import delta, linear

RULES = ("DeltaNet", "Gated DeltaNet", "linear attention", "RetNet", "GLA")
FORMS = ("recurrent", "one by one", "chunked")
PASSES = ("forward", "forward and backward")
CONTEXTS = (1_024, 8_192, 32_768, 131_072)
Options = argparse.Namespace


def inputs(rule: str, options: Options, tokens: int) -> dict[str, Any]:
    """Keyword arguments of the rule."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.heads, tokens)
    made: dict[str, Any] = {
        n: torch.randn(*shape, options.dim, generator=generator) for n in ("queries", "keys", "values")
    }
    made["keys"] = torch.nn.functional.normalize(made["keys"], dim=-1)
    if "Delta" in rule:
        made["rate"] = torch.rand(shape, generator=generator)
    if rule == "Gated DeltaNet":
        made["decay"] = 0.9 + 0.1 * torch.rand(shape, generator=generator)
    elif rule == "RetNet":
        made["decay"] = linear.retention_decay(options.heads)
    elif rule == "GLA":
        made["decay"] = 0.9 + 0.1 * torch.rand(*shape, options.dim, generator=generator)
    return made


def runner(rule: str, form: str, options: Options) -> Callable[..., Tensor]:
    """(**inputs) -> outputs."""
    module = delta if "Delta" in rule else linear

    def one_by_one(**made: Any) -> Tensor:
        state, outputs = None, []
        fixed = {n: x for n, x in made.items() if x.ndim == 1}
        moving = {n: x.split(1, dim=2) for n, x in made.items() if x.ndim > 1}
        for token in zip(*moving.values(), strict=True):
            named: dict[str, Any] = dict(zip(moving, token, strict=True))
            out, state = module.chunked(**named, **fixed, state=state, check=False)
            outputs.append(out)
        return torch.cat(outputs, dim=2)

    if form == "one by one":
        return one_by_one
    scan = module.recurrent if form == "recurrent" else module.chunked
    return lambda **made: scan(**made, chunk=options.chunk, check=False)[0]


def work(rule: str, form: str, which: str, options: Options, tokens: int) -> Callable[[], None]:
    """One pass over fresh leaves."""
    made, run = inputs(rule, options, tokens), runner(rule, form, options)

    def forward() -> None:
        with torch.no_grad():
            run(**made)

    def both() -> None:
        leaves = {n: x.detach().requires_grad_() for n, x in made.items()}
        run(**leaves).sum().backward()

    return forward if which == "forward" else both


def cpu_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of all threads, after one run that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def flops(rule: str, options: Options) -> float:
    """Of the chunked forward pass over all tokens, matrix products and solves only (key width = value width)."""
    c, d = min(options.chunk, options.tokens), options.dim
    per_chunk = 8 * c * c * d + 6 * c * d * d if "Delta" in rule else 4 * c * c * d + 4 * c * d * d
    return options.batch * options.heads * options.tokens / c * per_chunk


def matmul_gflops(repeats: int) -> float:
    """Of a 1024 x 1024 product, GFLOP per CPU-second."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / cpu_seconds(lambda: a @ b, 4 * repeats) / 1e9


def peak_here(rule: str, form: str, which: str, options: Options) -> float:
    """Peak MB of this process during one pass, above what it held before; for a process that did nothing else."""
    # A short pass first: libraries and thread pools are not the rule's memory.
    work(rule, form, which, options, 8)()
    one = work(rule, form, which, options, options.tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def peak(rule: str, form: str, which: str, options: Options) -> float:
    """`peak_here` in a fresh process."""
    sizes = [f"--{n}={getattr(options, n)}" for n in ("tokens", "dim", "heads", "batch", "chunk", "threads")]
    command = [sys.executable, __file__, *sizes, "--peak", rule, form, which]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def decode(rule: str, options: Options, steps: int = 200) -> list[dict[str, Any]]:
    """Median microseconds of one token after each context length, which is read in chunks."""
    module = delta if "Delta" in rule else linear
    made, one = inputs(rule, options, 8_192), inputs(rule, options, 1)
    state, position, found = None, 0, []
    with torch.no_grad():
        for context in CONTEXTS:
            while position < context:
                length = min(context - position, 8_192)
                piece: dict[str, Any] = {n: x if x.ndim == 1 else x[:, :, :length] for n, x in made.items()}
                _, state = module.chunked(**piece, state=state, chunk=options.chunk, check=False)
                position += length
            times = []
            for _ in range(steps):
                start = time.perf_counter()
                module.chunked(**one, state=state, check=False)
                times.append(time.perf_counter() - start)
            assert state is not None and state.position == context
            found.append(
                {
                    "context_tokens": context,
                    "us_per_token": round(1e6 * statistics.median(times), 1),
                    "state_bytes": state.bytes(),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"tokens": 2048, "dim": 64, "heads": 4, "batch": 1, "chunk": 64, "threads": 1, "repeats": 5}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=3, metavar=("RULE", "FORM", "PASS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        rule, form, which = options.peak
        print(peak_here(rule, form, which, options))
        return

    # Before this process grows: on Linux a child's ru_maxrss starts at its parent's size.
    every = [(rule, form, which) for rule in RULES for form in FORMS for which in PASSES]
    peaks = {(rule, form, which): peak(rule, form, which, options) for rule, form, which in every}
    roof = matmul_gflops(options.repeats)
    print(
        f"float32, batch {options.batch}, {options.tokens} tokens, {options.heads} heads of {options.dim}, chunk "
        f"{options.chunk}, {options.threads} thread(s); 1024 x 1024 product {roof:.0f} GFLOP per CPU-second"
    )
    print(
        f"{'rule':17} {'pass':21} {'form':11} {'tokens/CPU-s':>12} {'x loop':>7} {'peak MB':>8} {'roofline':>9}"
    )
    rows = []
    for rule in RULES:
        for which in PASSES:
            loop = None
            for form in FORMS:
                repeats = options.repeats if form == "chunked" else min(3, options.repeats)
                seconds = cpu_seconds(work(rule, form, which, options, options.tokens), repeats)
                loop = loop or seconds
                row = {
                    "rule": rule,
                    "pass": which,
                    "form": form,
                    "tokens_per_cpu_second": round(options.batch * options.tokens / seconds),
                    "times_recurrent": round(loop / seconds, 2),
                    "peak_mb": round(peaks[rule, form, which], 1),
                }
                share = ""
                if form == "chunked":
                    row["gflops"] = round(
                        flops(rule, options) * (1 if which == "forward" else 3) / seconds / 1e9, 1
                    )
                    row["share_of_matmul"] = round(row["gflops"] / roof, 3)
                    share = f"{row['share_of_matmul']:.0%}"
                rows.append(row)
                print(
                    f"{rule:17} {which:21} {form:11} {row['tokens_per_cpu_second']:12,} "
                    f"{row['times_recurrent']:7.1f} {row['peak_mb']:8.1f} {share:>9}",
                    flush=True,
                )
    decoding = {}
    for rule in RULES:
        decoding[rule] = decode(rule, options)
        line = ", ".join(f"{d['context_tokens'] // 1024}K {d['us_per_token']:.0f}" for d in decoding[rule])
        print(f"{rule}: microseconds a token after {line}; state {decoding[rule][-1]['state_bytes']:,} bytes")
    if options.json:
        sizes = {name: getattr(options, name) for name in sizes}
        record = {"sizes": sizes, "matmul_gflops": round(roof, 1), "speed": rows, "decode": decoding}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, record | {"environment": environment()})


if __name__ == "__main__":
    main()
