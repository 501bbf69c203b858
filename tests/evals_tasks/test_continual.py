"""Class-incremental learning on texts written here, and methods whose answers are known."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nestmem.errors import InputError
from nestmem.evals.tasks import continual
from nestmem.evals.tasks.continual import (
    Ewc,
    Examples,
    FineTune,
    Fit,
    InContext,
    Joint,
    Memory,
    Nearest,
    Replay,
    fisher_information,
    label_scores,
    memory_of,
    run,
)

CLASSES = [f"class_{c}" for c in "abcdefgh"]


class OneHot:
    """An embedder by which a text is its class, with a little of its own."""

    name, dim = "one-hot", len(CLASSES)

    def embed(self, texts):
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            rows[row, int(text.split()[1])] = 1
            rows[row] += 0.05 * np.random.default_rng(len(text) + 31 * int(text.split()[3])).normal(
                size=self.dim
            )
        return rows


@pytest.fixture
def data(tmp_path):
    pairs = {
        split: [[f"text {c} number {i} {split}", name] for i in range(n) for c, name in enumerate(CLASSES)]
        for split, n in (("train", 12), ("test", 6))
    }
    (tmp_path / "clinc150").mkdir()
    (tmp_path / "clinc150/data_full.json").write_text(json.dumps(pairs | {"oos_test": [["huh", "oos"]]}))
    (tmp_path / "banking77").mkdir()
    for split, rows in pairs.items():
        with (tmp_path / f"banking77/{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text", "category"], *rows])
    return tmp_path


@pytest.fixture
def stream(data):
    return continual.stream(
        data, "clinc150", groups=4, train_per_class=10, test_per_class=5, embedder=OneHot(), seed=1
    )


def test_a_stream(stream, data):
    assert sorted(stream.classes) == [name.replace("_", " ") for name in CLASSES]
    assert stream.classes != tuple(sorted(stream.classes))
    assert [len(part) for part in stream.train] == [20] * 4 and [len(part) for part in stream.test] == [
        10
    ] * 4
    assert [set(part.labels) for part in stream.train] == [{0, 1}, {2, 3}, {4, 5}, {6, 7}]
    for part in (*stream.train, *stream.test):
        for text, label in zip(part.texts, part.labels, strict=True):
            assert CLASSES[int(text.split()[1])].replace("_", " ") == stream.classes[label]
    assert not {t for p in stream.train for t in p.texts} & {t for p in stream.test for t in p.texts}
    again = continual.stream(data, "clinc150", groups=4, train_per_class=10, test_per_class=5, seed=1)
    assert again.classes == stream.classes and again.train[2].texts == stream.train[2].texts
    assert continual.stream(data, "clinc150", groups=4, seed=2).classes != stream.classes
    few = continual.stream(data, "banking77", groups=2, classes=3)
    assert len(few.classes) == 3 and [len(set(part.labels)) for part in few.train] == [2, 1]
    assert list(stream.seen(1)) == [0, 1, 2, 3]


class Oracle:
    """Knows all but forgets: after each group, one more of the earlier groups is answered wrongly."""

    name = "oracle"

    def __init__(self, forgets):
        self.forgets = forgets

    def start(self, stream):
        return {c.replace("_", " "): i for i, c in enumerate(CLASSES)}, stream.classes, -1

    def learn(self, state, examples):
        return (*state[:2], state[2] + 1)

    def classify(self, state, examples, seen):
        place = {name: i for i, name in enumerate(state[1])}
        right = np.array([place[CLASSES[int(t.split()[1])].replace("_", " ")] for t in examples.texts])
        assert set(right) <= set(seen)
        lost = right // 2 < state[2] if self.forgets else np.zeros(len(right), dtype=bool)
        return np.where(lost, -1, right)


def test_accuracy_and_forgetting(stream):
    found = run(stream, [Oracle(forgets=False)])["methods"]["oracle"]
    assert [part["mean"] for part in found["after"]] == [1.0] * 4 and found["forgetting"]["mean"] == 0.0
    assert found["average"] == 1.0 and found["after"][3]["n"] == 40 and found["after"][3]["classes"] == 8
    found = run(stream, [Oracle(forgets=True)])["methods"]["oracle"]
    assert [part["mean"] for part in found["after"]] == [1.0, 1 / 2, 1 / 3, 1 / 4]
    assert found["matrix"][2] == [0.0, 0.0, 1.0]
    assert found["forgetting"]["mean"] == 1.0 and found["forgetting"]["n"] == 3
    alone = continual.run(
        SimpleNamespace(
            name="x", classes=stream.classes, train=stream.train[:1], test=stream.test[:1], seen=stream.seen
        ),  # pyright: ignore[reportArgumentType]
        [Oracle(forgets=False)],
    )
    assert alone["methods"]["oracle"]["forgetting"] is None


def test_heads_forget_as_they_should(stream):
    fit = Fit(epochs=60, rate=0.1)
    methods = [FineTune(fit=fit), Ewc(fit=fit), Replay(fit=fit), Joint(fit=fit), Nearest()]
    found = run(stream, methods)
    final = {name: part["final"]["mean"] for name, part in found["methods"].items()}
    lost = {name: part["forgetting"]["mean"] for name, part in found["methods"].items()}
    assert final["joint"] == final["nearest"] == final["replay"] == 1.0
    assert final["fine-tuning"] < 0.8 and lost["fine-tuning"] > 0.2
    assert final["fine-tuning"] < final["ewc"] and lost["ewc"] < lost["fine-tuning"]
    assert all(part["after"][0]["mean"] == 1.0 for part in found["methods"].values())
    assert (found["train_texts"], found["test_texts"], found["classes"]) == (80, 40, 8)
    again = run(stream, methods[:1])
    assert again["methods"]["fine-tuning"] == found["methods"]["fine-tuning"]


def test_a_head_with_a_hidden_layer(stream):
    fit = Fit(epochs=60, rate=0.02, hidden=32)
    found = run(stream, [Joint(fit=fit), FineTune(fit=fit)])["methods"]
    assert found["joint"]["final"]["mean"] == 1.0 > found["fine-tuning"]["final"]["mean"]


def test_learning_changes_no_earlier_state(stream):
    method = Ewc(fit=Fit(epochs=2))
    first = method.learn(method.start(stream), stream.train[0])
    before = {name: value.clone() for name, value in first.weights.items()}
    method.learn(first, stream.train[1])
    assert all(torch.equal(first.weights[name], before[name]) for name in before)


def test_fisher_information_of_a_linear_head():
    """By hand: d log p(y|x) / d W_c = (1[c=y] - p_c) x."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, 3)).astype(np.float32)
    y = rng.integers(0, 2, 70)
    examples = Examples(texts=("t",) * 70, labels=y, vectors=x)
    weights = {"head": torch.randn(3, 3, generator=torch.Generator().manual_seed(1)), "bias": torch.zeros(3)}
    found = fisher_information(weights, examples, np.array([0, 1]))
    logits = x @ weights["head"].numpy().T
    p = np.exp(logits[:, :2]) / np.exp(logits[:, :2]).sum(axis=1, keepdims=True)
    error = np.eye(2)[y] - p
    expected = np.einsum("nc,nd->cd", error**2, x**2) / 70
    np.testing.assert_allclose(found["head"][:2].numpy(), expected, rtol=1e-4)
    assert (found["head"][2] == 0).all()


