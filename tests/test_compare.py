"""The comparison of sequence models: cells that go on, tables and pictures from results alone."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from nestmem.cli.main import app
from nestmem.compare import cells, report, speed
from nestmem.compare.plan import SPEED, SUITES, Suite, Text, suite
from nestmem.errors import InputError
from nestmem.evals.tasks import make
from nestmem.models import NestmemForCausalLM, config_for, parameters

SMALL = Suite(
    about="A question.",
    tasks={"aa": {"lengths": (2, 6), "bins": ((2, 6), (8, 12))}},
    models={"transformer": {"preset": "transformer"}, "delta": {"preset": "deltanet"}},
    sizes={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    steps=3,
    batch=2,
    rates=(1e-3, 1e-2),
    seeds=(0, 1),
    examples=8,
)


def quiet(_: str) -> None:
    """Hears nothing."""


def run_all(suite: Suite, out):
    tasks, models = list(suite.tasks), list(suite.models)
    done = [cells.run(c, suite, out, on_event=quiet) for c in cells.tuning(suite, tasks, models)]
    return done + [cells.run(c, suite, out, on_event=quiet) for c in cells.repeats(suite, tasks, models, out)]


def test_every_rate_is_tried_once_and_the_best_goes_on(tmp_path):
    done = run_all(SMALL, tmp_path)
    assert len(done) == 2 * 2 + 2
    for model in SMALL.models:
        tried = [r for r in done if r["model"] == model and r["seed"] == 0]
        best = min(tried, key=lambda r: r["validation"]["loss"])
        assert [r["rate"] for r in done if r["model"] == model and r["seed"] == 1] == [best["rate"]]
    # The same data in the same order, whatever the model.
    assert {r["task_version"] for r in done} == {make("aa").version}
    page = report.page(SMALL, tmp_path, title="Small")
    for r in done:
        assert f"{r['parameters']:,}" in page
    assert page.count("| transformer") == 1 and "(2)" in page
    assert report.plot(SMALL, tmp_path, tmp_path / "plot.png").stat().st_size > 1000


def test_a_cell_with_a_result_is_not_run_again_and_a_stopped_one_goes_on(tmp_path):
    cell = cells.Cell(task="aa", model="delta", rate=1e-3, seed=0)
    assert cells.run(cell, SMALL, tmp_path / "slices", minutes=1e-9, on_event=quiet) is None
    assert cells.read_result(cell, tmp_path / "slices") is None
    result = None
    while result is None:
        result = cells.run(cell, SMALL, tmp_path / "slices", minutes=1e-9, on_event=quiet)
    whole = cells.run(cell, SMALL, tmp_path / "whole", on_event=quiet)
    for name in ("test", "validation", "train_loss", "parameters", "state_bytes"):
        assert result[name] == whole[name], name
    path = cell.folder(tmp_path / "whole") / "result.json"
    path.write_text(json.dumps(whole | {"train_loss": -1.0}))
    assert cells.run(cell, SMALL, tmp_path / "whole", on_event=quiet)["train_loss"] == -1.0


def test_a_run_that_ends_in_nan_is_a_result(tmp_path):
    wild = replace(SMALL, rates=(1e-3, 1e30), models={"transformer": {"preset": "transformer"}}, steps=6)
    done = run_all(wild, tmp_path)
    assert ["error" in r for r in done] == [False, True, False]
    assert done[2]["rate"] == 1e-3
    only = replace(wild, rates=(1e30,), seeds=(0,))
    assert "1 of 1 ended in numbers that are not finite" in report.page(only, tmp_path, title="Wild")


def test_parameters_are_matched(tmp_path):
    some = replace(SMALL, parameters=3000)
    found = [parameters(cells.config_of(some, model, 5)) for model in some.models]
    assert all(abs(n - 3000) < 30 for n in found), found


@pytest.mark.parametrize("name", SUITES)
def test_every_model_of_a_suite_can_be_made(name):
    made = suite(name)
    for model in made.models:
        for task, options in made.tasks.items():
            text = isinstance(options, Text)
            vocabulary = options.vocabulary if text else make(task, **options).vocab_size
            with torch.device("meta"):
                count = NestmemForCausalLM(cells.config_of(made, model, vocabulary)).num_parameters()
            assert abs(count - made.parameters) < 0.03 * made.parameters, (model, count)


def test_text(tmp_path):
    words = ["one", "two", "three", "four", "five", "six"]
    book = tmp_path / "books.jsonl"
    texts = [" ".join(words[(i * j) % 6] for j in range(60)) for i in range(1, 40)]
    book.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    some = replace(
        SMALL,
        tasks={"text": Text(tokens=96, context=16, vocabulary=300, held_out_share=0.2)},
        rates=(1e-3,),
        seeds=(0,),
    )
    with pytest.raises(InputError, match="reads text files and none were given; add --text FILE"):
        cells.run(next(cells.tuning(some, ["text"], ["delta"])), some, tmp_path, on_event=quiet)
    found = {}
    for cell in cells.tuning(some, ["text"], list(some.models)):
        stopped = cells.run(cell, some, tmp_path, text=(book,), minutes=1e-9, on_event=quiet)
        assert stopped is None and cells.read_result(cell, tmp_path) is None
        found[cell.model] = cells.run(cell, some, tmp_path, text=(book,), on_event=quiet)
        assert found[cell.model]["steps"] == 3
    page = report.page(some, tmp_path, title="Text")
    for model, result in found.items():
        assert f"| {model} |" in page and f"{result['validation']['loss']:.3f} (1)" in page


def test_unknown_names():
    with pytest.raises(InputError, match="no suite is called 'all'; there are formal"):
        suite("all")
    with pytest.raises(InputError, match="the suite has no model 'mamba'; it has transformer, delta"):
        cells.config_of(SMALL, "mamba", 4)


def test_nothing_to_report(tmp_path):
    with pytest.raises(InputError, match="has no results of this suite; run it first"):
        report.page(SMALL, tmp_path, title="Nothing")
    with pytest.raises(InputError, match="run `nestmem compare speed` first"):
        report.read_speed(tmp_path)


def test_speed_by_context():
    model = NestmemForCausalLM(
        config_for("deltanet", vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    rows = speed.by_context(model, [8, 1030], decode=2)
    assert [row["context"] for row in rows] == [8, 1030]
    assert rows[0]["state_bytes"] == rows[1]["state_bytes"]
    assert min(row[key] for row in rows for key in row) > 0
    assert speed.training(model, batch=1, tokens=16, repeats=1)["tokens_per_second"] > 0
    assert all(name in SPEED for name in ("transformer", "ttt_e2e"))


def test_speed_is_part_of_the_report(tmp_path, monkeypatch):
    monkeypatch.setitem(SPEED, "tiny", {"preset": "deltanet"})
    asked = ["compare", "speed", "--out", str(tmp_path), "--model", "tiny", "--contexts", "8,24"]
    done = CliRunner().invoke(app, [*asked, "--width", "64", "--layers", "1"])
    assert done.exit_code == 0, done.output
    run_all(replace(SMALL, rates=(1e-3,), seeds=(0,)), tmp_path)
    page = report.page(replace(SMALL, rates=(1e-3,), seeds=(0,)), tmp_path, title="Small")
    rows = report.read_speed(tmp_path)["tiny"]
    assert "1 blocks of width 64" in page
    assert f"| 8 | {rows[0]['prefill_seconds_per_1k']:.3f} |" in page
    assert f"| | | 24 | {rows[1]['prefill_seconds_per_1k']:.3f} |" in page


def test_a_slice_without_a_finished_cell_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "small", SMALL)
    asked = ["compare", "run", "small", "--out", str(tmp_path), "--minutes", "0.000001"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "the same command goes on" in done.output


def test_results_of_another_comparison_are_not_mixed(tmp_path):
    cell = cells.Cell(task="aa", model="delta", rate=1e-3, seed=0)
    cells.run(cell, SMALL, tmp_path, on_event=quiet)
    with pytest.raises(InputError, match="has a result of another comparison: sizes, steps differ"):
        cells.run(
            cell, replace(SMALL, steps=4, sizes=SMALL.sizes | {"hidden_size": 16}), tmp_path, on_event=quiet
        )


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "small", SMALL)
    done = CliRunner().invoke(app, ["compare", "run", "small", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "small.md").read_text().startswith("# Comparison: small")
    assert (tmp_path / "small.png").exists()
    listed = CliRunner().invoke(app, ["compare", "suites"])
    assert "small: A question." in listed.output
    wrong = CliRunner().invoke(app, ["compare", "run", "small", "--model", "x", "--out", str(tmp_path)])
    assert isinstance(wrong.exception, InputError)
