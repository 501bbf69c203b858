"""The synthetic tasks against solvers written here, which read the tokens and know nothing of the generators."""

from dataclasses import FrozenInstanceError
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nestmem.errors import InputError
from nestmem.evals import tasks
from nestmem.evals.tasks.base import IGNORE, SPLITS, Batch, exact_match, show_length
from nestmem.evals.tasks.formal import LANGUAGES, Formal
from nestmem.evals.tasks.mad import (
    AutoEncoder,
    Compression,
    FuzzyRecall,
    Memorization,
    Recall,
    SelectiveCopying,
)
from nestmem.evals.tasks.mqar import Mqar
from nestmem.evals.tasks.needle import INTRODUCTION, KINDS, TELL, Needle, TextNeedle

# Solvers: the tokens of one sequence -> {position: the token that must be answered there}.


def solve_mqar(task, tokens):
    told = dict(zip(tokens[0 : 2 * task.pairs : 2], tokens[1 : 2 * task.pairs : 2], strict=True))
    return {t + 1: told[key] for t, key in enumerate(tokens[:-1]) if t >= 2 * task.pairs and key in told}


def solve_formal(task, tokens):
    """By trying: a symbol may follow when some member of the language starts that way."""
    string = "".join(task.symbols[token] for token in tokens if token)
    answers = {}
    for end in range(1, len(string) + 1):
        answers[end] = task.symbols.index(FOLLOWS[task.language](string[:end]))
    if task.ask == "last":
        answers = {end: answers[end] for end in list(answers)[-1:]}
    return answers


def follows_parity(prefix):
    return "{odd}" if prefix.count("1") % 2 else "{even}"


def by_members(members):
    """Sets of symbols that follow a prefix, from a list of members long enough to hold it."""

    def follows(prefix):
        legal = {(m + "$")[len(prefix)] for m in members(len(prefix)) if m.startswith(prefix)}
        return "{" + ",".join("end" if c == "$" else c for c in sorted(legal, key="ab$c".find)) + "}"

    return follows


def follows_shuffle(prefix):
    open_ = [c for c, o in ((")", "("), ("]", "[")) if prefix.count(o) > prefix.count(c)]
    return "{" + ",".join(open_ or ["end"]) + "}"


FOLLOWS = {
    "parity": follows_parity,
    "aa": by_members(lambda n: ["a" * k for k in range(0, n + 3, 2)]),
    "abab": by_members(lambda n: ["abab" * k for k in range(n + 2)]),
    "anbn": by_members(lambda n: ["a" * k + "b" * k for k in range(1, n + 2)]),
    "anbncn": by_members(lambda n: ["a" * k + "b" * k + "c" * k for k in range(1, n + 2)]),
    "shuffle2": follows_shuffle,
}


def solve_needle(task, tokens):
    told: dict[int, list[list[int]]] = {}
    answers = {}
    width = task.tokens_of_value
    at = 0
    while at < len(tokens):
        if tokens[at] == TELL:
            told.setdefault(tokens[at + 1], []).append(tokens[at + 2 : at + 2 + width])
            at += 2 + width
        elif tokens[at] == 1:
            for offset, value in enumerate(chain(*told[tokens[at + 1]])):
                answers[at + 2 + offset] = value
            at += 2 + width * len(told[tokens[at + 1]])
        else:
            at += 1
    return answers


def solve_recall(task, tokens):
    """A value is due where its key was told before. Noise has tokens of its own."""
    words = task.vocab_size - task.noise_vocab
    told: dict[int, int] = {}
    answers = {}
    for t in range(0, len(tokens), 2):
        key, value = tokens[t : t + 2]
        if key >= words:
            continue
        if key in told:
            answers[t + 1] = told[key]
        told.setdefault(key, value)
    return answers


