"""Pretraining from text: the loop, the rows, a run stopped and gone on with, two processes, and bad input."""

import gzip
import json
import math
import signal
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner

from nestmem.cli.train import training
from nestmem.errors import InputError, MissingExtra, ModelError
from nestmem.models import NestmemForCausalLM, config_for
from nestmem.train.checkpoints import Checkpoints
from nestmem.train.corpus import read_texts, text_files
from nestmem.train.lm import LMConfig, read_config, train_lm
from nestmem.train.loop import (
    Batch,
    FitConfig,
    evaluated,
    fit,
    make_optimizer,
    mean_loss,
    predictions,
    read_log,
    with_borders,
)
from nestmem.train.packing import Rows, Source, Tokens, split, tokenise
from nestmem.train.plot import plot_language
from nestmem.train.tokenizer import train_tokenizer

VOCABULARY = 40
QUICK = FitConfig(steps=6, warm_up=2, checkpoint_every=2, evaluate_every=3, log_every=4)


def quiet(_message: str) -> None:
    pass


def tiny(seed: int = 0, vocabulary: int = VOCABULARY, dropout: float = 0.0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            attention_dropout=dropout,
            pad_token_id=0,
        )
    )


def batch(step: int) -> Batch:
    """Four rows of 12 tokens, some with two documents, some with padding."""
    ids = torch.randint(1, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(step))
    documents = torch.zeros(4, 12, dtype=torch.long)
    documents[1, 5:] = 1
    documents[2, 9:] = -1
    return {"input_ids": ids, "labels": ids.clone(), "document_ids": documents}


def learned(rows: list[dict]) -> list[dict]:
    """A log without what depends on the clock, or on how often the run was started."""
    clock = ("seconds", "tokens_per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows if row.get("event") != "start"]


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# -- the loop ------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_predicted_tokens_of_documents_alone() -> None:
    model, rows = tiny(), batch(0)
    total, count = 0.0, 0
    for ids, documents in zip(rows["input_ids"], rows["document_ids"], strict=True):
        for document in set(documents.tolist()) - {-1}:
            alone = ids[documents == document][None]
            own = model(input_ids=alone, labels=alone).loss
            total, count = total + float(own.detach()) * (alone.shape[1] - 1), count + alone.shape[1] - 1
    assert evaluated(model, lambda m: {"x": mean_loss(m, [rows], QUICK)})["x"] == pytest.approx(total / count)
    assert count == int(predictions(with_borders(rows)).sum())


def test_accumulation_does_not_change_a_step() -> None:
    models = []
    for parts in (1, 2, 4):
        model = tiny()
        fitted = fit(model, batch, replace(QUICK, accumulation=parts), on_event=quiet)
        models.append((fitted.loss, model))
    for loss, model in models[1:]:
        assert loss == pytest.approx(models[0][0], abs=1e-6)
        for a, b in zip(model.parameters(), models[0][1].parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [("adamw", "float32"), ("muon", "float32"), ("m3", "float32"), ("adamw", "bf16")],
)
def test_every_optimizer_and_precision_learns_a_sequence_by_heart(optimizer: str, precision: str) -> None:
    one = {name: tensor[:1] for name, tensor in batch(0).items()}
    config = FitConfig(steps=60, warm_up=5, optimizer=optimizer, precision=precision, weight_decay=0.0)
    config = replace(config, lr={"adamw": 1e-2}.get(optimizer, 0.05), adam_ratio=0.3)
    model = tiny()
    before = mean_loss(model, [one], config)
    fit(model, lambda step: one, config, on_event=quiet)
    assert before > 3.4
    assert mean_loss(model, [one], config) < 0.5
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_gradient_checkpointing_does_not_change_a_step() -> None:
    plain, saving = tiny(), tiny()
    fit(plain, batch, QUICK, on_event=quiet)
    fit(saving, batch, replace(QUICK, gradient_checkpointing=True), on_event=quiet)
    assert same_weights(plain, saving)
    model = WithoutDocuments()
    with pytest.raises(InputError, match="gradient_checkpointing=True: WithoutDocuments"):
        fit(model, batch, replace(QUICK, gradient_checkpointing=True), on_event=quiet)


def test_matrices_inside_the_blocks_go_by_muon_and_the_rest_by_adam() -> None:
    model = tiny()
    groups = make_optimizer(model, FitConfig(optimizer="muon", lr=0.02, adam_ratio=0.5)).param_groups
    adam = [group for group in groups if group["adam"]]
    assert [p.shape for group in adam for p in group["params"] if p.ndim == 2] == [(VOCABULARY, 16)]
    assert all(group["lr"] == 0.01 for group in adam)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    decayed = make_optimizer(model, FitConfig()).param_groups
    assert {p.ndim for group in decayed if group["weight_decay"] == 0 for p in group["params"]} == {1}


def test_a_batch_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match="multiple of 3"):
        fit(tiny(), batch, replace(QUICK, accumulation=3), on_event=quiet)
    nothing = {**batch(0), "labels": torch.full((4, 12), -100)}
    with pytest.raises(InputError, match="without a token to predict"):
        fit(tiny(), lambda step: nothing, QUICK, on_event=quiet)


