"""PIQA, HellaSwag, BoolQ, ARC and LAMBADA by EleutherAI's lm-evaluation-harness, from local files.

The harness (package `lm-eval`, an optional extra) asks and scores as for every published model; here its tasks are
written so that they read the files of a data folder instead of the hub. `write` makes a folder of task
configurations, one YAML file and one JSON-lines file a task, which the harness's own command reads as well:

    {"query": "Question: How do I ready a guinea pig cage for it's new occupants?\\nAnswer:",
     "choices": ["Provide the guinea pig with ... ripped paper strips ...", "... ripped jeans material ..."], "gold": 0}

The prompts are those of the harness's tasks piqa, hellaswag, boolq, arc_easy, arc_challenge and lambada_openai,
without examples. `acc` takes the choice of highest log-likelihood, `acc_norm` divides that by the bytes of the
choice. Where a local file differs from the harness's: HellaSwag's contexts are those of the file, in which the second
half of a context is not capitalised; numbers compare with one another, and with published ones to a point or so.

Sources: PIQA arXiv 1911.11641, HellaSwag 1905.07830, BoolQ 1905.10044, ARC 1803.05457, LAMBADA 1606.06031.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nestmem.errors import InputError, MissingExtra
from nestmem.evals import files
from nestmem.evals.stats import wilson

VERSION = "lmeval/1"
PREFIX = "nestmem_"

Row = dict[str, Any]


def _piqa(data: Path) -> list[Row]:
    rows = files.rows(files.find_set(data, "piqa", "valid.jsonl"), ("goal", "sol1", "sol2", "label"))
    return [
        {
            "query": f"Question: {r['goal']}\nAnswer:",
            "choices": [r["sol1"], r["sol2"]],
            "gold": int(r["label"]),
        }
        for r in rows
    ]


def _hellaswag(data: Path) -> list[Row]:
    rows = files.rows(files.find_set(data, "hellaswag", "val.jsonl"), ("ctx", "label", "endings"))
    return [
        {"query": _clean(r["ctx"]), "choices": list(map(_clean, r["endings"])), "gold": int(r["label"])}
        for r in rows
    ]


def _clean(text: str) -> str:
    """Without the brackets that WikiHow's pages left behind, as in the harness."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _boolq(data: Path) -> list[Row]:
    rows = files.rows(files.find_set(data, "boolq", "val.jsonl"), ("question", "passage", "label"))
    return [
        {
            "query": f"{r['passage']}\nQuestion: {r['question']}?\nAnswer:",
            "choices": ["no", "yes"],
            "gold": int(str(r["label"]).lower() in ("true", "1")),
        }
        for r in rows
    ]


def _arc(file: str) -> Callable[[Path], list[Row]]:
    def read(data: Path) -> list[Row]:
        path = files.find_set(data, "ai2_arc", file)
        found = []
        for r in files.rows(path, ("question", "answerKey")):
            choices = r["question"]["choices"]
            labels = [choice["label"] for choice in choices]
            if r["answerKey"] not in labels:
                raise InputError(f"{path}: answerKey {r['answerKey']!r} is none of {labels}")
            found.append(
                {
                    "query": f"Question: {r['question']['stem']}\nAnswer:",
                    "choices": [choice["text"] for choice in choices],
                    "gold": labels.index(r["answerKey"]),
                }
            )
        return found

    return read


def _lambada(data: Path) -> list[Row]:
    rows = files.rows(files.find_set(data, "lambada", "lambada_test.jsonl"), ("text",))
    found = []
    for r in rows:
        context, _, word = r["text"].rpartition(" ")
        found.append({"query": context, "target": f" {word}"})
    return found


SETS: dict[str, Callable[[Path], list[Row]]] = {
    "piqa": _piqa,
    "hellaswag": _hellaswag,
    "boolq": _boolq,
    "arc_easy": _arc("arc_easy_test.jsonl"),
    "arc_challenge": _arc("arc_challenge_test.jsonl"),
    "lambada": _lambada,
}


def _config(name: str, file: Path, cache: Path) -> dict[str, Any]:
    config: dict[str, Any] = {
        "task": PREFIX + name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(cache)},
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "{{query}}",
        "metadata": {"version": VERSION},
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    if name == "lambada":
        perplexity = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
        return config | {
            "output_type": "loglikelihood",
            "doc_to_target": "{{target}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", **mean}, perplexity],
        }
    norm = [] if name == "boolq" else [{"metric": "acc_norm", **mean}]
    return config | {
        "output_type": "multiple_choice",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", **mean}, *norm],
    }


def write(data: Path, out: Path, names: Sequence[str] = tuple(SETS)) -> list[str]:
    """Writes the tasks of these sets into the folder `out`; returns their names in the harness.

    Afterwards `lm_eval run --model hf --model_args pretrained=FOLDER,trust_remote_code=True --include_path OUT --tasks
    nestmem_piqa,...` runs them; a folder that nestmem saved brings the line of code that loads it.
    """
    unknown = sorted(set(names) - set(SETS))
    if unknown or not names:
        raise InputError(f"sets are {list(names)}; expected some of {', '.join(SETS)}")
    made = {name: SETS[name](data) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in made.items():
        file = (out / f"{name}.jsonl").absolute()
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        # JSON is YAML.
        config = json.dumps(_config(name, file, out.absolute() / "cache"), indent=1)
        (out / f"{PREFIX}{name}.yaml").write_text(config, encoding="utf-8")
    return [PREFIX + name for name in names]


def run(
    model: str | Path | Any,
    data: Path,
    out: Path,
    *,
    names: Sequence[str] = tuple(SETS),
    limit: int | None = None,
    batch_size: int = 8,
    max_length: int = 2048,
    device: str = "cpu",
) -> dict[str, Any]:
    """Runs the harness on a model and returns {"sets": {name: {"acc", "acc_se", "n", ...}}, ...}.

    model: a folder or a name, or a loaded (model, tokenizer). out: where the tasks are written. limit: the first
    so many questions of each set. max_length: of a context in tokens; longer ones lose their beginning.
    """
    try:
        from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra("eval", "lm_eval") from error
    # Models of nestmem are known to transformers from here on.
    import nestmem.models  # noqa: F401

    tasks = write(data, out, names)
    pretrained, tokenizer = model if isinstance(model, tuple) else (str(model), None)
    harness = HFLM(
        pretrained=pretrained,
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=max_length,
        device=device,
        dtype="float32",
    )
    found = simple_evaluate(
        model=harness,
        tasks=tasks,
        task_manager=TaskManager(include_path=str(out), include_defaults=False),
        limit=limit,
        log_samples=False,
        bootstrap_iters=0,
    )
    return {
        "task": VERSION,
        "config": {"sets": list(names), "limit": limit, "max_length": max_length},
        "sets": {name: _numbers(found, PREFIX + name) for name in names},
    }


def _numbers(found: dict[str, Any], task: str) -> dict[str, Any]:
    """The harness's numbers under plain names; shares with their standard error and Wilson's interval."""
    n = found["n-samples"][task]["effective"]
    numbers: dict[str, Any] = {"n": n}
    for key, value in found["results"][task].items():
        metric, comma, _ = key.partition(",")
        if not comma or not isinstance(value, int | float):
            continue
        numbers[metric] = float(value)
        if metric.startswith("acc"):
            numbers[f"{metric}_se"] = math.sqrt(value * (1 - value) / max(n - 1, 1))
            numbers[f"{metric}_interval"] = wilson(value * n, n)
    return numbers