def solve_fuzzy_recall(task, tokens):
    half = (task.vocab_size - 1) // 2
    told: dict[tuple[int, ...], list[int]] = {}
    answers = {}
    t = next(t for t, token in enumerate(tokens) if token != task.vocab_size - 1)
    while t < len(tokens):
        key_end = next(u for u in range(t, len(tokens)) if tokens[u] >= half)
        end = next((u for u in range(key_end, len(tokens)) if tokens[u] < half), len(tokens))
        key = tuple(tokens[t:key_end])
        if key in told:
            answers |= dict(zip(range(key_end, key_end + len(told[key])), told[key], strict=True))
        told.setdefault(key, tokens[key_end:end])
        t = end
    return answers


def solve_copying(task, tokens):
    copy = tokens.index(task.vocab_size - 1)
    words = [token for token in tokens[:copy] if token < task.vocab_size - 2]
    return dict(enumerate(words, copy + 1))


def solve_memorization(task, tokens):
    return {t + 1: int(task.table[key]) for t, key in enumerate(tokens) if t % 2 == 0}


def solve_compression(task, tokens):
    return {t: token for t, token in enumerate(tokens) if token < task.words}


SOLVERS = {
    Mqar: solve_mqar,
    Formal: solve_formal,
    Needle: solve_needle,
    Recall: solve_recall,
    FuzzyRecall: solve_fuzzy_recall,
    SelectiveCopying: solve_copying,
    Memorization: solve_memorization,
    Compression: solve_compression,
}


def solver(task):
    return SOLVERS[type(task)]


def perfect(task, input_ids):
    """Logits [B, T, V] of a reader that solves every sequence by reading it."""
    logits = torch.zeros(*input_ids.shape, task.vocab_size)
    for row, tokens in enumerate(input_ids.tolist()):
        for position, token in solver(task)(task, tokens).items():
            logits[row, position - 1, token] = 1.0
    return logits


NAMES = list(tasks.SYNTHETIC)
ALL = pytest.mark.parametrize("name", NAMES)


@ALL
def test_labels_are_what_a_solver_finds(name):
    task = tasks.make(name)
    for length in {task.train_length, *task.test_lengths}:
        batch = task.batch(3, 8, length=length, split="test")
        for tokens, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
            asked = {t: label for t, label in enumerate(labels) if label != IGNORE}
            assert asked == solver(task)(task, tokens)
            assert 0 not in asked


@ALL
def test_a_perfect_reader_and_a_useless_one(name):
    task = tasks.make(name)
    good = tasks.judge(task, lambda ids: perfect(task, ids), examples=40, batch_size=16)
    assert list(good) == [show_length(length) for length in task.test_lengths]
    assert all(found["exact"]["mean"] == found["tokens"]["mean"] == 1.0 for found in good.values())
    assert all(found["exact"]["n"] == found["n"] == 40 for found in good.values())
    # Token 0 is an answer in two of the tasks, where every token may be.
    share = 0.2 if name in {"mad_copying", "mad_compression"} else 0.0
    bad = tasks.judge(
        task, lambda ids: torch.eye(task.vocab_size)[torch.zeros_like(ids)], examples=40, batch_size=16
    )
    assert all(found["exact"]["mean"] == 0.0 for found in bad.values())
    assert all(found["tokens"]["mean"] <= share for found in bad.values())
    assert all(found["loss"]["mean"] > 0.5 for found in bad.values())


@ALL
def test_tokens_and_shapes(name):
    task = tasks.make(name)
    for length in {task.train_length, *task.test_lengths}:
        batch = task.batch(0, 5, length=length)
        columns = length[1] + 1 if isinstance(length, tuple) else length
        assert batch.input_ids.shape == batch.labels.shape == (5, columns)
        assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
        assert batch.input_ids.min() >= 0 and batch.input_ids.max() < task.vocab_size
        assert batch.labels.max() < task.vocab_size
        assert len(batch) == 5


