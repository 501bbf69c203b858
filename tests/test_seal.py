"""SEAL's matrix: what is read, what is written, how it is scored, and what the matrix of a tiny model shows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen3Config

from nestmem.adapters.fast_weights import CALIBRATION, FastWeights
from nestmem.errors import InputError
from nestmem.evals import seal
from nestmem.evals.seal import ARMS, Matrix, Passage, Scored, draw, forced, pairs_of, play, read_passages
from nestmem.train.tokenizer import train_tokenizer

PASSAGES = (
    Passage(
        title="Vell",
        context="Vell is a town on the river Orne. It was founded by Ada Rusk in 1204. It has 9 mills.",
        questions=(("Which river is Vell on?", "the Orne"), ("Who founded Vell?", "Ada Rusk")),
    ),
    Passage(
        title="Glassfish",
        context="The glassfish eats only moss. Its eggs are blue.",
        questions=(("What does the glassfish eat?", "moss"), ("What colour are its eggs?", "blue")),
    ),
)
VOCABULARY = 400


def weights(rule: str) -> FastWeights:
    """A random Qwen3 of four blocks with a tokenizer, the same at every call."""
    texts = [" ".join(pair) for pair in CALIBRATION] + [p.context for p in PASSAGES]
    config: PretrainedConfig = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    return FastWeights(model, train_tokenizer(texts * 20, vocabulary=VOCABULARY), rule=rule, rank=32, last=2)


# --- reading and drawing ------------------------------------------------------------------------------


def written(tmp_path: Path, value: Any, name: str = "squad.json") -> Path:
    path = tmp_path / name
    data = json.dumps(value).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def plain(passage: Passage) -> dict[str, Any]:
    questions = [{"question": question, "answer": answer} for question, answer in passage.questions]
    return {"title": passage.title, "context": passage.context, "questions": questions}


@pytest.mark.parametrize("name", ["squad.json", "squad.json.gz"])
def test_passages_are_read_as_they_stand(tmp_path: Path, name: str) -> None:
    assert read_passages(written(tmp_path, [plain(p) for p in PASSAGES], name)) == list(PASSAGES)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1}, "expected a list of passages"),
        ([], "expected a list of passages"),
        ([{"title": "A", "context": "B", "questions": []}], "passage 0: questions"),
        ([plain(PASSAGES[0]), {"title": "A", "questions": [1]}], "passage 1: context"),
        ([{"title": "A", "context": "B", "questions": [{"question": "C"}]}], "a question reads"),
        ([3], "is a int"),
    ],
)
def test_what_is_no_passage_is_named(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_passages(written(tmp_path, value))


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe"])
def test_a_damaged_file_is_an_input_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "squad.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not JSON"):
        read_passages(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_passages(tmp_path / "none.json")


def test_a_cut_archive_is_an_input_error(tmp_path: Path) -> None:
    path = written(tmp_path, [plain(p) for p in PASSAGES], "squad.json.gz")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"cannot be read|is not JSON"):
        read_passages(path)


def test_no_passage_is_drawn_twice() -> None:
    many = [Passage(title=str(i), context="A b.", questions=(("q", "a"), ("r", "b"))) for i in range(10)]
    drawn = draw(many, sequences=3, length=3, questions=1, seed=4)
    titles = [passage.title for sequence in drawn for passage in sequence]
    assert [len(sequence) for sequence in drawn] == [3, 3, 3]
    assert len(set(titles)) == 9
    assert all(len(passage.questions) == 1 for sequence in drawn for passage in sequence)
    assert drawn == draw(many, sequences=3, length=3, questions=1, seed=4)
    with pytest.raises(InputError, match="need 12, the data have 10"):
        draw(many, sequences=4, length=3, questions=1, seed=4)


# --- what is written ----------------------------------------------------------------------------------


def test_a_passage_is_written_without_its_questions() -> None:
    model = weights("additive")
    pairs = pairs_of(PASSAGES[0], "passage", model)
    assert pairs == [
        ("Vell: Vell is", "a town on the river Orne."),
        ("Vell: It was", "founded by Ada Rusk in 1204."),
        ("Vell: It has", "9 mills."),
    ]
    assert not {question for question, _ in PASSAGES[0].questions} & {prompt for prompt, _ in pairs}
    assert pairs_of(PASSAGES[0], "gold", model) == list(PASSAGES[0].questions)
    with pytest.raises(InputError, match="expected one of passage, writer, gold"):
        pairs_of(PASSAGES[0], "all", model)


def test_the_writer_adds_to_the_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    model = weights("additive")
    monkeypatch.setattr(model, "questions", lambda texts: [[("Q?", text)] for text in texts])
    pairs = pairs_of(PASSAGES[1], "writer", model)
    assert pairs[:2] == pairs_of(PASSAGES[1], "passage", model)
    assert pairs[2:] == [("Q?", "The glassfish eats only moss."), ("Q?", "Its eggs are blue.")]


# --- scoring ------------------------------------------------------------------------------------------


def test_forced_scores_are_those_of_the_plain_model() -> None:
    model = weights("additive")
    rows = [model.encode_pair(*pair) for passage in PASSAGES for pair in passage.questions]
    for row, scored in zip(rows, forced(model.banked, rows, None), strict=True):
        with torch.no_grad():
            chances = model.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        places = [t for t, weight in enumerate(row.weights) if weight > 0]
        nats = [float(chances[t - 1, row.ids[t]]) for t in places]
        hits = [int(chances[t - 1].argmax()) == row.ids[t] for t in places]
        assert scored.nats == pytest.approx(sum(nats) / len(nats), abs=1e-4)
        assert scored.tokens == sum(hits) / len(hits)
        assert scored.exact == all(hits)


def test_kl_is_zero_without_banks_and_grows_with_them() -> None:
    model = weights("additive")
    ids = torch.arange(64).reshape(2, 32) + 5
    zero = [torch.zeros(site.d_out, 32) for site in model.banked.sites]
    noise = [torch.full_like(bank, 0.05) for bank in zero]
    assert seal.kl_to_base(model.banked, zero, ids) == pytest.approx(0, abs=1e-6)
    assert (
        0
        < seal.kl_to_base(model.banked, noise, ids)
        < seal.kl_to_base(model.banked, [2 * bank for bank in noise], ids)
    )


# --- the matrix ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_fills_the_matrix(arm: seal.Arm) -> None:
    model = weights(arm.rule)
    made = play(model, arm, PASSAGES, source="gold", text=torch.arange(64).reshape(2, 32) + 5)
    assert [len(row) for row in made.cells] == [2, 2, 2]
    assert [len(cell) for cell in made.cells[2]] == [2, 2]
    assert (made.slept is None) == (not arm.levels)
    # The first edit is from the base, as a fresh one is; the base's row is the model without banks.
    assert made.cells[1][0] == made.fresh[0]
    rows = [model.encode_pair(*pair) for pair in PASSAGES[0].questions]
    assert made.cells[0][0] == forced(model.banked, rows, None)
    # What was just written is likelier than before, and the model was changed elsewhere too.
    for i in range(2):
        before = sum(one.nats for one in made.cells[i][i])
        assert sum(one.nats for one in made.cells[i + 1][i]) > before
        assert sum(one.nats for one in made.fresh[i]) > sum(one.nats for one in made.cells[0][i])
    assert made.kl is not None and made.kl > 0


def test_nested_knows_what_was_just_written_and_after_sleep_everything() -> None:
    model = weights("nested")
    [arm] = [arm for arm in ARMS if arm.name == "nested"]
    made = play(model, arm, PASSAGES, source="gold", text=None)
    assert all(one.exact for i in range(2) for one in made.cells[i + 1][i])
    assert made.slept is not None
    assert all(one.exact for cell in made.slept for one in cell)
    assert made.kl is None


def test_an_arm_needs_its_own_rule() -> None:
    with pytest.raises(InputError, match="writes by rule 'rls'"):
        play(weights("additive"), ARMS[1], PASSAGES, source="gold", text=None)


def test_summary_reads_the_right_cells() -> None:
    def cell(value: float) -> list[Scored]:
        return [Scored(exact=value >= 0.5, tokens=value, nats=value - 1)]

    cells = [[cell(0.0), cell(0.1)], [cell(0.8), cell(0.2)], [cell(0.4), cell(0.6)]]
    found = seal.summary(
        [Matrix(cells=cells, fresh=[cell(0.9), cell(0.7)], slept=[cell(0.5), cell(1.0)], kl=0.25)]
    )
    means = {name: found[name]["tokens"]["mean"] for name in found if name not in ("kl", "matrix")}
    assert means == pytest.approx(
        {
            "base": 0.05,
            "fresh": 0.8,
            "just_edited": 0.7,
            "after_all": 0.5,
            "first_fresh": 0.9,
            "first_after_all": 0.4,
            "after_sleep": 0.75,
        }
    )
    assert found["after_all"]["exact"]["mean"] == 0.5
    assert found["after_all"]["nats"]["mean"] == pytest.approx(-0.5)
    assert found["kl"] == 0.25
    assert found["matrix"]["tokens"] == [[0.0, 0.1], [0.8, 0.2], [0.4, 0.6]]
