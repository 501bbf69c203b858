"""Does the loss fall as a model reads? Loss by position in the document, and what the far context is worth.

Sets: WikiText-2 articles (Merity et al., arXiv 1609.07843), TinyStories (arXiv 2305.07759), PG-19 books (Rae et al.,
arXiv 1911.05507). Loss by position is the measure of TTT (arXiv 2407.04620, figure 2) and TTT-E2E; the Nested
Learning paper reports perplexities.

    position   0-127   128-255   256-511   ...
    plain      3.91    3.60      3.52             nats per token, in bits per byte beside it

Each document is read from its start (or at several places, `windows`), and the loss of each token goes to the
bucket of its position. Two kinds of variant tell where a gain comes from:

- the same model with its inner updates off, on the same tokens;
- the same model with its far context replaced: for the tokens of a bucket, what stands more than `near` tokens
  before the bucket is that of another document ("other"), or its own in pieces of another order ("shuffled").

Sums are taken over tokens, and standard errors over documents: tokens of one document go together. Differences
between a variant and the first are paired by document. Bits per byte compare models with different tokenizers;
`by="bytes"` puts the buckets at the same places of the text for them.

>>> text = Text(id="tale", text="Once upon a time.")
>>> fair = Variant(name="fair", losses=lambda ids: torch.full((ids.shape[1] - 1,), 2.0))
>>> found = by_position([text], [fair], encode=bytes_encoded, edges=(0, 8))
>>> bucket = found["variants"]["fair"]["buckets"][0]
>>> bucket["from"], bucket["to"], bucket["nats_per_token"]["mean"], round(bucket["bits_per_byte"]["mean"], 3)
(0, 8, 2.0, 2.885)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nestmem.errors import InputError
from nestmem.evals import files
from nestmem.evals.stats import Z95, Estimate
from nestmem.evals.tasks.base import LogitsFunction

VERSION = "language/1"
SETS = ("wikitext2", "tinystories", "pg19")
CONTEXTS = ("own", "other", "shuffled")
EDGES = (0, 128, 256, 512, 1024, 2048, 4096)

# ids [1, T] -> losses [T - 1]: nats of token t + 1 after reading 0 .. t.
LossFunction = Callable[[Tensor], Tensor]
# text -> token ids, and how many bytes of the text each token is.
Encoder = Callable[[str], tuple[list[int], list[int]]]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A document."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to read: the losses of a sequence, and the context before what is scored (one of CONTEXTS)."""

    name: str
    losses: LossFunction
    context: str = "own"

    def __post_init__(self) -> None:
        if self.context not in CONTEXTS:
            raise InputError(f"context is {self.context!r}; expected one of {', '.join(CONTEXTS)}")


def read(data: Path, name: str) -> list[Text]:
    """The documents of a set, in the order of its file: articles, stories or books."""
    if name == "wikitext2":
        return _articles(files.text(files.find_set(data, "wikitext2", "test.txt")))
    if name == "tinystories":
        whole = files.text(files.find_set(data, "tinystories_sample", "tinystories_sample.txt"))
        stories = [story.strip() for story in whole.split("<|endoftext|>")]
        return [Text(id=str(number), text=story) for number, story in enumerate(stories) if story]
    if name == "pg19":
        books = files.rows(files.find_set(data, "pg19_books", "books.jsonl"), ("id", "text"))
        return [Text(id=str(book["id"]), text=book["text"].strip()) for book in books]
    raise InputError(f"no text is called {name!r}; expected one of {', '.join(SETS)}")


def _articles(whole: str) -> list[Text]:
    """WikiText's articles, each from its line ' = Title = '."""
    starts = [match.start() for match in re.finditer(r"^ ?= [^=].*[^=] = ?$", whole, flags=re.MULTILINE)]
    if not starts:
        raise InputError(
            "this is not WikiText: no line ' = Title = ' in it; expected test.txt with its headings"
        )
    pieces = [whole[start:end].strip() for start, end in zip(starts, [*starts[1:], len(whole)], strict=True)]
    return [Text(id=piece.split("\n", 1)[0].strip(" ="), text=piece) for piece in pieces]