@ALL
def test_a_batch_is_a_function_of_seed_and_step(name):
    task = tasks.make(name)
    first, again = task.batch(7, 16), tasks.make(name).batch(7, 16)
    assert torch.equal(first.input_ids, again.input_ids) and torch.equal(first.labels, again.labels)
    if name in {"aa", "abab", "anbn", "anbncn"}:
        others = [task.batch(8, 64), tasks.make(name, seed=1).batch(7, 64), task.batch(7, 64, split="test")]
        first = task.batch(7, 64)
    else:
        others = [task.batch(8, 16), tasks.make(name, seed=1).batch(7, 16), task.batch(7, 16, split="test")]
    assert all(not torch.equal(first.input_ids, other.input_ids) for other in others)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"aa", "abab", "anbn", "anbncn"}])
def test_splits_share_no_sequence(name):
    task = tasks.make(name, lengths=(30, 50)) if name in LANGUAGES else tasks.make(name)
    seen = {
        split: {
            tuple(row)
            for step in range(4)
            for row in task.batch(step, 64, split=split, length=task.train_length).input_ids.tolist()
        }
        for split in SPLITS
    }
    assert all(len(rows) == 4 * 64 for rows in seen.values())
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_tasks_are_frozen_and_named():
    task = tasks.make("parity")
    with pytest.raises(FrozenInstanceError):
        setattr(task, "seed", 3)  # noqa: B010
    assert [tasks.make(name).name for name in NAMES] == NAMES
    with pytest.raises(InputError, match=r"'pairity'.*mqar, parity"):
        tasks.make("pairity")
    with pytest.raises(InputError, match="mqar does not take"):
        tasks.make("mqar", pears=3)


@pytest.mark.parametrize("step", [-1, 0])
def test_bad_draws(step):
    task = tasks.make("mqar")
    with pytest.raises(InputError, match="split is 'dev'; expected one of train, validation, test"):
        task.batch(0, 2, split="dev")
    with pytest.raises(InputError, match="expected"):
        task.batch(step, 2 if step else 0)


# Multi-query associative recall.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 30, "pairs": 8}, "at least 32"),
        ({"length": 65}, "even number"),
        ({"vocab_size": 15}, "even"),
        ({"vocab_size": 16, "pairs": 8}, "expected 1 to 6"),
        ({"power": 0.0}, "above 0"),
        ({"filler": "hay"}, "noise, blank"),
        ({"lengths": (64, 20)}, "length is 20"),
    ],
)
def test_mqar_says_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Mqar(**options)


def test_mqar_takes_one_length():
    with pytest.raises(InputError, match="one length"):
        Mqar().batch(0, 1, length=(64, 128))


@pytest.mark.parametrize("filler", ["noise", "blank"])
def test_mqar_keys_are_told_once_and_asked_once(filler):
    task = Mqar(filler=filler, pairs=16, length=128, lengths=(128,))
    for row in task.batch(0, 32).input_ids:
        for key in row[0:32:2]:
            assert (row == key).sum() == 2


def test_mqar_gaps_follow_the_power_law():
    def first_slots(power):
        task = Mqar(pairs=1, length=66, lengths=(66,), power=power)
        batch = task.batch(0, 4000)
        slot = ((batch.labels != IGNORE).float().argmax(dim=1) - 3) / 2
        return [(slot == s).float().mean().item() for s in (0, 1, 31)]

    weights = [(s + 1) ** -0.99 for s in range(32)]
    expected = [weights[s] / sum(weights) for s in (0, 1, 31)]
    assert first_slots(0.01) == pytest.approx(expected, abs=0.02)
    assert first_slots(1.0) == pytest.approx([1 / 32] * 3, abs=0.012)


# Formal languages.


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_strings_belong_to_their_language_and_fill_the_range(language):
    task = Formal(language=language)
    seen = set()
    for tokens in task.batch(0, 600).input_ids.tolist():
        string = "".join(task.symbols[token] for token in tokens if token)
        seen.add(len(string))
        assert member(language, string)
    step = {"parity": 1, "aa": 2, "abab": 4, "anbn": 2, "anbncn": 3, "shuffle2": 2}[language]
    assert seen == set(range(step if step > 1 else 2, 51, step))
    longer = task.batch(0, 100, length=(51, 100)).labels != IGNORE
    assert longer.sum(dim=1).min() >= 51


