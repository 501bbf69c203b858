"""Class-incremental learning on CLINC150 and Banking77: classes arrive in groups, and all seen so far are asked.

    group 1   "what is my balance" -> balance, "book me a flight" -> book_flight, ...
    group 2   other classes; the texts of group 1 do not come again
    asked after group 2: test texts of both groups, with all classes seen so far to choose from

As in the Nested Learning paper, section 9.1 (CLINC150: arXiv 1909.02027, Banking77: arXiv 2003.04807). The order of the
classes depends on a seed. Reported after each group: accuracy on the test texts of all classes seen, and at the end
the forgetting of group j, its best accuracy before the end minus its last (Chaudhry et al., arXiv 1801.10112,
eq. 3), averaged over all groups but the last. It can be negative.

Two families of methods. On vectors of a sentence embedder, a linear or two-layer head: `FineTune`, `Ewc`
(Kirkpatrick et al., arXiv 1612.00796), `Replay`, `Joint` (all texts seen so far: an upper bound), `Nearest`. On a
language model, by the log-likelihood of the class's name: `InContext`, which shows the nearest texts seen so far as
examples, and `Memory`, a model whose inner weights learned from reading the groups and that is shown nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nestmem.embedders import Embedder
from nestmem.errors import InputError
from nestmem.evals import files
from nestmem.evals.stats import clustered_mean, clustered_share
from nestmem.models import MemoryCache

VERSION = "continual/1"
SETS = ("clinc150", "banking77")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """n texts, their classes (places in `Stream.classes`), and their vectors [n, D] if there are any."""

    texts: tuple[str, ...]
    labels: np.ndarray
    vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, places: np.ndarray) -> Examples:
        """Some of them."""
        vectors = None if self.vectors is None else self.vectors[places]
        return Examples(
            texts=tuple(self.texts[i] for i in places), labels=self.labels[places], vectors=vectors
        )


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Classes in the order of their arrival, and training and test texts of each group."""

    name: str
    classes: tuple[str, ...]
    train: tuple[Examples, ...]
    test: tuple[Examples, ...]

    def seen(self, group: int) -> np.ndarray:
        """The classes seen after a group (0 is the first)."""
        return np.unique(np.concatenate([examples.labels for examples in self.train[: group + 1]]))


def joined(parts: Sequence[Examples]) -> Examples:
    """All examples of some parts, in order."""
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Examples(
        texts=tuple(text for part in parts for text in part.texts),
        labels=np.concatenate([part.labels for part in parts]),
        vectors=np.concatenate(vectors) if len(vectors) == len(parts) else None,
    )


def read(data: Path, name: str) -> dict[str, list[tuple[str, str]]]:
    """(text, class) pairs by split: train, test. CLINC150 without what is out of its scope."""
    if name == "clinc150":
        path = files.find_set(data, "clinc150", "data_full.json")
        try:
            whole = json.loads(files.text(path))
            return {split: [(text, label) for text, label in whole[split]] for split in ("train", "test")}
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is not CLINC150's JSON ({error}); expected 'train' and 'test', lists of [text, intent]"
            ) from error
    if name == "banking77":
        found = {}
        for split in ("train", "test"):
            path = files.find_set(data, "banking77", f"{split}.csv")
            rows = list(csv.DictReader(io.StringIO(files.text(path))))
            if not rows or not {"text", "category"} <= set(rows[0]):
                raise InputError(f"{path} is not Banking77's CSV; expected the columns text and category")
            found[split] = [(row["text"], row["category"]) for row in rows]
        return found
    raise InputError(f"no classification set is called {name!r}; expected one of {', '.join(SETS)}")


