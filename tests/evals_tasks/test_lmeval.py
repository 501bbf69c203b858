"""Tasks for the lm-evaluation-harness from files written here, and the harness itself where it is installed."""

import importlib.util
import json

import pytest
import torch

from nestmem.errors import InputError, MissingExtra
from nestmem.evals.tasks import lmeval

HARNESS = importlib.util.find_spec("lm_eval") is not None


def lines(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    lines(
        folder / "piqa/valid.jsonl",
        [{"goal": "open it", "sol1": "pull", "sol2": "push hard", "label": 1}] * 4,
    )
    endings = ["runs [step] off.", "sits.", "sings.", "eats."]
    lines(
        folder / "hellaswag/val.jsonl",
        [{"ctx": "Dogs [title] A dog  barks. it", "label": 2, "endings": endings}] * 4,
    )
    boolq = [
        {"question": f"is it {i}", "passage": "It is 0.", "label": ("true", "false", True, False)[i]}
        for i in range(4)
    ]
    lines(folder / "boolq/val.jsonl", boolq)
    choices = [
        {"text": text, "label": label} for text, label in (("a stone", "1"), ("a bird", "2"), ("a tree", "3"))
    ]
    arc = [{"id": "q", "question": {"stem": "What flies?", "choices": choices}, "answerKey": "2"}] * 4
    for part in ("easy", "challenge"):
        lines(folder / f"ai2_arc/arc_{part}_test.jsonl", arc)
    lines(folder / "lambada/lambada_test.jsonl", [{"text": "He was cold.\n\nHe wore a coat"}] * 4)
    return folder


def written(out, name):
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


def test_the_questions(data, tmp_path):
    out = tmp_path / "out"
    assert lmeval.write(data, out) == [f"nestmem_{name}" for name in lmeval.SETS]
    assert written(out, "piqa")[0] == {
        "query": "Question: open it\nAnswer:",
        "choices": ["pull", "push hard"],
        "gold": 1,
    }
    swag = written(out, "hellaswag")[0]
    assert swag == {
        "query": "Dogs. A dog barks. it",
        "choices": ["runs off.", "sits.", "sings.", "eats."],
        "gold": 2,
    }
    boolq = written(out, "boolq")
    assert [row["gold"] for row in boolq] == [1, 0, 1, 0] and boolq[0]["choices"] == ["no", "yes"]
    assert boolq[0]["query"] == "It is 0.\nQuestion: is it 0?\nAnswer:"
    arc = written(out, "arc_challenge")[0]
    assert arc == {
        "query": "Question: What flies?\nAnswer:",
        "choices": ["a stone", "a bird", "a tree"],
        "gold": 1,
    }
    assert written(out, "lambada")[0] == {"query": "He was cold.\n\nHe wore a", "target": " coat"}
    config = json.loads((out / "nestmem_lambada.yaml").read_text())
    assert config["output_type"] == "loglikelihood" and config["target_delimiter"] == ""
    assert config["dataset_kwargs"]["data_files"]["test"] == str(out / "lambada.jsonl")


def test_what_does_not_fit(data, tmp_path):
    with pytest.raises(InputError, match="expected some of piqa, hellaswag"):
        lmeval.write(data, tmp_path / "out", ["winogrande"])
    with pytest.raises(InputError, match=r"Get it from: https://yonatanbisk\.com/piqa"):
        lmeval.write(tmp_path, tmp_path / "out", ["piqa"])
    assert not (tmp_path / "out").exists()
    lines(
        data / "ai2_arc/arc_easy_test.jsonl", [{"question": {"stem": "?", "choices": []}, "answerKey": "A"}]
    )
    with pytest.raises(InputError, match="answerKey 'A' is none of"):
        lmeval.write(data, tmp_path / "out", ["arc_easy"])


@pytest.mark.skipif(HARNESS, reason="lm-eval is installed")
def test_a_missing_harness_is_named(data, tmp_path):
    with pytest.raises(MissingExtra, match=r"pip install 'nestmem\[eval\]'"):
        lmeval.run("anywhere", data, tmp_path / "out")


@pytest.mark.skipif(not HARNESS, reason="lm-eval is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_harness_reads_a_folder_of_ours(data, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    from nestmem.adapters.fast_weights import mini_folder
    from nestmem.models import NestmemConfig, NestmemForCausalLM

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(mini_folder())
    config = NestmemConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pattern=["deltanet"],
    )
    model = NestmemForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    found = lmeval.run(tmp_path / "model", data, tmp_path / "out", limit=3)["sets"]
    assert list(found) == list(lmeval.SETS) and all(part["n"] == 3 for part in found.values())
    # One question three times: the harness's choice is the one of the higher log-likelihood.
    prompt = tokenizer("Question: open it\nAnswer:", add_special_tokens=False)["input_ids"]
    from nestmem.evals.tasks.continual import label_scores

    labels = [tokenizer(f" {text}", add_special_tokens=False)["input_ids"] for text in ("pull", "push hard")]
    assert found["piqa"]["acc"] == float(label_scores(model, prompt, labels).argmax() == 1)
    assert found["lambada"]["perplexity"] > 1 and set(found["boolq"]) == {
        "n",
        "acc",
        "acc_se",
        "acc_interval",
    }