def member(language, string):
    n = len(string)
    if language == "shuffle2":
        depth = {"()": 0, "[]": 0}
        for c in string:
            pair = "()" if c in "()" else "[]"
            depth[pair] += 1 if c in "([" else -1
            if depth[pair] < 0:
                return False
        return not any(depth.values())
    return {
        "parity": set(string) <= {"0", "1"},
        "aa": string == "aa" * (n // 2),
        "abab": string == "abab" * (n // 4),
        "anbn": string == "a" * (n // 2) + "b" * (n // 2),
        "anbncn": string == "a" * (n // 3) + "b" * (n // 3) + "c" * (n // 3),
    }[language]


def test_shuffles_cross_and_words_are_uniform():
    task = Formal(language="shuffle2", lengths=(4, 4), bins=((4, 4),))
    words: dict[str, int] = {}
    for tokens in task.batch(0, 8000).input_ids.tolist():
        word = "".join(task.symbols[token] for token in tokens if token)
        words[word] = words.get(word, 0) + 1
    # Both of one kind: 2 words each with probability 1/4 * 1/2; one of each: 6 ways, 1/2 * 1/6.
    expected = {"()()": 1 / 8, "(())": 1 / 8, "[][]": 1 / 8, "[[]]": 1 / 8}
    expected |= dict.fromkeys(("()[]", "[]()", "([)]", "[(])", "([])", "[()]"), 1 / 12)
    assert set(words) == set(expected)
    assert all(abs(words[w] / 8000 - p) < 0.015 for w, p in expected.items())


def test_parity_may_ask_only_at_the_end():
    task = Formal(language="parity", ask="last")
    batch = task.batch(0, 32)
    assert (batch.labels != IGNORE).sum(dim=1).eq(1).all()
    assert task.score(perfect(task, batch.input_ids), batch).all()
    # A guess of one side is right for about half the strings.
    odd = torch.zeros(32, 51, task.vocab_size)
    odd[..., task.symbols.index("{odd}")] = 1
    assert 0.2 < task.score(odd, batch).float().mean() < 0.8


def test_one_wrong_answer_makes_a_string_wrong():
    task = Formal(language="parity")
    batch = task.batch(0, 4)
    logits = perfect(task, batch.input_ids)
    assert task.score(logits, batch).all()
    logits[2, 0] = torch.eye(task.vocab_size)[0]
    assert task.score(logits, batch).tolist() == [True, True, False, True]
    asked = (batch.labels[2] != IGNORE).sum()
    assert task.token_accuracy(logits, batch)[2] == pytest.approx(1 - 1 / asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "dyck"}, "expected one of parity"),
        ({"ask": "first"}, "every, last"),
        ({"language": "aa", "ask": "last"}, "language='parity'"),
        ({"language": "abab", "lengths": (5, 7)}, "multiples of 4"),
        ({"lengths": (50, 2)}, "length is"),
    ],
)
def test_formal_says_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Formal(**options)


# Needles.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "s4"}, "expected one of s1"),
        ({"depth": 1.5}, "depth is 1.5"),
        ({"needles": 0}, "needles is 0"),
        ({"kind": "mk", "keys": 3}, "a key of its own"),
        ({"noise": 0}, "at least 1 of each"),
        ({"kind": "mq", "length": 20}, "needs 32 without any haystack"),
    ],
)
def test_needle_says_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Needle(**options)


def test_needles_are_told_at_their_depth():
    for depth, expected in ((0.0, 0), (0.5, 60), (1.0, 120)):
        task = Needle(kind="s2", depth=depth)
        tokens = task.batch(0, 16).input_ids
        assert (tokens[:, expected] == TELL).all() and (tokens == TELL).sum() == 16
    anywhere = (Needle(kind="s2").batch(0, 512).input_ids == TELL).int().argmax(dim=1)
    assert anywhere.min() < 5 and anywhere.max() > 115 and 50 < anywhere.float().mean() < 70


