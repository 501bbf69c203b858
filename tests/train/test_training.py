"""The training pipeline, end to end on a toy: it runs, resumes, and its product loads and learns."""

import json
import random
from pathlib import Path

import pytest

from nestmem.adapters.fast_weights import load_fast_weights
from nestmem.errors import InputError
from nestmem.personas import PersonaGenerator
from nestmem.train.corpus import training_text
from nestmem.train.dialogues import dialogue
from nestmem.train.mini import MiniConfig, encode, render, train_mini
from nestmem.train.mini_meta import MiniMetaConfig, train_mini_meta
from nestmem.train.package import package
from nestmem.train.plot import plot_run

TOY = {
    "vocabulary": 600,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "key_value_heads": 1,
    "head_width": 16,
    "feed_forward": 48,
    "batch_tokens": 512,
    "text_window": 64,
    "warm_up": 2,
}


def steps(run: Path) -> list[int]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row.get("event") == "start"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Stage one stopped and resumed, stage two, and the packaged model."""
    base = tmp_path_factory.mktemp("runs")
    text = base / "book.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 300)
    first, second = base / "one", base / "two"
    train_mini(MiniConfig(out=first, text=(text,), steps=3, checkpoint_every=3, **TOY))
    start = train_mini(MiniConfig(out=first, text=(text,), steps=5, checkpoint_every=5, **TOY))
    small = {
        "rank": 16,
        "last": 1,
        "users": 2,
        "facts": ((0, 2),),
        "rehearsal_tokens": 256,
        "warm_up": 2,
        # An untrained model's banks explode in a second step of full size.
        "passes": 1,
        "fit_rate": 1e-3,
        "two_stages": 0.0,
    }
    train_mini_meta(MiniMetaConfig(start=start, out=second, steps=2, evaluate_every=2, **small))
    train_mini_meta(MiniMetaConfig(start=start, out=second, steps=4, evaluate_every=2, **small))
    return first, second, package(second, base / "packaged")


def test_a_stopped_run_goes_on_from_its_checkpoint(runs: tuple[Path, Path, Path]) -> None:
    assert steps(runs[0]) == [0, 3]
    assert steps(runs[1]) == [0, 2]


def test_the_packaged_model_loads_and_learns(runs: tuple[Path, Path, Path]) -> None:
    weights = load_fast_weights(runs[2])
    empty = weights.rule_object.empty()
    ((state, payloads),) = weights.write([empty], [[[("Where do I live?", "Leeds")]]])
    assert len(payloads) == 1
    assert any(bool(bank.any()) for bank in weights.banks_of(state))
    assert len(weights.settings.key_limit) == len(weights.banked.sites) == 3
    assert all(basis.shape[0] == 16 for basis in weights.banked.bases)


def test_curves_are_drawn(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    assert plot_run(runs[1], tmp_path / "curves.png").stat().st_size > 5_000
    with pytest.raises(InputError, match=r"no log\.jsonl"):
        plot_run(tmp_path, tmp_path / "x.png")


def test_only_a_finished_run_is_packaged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no meta-trained model"):
        package(tmp_path, tmp_path / "out")


def test_a_dialogue_is_encoded_as_the_chat_template_writes_it(runs: tuple[Path, Path, Path]) -> None:
    tokenizer = load_fast_weights(runs[2]).tokenizer
    generator, rng = PersonaGenerator("train"), random.Random(3)
    for _ in range(30):
        talk = dialogue(generator, rng)
        chat = [{"role": role, "content": content} for role, content in talk.messages]
        ids, weights = encode(talk, tokenizer)
        assert ids == tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
        assert len(ids) == len(weights)
        learned = "".join(text for text, is_learned in render(talk) if is_learned)
        chosen = [token for token, weight in zip(ids, weights, strict=True) if weight]
        assert tokenizer.decode(chosen) == learned


def test_books_kept_aside_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "books.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"book {n}"}) for n in range(5)))
    assert training_text([file], keep_aside=2) == "book 0\n\nbook 1\n\nbook 2"
    (tmp_path / "notes.pdf").write_text("x")
    with pytest.raises(InputError, match=r"expected \.txt, \.md or \.jsonl"):
        training_text([tmp_path / "notes.pdf"])
