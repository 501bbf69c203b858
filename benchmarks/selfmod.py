"""Speed of the self-modifying update (Hope): chunked against its own token loop, tokens per CPU-second.

    python benchmarks/selfmod.py --tokens 512 --dim 64 --heads 2 --chunk 64

The outer gradient of forward+backward reaches every initial memory, the read-outs and both inputs. Peak memory is
that of a fresh process (Linux), less what it held before the call. Achieved GFLOP/s counts the matrix
products and triangular solves of the chunked algorithm (backward = twice the forward) and stands beside a
1024 x 1024 product timed in the same run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nestmem.evals.record import environment, write_json
from nestmem.ops import selfmod

Work = Callable[[], object]


def flops(tokens: int, dim: int, hidden: int, heads: int, batch: int, chunk: int) -> int:
    """Floating point operations of a forward pass: five residual two-layer memories, reads before the chunk.

    Per token and head in products of D x F matrices: 10 for the reads, 20 for each memory at k and at v, 5 to go back
    through the second layers, 10 to write. In products of D or F with the chunk: the Gram matrices and the solves.
    """
    matrices = 2 * dim * hidden * (10 + 20 + 5 + 10)
    within = chunk * (2 * (dim + 5 * hidden) + 5 * (hidden + dim))
    return batch * heads * tokens * (matrices + within)


def work(scan: Callable[..., tuple], args: argparse.Namespace, backward: bool) -> Work:
    """One pass over random tokens, as a function without arguments."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.heads, args.tokens, args.dim)
    first = selfmod.init(1, args.heads, dim=args.dim, hidden=args.hidden, generator=generator).weights
    weights = {name: w[0].clone().requires_grad_(backward) for name, w in first.items()}
    readout = selfmod.Readout.init(args.heads, args.dim, generator=generator)
    readout = readout.map(lambda t: t.requires_grad_(backward))
    queries = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    x = torch.randn(shape, generator=generator) * args.dim**-0.5
    queries, x = queries.requires_grad_(backward), x.requires_grad_(backward)
    chunk_aux = args.chunk_aux or args.chunk
    leaves = [*weights.values(), readout.rate_weight, readout.decay_weight, queries, x]

    def run() -> object:
        with torch.set_grad_enabled(backward):
            state = selfmod.init(args.batch, weights=weights)
            out, _ = scan(queries, x, readout, state, chunk=args.chunk, chunk_aux=chunk_aux)
            return torch.autograd.grad(out.square().sum(), leaves) if backward else out

    return run


def seconds(run: Work, repeats: int) -> float:
    """Least CPU time of one call, seconds."""
    run()
    best = float("inf")
    for _ in range(repeats):
        begun = time.process_time()
        run()
        best = min(best, time.process_time() - begun)
    return best


def peak_bytes(what: str, backward: bool, argv: list[str]) -> int:
    """Memory that one call adds at its highest, measured in a fresh process."""
    kind = "backward" if backward else "forward"
    command = [sys.executable, __file__, *argv, "--measure-peak", f"{what}:{kind}"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def held(what: str) -> int:
    """Memory of this process in bytes, now (VmRSS) or at its highest (VmHWM).

    getrusage's ru_maxrss would count what the parent process held when it started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--dim", type=int, default=64, help="width of one head")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--chunk", type=int, default=64, help="tokens between refreshes of the memory that is read"
    )
    parser.add_argument(
        "--chunk-aux", type=int, default=None, help="the same for the other memories (default: --chunk)"
    )
    parser.add_argument(
        "--hidden", type=int, default=None, help="hidden width of each memory (default: --dim)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--repeats", type=int, default=5, help="the least time of this many calls counts; the loop runs once"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there as well")
    parser.add_argument("--measure-peak", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.hidden = args.hidden or args.dim
    torch.set_num_threads(args.threads)
    forms = {"chunked": selfmod.chunked, "recurrent": selfmod.recurrent}

    if args.measure_peak:
        what, kind = args.measure_peak.split(":")
        run = work(forms[what], args, kind == "backward")
        # A first matrix product loads the numerical library, which is not the rule's memory.
        torch.mm(torch.ones(256, 256), torch.ones(256, 256))
        before = held("VmRSS")
        run()
        print(held("VmHWM") - before)
        return

    total = args.batch * args.tokens
    result: dict = {
        "config": {
            k: v if isinstance(v, int) else str(v) for k, v in vars(args).items() if k != "measure_peak"
        },
        "environment": environment(),
    }
    for what, scan in forms.items():
        for backward in (False, True):
            name = f"{what} {'forward+backward' if backward else 'forward'}"
            spent = seconds(work(scan, args, backward), args.repeats if what == "chunked" else 1)
            result[name] = {
                "tokens_per_cpu_second": total / spent,
                "peak_bytes": peak_bytes(what, backward, argv),
            }
            if what == "chunked":
                count = flops(
                    args.tokens, args.dim, args.hidden, args.heads, args.batch, min(args.chunk, args.tokens)
                )
                result[name]["gflops"] = count * (3 if backward else 1) / spent / 1e9
    square = torch.randn(1024, 1024)
    result["matmul_gflops"] = 2 * 1024**3 / seconds(lambda: square @ square, 10) / 1e9

    if args.json:
        write_json(args.json, result)
    print(
        f"B={args.batch} H={args.heads} T={args.tokens} D={args.dim} hidden={args.hidden} chunk={args.chunk}"
    )
    for name, found in result.items():
        if isinstance(found, dict) and "peak_bytes" in found:
            line = f"{name:28s} {found['tokens_per_cpu_second']:9.0f} tokens/CPU-s {found['peak_bytes'] / 2**20:8.1f} MiB"
            print(line + (f" {found['gflops']:6.1f} GFLOP/s" if "gflops" in found else ""))
    for kind in ("forward", "forward+backward"):
        fast, loop = (result[f"{what} {kind}"]["tokens_per_cpu_second"] for what in forms)
        share = result[f"chunked {kind}"]["gflops"] / result["matmul_gflops"]
        print(f"{kind}: {fast / loop:.1f} times the loop, {100 * share:.0f} % of a 1024 x 1024 product")
    print(f"1024 x 1024 product: {result['matmul_gflops']:.0f} GFLOP/s")


if __name__ == "__main__":
    main(sys.argv[1:])