def test_a_long_haystack():
    task = Needle(kind="mv", length=128, lengths=(8192,))
    batch = task.batch(0, 2, length=8192, split="test")
    assert batch.input_ids.shape == (2, 8192)
    assert task.score(perfect(task, batch.input_ids), batch).all()


BOOK = " ".join(f"Sentence {i} of the book says nothing at all." for i in range(3000))


def letters(text):
    """A tokenizer of characters."""
    return [ord(c) for c in text]


@pytest.mark.parametrize("kind", list(KINDS))
def test_text_needles(kind):
    task = TextNeedle(encode=letters, vocab_size=256, kind=kind, haystack=BOOK, start=(1,))
    batch = task.batch(0, 3, length=1024, split="test")
    assert batch.input_ids.shape == (3, 1024)
    for tokens, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
        assert tokens[0] == 1
        text = "".join(map(chr, tokens[1:]))
        assert text.startswith(INTRODUCTION)
        body, *questions = text.split(" What ")
        told = {}
        for part in body.split(" The secret number of the ")[1:]:
            key, value = part.split(".")[0].split(" is ")
            told.setdefault(key, []).append(value)
        answers = []
        for question in questions:
            key = question.split(" of the ")[1].split("?")[0]
            answers.append(" " + ", ".join(told[key]))
            assert question.endswith(answers[-1] + ".")
        assert "".join(chr(label) for label in labels if label != IGNORE) == "".join(answers)
        assert all(label in (IGNORE, token) for token, label in zip(tokens, labels, strict=True))
        assert sum(map(len, told.values())) == KINDS[kind].needles
        assert len(questions) == KINDS[kind].queries
        assert all(len(value) == (36 if kind == "s3" else 7) for values in told.values() for value in values)


def test_text_needles_hide_in_the_part_of_their_split():
    task = TextNeedle(encode=letters, vocab_size=256, kind="s2", haystack=BOOK)
    for split, (low, high) in {"train": (0, 2450), "validation": (2390, 2720), "test": (2680, 3000)}.items():
        for tokens in task.batch(0, 8, split=split).input_ids.tolist():
            words = "".join(map(chr, tokens)).split("Sentence ")[2:-1]
            numbers = [int(part.split()[0]) for part in words]
            assert numbers and all(low <= n < high for n in numbers)


def test_text_needles_at_a_depth_and_over_the_end_of_a_short_text():
    short = TextNeedle(
        encode=letters, vocab_size=256, kind="s2", haystack="One. Two. Three. Four. Five. Six."
    )
    assert short.batch(0, 1, length=600).input_ids.shape == (1, 600)
    first = TextNeedle(encode=letters, vocab_size=256, kind="s1", depth=0.0).batch(0, 1)
    text = "".join(map(chr, first.input_ids[0].tolist()))
    assert text[len(INTRODUCTION) :].startswith(" The secret number of the ")
    with pytest.raises(InputError, match="haystack is empty"):
        TextNeedle(encode=letters, vocab_size=256, kind="mk")
    with pytest.raises(InputError, match=r"needs .* tokens without any haystack"):
        TextNeedle(encode=letters, vocab_size=256, kind="s1").batch(0, 1, length=100)
    with pytest.raises(InputError, match="has no words"):
        TextNeedle(
            encode=lambda t: letters(t.strip()) if "Secret" in t or "number" in t else [],
            vocab_size=256,
            kind="s2",
            haystack="x. y.",
        ).batch(0, 1)


