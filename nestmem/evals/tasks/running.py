"""Runs a trained model folder on a task named by a string: what `nestmem eval task` does.

Synthetic tasks (`SYNTHETIC`) need a folder with a model; the tasks of `ON_DATA` need its tokenizer and a data folder
as well. The record holds the task's version, its options, the environment, and the numbers.
"""

from __future__ import annotations

import ast
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nestmem import embedders
from nestmem.errors import InputError, ModelNotFound
from nestmem.evals.record import environment
from nestmem.evals.tasks import SYNTHETIC, Compression, TextNeedle, babi, continual, language, lmeval, make
from nestmem.evals.tasks.base import Length, Logits, judge
from nestmem.evals.tasks.needle import KINDS

ON_DATA = {
    "loss_wikitext2": "loss by position in WikiText-2's articles",
    "loss_tinystories": "loss by position in TinyStories",
    "loss_pg19": "loss by position in PG-19's books, with inner learning off and with the far context replaced",
    "babi": "the 20 bAbI tasks; at lengths above 0 padded with PG-19's books",
    "clinc150": "class-incremental learning on CLINC150, in context and by reading",
    "banking77": "class-incremental learning on Banking77, in context and by reading",
    **{f"lm_{name}": f"{name} by the lm-evaluation-harness" for name in lmeval.SETS},
    **{f"needle_text_{kind}": "needles in English text" for kind in KINDS},
}
# Options of the tasks of ON_DATA, with their defaults; those of a synthetic task are the fields of its class.
OPTIONS: dict[str, dict[str, Any]] = {
    "loss": {"edges": language.EDGES, "by": "tokens", "windows": 1, "near": 32, "documents": 20, "only": ()},
    "babi": {"tasks": tuple(babi.TASKS)},
    "continual": {"groups": 3, "classes": 15, "train_per_class": 5, "tokens": 512, "shown": 20},
    "lm": {"max_length": 2048},
    "needle_text": {"depth": None},
}

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be run. lengths and examples: None takes the task's own. options: see OPTIONS and the tasks."""

    task: str
    model: Path
    data: Path | None = None
    lengths: tuple[Length, ...] | None = None
    examples: int | None = None
    options: dict[str, Any]
    seed: int = 0
    batch_size: int = 16
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.task not in SYNTHETIC and self.task not in ON_DATA:
            raise InputError(
                f"no task is called {self.task!r}; expected one of {', '.join([*SYNTHETIC, *ON_DATA])}"
            )
        if self.examples is not None and self.examples < 1:
            raise InputError(f"examples is {self.examples}; expected at least 1")
        if self.task in ON_DATA and self.data is None and self.task != "needle_text_s1":
            raise InputError(
                f"{self.task} reads real data and no folder was given; give --data FOLDER, a folder of data sets"
            )


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """Options written as name=value; values are Python literals where they can be, else text.

    >>> options_of(["pairs=16", "lengths=(64, 128)", "filler=blank"])
    {'pairs': 16, 'lengths': (64, 128), 'filler': 'blank'}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"option {word!r} is not name=value; for example pairs=16")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def lengths_of(text: str) -> tuple[Length, ...]:
    """Lengths written as "64,128" or, for ranges, "2-50,51-100".

    >>> lengths_of("64,128"), lengths_of("2-50,51-100")
    ((64, 128), ((2, 50), (51, 100)))
    """
    found: list[Length] = []
    for word in text.split(","):
        low, dash, high = word.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise InputError(f"length {word!r} is no number and no range; write 64,128 or 2-50,51-100")
        found.append((int(low), int(high)) if dash else int(low))
    return tuple(found)


def run(asked: Asked, *, progress: Progress | None = None) -> dict[str, Any]:
    """The whole record. Raises InputError for what does not fit, ModelNotFound where there is no model."""
    began = time.perf_counter()
    model = load_model(asked.model, asked.device)
    numbers = _synthetic(asked, model) if asked.task in SYNTHETIC else _on_data(asked, model, progress)
    return {
        **numbers,
        "name": asked.task,
        "config": {
            **numbers.get("config", {}),
            "model": str(asked.model),
            "architecture": getattr(model.config, "model_type", None),
            "parameters": sum(p.numel() for p in model.parameters()),
            "data": str(asked.data) if asked.data else None,
            "options": asked.options,
            "seed": asked.seed,
            "examples": asked.examples,
        },
        "environment": environment(),
        "seconds": time.perf_counter() - began,
    }


def load_model(folder: Path, device: str = "cpu") -> Any:
    """A causal language model of nestmem or of transformers from a folder, ready to be judged."""
    from transformers import AutoModelForCausalLM

    # Models of nestmem are known to transformers from here on.
    import nestmem.models  # noqa: F401

    if not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"{folder} holds no config.json; expected a folder written by save_pretrained, such as RUN/model"
        )
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFound(f"{folder} does not hold a causal language model: {error}") from error
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file() and not (folder / "tokenizer.json").is_file():
        raise ModelNotFound(
            f"{folder} holds no tokenizer, which this task needs; save it there: "
            "tokenizer.save_pretrained(folder)"
        )
    return AutoTokenizer.from_pretrained(folder)


def _synthetic(asked: Asked, model: Any) -> dict[str, Any]:
    task = make(asked.task, **{"seed": asked.seed, **asked.options})
    if isinstance(task, Compression):
        raise InputError(
            "compression is read by a decoder that is trained with the model and is in no model folder; judge it in "
            "Python: nestmem.evals.tasks.judge(task, reader)"
        )
    if task.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{asked.task} has {task.vocab_size} tokens and the model {model.config.vocab_size}; "
            "give the options it was trained with, such as --option vocab_size=..."
        )
    found = judge(
        task,
        Logits(model),
        examples=asked.examples or 256,
        batch_size=asked.batch_size,
        lengths=asked.lengths,
        device=asked.device,
    )
    plain = {f.name: getattr(task, f.name) for f in fields(task)} if is_dataclass(task) else {}
    return {"task": task.version, "task_options": plain, "lengths": found}


def _on_data(asked: Asked, model: Any, progress: Progress | None) -> dict[str, Any]:
    data = asked.data or Path()
    if asked.task.startswith("lm_"):
        options = _options("lm", asked)
        with tempfile.TemporaryDirectory(prefix="nestmem-lm-eval-") as folder:
            return lmeval.run(
                (model, load_tokenizer(asked.model)),
                data,
                Path(folder),
                names=[asked.task.removeprefix("lm_")],
                limit=asked.examples,
                batch_size=asked.batch_size,
                device=asked.device,
                **options,
            )
    tokenizer = load_tokenizer(asked.model)
    encode = partial(_ids, tokenizer)
    start = _start(tokenizer)
    if asked.task.startswith("loss_"):
        return _loss(asked, model, tokenizer, start, progress)
    if asked.task.startswith("needle_text_"):
        kind = asked.task.removeprefix("needle_text_")
        book = "" if kind == "s1" else _book(data)
        task = TextNeedle(
            encode=encode,
            vocab_size=model.config.vocab_size,
            kind=kind,
            haystack=book,
            start=start,
            seed=asked.seed,
            **_options("needle_text", asked),
        )
        found = judge(
            task,
            Logits(model),
            examples=asked.examples or 64,
            batch_size=asked.batch_size,
            lengths=asked.lengths,
            device=asked.device,
        )
        return {"task": task.version, "lengths": found}
    if asked.task == "babi":
        lengths = tuple(_number(length) for length in asked.lengths or (0,))
        task = babi.Babi(
            questions=babi.read(data, **_options("babi", asked)),
            encode=encode,
            vocab_size=model.config.vocab_size,
            book=_book(data) if any(lengths) else "",
            lengths=lengths,
            start=start,
            seed=asked.seed,
        )
        found = babi.judge_babi(
            task,
            Logits(model),
            per_task=asked.examples or 50,
            batch_size=asked.batch_size,
            device=asked.device,
        )
        return {"task": task.version, "lengths": found}
    return _classes(asked, model, encode, progress)


def _loss(
    asked: Asked, model: Any, tokenizer: Any, start: tuple[int, ...], progress: Progress | None
) -> dict[str, Any]:
    options = _options("loss", asked)
    only, count = {str(name) for name in options.pop("only")}, options.pop("documents")
    texts = language.read(asked.data or Path(), asked.task.removeprefix("loss_"))
    chosen = [text for text in texts if not only or text.id in only][:count]
    if not chosen:
        raise InputError(
            f"no document is called {', '.join(sorted(only))}; there are {[t.id for t in texts][:20]}"
        )
    variants = [language.Variant(name="plain", losses=language.from_model(model))]
    if learns(model):
        off = language.from_model(model, around=model.without_learning)
        variants.append(language.Variant(name="learning off", losses=off))
    for context in ("other", "shuffled"):
        if context != "other" or len(chosen) > 1:
            name = f"{context} context"
            variants.append(language.Variant(name=name, losses=variants[0].losses, context=context))
    return language.by_position(
        chosen,
        variants,
        encode=language.encoder(tokenizer),
        start=start,
        seed=asked.seed,
        device=asked.device,
        progress=progress,
        **options,
    )


def learns(model: Any) -> bool:
    """Whether weights of the model learn from its own loss as it reads, which can be turned off."""
    from nestmem.models import NestmemForCausalLM

    ours = isinstance(model, NestmemForCausalLM)
    return ours and any(block.levels(model.config.prime) for block in model.blocks)  # pyright: ignore


def _classes(
    asked: Asked, model: Any, encode: Callable[[str], list[int]], progress: Progress | None
) -> dict[str, Any]:
    from nestmem.models import NestmemForCausalLM

    options = _options("continual", asked)
    tokens, shown = options.pop("tokens"), options.pop("shown")
    stream = continual.stream(
        asked.data or Path(),
        asked.task,
        test_per_class=asked.examples or 5,
        embedder=embedders.load("minilm"),
        seed=asked.seed,
        **options,
    )
    heads = (
        continual.FineTune(),
        continual.Ewc(),
        continual.Replay(),
        continual.Joint(),
        continual.Nearest(),
    )
    methods: list[continual.Method] = [
        *heads,
        continual.InContext(model, encode, tokens=tokens, examples=shown),
    ]
    if isinstance(model, NestmemForCausalLM):
        methods.append(continual.memory_of(model, encode))
    return continual.run(stream, methods, progress=progress)


def _options(kind: str, asked: Asked) -> dict[str, Any]:
    defaults = OPTIONS[kind]
    unknown = sorted(set(asked.options) - set(defaults))
    if unknown:
        raise InputError(
            f"{asked.task} has no option {', '.join(unknown)}; expected {', '.join(defaults) or 'none'}"
        )
    return {**defaults, **asked.options}


def _number(length: Length) -> int:
    if isinstance(length, tuple):
        raise InputError(f"length {length[0]}-{length[1]} is a range; this task takes numbers of tokens")
    return length


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _start(tokenizer: Any) -> tuple[int, ...]:
    """The begin-of-text token, where the tokenizer itself puts one in front."""
    first = tokenizer("", verbose=False)["input_ids"][:1]
    return tuple(first) if first == [tokenizer.bos_token_id] else ()


def _book(data: Path) -> str:
    return "\n".join(book.text for book in language.read(data, "pg19"))