def stream(
    data: Path,
    name: str,
    *,
    groups: int = 5,
    classes: int | None = None,
    train_per_class: int = 20,
    test_per_class: int = 10,
    embedder: Embedder | None = None,
    seed: int = 0,
) -> Stream:
    """A stream of groups of equal size (to one class), with the first so many texts of each class, shuffled.

    classes: how many of the set's, drawn by the seed; None takes all. embedder: gives the vectors that heads and
    `InContext` need.
    """
    pairs = read(data, name)
    names = sorted({label for _, label in pairs["train"]})
    count = len(names) if classes is None else classes
    if not 1 <= groups <= count <= len(names):
        raise InputError(
            f"groups is {groups} and classes {count}; expected 1 <= groups <= classes <= {len(names)} ({name})"
        )
    if min(train_per_class, test_per_class) < 1:
        raise InputError(
            f"train_per_class is {train_per_class} and test_per_class {test_per_class}; expected at least 1 of each"
        )
    rng = np.random.default_rng([seed, len(name)])
    chosen = [names[i] for i in rng.permutation(len(names))[:count]]
    place = {label: i for i, label in enumerate(chosen)}
    limits = {"train": train_per_class, "test": test_per_class}
    made: dict[str, list[Examples]] = {}
    for split, limit in limits.items():
        by_class: list[list[str]] = [[] for _ in chosen]
        for text, label in pairs[split]:
            if label in place and len(by_class[place[label]]) < limit:
                by_class[place[label]].append(text)
        made[split] = []
        for group in np.array_split(np.arange(count), groups):
            texts = [(text, i) for i in group for text in by_class[i]]
            order = rng.permutation(len(texts))
            examples = Examples(
                texts=tuple(texts[i][0] for i in order), labels=np.array([texts[i][1] for i in order])
            )
            made[split].append(_embedded(examples, embedder))
    return Stream(
        name=name,
        classes=tuple(label.replace("_", " ") for label in chosen),
        train=tuple(made["train"]),
        test=tuple(made["test"]),
    )


def _embedded(examples: Examples, embedder: Embedder | None) -> Examples:
    return examples if embedder is None else replace(examples, vectors=embedder.embed(list(examples.texts)))


class Method(Protocol):
    """A way to learn classes as they come. States are values: no method changes one."""

    @property
    def name(self) -> str: ...
    def start(self, stream: Stream) -> Any:
        """The state before anything was learned. Of `stream` it may use the classes' names."""
        ...

    def learn(self, state: Any, examples: Examples) -> Any:
        """The state after a group."""
        ...

    def classify(self, state: Any, examples: Examples, seen: np.ndarray) -> np.ndarray:
        """[n] a class of `seen` for each text. The labels of `examples` are not looked at."""
        ...