# The MAD set.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recall(length=127), "even number"),
        (lambda: Recall(noise=1.0), "below 1"),
        (lambda: Recall(noise=0.2), "noise_vocab=0"),
        (lambda: Recall(vocab_size=16, noise_vocab=15), "at least 2 more"),
        (lambda: FuzzyRecall(motif=8), "at least 17"),
        (lambda: FuzzyRecall(length=11), "at least 12"),
        (lambda: SelectiveCopying(length=32), "at least 33"),
        (lambda: SelectiveCopying(vocab_size=2), "at least 3"),
        (lambda: Memorization(length=3), "even number"),
        (lambda: Memorization(vocab_size=2), "at least 3"),
        (lambda: Compression(words=127), "2 tokens more"),
        (lambda: Compression(length=2), "at least 3"),
    ],
)
def test_mad_says_what_does_not_fit(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_noise_is_its_share_of_the_pairs():
    task = tasks.make("mad_noisy_recall")
    tokens = task.batch(0, 256).input_ids
    assert (tokens >= 16).float().mean().item() == pytest.approx(0.2, abs=0.01)
    for noise in (0.99, 0.0):
        loud = Recall(vocab_size=32, noise=noise, noise_vocab=16, length=8, lengths=(8,))
        assert (loud.batch(0, 128).labels != IGNORE).any(dim=1).all()


def test_the_last_pair_is_always_asked():
    for name in ("mad_recall", "mad_noisy_recall", "mad_fuzzy_recall"):
        assert (tasks.make(name).batch(1, 128).labels[:, -1] != IGNORE).all()
    shortest = FuzzyRecall(length=12, lengths=(12,))
    assert (shortest.batch(0, 128).labels[:, -1] != IGNORE).all()


def test_the_table_is_the_same_in_training_and_test():
    task = Memorization()
    assert len(set(task.table)) == len(task.table) == 127

    def asked(batch):
        return batch.input_ids[:, ::2].flatten().tolist(), batch.labels[:, 1::2].flatten().tolist()

    learned: dict[int, int] = {}
    for step in range(40):
        learned |= dict(zip(*asked(task.batch(step, 64)), strict=True))
    keys, values = asked(task.batch(0, 64, split="test"))
    assert [learned[key] for key in keys] == values
    assert list(Memorization(table_seed=1).table) != list(task.table)


class Recording(nn.Module):
    """A model whose logits at the last position tell the sequence, and those before it are poison."""

    def forward(self, input_ids):
        logits = torch.full((*input_ids.shape, 40), torch.nan)
        logits[:, -1] = 0
        logits[:, -1, : input_ids.shape[1]] = input_ids.float()
        return SimpleNamespace(logits=logits)


def test_the_autoencoder_reads_the_last_position_only_and_learns():
    torch.manual_seed(0)
    task = Compression(words=4, vocab_size=40, length=8, lengths=(8,))
    reader = tasks.reader(task, Recording())
    assert isinstance(reader, AutoEncoder)
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    for step in range(150):
        batch = task.batch(step, 64)
        loss = tasks.answer_loss(reader(batch.input_ids), batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = tasks.judge(task, reader, examples=128)["8"]
    assert found["tokens"]["mean"] > 0.9
    with pytest.raises(InputError, match="positions for 8"):
        reader(torch.zeros(1, 9, dtype=torch.int64))


# Judging.


def test_scores_read_the_logits_before_the_answer():
    batch = Batch(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[IGNORE, IGNORE, 7]]))
    logits = torch.zeros(1, 3, 10)
    logits[0, 2, 7] = 1
    assert not exact_match(logits, batch).any()
    logits[0, 1, 7] = 1
    assert exact_match(logits, batch).all()
    with pytest.raises(InputError, match=r"\(1, 2, 10\)"):
        exact_match(logits[:, :2], batch)


def test_the_loss_is_the_one_of_the_labels():
    """`answer_loss` is what transformers computes from the same labels."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    task = Mqar(vocab_size=32, pairs=2, length=16, lengths=(16,))
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    batch = task.batch(0, 4)
    with torch.no_grad():
        out = model(input_ids=batch.input_ids, labels=batch.labels)
    assert tasks.answer_loss(out.logits, batch).mean().item() == pytest.approx(out.loss.item(), abs=1e-6)
    found = tasks.judge(task, lambda ids: model(input_ids=ids).logits, examples=20, batch_size=8)
    assert found["16"]["n"] == 20
    with pytest.raises(InputError, match="examples is 0"):
        tasks.judge(task, lambda ids: model(input_ids=ids).logits, examples=0)
