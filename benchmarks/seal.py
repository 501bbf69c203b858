"""SEAL's matrix: eight passages written into the weights one after another, questions with nothing in the context.

    python benchmarks/seal.py --data squad_val.json.gz [--model mini] [--sources writer,gold] [--arms additive,nested]
                              [--sequences 2] [--text FILE] [--json FILE]

See `nestmem.evals.seal` for what is written and how it is scored. Printed per arm and source, as exact / share of
tokens / log-probability a token: the base, each passage written alone (fresh), right after its edit, after all edits,
after a sleep, and the first passage after all edits. `--text` is unrelated text on which KL to the base is measured.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

import torch

from nestmem.adapters.fast_weights import FastWeights, load_fast_weights
from nestmem.evals.record import environment, write_json
from nestmem.evals.seal import ARMS, SCORES, SOURCES, VERSION, draw, pairs_of, play, read_passages, summary

KL_ROWS, KL_LENGTH = 16, 64
VIEWS = ("base", "fresh", "just_edited", "after_all", "after_sleep", "first_fresh", "first_after_all")


def windows(weights: FastWeights, path: Path) -> torch.Tensor:
    """The first tokens (16, 64) of a text file, plain or .gz. Raises `ValueError` when it is too short."""
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8").splitlines()
    ids: list[int] = []
    for line in lines:
        ids += weights.tokenizer(line, add_special_tokens=False)["input_ids"]
        if len(ids) >= KL_ROWS * KL_LENGTH:
            return torch.tensor(ids[: KL_ROWS * KL_LENGTH]).reshape(KL_ROWS, KL_LENGTH)
    raise ValueError(f"{path}: has {len(ids)} tokens, {KL_ROWS * KL_LENGTH} are needed; give a longer text")


def chosen(given: str, known: list[str], option: str, parser: argparse.ArgumentParser) -> list[str]:
    """The names in a list with commas; ends the program on one that is not known."""
    names = given.split(",")
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"{option} names {', '.join(unknown)}; expected some of {', '.join(known)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="SEAL's squad_val.json, plain or .gz")
    parser.add_argument("--model", default="mini", help="mini, a folder, or a Hugging Face name")
    parser.add_argument("--arms", default=",".join(arm.name for arm in ARMS))
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=8, help="passages of a sequence")
    parser.add_argument("--questions", type=int, default=4, help="of a passage, at most")
    parser.add_argument("--rank", type=int, default=32, help="of banks that are calibrated")
    parser.add_argument("--last", type=int, default=2, help="blocks with banks, where they are calibrated")
    parser.add_argument("--text", type=Path, help="unrelated text, plain or .gz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    arms = chosen(options.arms, [arm.name for arm in ARMS], "--arms", parser)
    sources = chosen(options.sources, list(SOURCES), "--sources", parser)
    torch.set_num_threads(1)
    sequences = draw(
        read_passages(options.data),
        sequences=options.sequences,
        length=options.length,
        questions=options.questions,
        seed=options.seed,
    )
    record: dict[str, Any] = {
        "version": VERSION,
        "config": {name: str(value) for name, value in vars(options).items()},
        "environment": environment(),
        "questions": sum(len(passage.questions) for sequence in sequences for passage in sequence),
        "written_pairs": {},
        "results": {},
    }
    for source in sources:
        for arm in [arm for arm in ARMS if arm.name in arms]:
            weights = load_fast_weights(options.model, rule=arm.rule, rank=options.rank, last=options.last)
            if source not in record["written_pairs"]:
                pairs = [pairs_of(p, source, weights) for sequence in sequences for p in sequence]
                record["written_pairs"][source] = sum(map(len, pairs))
            text = windows(weights, options.text) if options.text else None
            played = [play(weights, arm, sequence, source=source, text=text) for sequence in sequences]
            found = summary(played)
            record["results"].setdefault(source, {})[arm.name] = found
            shown = [
                f"{view} " + "/".join(f"{found[view][score]['mean']:.3f}" for score in SCORES)
                for view in VIEWS
                if view in found
            ]
            kl = "" if found["kl"] is None else f" | kl {found['kl']:.3f}"
            print(f"{source} {arm.name}: {' | '.join(shown)}{kl}", flush=True)
            if options.json:
                write_json(options.json, record)


if __name__ == "__main__":
    main()