def run(
    stream: Stream, methods: Sequence[Method], *, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """{"methods": {name: {"after": [...], "matrix": [[...]], "final", "average", "forgetting"}}, ...}.

    after[i]: accuracy on all classes seen after group i; matrix[i][j]: on group j alone; average: the mean of
    `after`; forgetting as above, with its standard error over groups (None with one group).
    """
    if len({method.name for method in methods}) < len(methods) or not methods:
        raise InputError("no methods, or two of one name; expected at least one, each with a name of its own")
    record: dict[str, Any] = {}
    for number, method in enumerate(methods):
        state = method.start(stream)
        matrix: list[list[float]] = []
        after = []
        for group, examples in enumerate(stream.train):
            state = method.learn(state, examples)
            seen = stream.seen(group)
            right = [method.classify(state, test, seen) == test.labels for test in stream.test[: group + 1]]
            matrix.append([float(each.mean()) for each in right])
            flat = np.concatenate(right).tolist()
            after.append(clustered_share(flat, range(len(flat))).record() | {"classes": len(seen)})
            if progress:
                progress(
                    number * len(stream.train) + group + 1, len(methods) * len(stream.train), method.name
                )
        lost = [max(row[j] for row in matrix[j:-1]) - matrix[-1][j] for j in range(len(matrix) - 1)]
        record[method.name] = {
            "after": after,
            "matrix": matrix,
            "final": after[-1],
            "average": float(np.mean([each["mean"] for each in after])),
            "forgetting": clustered_mean(lost, range(len(lost))).record() if lost else None,
        }
    return {
        "task": VERSION,
        "set": stream.name,
        "classes": len(stream.classes),
        "groups": len(stream.train),
        "train_texts": sum(map(len, stream.train)),
        "test_texts": sum(map(len, stream.test)),
        "methods": record,
    }


# Heads on vectors.

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a head is trained on a group: Adam on mini-batches. hidden: width of its hidden layer; 0 is linear."""

    epochs: int = 30
    rate: float = 1e-2
    batch: int = 32
    hidden: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.rate <= 0 or self.hidden < 0:
            raise InputError(
                f"epochs={self.epochs}, batch={self.batch}, rate={self.rate}, hidden={self.hidden}; expected at least "
                "1 epoch, a batch of at least 1, a rate above 0 and hidden from 0 up"
            )


@dataclass(frozen=True, kw_only=True)
class HeadState:
    """A head, as it is and as it was drawn, what it keeps of earlier texts, the diagonal Fisher information summed
    over groups, and how many groups it saw."""

    weights: Weights
    fresh: Weights
    kept: tuple[Examples, ...] = ()
    fisher: Weights = field(default_factory=dict)
    groups: int = 0


def _vectors(examples: Examples) -> Tensor:
    if examples.vectors is None:
        raise InputError(
            "these texts have no vectors; give `stream` an embedder, such as embedders.load('minilm')"
        )
    return torch.from_numpy(examples.vectors).float()


def _logits(weights: Weights, x: Tensor) -> Tensor:
    if "inner" in weights:
        x = functional.gelu(x @ weights["inner"].mT + weights["inner_bias"])
    return x @ weights["head"].mT + weights["bias"]


def _new_head(stream: Stream, fit: Fit) -> HeadState:
    width, classes = _vectors(stream.train[0]).shape[1], len(stream.classes)
    weights: Weights = {}
    if fit.hidden:
        random = torch.Generator().manual_seed(fit.seed)
        weights["inner"] = torch.randn(fit.hidden, width, generator=random) * width**-0.5
        weights["inner_bias"] = torch.zeros(fit.hidden)
    size = fit.hidden or width
    weights |= {"head": torch.zeros(classes, size), "bias": torch.zeros(classes)}
    return HeadState(weights=weights, fresh=weights)


def _hidden_classes(logits: Tensor, seen: Sequence[int] | np.ndarray) -> Tensor:
    """Classes that were never seen cannot be answered."""
    mask = torch.ones(logits.shape[-1], dtype=torch.bool)
    mask[torch.as_tensor(np.asarray(seen))] = False
    return logits.masked_fill(mask, -torch.inf)


def _trained(
    weights: Weights,
    examples: Examples,
    seen: np.ndarray,
    fit: Fit,
    group: int,
    penalty: Callable[[Weights], Tensor] | None = None,
) -> Weights:
    x, y = _vectors(examples), torch.from_numpy(examples.labels)
    tuned = {name: value.clone().requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.Adam(tuned.values(), lr=fit.rate)
    random = torch.Generator().manual_seed(fit.seed * 1000 + group)
    for _ in range(fit.epochs):
        for rows in torch.randperm(len(x), generator=random).split(fit.batch):
            loss = functional.cross_entropy(_hidden_classes(_logits(tuned, x[rows]), seen), y[rows])
            if penalty is not None:
                loss = loss + penalty(tuned)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: value.detach() for name, value in tuned.items()}


def _answer(state: HeadState, examples: Examples, seen: np.ndarray) -> np.ndarray:
    return _hidden_classes(_logits(state.weights, _vectors(examples)), seen).argmax(dim=1).numpy()


def _seen(examples: Examples) -> np.ndarray:
    """The classes of the groups so far: they arrive in order."""
    return np.arange(int(examples.labels.max()) + 1)


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Trains on each group as it comes, on nothing else."""

    fit: Fit = field(default_factory=Fit)
    name: str = "fine-tuning"

    def start(self, stream: Stream) -> HeadState:
        return _new_head(stream, self.fit)

    def learn(self, state: HeadState, examples: Examples) -> HeadState:
        weights = _trained(state.weights, examples, _seen(examples), self.fit, state.groups)
        return replace(state, weights=weights, groups=state.groups + 1)

    def classify(self, state: HeadState, examples: Examples, seen: np.ndarray) -> np.ndarray:
        return _answer(state, examples, seen)


@dataclass(frozen=True, kw_only=True)
class Ewc:
    """Elastic weight consolidation: a quadratic penalty, by the Fisher information, on leaving the last weights.

    loss + strength / 2 * sum_i F_i (theta_i - theta*_i)^2, with the diagonal empirical Fisher information summed
    over the groups so far and theta* the weights after the last of them.
    """

    strength: float = 1000.0
    fit: Fit = field(default_factory=Fit)
    name: str = "ewc"

    def start(self, stream: Stream) -> HeadState:
        return _new_head(stream, self.fit)

    def learn(self, state: HeadState, examples: Examples) -> HeadState:
        seen, anchor = _seen(examples), state.weights

        def penalty(weights: Weights) -> Tensor:
            pulls = [(state.fisher[n] * (weights[n] - anchor[n]) ** 2).sum() for n in weights]
            return self.strength / 2 * torch.stack(pulls).sum()

        weights = _trained(anchor, examples, seen, self.fit, state.groups, penalty if state.fisher else None)
        fisher = fisher_information(weights, examples, seen)
        if state.fisher:
            fisher = {name: fisher[name] + state.fisher[name] for name in fisher}
        return replace(state, weights=weights, fisher=fisher, groups=state.groups + 1)

    def classify(self, state: HeadState, examples: Examples, seen: np.ndarray) -> np.ndarray:
        return _answer(state, examples, seen)


def fisher_information(weights: Weights, examples: Examples, seen: np.ndarray) -> Weights:
    """The diagonal: the mean over examples of the squared gradient of log p(label | text), by weight."""

    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(_hidden_classes(_logits(weights, x), seen), y)

    slopes = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    x, y = _vectors(examples), torch.from_numpy(examples.labels)
    for rows in torch.arange(len(x)).split(64):
        for name, slope in slopes(weights, x[rows], y[rows]).items():
            total[name] += slope.square().sum(dim=0)
    return {name: value / len(x) for name, value in total.items()}


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Keeps `per_class` texts of each class and trains on them with each new group."""

    per_class: int = 5
    fit: Fit = field(default_factory=Fit)
    name: str = "replay"

    def start(self, stream: Stream) -> HeadState:
        return _new_head(stream, self.fit)

    def learn(self, state: HeadState, examples: Examples) -> HeadState:
        told = joined([*state.kept, examples])
        weights = _trained(state.weights, told, _seen(examples), self.fit, state.groups)
        rows = [np.flatnonzero(examples.labels == c)[: self.per_class] for c in np.unique(examples.labels)]
        kept = (*state.kept, examples.take(np.concatenate(rows)))
        return replace(state, weights=weights, kept=kept, groups=state.groups + 1)

    def classify(self, state: HeadState, examples: Examples, seen: np.ndarray) -> np.ndarray:
        return _answer(state, examples, seen)


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Trains a new head on all texts seen so far: what the others would reach if nothing were lost."""

    fit: Fit = field(default_factory=Fit)
    name: str = "joint"

    def start(self, stream: Stream) -> HeadState:
        return _new_head(stream, self.fit)

    def learn(self, state: HeadState, examples: Examples) -> HeadState:
        told = (*state.kept, examples)
        weights = _trained(state.fresh, joined(told), _seen(examples), self.fit, state.groups)
        return replace(state, weights=weights, kept=told, groups=state.groups + 1)

    def classify(self, state: HeadState, examples: Examples, seen: np.ndarray) -> np.ndarray:
        return _answer(state, examples, seen)


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Keeps all texts; the class of the nearest by cosine. The retrieval that `InContext` shows, without a reader."""

    name: str = "nearest"

    def start(self, stream: Stream) -> tuple[Examples, ...]:
        return ()

    def learn(self, state: tuple[Examples, ...], examples: Examples) -> tuple[Examples, ...]:
        return (*state, examples)

    def classify(self, state: tuple[Examples, ...], examples: Examples, seen: np.ndarray) -> np.ndarray:
        told = joined(state)
        return told.labels[nearest(told, examples, 1)[:, 0]]


def nearest(told: Examples, asked: Examples, count: int) -> np.ndarray:
    """[n, count] places of the texts told that are nearest to each asked, nearest first, by cosine."""
    units = [functional.normalize(_vectors(examples), dim=1) for examples in (told, asked)]
    return (units[1] @ units[0].mT).topk(min(count, len(told)), dim=1).indices.numpy()


# Language models.

TELL = "{text}\nintent: {label}\n\n"
ASK = "{text}\nintent:"


@torch.no_grad()
def label_scores(model: nn.Module, prompt: list[int], labels: Sequence[list[int]]) -> np.ndarray:
    """[labels] log-likelihood in nats of each label's tokens after a prompt, read from its start each time."""
    width = max(map(len, labels))
    rows = [[*prompt, *ids, *[0] * (width - len(ids))] for ids in labels]
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor(rows, device=device)).logits[:, len(prompt) - 1 : -1]
    return _sums(logits, labels)


