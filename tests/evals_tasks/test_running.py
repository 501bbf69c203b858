"""A model folder on tasks named by strings, and `nestmem eval task`."""

import csv
import json
from typing import Any

import numpy as np
import pytest
import torch

from nestmem.adapters.fast_weights import mini_folder
from nestmem.cli import evaluate_tasks
from nestmem.cli import run as command_line
from nestmem.errors import InputError, ModelNotFound
from nestmem.evals import tasks
from nestmem.evals.tasks import running
from nestmem.evals.tasks.running import Asked, lengths_of, options_of, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small untrained model of ours with a tokenizer."""
    from transformers import AutoTokenizer

    from nestmem.models import NestmemConfig, NestmemForCausalLM

    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(mini_folder())
    config = NestmemConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pattern=["deltanet"],
    )
    NestmemForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def data(tmp_path):
    def lines(name, file, rows):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    books = [{"id": i, "text": " ".join(f"Sentence {n} of book {i}." for n in range(900))} for i in range(2)]
    lines("pg19_books", "books.jsonl", books)
    story = "1 Ada went home.\n2 Where is Ada? \thome\t1\n"
    lines(
        "babi",
        "babi_en_1k.jsonl",
        [
            {"task": task, "name": "x", "split": split, "text": story * 12}
            for task in range(1, 21)
            for split in ("train", "test")
        ],
    )
    (tmp_path / "banking77").mkdir()
    for split in ("train", "test"):
        with (tmp_path / f"banking77/{split}.csv").open("w", newline="") as file:
            rows = [[f"{name} {split} {i}", name] for name in ("pay", "card") for i in range(4)]
            csv.writer(file).writerows([["text", "category"], *rows])
    return tmp_path


def asked(name, model, **more: Any):
    return Asked(task=name, model=model, **{"options": {}, **more})


def test_a_synthetic_task(folder):
    record = run(asked("mqar", folder, examples=6, lengths=(64,), options={"pairs": 4}))
    assert record["task"] == "mqar/1" and record["name"] == "mqar"
    assert record["task_options"]["pairs"] == 4 and record["lengths"]["64"]["n"] == 6
    assert record["config"]["architecture"] == "nestmem" and record["config"]["options"] == {"pairs": 4}
    assert {"commit", "torch"} <= set(record["environment"]) and record["seconds"] > 0
    model = running.load_model(folder)
    own = tasks.judge(tasks.make("mqar", pairs=4), tasks.Logits(model), examples=6, lengths=(64,))
    assert record["lengths"]["64"]["loss"] == own["64"]["loss"]


def test_loss_by_position(folder, data):
    options = {"edges": (0, 32, 96), "near": 8}
    record = run(asked("loss_pg19", folder, data=data, options=options))
    assert record["config"]["edges"] == [0, 32, 96] and record["config"]["parameters"] > 0
    assert list(record["variants"]) == ["plain", "other context", "shuffled context"]
    plain = record["variants"]["plain"]["buckets"]
    assert [bucket["tokens"] for bucket in plain][1] == 128 and record["documents"] == 2
    one = run(asked("loss_pg19", folder, data=data, options={**options, "only": ("1",)}))
    assert one["documents"] == 1 and "other context" not in one["variants"]
    with pytest.raises(InputError, match="no document is called 9"):
        run(asked("loss_pg19", folder, data=data, options={"only": ("9",)}))


def test_inner_learning_is_turned_off_for_comparison(folder, data):
    from nestmem.models import NestmemForCausalLM, config_for

    torch.manual_seed(0)
    config = config_for("ttt_e2e", hidden_size=16, num_hidden_layers=2, vocab_size=256)
    model = NestmemForCausalLM(config).eval()
    assert running.learns(model) and not running.learns(running.load_model(folder))


def test_babi_and_needles_and_classes(folder, data):
    record = run(asked("babi", folder, data=data, examples=1, lengths=(0, 96), options={"tasks": (1, 2)}))
    assert record["task"] == "babi/1" and list(record["lengths"]) == ["0", "96"]
    assert list(record["lengths"]["96"]["tasks"]) == ["1 x", "2 x"]
    record = run(asked("needle_text_mk", folder, data=data, examples=2, lengths=(300,)))
    assert record["lengths"]["300"]["n"] == 2
    record = run(asked("needle_text_s1", folder, examples=2, lengths=(200,)))
    assert record["task"] == "needle-text/1"


def test_classes(folder, data, monkeypatch):
    class Initials:
        name, dim = "initials", 26

        def embed(self, texts):
            return np.eye(26, dtype=np.float32)[[ord(text[0]) - 97 for text in texts]]

    monkeypatch.setattr(running.embedders, "load", lambda name: Initials())
    options = {"groups": 2, "classes": 2, "train_per_class": 2}
    record = run(asked("banking77", folder, data=data, examples=2, options=options))
    assert record["methods"]["joint"]["final"]["mean"] == 1.0
    assert {"fine-tuning", "ewc", "replay", "in-context", "memory", "nearest"} < set(record["methods"])


def test_what_is_refused(folder, data, tmp_path):
    with pytest.raises(InputError, match=r"'mqarr'.*mqar, parity.*loss_pg19"):
        asked("mqarr", folder)
    with pytest.raises(InputError, match="babi reads real data and no folder was given; give --data"):
        asked("babi", folder)
    with pytest.raises(InputError, match="examples is 0"):
        asked("mqar", folder, examples=0)
    with pytest.raises(ModelNotFound, match=r"holds no config\.json"):
        run(asked("mqar", tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ModelNotFound, match="does not hold a causal language model"):
        run(asked("mqar", tmp_path))
    with pytest.raises(ModelNotFound, match="holds no tokenizer"):
        running.load_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"has 100000 tokens and the model .* --option vocab_size"):
        run(asked("mqar", folder, options={"vocab_size": 100000}))
    with pytest.raises(InputError, match="judge it in Python"):
        run(asked("mad_compression", folder))
    with pytest.raises(InputError, match="babi has no option task; expected tasks"):
        run(asked("babi", folder, data=data, options={"task": 1}))
    with pytest.raises(InputError, match="1-5 is a range"):
        run(asked("babi", folder, data=data, lengths=((1, 5),)))
    for words in (["pairs"], ["=3"], ["a b=3"]):
        with pytest.raises(InputError, match="is not name=value"):
            options_of(words)
    for text in ("x", "3-", "3-x", ""):
        with pytest.raises(InputError, match="is no number and no range"):
            lengths_of(text)


def test_the_command(folder, data, tmp_path, capsys):
    def call(name, **more: Any):
        given = {"data": None, "lengths": None, "examples": 2, "options": (), "seed": 0, "batch_size": 4}
        given |= {"device": "cpu", "json_path": tmp_path / "r.json", **more}
        evaluate_tasks.task(name, model=folder, **given)
        return capsys.readouterr().out, json.loads((tmp_path / "r.json").read_text())

    shown, record = call("parity", lengths="2-10")
    assert "formal/1" in shown and "2-10" in shown and record["lengths"]["2-10"]["n"] == 2
    shown, record = call("loss_pg19", data=data, options=["edges=(0, 16, 48)", "near=4"])
    assert "other context" in shown and "16-47" in shown and "bits/byte" in shown
    assert record["variants"]["plain"]["buckets"][0]["to"] == 16
    shown, _ = call("babi", data=data, lengths="0", examples=1)
    assert "20 x" in shown and "all" in shown
    with pytest.raises(InputError, match="no/folder"):
        call("mqar", json_path=tmp_path / "no/folder/r.json")


def test_the_command_line_says_what_is_wrong(folder, monkeypatch, capsys):
    words = ["nestmem", "eval", "task", "mqarr", "--model", str(folder)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        command_line()
    told = capsys.readouterr().err
    assert end.value.code and "'mqarr'" in told and "mad_recall" in told and "Traceback" not in told


def test_tables_of_classes_and_sets():
    share = {"mean": 0.5, "se": 0.1}
    groups = {"methods": {"joint": {"after": [share, share], "forgetting": None}}, "groups": 2}
    (table,) = evaluate_tasks.tables(groups)
    assert [column.header for column in table.columns] == ["method", "after 1", "after 2", "forgetting"]
    sets = {"sets": {"lambada": {"n": 3, "acc": 0.5, "acc_se": 0.1, "perplexity": 12.0}}}
    (table,) = evaluate_tasks.tables(sets)
    assert list(table.columns[4].cells) == ["12.0"] and list(table.columns[2].cells) == ["50.0 ± 10.0"]