# Language models.


def letters(text):
    return [ord(c) for c in text]


class Echo(torch.nn.Module):
    """Predicts that the text after the last "intent: " before is said again: what it was shown last."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.longest = 0

    def forward(self, input_ids):
        self.longest = max(self.longest, input_ids.shape[1])
        logits = torch.zeros(*input_ids.shape, 256)
        for row, tokens in enumerate(input_ids.tolist()):
            text = "".join(map(chr, tokens))
            if "\n\n" not in text:
                continue
            answer = text.split("intent:")[-2].split("\n\n")[0]
            at = text.rindex("intent:") + len("intent:") - 1
            for offset, token in enumerate(letters(answer)):
                if at + offset < len(tokens):
                    logits[row, at + offset, token] = 9
        return SimpleNamespace(logits=logits)


def test_in_context_shows_the_nearest_last_and_as_many_as_fit(stream):
    model = Echo()
    found = run(stream, [InContext(model, letters, tokens=200)])["methods"]["in-context"]
    assert found["final"]["mean"] == 1.0
    assert 150 < model.longest <= 200 + len(" class a")
    tight = run(stream, [InContext(Echo(), letters, tokens=40, examples=3)])["methods"]["in-context"]
    assert 0.0 <= tight["final"]["mean"] <= 1.0


def test_label_scores_are_log_likelihoods():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    prompt, labels = [3, 4, 5], [[7], [8, 9, 10]]
    found = label_scores(model, prompt, labels)
    for label, score in zip(labels, found, strict=True):
        with torch.no_grad():
            logs = model(torch.tensor([prompt + label])).logits[0].log_softmax(-1)
        assert score == pytest.approx(sum(logs[2 + i, t].item() for i, t in enumerate(label)), abs=1e-4)


def test_a_memory_is_read_and_asked(stream):
    calls = []

    def read(state, pairs):
        calls.append(len(pairs))
        return {**(state or {}), **{text.split()[1]: name for text, name in pairs}}

    def ask(state, text, names):
        assert state[text.split()[1]] in names
        return state[text.split()[1]]

    found = run(stream, [Memory(read, ask)])["methods"]["memory"]
    assert found["final"]["mean"] == 1.0 and calls == [20] * 4


def test_the_memory_of_a_model_is_what_it_would_say_after_reading_it_all(stream):
    from nestmem.models import NestmemConfig, NestmemForCausalLM

    torch.manual_seed(0)
    config = NestmemConfig(
        vocab_size=128, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, pattern=["deltanet"]
    )
    model = NestmemForCausalLM(config).eval()
    memory = memory_of(model, letters, piece=7)
    pairs = [("one two", "alpha"), ("three", "be")]
    state = memory.read(memory.read(None, pairs[:1]), pairs[1:])
    names = ["alpha", "be", "gamma"]
    prompt = letters("one two\nintent: alpha\n\nthree\nintent: be\n\none\nintent:")
    expected = names[int(label_scores(model, prompt, [letters(f" {name}") for name in names]).argmax())]
    assert memory.ask(state, "one", names) == expected == memory.ask(state, "one", names)
    assert memory.read(state, []) is state


# Bad input.


def test_what_does_not_fit(data, tmp_path):
    with pytest.raises(InputError, match="expected one of clinc150, banking77"):
        continual.read(data, "trec")
    with pytest.raises(InputError, match="1 <= groups <= classes <= 8"):
        continual.stream(data, "clinc150", groups=9)
    with pytest.raises(InputError, match="test_per_class 0"):
        continual.stream(data, "clinc150", groups=2, test_per_class=0)
    with pytest.raises(InputError, match="epochs=0"):
        Fit(epochs=0)
    plain = continual.stream(data, "clinc150", groups=2)
    with pytest.raises(InputError, match="give `stream` an embedder"):
        run(plain, [FineTune()])
    with pytest.raises(InputError, match="two of one name"):
        run(plain, [Nearest(), Nearest()])
    with pytest.raises(InputError, match=r"Get it from: https://github\.com/clinc/oos-eval"):
        continual.read(tmp_path / "none", "clinc150")
    for content in ("[1]", "{", '{"train": [["a"]], "test": []}', '{"train": []}'):
        (data / "clinc150/data_full.json").write_text(content)
        with pytest.raises(InputError, match="not CLINC150's JSON"):
            continual.read(data, "clinc150")
    (data / "banking77/test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not Banking77's CSV"):
        continual.read(data, "banking77")