def encoder(tokenizer: Any) -> Encoder:
    """The encoder of a fast Hugging Face tokenizer. The bytes of all tokens add up to those of the text; spaces
    that a token leaves out count for the token after them."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not say where its tokens stand in the text; "
            "give a fast tokenizer (tokenizer.json)"
        )

    def encode(text: str) -> tuple[list[int], list[int]]:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        sizes, covered = [], 0
        for _, end in found["offset_mapping"]:
            sizes.append(len(text[covered:end].encode("utf-8", "surrogatepass")))
            covered = max(covered, end)
        return found["input_ids"], sizes

    return encode


def bytes_encoded(text: str) -> tuple[list[int], list[int]]:
    """The encoder of a model of bytes.

    >>> bytes_encoded("né")
    ([110, 195, 169], [1, 1, 1])
    """
    raw = list(text.encode("utf-8"))
    return raw, [1] * len(raw)


def from_logits(logits_fn: LogitsFunction) -> LossFunction:
    """The losses of a function ids [1, T] -> logits [1, T, V], read at once."""

    def losses(ids: Tensor) -> Tensor:
        return functional.cross_entropy(logits_fn(ids)[0, :-1].float(), ids[0, 1:], reduction="none")

    return losses


def from_model(
    model: nn.Module,
    *,
    piece: int = 1024,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> LossFunction:
    """The losses of a language model that is told a piece at a time and keeps its cache or memory between them,
    so that a long document needs the logits of one piece only. `around()` is entered for the reading, for
    example `model.without_learning`."""
    if piece < 1:
        raise InputError(f"piece is {piece} tokens; expected at least 1")

    def losses(ids: Tensor) -> Tensor:
        found, past = [], None
        with around():
            for start in range(0, ids.shape[1] - 1, piece):
                part = ids[:, start : min(start + piece, ids.shape[1] - 1)]
                out = model(input_ids=part, past_key_values=past, use_cache=True)
                past = out.past_key_values
                after = ids[0, start + 1 : start + 1 + part.shape[1]]
                found.append(functional.cross_entropy(out.logits[0].float(), after, reduction="none"))
        return torch.cat(found)

    return losses


def ratio(numerators: Sequence[float], denominators: Sequence[float], n: int) -> Estimate:
    """Sum over sum, one entry a cluster, with the clustered standard error of that ratio; `n` is what is counted.

    With one cluster there is no error to estimate, and it is nan.

    >>> found = ratio([2.0, 6.0], [1.0, 1.0], 2)
    >>> found.mean, found.se
    (4.0, 2.0)
    """
    groups, total = len(numerators), sum(denominators)
    mean = sum(numerators) / total if total else math.nan
    residual = sum((top - mean * under) ** 2 for top, under in zip(numerators, denominators, strict=True))
    se = math.sqrt(groups / (groups - 1) * residual) / total if groups > 1 and total else math.nan
    return Estimate(mean=mean, se=se, low=mean - Z95 * se, high=mean + Z95 * se, n=n, clusters=groups)


@dataclass(frozen=True, kw_only=True)
class _Window:
    """A piece of a document, read from its own start: tokens, their bytes, and what replaces far context."""

    document: str
    ids: np.ndarray
    sizes: np.ndarray
    other: np.ndarray


@torch.no_grad()
def by_position(
    texts: Sequence[Text],
    variants: Sequence[Variant],
    *,
    encode: Encoder,
    edges: Sequence[int] = EDGES,
    by: str = "tokens",
    windows: int = 1,
    near: int = 32,
    start: Sequence[int] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """The record of losses by position: {"variants": {name: {"buckets": [...], "all": {...}}}, ...}.

    edges: bucket i holds the tokens at positions edges[i] .. edges[i+1] - 1 of a document, or of its windows;
    by: positions in "tokens" or "bytes" (of the start of a token). windows: pieces of a document that are read,
    evenly spread and without overlap, each as a document of its own; 1 reads from its start. Those shorter than
    the last edge serve the buckets they reach. near: tokens before a bucket that stay its own in the contexts "other" and
    "shuffled". start: ids read before everything (begin of text), not scored.

    Each bucket has nats_per_token, bits_per_byte, bytes_per_token, tokens, and for variants after the first
    `minus_first`, the paired difference in nats per token.
    """
    _check(texts, variants, edges, by, windows, near)
    made = _windows(texts, encode, edges[-1], by, windows)
    buckets = list(pairwise(edges))
    # sums[variant][bucket][document] = nats, tokens, bytes
    sums: dict[str, list[dict[str, np.ndarray]]] = {v.name: [{} for _ in buckets] for v in variants}
    rng = np.random.default_rng(seed)
    for number, window in enumerate(made):
        places = np.cumsum(window.sizes) - window.sizes if by == "bytes" else np.arange(len(window.ids))
        spans = [tuple(np.searchsorted(places, bucket)) for bucket in buckets]
        order = rng.permutation(len(window.ids) // max(near, 1) + 1)
        for variant in variants:
            for bucket, losses in zip(
                sums[variant.name], _losses(variant, window, spans, near, start, order, device), strict=True
            ):
                if losses is not None:
                    old = bucket.get(window.document, np.zeros(3))
                    bucket[window.document] = old + losses
        if progress:
            progress(number + 1, len(made), window.document)
    return {
        "task": VERSION,
        "config": {
            "edges": list(edges),
            "by": by,
            "windows": windows,
            "near": near,
            "seed": seed,
            "variants": {variant.name: variant.context for variant in variants},
        },
        "documents": len({window.document for window in made}),
        "variants": {
            name: _summary(found, sums[variants[0].name] if number else None, buckets)
            for number, (name, found) in enumerate(sums.items())
        },
    }


def _losses(
    variant: Variant,
    window: _Window,
    spans: Sequence[tuple[int, int]],
    near: int,
    start: Sequence[int],
    order: np.ndarray,
    device: torch.device | str,
) -> list[np.ndarray | None]:
    """For each bucket [nats, tokens, bytes] of this window; None for a bucket it does not reach."""

    def run(ids: np.ndarray) -> np.ndarray:
        """Losses of all but the first token, those of `start` left out."""
        whole = torch.tensor([[*start, *ids.tolist()]], device=device)
        found = variant.losses(whole).float().cpu().numpy()
        return found[max(len(start) - 1, 0) :]

    # Without a start, nothing stands before token 0, and it is not scored.
    skipped = 0 if start else 1
    plain = None
    answers: list[np.ndarray | None] = []
    for low, high in spans:
        low = max(low, skipped)
        if high <= low:
            answers.append(None)
            continue
        far = max(low - near, 0)
        if variant.context == "own" or far == 0:
            plain = run(window.ids) if plain is None else plain
            losses = plain[low - skipped : high - skipped]
        else:
            context = (
                window.other if variant.context == "other" else _reordered(window.ids[:far], near, order)
            )
            ids = np.concatenate([np.resize(context, far), window.ids[far:high]])
            losses = run(ids)[low - skipped :]
        answers.append(np.array([losses.sum(dtype=np.float64), high - low, window.sizes[low:high].sum()]))
    return answers


def _reordered(ids: np.ndarray, piece: int, order: np.ndarray) -> np.ndarray:
    """The pieces of a context in another order."""
    pieces = [ids[i : i + piece] for i in range(0, len(ids), piece)]
    return np.concatenate([pieces[i] for i in order if i < len(pieces)])


def _windows(texts: Sequence[Text], encode: Encoder, last: int, by: str, windows: int) -> list[_Window]:
    encoded = []
    for text in texts:
        # No tokenizer makes a token of more than this many characters of running text on average.
        longest = last * windows * (4 if by == "bytes" else 16)
        ids, sizes = encode(text.text[:longest] if windows == 1 else text.text)
        encoded.append((text.id, np.array(ids, dtype=np.int64), np.array(sizes, dtype=np.int64)))
    made = []
    for number, (name, ids, sizes) in enumerate(encoded):
        other = encoded[(number + 1) % len(encoded)][1]
        # As many as there is text for, so that none overlap.
        some = min(windows, max(1, len(ids) // last))
        for window in range(some):
            begin = 0 if some == 1 else window * (len(ids) - last) // (some - 1)
            piece = slice(begin, begin + last)
            made.append(_Window(document=name, ids=ids[piece], sizes=sizes[piece], other=other))
    return [window for window in made if len(window.ids) > 1]


def _summary(
    found: list[dict[str, np.ndarray]],
    first: list[dict[str, np.ndarray]] | None,
    buckets: Sequence[tuple[int, int]],
) -> dict[str, Any]:
    rows = []
    for number, (low, high) in enumerate(buckets):
        if found[number]:
            against = None if first is None else first[number]
            rows.append({"from": low, "to": high, **_numbers(found[number], against)})
    return {"buckets": rows, "all": _numbers(_merged(found), None if first is None else _merged(first))}


def _merged(buckets: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    whole: dict[str, np.ndarray] = {}
    for bucket in buckets:
        for name, values in bucket.items():
            whole[name] = whole.get(name, np.zeros(3)) + values
    return whole


def _numbers(sums: dict[str, np.ndarray], first: dict[str, np.ndarray] | None) -> dict[str, Any]:
    nats, tokens, sizes = (np.array([values[i] for values in sums.values()]) for i in range(3))
    n = int(tokens.sum())
    numbers = {
        "tokens": n,
        "nats_per_token": ratio(nats.tolist(), tokens.tolist(), n).record(),
        "bits_per_byte": ratio((nats / math.log(2)).tolist(), sizes.tolist(), int(sizes.sum())).record(),
        "bytes_per_token": float(sizes.sum() / n) if n else math.nan,
    }
    if first is not None:
        gaps = [values[0] - first[name][0] for name, values in sums.items()]
        numbers["minus_first"] = ratio(gaps, tokens.tolist(), n).record()
    return numbers


def _check(
    texts: Sequence[Text],
    variants: Sequence[Variant],
    edges: Sequence[int],
    by: str,
    windows: int,
    near: int,
) -> None:
    if not texts or not variants:
        raise InputError(f"{len(texts)} documents and {len(variants)} variants; expected at least 1 of each")
    if len(edges) < 2 or edges[0] < 0 or any(a >= b for a, b in pairwise(edges)):
        raise InputError(
            f"edges are {list(edges)}; expected at least 2 rising positions, such as 0, 128, 256"
        )
    if by not in ("tokens", "bytes"):
        raise InputError(f"by is {by!r}; expected 'tokens' or 'bytes'")
    if windows < 1 or near < 1:
        raise InputError(f"windows is {windows} and near {near}; expected at least 1 of each")
    if len({variant.name for variant in variants}) < len(variants):
        raise InputError("two variants have one name; expected a name of its own for each")
    if len(texts) < 2 and any(variant.context == "other" for variant in variants):
        raise InputError(
            "the context 'other' needs another document, and 1 was given; give 2 or more, or context='shuffled'"
        )