def _sums(logits: Tensor, labels: Sequence[list[int]]) -> np.ndarray:
    """logits [labels, tokens, V], the first of which say the first token -> [labels] log-likelihoods."""
    logs = logits.float().log_softmax(dim=-1)
    return np.array(
        [sum(float(logs[row, t, token]) for t, token in enumerate(ids)) for row, ids in enumerate(labels)]
    )


@dataclass(frozen=True)
class InContext:
    """Shows a language model the nearest texts seen so far with their classes, as many as fit in `tokens`, nearest
    last, and takes the most likely name among the classes shown."""

    model: nn.Module
    encode: Callable[[str], list[int]]
    tokens: int = 512
    examples: int = 20
    name: str = "in-context"

    def start(self, stream: Stream) -> tuple[tuple[str, ...], tuple[Examples, ...]]:
        return stream.classes, ()

    def learn(self, state: Any, examples: Examples) -> Any:
        return state[0], (*state[1], examples)

    def classify(self, state: Any, examples: Examples, seen: np.ndarray) -> np.ndarray:
        classes, told = state[0], joined(state[1])
        answers = []
        for text, places in zip(examples.texts, nearest(told, examples, self.examples), strict=True):
            question = self.encode(ASK.format(text=text))
            context: list[int] = []
            shown: list[int] = []
            for place in places:
                label = int(told.labels[place])
                piece = self.encode(TELL.format(text=told.texts[place], label=classes[label]))
                if len(piece) + len(context) + len(question) > self.tokens and shown:
                    break
                context = piece + context
                shown.append(label)
            candidates = sorted(set(shown))
            names = [self.encode(f" {classes[label]}") for label in candidates]
            scores = label_scores(self.model, (context + question)[-self.tokens :], names)
            answers.append(candidates[int(scores.argmax())])
        return np.array(answers)