class WithoutDocuments(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> None:
        raise AssertionError("not called")


def test_a_model_that_would_mix_documents_up_is_refused() -> None:
    model = WithoutDocuments()
    model.weight = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(InputError, match="packing='stream'"):
        fit(model, batch, QUICK, on_event=quiet)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd"},
        {"precision": "fp8"},
        {"steps": 0},
        {"lr": math.nan},
        {"betas": (0.9,)},
        {"betas": (0.9, 1.0)},
        {"final": 2.0},
        {"clip": -1.0},
        {"accumulation": True},
    ],
)
def test_numbers_that_cannot_be_used_are_refused(changes: dict) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        FitConfig(**changes)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be used here"):
        fit(tiny(), batch, replace(QUICK, device="warp"), on_event=quiet)


# -- stopped and gone on with --------------------------------------------------------------------------------


class Stopped(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "m3"])
def test_a_run_stopped_at_any_step_goes_on_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    config = replace(QUICK, optimizer=optimizer)

    def held(model: torch.nn.Module) -> dict[str, float]:
        return {"held_out_loss": mean_loss(model, [batch(99)], config)}

    whole = tiny(dropout=0.2)
    fit(whole, batch, config, out=tmp_path / "whole", evaluate=held, on_event=quiet)
    for last in range(1, 6):

        def stop(step, last: int = last) -> None:
            if step.step == last:
                raise Stopped

        out = tmp_path / f"stopped-{last}"
        with pytest.raises(Stopped):
            fit(tiny(dropout=0.2), batch, config, out=out, evaluate=held, on_step=stop, on_event=quiet)
        # What chance was drawn in between does not matter, nor does what the new model starts from.
        torch.rand(7)
        model = tiny(seed=0 if last < 3 else 5, dropout=0.2)
        fitted = fit(model, batch, config, out=out, evaluate=held, on_event=quiet)
        assert fitted.finished and fitted.step == 6
        assert same_weights(whole, model)
        assert learned(read_log(out)) == learned(read_log(tmp_path / "whole"))
    # Dropout was really drawn: without it the losses are others.
    fit(tiny(), batch, config, out=tmp_path / "dry", evaluate=held, on_event=quiet)
    assert learned(read_log(tmp_path / "dry")) != learned(read_log(tmp_path / "whole"))


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    whole = tiny()
    fit(whole, batch, QUICK, out=tmp_path, on_event=quiet)
    kept = Checkpoints(tmp_path / "checkpoints").files()
    assert [path.name[:13] for path in kept] == ["step-00000006", "step-00000004"]
    kept[0].write_bytes(kept[0].read_bytes()[:-100])
    said: list[str] = []
    model = tiny()
    fit(model, batch, QUICK, out=tmp_path, on_event=said.append)
    assert same_weights(whole, model)
    assert len(said) == 1 and kept[0].name in said[0] and "going on from the checkpoint of step 4" in said[0]
    assert any("notes" in row for row in read_log(tmp_path))
    # What was made anew stands in the place of the damaged one.
    said.clear()
    fit(tiny(), batch, QUICK, out=tmp_path, on_event=said.append)
    assert said == [] and len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_one_changed_byte_is_found_out(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weights": torch.zeros(1000)})
    path = checkpoints.save(2, {"weights": torch.ones(1000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    loaded = Checkpoints(tmp_path).load()
    assert loaded.damaged == [path]
    assert loaded.values is not None and not loaded.values["weights"].any()


def test_a_run_without_a_whole_checkpoint_says_so(tmp_path: Path) -> None:
    fit(tiny(), batch, QUICK, out=tmp_path, on_event=quiet)
    for path in Checkpoints(tmp_path / "checkpoints").files():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"no checkpoint .* is whole: .*step-00000004.*step-00000006"):
        fit(tiny(), batch, QUICK, out=tmp_path, on_event=quiet)


def test_another_config_or_model_is_refused(tmp_path: Path) -> None:
    fit(tiny(), batch, QUICK, out=tmp_path, identity={"data": "a"}, on_event=quiet)
    with pytest.raises(InputError, match=r"lr: None in the run, 0\.5 now; data: 'a' in the run, 'b' now"):
        fit(tiny(), batch, replace(QUICK, lr=0.5), out=tmp_path, identity={"data": "b"}, on_event=quiet)
    with pytest.raises(InputError, match=r"another model: 2 tensors differ .*lm_head"):
        fit(
            tiny(vocabulary=50),
            batch,
            QUICK,
            out=tmp_path,
            identity={"data": "a"},
            on_event=quiet,
        )
    free = replace(QUICK, checkpoint_every=5, log_every=1, minutes=3.0)
    assert fit(tiny(), batch, free, out=tmp_path, identity={"data": "a"}, on_event=quiet).finished


def test_a_run_stops_after_its_minutes_and_goes_on(tmp_path: Path) -> None:
    whole, model = tiny(), tiny()
    fit(whole, batch, QUICK, on_event=quiet)
    first = fit(model, batch, replace(QUICK, minutes=1e-6), out=tmp_path, on_event=quiet)
    assert (first.step, first.finished) == (1, False)
    model = tiny(seed=3)
    fitted = fit(model, batch, QUICK, out=tmp_path, on_event=quiet)
    assert fitted.finished and same_weights(whole, model)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = tiny()

    def spoil(step) -> None:
        if step.step == 4:
            with torch.no_grad():
                model.model.norm.weight.fill_(math.inf)

    with pytest.raises(ModelError, match="step 5: the loss is nan"):
        fit(model, batch, QUICK, out=tmp_path, on_step=spoil, on_event=quiet)
    # The checkpoint of step 4 holds what was spoilt; that of step 2 is what the run can be taken back to.
    spoilt, before = Checkpoints(tmp_path / "checkpoints").files()
    assert spoilt.name.startswith("step-00000004") and before.name.startswith("step-00000002")
    assert read_log(tmp_path)[-1]["step"] == 4
    spoilt.unlink()
    whole, again = tiny(), tiny()
    fit(whole, batch, QUICK, on_event=quiet)
    fit(again, batch, QUICK, out=tmp_path, on_event=quiet)
    assert same_weights(whole, again)


# -- text ----------------------------------------------------------------------------------------------------


def test_text_is_read_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\r\ntwo")
    (tmp_path / "b.md").write_text("# three")
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write('{"body": "four"}\n\n{"body": ""}\n')
    (tmp_path / "notes.pdf").write_text("x")
    files = text_files([tmp_path])
    assert [path.name for path in files] == ["a.txt", "b.md", "c.jsonl.gz"]
    assert list(Source(files=(tmp_path,), field="body").documents()) == ["one\ntwo", "# three", "four", ""]
    assert list(read_texts(files[0], separator="\n")) == ["one", "two"]


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    binary, latin, cut, bad = (tmp_path / name for name in ("b.txt", "l.txt", "c.txt.gz", "j.jsonl"))
    binary.write_bytes(b"PK\x03\x04\0\0 some text" * 9)
    with pytest.raises(InputError, match=r"b\.txt is not text: it holds NUL bytes"):
        list(read_texts(binary))
    latin.write_bytes("déjà vu à l'été ".encode("latin-1") * 50)
    with pytest.raises(InputError, match=r"l\.txt is not UTF-8 text: \d+ of \d+ characters"):
        list(read_texts(latin))
    latin.write_bytes(b"good text " * 1000 + b"\xff")
    assert next(read_texts(latin)).endswith("\ufffd")
    cut.write_bytes(gzip.compress(b"some text " * 1000)[:-20])
    with pytest.raises(InputError, match=r"c\.txt\.gz is cut or damaged"):
        list(read_texts(cut))
    for line, said in (
        ("{", "not JSON"),
        ('{"other": 1}', "expected a field 'text'"),
        ('{"text": 3}', "that holds text"),
        ('{"text": "a\\u0000"}', "NUL"),
        ("[1]", "got list"),
    ):
        bad.write_text('{"text": "fine"}\n' + line)
        with pytest.raises(InputError, match=rf"j\.jsonl:2.*{said}"):
            list(read_texts(bad))
    with pytest.raises(InputError, match="does not exist"):
        text_files([tmp_path / "nowhere.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no training text"):
        text_files([tmp_path / "empty"])
    with pytest.raises(InputError, match="one of them"):
        Source()


def documents(lengths: list[int]) -> Tokens:
    """Documents of these lengths; every token is known by its number."""
    ends = np.cumsum(lengths)
    keys = np.arange(len(lengths), dtype=np.uint64) << np.uint64(60)
    return Tokens(ids=np.arange(ends[-1]), ends=ends, keys=keys, empty=0, fingerprint="")


@pytest.mark.parametrize("packing", ["pack", "stream"])
def test_rows_hold_every_token_once(packing: str) -> None:
    rng = np.random.default_rng(0)
    lengths = [2, 3, 8, 9, 16, 17, 40, 7, *rng.integers(2, 30, 60).tolist()]
    tokens = documents(lengths)
    rows = Rows.pack(tokens, np.arange(len(lengths)), context=8, pad=-7, seed=1, packing=packing)
    made = rows.batch(range(len(rows)))
    seen = made["input_ids"][made["input_ids"] != -7].tolist()
    assert len(seen) == len(set(seen))
    missing = set(range(sum(lengths))) - set(seen)
    if packing == "stream":
        assert len(missing) < 8 and "document_ids" not in made
        return
    # Only last tokens of documents whose rest after full rows is one token alone.
    lone = {int(end) - 1 for end, length in zip(tokens.ends, lengths, strict=True) if length % 8 == 1}
    assert missing == lone
    starts = np.concatenate([[0], tokens.ends[:-1]])
    for ids, own in zip(made["input_ids"], made["document_ids"], strict=True):
        for number in set(own.tolist()) - {-1}:
            piece = ids[own == number].tolist()
            assert piece == list(range(piece[0], piece[0] + len(piece)))
            document = np.searchsorted(tokens.ends, piece[0], side="right")
            assert piece[-1] < tokens.ends[document]
            assert (piece[0] - starts[document]) % 8 == 0
    filled = (made["document_ids"] >= 0).float().mean()
    assert filled > 0.9


def test_the_order_of_rows_is_by_seed_and_every_pass_has_its_own() -> None:
    rows = Rows.pack(documents([8] * 10), np.arange(10), context=8, pad=0, seed=0, packing="pack")

    def passes(seed: int) -> list[list[int]]:
        batches = rows.by_step(5, seed)
        return [
            [int(row[0]) for step in (2 * e, 2 * e + 1) for row in batches(step)["input_ids"]] for e in (0, 1)
        ]

    first, second = passes(0)
    assert sorted(first) == sorted(second) == list(range(0, 80, 8))
    assert first != second and passes(0) == [first, second] and passes(1)[0] != first
    later = rows.by_step(5, 0)
    assert [int(row[0]) for row in later(3)["input_ids"]] == second[5:]


def test_less_text_than_a_row_fills_it_with_padding() -> None:
    for packing in ("pack", "stream"):
        rows = Rows.pack(documents([5]), np.arange(1), context=8, pad=0, seed=0, packing=packing)
        made = rows.by_step(3, 0)(0)
        assert made["document_ids"].tolist() == [[0] * 5 + [-1] * 3] * 3
        assert (made["labels"][:, 5:] == -100).all()
    with pytest.raises(InputError, match="two tokens"):
        Rows.pack(documents([1, 1]), np.arange(2), context=8, pad=0, seed=0, packing="pack")


def test_held_out_documents_are_chosen_by_their_hash() -> None:
    tokens = documents([3] * 16)  # keys are 0, 1/16, 2/16, ... of the range
    training, held = split(tokens, 0.25)
    assert held.tolist() == [0, 1, 2, 3] and training.tolist() == list(range(4, 16))
    fewer = replace(tokens, keys=tokens.keys[8:], ends=tokens.ends[:8])
    assert split(fewer, 0.25)[1].tolist() == [0]
    assert split(fewer, 0.0)[1].tolist() == []
    assert split(replace(tokens, keys=tokens.keys[:1], ends=tokens.ends[:1]), 0.5)[0].tolist() == [0]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty short documents, two of them empty."""
    path = tmp_path_factory.mktemp("text") / "stories.jsonl"
    lines = [
        f"{who} has a {what}. The {what} of {who} is {'red' if n % 2 else 'blue'}."
        for n in range(2)
        for who in ("Ann", "Bo", "Cy", "Di", "Ed")
        for what in ("cat", "dog", "hat", "cup", "car", "pen")
    ]
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*lines, "", "  \n"]))
    return path


def test_text_is_tokenised_once(story: Path, tmp_path: Path) -> None:
    source = Source(files=(story,))
    tokenizer = train_tokenizer(source.documents(), vocabulary=300)
    said: list[str] = []
    first = tokenise(source, tokenizer, tmp_path, on_event=said.append)
    again = tokenise(source, tokenizer, tmp_path, on_event=said.append)
    assert len(said) == 1 and first.empty == 2 and len(first.ends) == 60
    assert (first.ids == again.ids).all()
    text = tokenizer.decode(first.ids[: first.ends[0]])
    assert text == next(source.documents()) + str(tokenizer.eos_token)
    # A cache that was cut is made again; another tokenizer has its own.
    ids = next(tmp_path.glob("*/ids.bin"))
    expected = np.array(first.ids)
    ids.write_bytes(ids.read_bytes()[:-2])
    assert (tokenise(source, tokenizer, tmp_path, on_event=said.append).ids == expected).all()
    tokenise(source, train_tokenizer(source.documents(), vocabulary=280), tmp_path, on_event=said.append)
    assert len(said) == 3 and len(list(tmp_path.iterdir())) == 2


class FakeDataset:
    """What is used of `datasets`, in memory."""

    column_names = ("body", "n")
    _fingerprint = "f00d"

    def __getitem__(self, field: str) -> list[str]:
        return ["a text", "another"]


def test_hugging_face_datasets_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"nestmem\[data\]"):
        list(Source(dataset="any/name").documents())
    fake: Any = types.ModuleType("datasets")
    fake.load_dataset = lambda name, configuration: {"train": FakeDataset(), "asked": [name, configuration]}
    monkeypatch.setitem(sys.modules, "datasets", fake)
    source = Source(dataset="any/name:part", field="body")
    assert list(source.documents()) == ["a text", "another"]
    assert source.digest() == replace(source, dataset="x").digest() != replace(source, separator="|").digest()
    with pytest.raises(InputError, match="has no field 'text'; it has body, n"):
        list(Source(dataset="any/name").documents())
    with pytest.raises(InputError, match="has no split 'test'"):
        list(replace(source, split="test").documents())


# -- runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config alone: a new model of it is trained."""
    folder = tmp_path_factory.mktemp("models") / "qwen"
    tiny(vocabulary=300).config.save_pretrained(folder)
    return folder


def config_of(out: Path, story: Path, qwen: Path, **changes) -> LMConfig:
    made = LMConfig(
        out=out,
        data=Source(files=(story,)),
        held_out_share=0.2,
        start=str(qwen),
        vocabulary=300,
        context=24,
        batch=4,
        fit=QUICK,
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, story: Path, qwen: Path) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train_lm(config_of(out, story, qwen), on_event=quiet)
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run / "model").state_dict()


def test_a_run_leaves_a_model_that_transformers_loads(run: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    asked = tokenizer("Ann has", return_tensors="pt")
    assert model.generate(**asked, max_new_tokens=3, do_sample=False).shape[1] > asked["input_ids"].shape[1]
    saved = json.loads((run / "config.json").read_text())
    assert saved["facts"]["empty_documents"] == 2
    assert saved["facts"]["documents"] + saved["facts"]["held_out_documents"] == 60
    result = json.loads((run / "result.json").read_text())
    assert result["finished"] and 0 < result["held_out_loss"] < 6
    rows = read_log(run)
    logged = next(row for row in rows if "loss" in row)
    assert {"loss", "lr", "tokens", "tokens_per_second", "grad_norm", "seconds", "step"} <= logged.keys()
    assert (run / "curves.png").stat().st_size > 5_000


TTT = {
    "start": "",
    "model": "ttt_e2e",
    "sizes": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "prime": {"share": 0.5, "period": 6, "rate": 1.0, "clip": 1.0},
    },
}


def test_a_model_of_nestmem_that_learns_as_it_reads_is_trained(tmp_path: Path, story: Path) -> None:
    own = {**TTT, "parameters": 12_000}
    folder = train_lm(LMConfig(out=tmp_path, data=Source(files=(story,)), context=24, batch=4, vocabulary=300,
                               fit=QUICK, **own), on_event=quiet)  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "nestmem" and model.config.prime["period"] == 6
    assert model.num_parameters() == pytest.approx(12_000, rel=0.05)
    assert json.loads((tmp_path / "config.json").read_text())["facts"]["parameters"] == model.num_parameters()
    with pytest.raises(InputError, match="no architecture is called 'nope'"):
        train_lm(
            LMConfig(out=tmp_path / "x", data=Source(files=(story,)), model="nope", vocabulary=300),
            on_event=quiet,
        )


def test_a_killed_process_goes_on_bit_for_bit(tmp_path: Path, story: Path, qwen: Path, run: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from nestmem.train.lm import read_config, train_lm
def kill(step):
    if step.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
train_lm(read_config(Path({str(run / "config.json")!r}), out=Path({str(tmp_path / "killed")!r})), on_step=kill)
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out = tmp_path / "killed"
    assert not (out / "model").exists()
    assert Checkpoints(out / "checkpoints").files()[0].name.startswith("step-00000004")
    train_lm(config_of(out, story, qwen), on_event=quiet)
    one, other = weights(run), weights(out)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert learned(read_log(out)) == learned(read_log(run))


def test_an_interrupted_run_leaves_a_checkpoint_and_goes_on(
    tmp_path: Path, story: Path, qwen: Path, run: Path
) -> None:
    from nestmem.cli.train_lm import interruptible

    def press(step: Any) -> None:
        if step.step == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    own = config_of(tmp_path, story, qwen)
    with interruptible() as stop:
        train_lm(own, on_step=press, on_event=quiet, stop=stop)
    assert signal.getsignal(signal.SIGINT) is before
    assert not json.loads((tmp_path / "result.json").read_text())["finished"]
    assert Checkpoints(tmp_path / "checkpoints").files()[0].name.startswith("step-00000003")
    train_lm(own, on_event=quiet)
    one, other = weights(run), weights(tmp_path)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_refuses_another_config_data_or_tokenizer(
    tmp_path: Path, story: Path, qwen: Path, run: Path
) -> None:
    own = config_of(run, story, qwen)
    for changes, said in (
        ({"context": 16}, "context: 24 in the run, 16 now"),
        ({"vocabulary": 290}, "vocabulary: 300 in the run, 290 now"),
        ({"fit": replace(QUICK, lr=0.1)}, "fit.lr: None in the run, 0.1 now"),
        ({"start": "", "sizes": {"hidden_size": 32}}, "sizes.hidden_size: None in the run, 32 now"),
    ):
        with pytest.raises(InputError, match=said):
            train_lm(replace(own, **changes), on_event=quiet)
    more = tmp_path / "more.txt"
    more.write_text("something else")
    with pytest.raises(InputError, match=r"values: data: '\w+' in the run"):
        train_lm(replace(own, data=Source(files=(story, more))), on_event=quiet)
    other = tmp_path / "tokenizer"
    train_tokenizer(["some other text, more of it, and more"] * 3, vocabulary=270).save_pretrained(other)
    with pytest.raises(InputError, match="another tokenizer"):
        train_lm(replace(own, tokenizer=str(other)), on_event=quiet)
    # Nothing of this changed the run.
    train_lm(own, on_event=quiet)
    assert json.loads((run / "result.json").read_text())["step"] == 6


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, story: Path, qwen: Path, run: Path
) -> None:
    large = tmp_path / "large"
    train_tokenizer(Source(files=(story,)).documents(), vocabulary=320).save_pretrained(large)
    with pytest.raises(InputError, match=r"the tokenizer has 3\d\d tokens, and the model's vocabulary 300"):
        train_lm(config_of(tmp_path / "a", story, qwen, tokenizer=str(large)), on_event=quiet)
    other = tmp_path / "other"
    train_tokenizer(["zzz yyy xxx www"] * 4, vocabulary=264).save_pretrained(other)
    trained = config_of(tmp_path / "b", story, run / "model", tokenizer=str(other))
    with pytest.raises(InputError, match="gives other numbers to tokens"):
        train_lm(trained, on_event=quiet)
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        train_lm(config_of(tmp_path / "c", story, qwen, tokenizer=str(tmp_path)), on_event=quiet)
    with pytest.raises(InputError, match="64 tokens at most"):
        train_lm(config_of(tmp_path / "d", story, qwen, context=65), on_event=quiet)


def test_a_run_starts_from_another_ones_model(tmp_path: Path, story: Path, run: Path) -> None:
    train_lm(config_of(tmp_path / "on", story, run / "model"), on_event=quiet)
    first = [next(row["loss"] for row in read_log(r) if "loss" in row) for r in (run, tmp_path / "on")]
    assert first[1] < first[0] - 0.05
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (run / "model").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="damaged"):
        train_lm(config_of(tmp_path / "x", story, broken), on_event=quiet)


def test_data_without_text_is_refused(tmp_path: Path, qwen: Path) -> None:
    for name, content, said in (
        ("empty.txt", b"", "holds no text: 1 documents, all of them empty"),
        ("blank.jsonl", b'{"text": " "}\n{"text": ""}', "holds no text: 2 documents"),
        ("binary.txt", bytes(range(256)), "NUL bytes"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            train_lm(config_of(tmp_path / f"run-{name}", path, qwen), on_event=quiet)


def test_a_single_short_text_can_be_learned(tmp_path: Path, qwen: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("A short text.")
    said: list[str] = []
    folder = train_lm(config_of(tmp_path / "run", path, qwen), on_event=said.append)
    assert (folder / "model.safetensors").exists()
    assert any("no document is held out" in line for line in said)
    assert any("fewer than a batch" in line for line in said)


# -- the command ---------------------------------------------------------------------------------------------


def test_the_command_trains_and_draws(tmp_path: Path, story: Path, qwen: Path, run: Path) -> None:
    words = [
        "lm", "--out", str(tmp_path / "cli"), "--data", str(story), "--from", str(qwen), "--vocabulary", "300",
        "--context", "24", "--batch", "4", "--held-out", "0.2", "--steps", "6", "--warm-up", "2",
        "--checkpoint-every", "2", "--evaluate-every", "3", "--log-every", "4",
    ]  # fmt: skip
    result = CliRunner().invoke(training, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert str(tmp_path / "cli" / "model") in result.output
    assert (
        "step 4/6  loss" in result.output and "tokens/s" in result.output and "held-out loss" in result.output
    )
    one, other = weights(run), weights(tmp_path / "cli")
    assert all(torch.equal(one[name], other[name]) for name in one)
    drawn = tmp_path / "both.png"
    words = ["plot", str(run), str(tmp_path / "cli"), "--out", str(drawn)]
    assert CliRunner().invoke(training, words, catch_exceptions=False).exit_code == 0
    assert drawn.stat().st_size > 5_000
    with pytest.raises(InputError, match="no log of"):
        plot_language([tmp_path], drawn)


def test_the_command_runs_a_saved_config_again(tmp_path: Path, run: Path) -> None:
    words = ["lm", "--config", str(run / "config.json"), "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(training, words, catch_exceptions=False).exit_code == 0
    one, other = weights(run), weights(tmp_path / "again")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match="leave out --batch"):
        CliRunner().invoke(training, [*words, "--batch", "2"], catch_exceptions=False)
    (tmp_path / "strange.json").write_text('{"config": {"out": "x", "data": {}, "colour": 1}}')
    with pytest.raises(InputError, match="it has no field colour"):
        read_config(tmp_path / "strange.json")
    (tmp_path / "strange.json").write_text("{")
    with pytest.raises(InputError, match="cannot read a config"):
        read_config(tmp_path / "strange.json")


# -- two processes -------------------------------------------------------------------------------------------


TWO = """
import sys
from pathlib import Path
from nestmem.train import distributed
from nestmem.train.lm import read_config, train_lm

with distributed.process_group("cpu"):
    assert distributed.world() == 2
    for config, out in zip(sys.argv[1::2], sys.argv[2::2]):
        train_lm(read_config(Path(config), out=Path(out)), on_event=lambda message: None)
"""


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path, story: Path, qwen: Path) -> None:
    """FSDP over gloo, with and without accumulation, by AdamW and by Muon; the checkpoint of one process is gone on
    with by two, and the other way round."""
    fits = {
        "plain": QUICK,
        "parts": replace(QUICK, accumulation=2),
        "muon": replace(QUICK, optimizer="muon"),
        "back": QUICK,
    }
    configs = {name: config_of(tmp_path / f"{name}-1", story, qwen, fit=each) for name, each in fits.items()}
    # The documents of its rows differ from process to process, and so does how often it calls its blocks.
    configs["learns"] = replace(configs["plain"], out=tmp_path / "learns-1", **TTT)
    for config in configs.values():
        train_lm(config, on_event=quiet)
    # "back" goes on from step 4 of one process, in its own folder.
    Checkpoints(tmp_path / "back-1" / "checkpoints").files()[0].unlink()
    alone = {name: learned(read_log(tmp_path / f"{name}-1")) for name in configs}
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command.append(str(tmp_path / "two.py"))
    for name in configs:
        out = tmp_path / ("back-1" if name == "back" else f"{name}-2")
        command += [str(tmp_path / f"{name}-1" / "config.json"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in configs:
        out = tmp_path / ("back-1" if name == "back" else f"{name}-2")
        for row, own in zip(learned(read_log(out)), alone[name], strict=True):
            assert row == pytest.approx(own, abs=1e-5), name
        one, other = weights(tmp_path / f"{name}-1"), weights(out)
        for key in one:
            torch.testing.assert_close(one[key], other[key], atol=1e-4, rtol=0)
    saved = json.loads((tmp_path / "plain-2" / "model" / "config.json").read_text())
    assert saved["architectures"] == ["Qwen3ForCausalLM"]
    Checkpoints(tmp_path / "plain-2" / "checkpoints").files()[0].unlink()
    train_lm(replace(configs["plain"], out=tmp_path / "plain-2"), on_event=quiet)
    row, own = learned(read_log(tmp_path / "plain-2"))[-1], alone["plain"][-1]
    assert row == pytest.approx(own, abs=1e-5)
    assert read_log(tmp_path / "plain-2")[-2]["processes"] == 1


@pytest.mark.parametrize("name", ["titans_mag", "ttt_mlp", "self_modifying", "hope"])
def test_only_linear_layers_are_decayed_or_orthogonalised(name):
    model = NestmemForCausalLM(config_for(name, vocab_size=16, hidden_size=16, num_attention_heads=2))
    names = {id(p): n for n, p in model.named_parameters()}
    for optimizer in ("adamw", "muon"):
        made = make_optimizer(model, FitConfig(optimizer=optimizer))
        decayed = {names[id(p)] for g in made.param_groups if g["weight_decay"] for p in g["params"]}
        assert "embed_tokens.weight" in decayed and any("qkv" in n or "mixer" in n for n in decayed)
        for part in ("norm", "bias", "initial", "persistent", "conv", "rate_weight", "decay_weight"):
            assert not [n for n in decayed if part in n], (part, decayed)
        assert sum(len(g["params"]) for g in made.param_groups) == len(list(model.parameters()))