# A memory that reads a stream of (text, class) and one that names the class of a text among some.
Read = Callable[[Any, Sequence[tuple[str, str]]], Any]
Classify = Callable[[Any, str, Sequence[str]], str]


@dataclass(frozen=True)
class Memory:
    """A memory that learns while it reads: `read(None, pairs)` -> state, `read(state, pairs)` -> state, and
    `classify(state, text, names)` -> one of the names. Nothing else is kept of the texts."""

    read: Read
    ask: Classify
    name: str = "memory"

    def start(self, stream: Stream) -> tuple[tuple[str, ...], Any]:
        return stream.classes, None

    def learn(self, state: tuple[tuple[str, ...], Any], examples: Examples) -> tuple[tuple[str, ...], Any]:
        classes, memory = state
        pairs = [(text, classes[label]) for text, label in zip(examples.texts, examples.labels, strict=True)]
        return classes, self.read(memory, pairs)

    def classify(
        self, state: tuple[tuple[str, ...], Any], examples: Examples, seen: np.ndarray
    ) -> np.ndarray:
        classes, memory = state
        names = {classes[label]: int(label) for label in seen}
        return np.array([names[self.ask(memory, text, list(names))] for text in examples.texts])


def memory_of(model: nn.Module, encode: Callable[[str], list[int]], *, piece: int = 512) -> Memory:
    """The memory of one of nestmem's language models: what it read is in its state, of constant size where its
    layers are memories. A class is chosen by the log-likelihood of its name."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def told(memory: MemoryCache | None, ids: list[int]) -> tuple[Tensor, MemoryCache]:
        for start in range(0, len(ids), piece):
            part = torch.tensor([ids[start : start + piece]], device=device)
            out = model(input_ids=part, past_key_values=memory, use_cache=True)
            memory, logits = out.past_key_values, out.logits
        if not isinstance(memory, MemoryCache):
            raise InputError(
                f"{type(model).__name__} keeps a {type(memory).__name__}; expected one of nestmem's models, whose "
                "memory can be read on from again and again"
            )
        return logits[:, -1:], memory

    def read(memory: MemoryCache | None, pairs: Sequence[tuple[str, str]]) -> MemoryCache | None:
        ids = [token for text, label in pairs for token in encode(TELL.format(text=text, label=label))]
        return told(memory, ids)[1] if ids else memory

    @torch.no_grad()
    def ask(memory: MemoryCache | None, text: str, names: Sequence[str]) -> str:
        last, asked = told(memory, encode(ASK.format(text=text)))
        labels = [encode(f" {name}") for name in names]
        width = max(map(len, labels))
        rows = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in labels], device=device)
        many = asked.select(torch.zeros(len(labels), dtype=torch.int64))
        after = model(input_ids=rows, past_key_values=many, use_cache=True).logits[:, :-1]
        scores = _sums(torch.cat([last.expand(len(labels), -1, -1), after], dim=1), labels)
        return names[int(scores.argmax())]

    return Memory(read=read, ask=ask)
