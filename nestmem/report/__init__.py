"""Reports of the judge's runs: a page and plots of each, and one page over several. Made from run folders alone.

report.html        one file, about 100 kB, that loads nothing: tables, plots as SVG, examples
plot_tokens.png    score against tokens of recalled text
plot_age.png       score against the age of the evidence
plot_kind.png      score by question type
plot_history.png   score against the size of the history (the `growing` task)
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nestmem.errors import InputError
from nestmem.evals.folder import finished
from nestmem.report import missing, plots
from nestmem.report import page as pages
from nestmem.report.charts import label
from nestmem.report.markup import breakable, join, table, tag

PAGE = "report.html"
RUN_KEYS = ("task", "systems", "reader", "budget_tokens", "window_tokens", "depth", "seed", "finished")
SCORE_KEYS = ("headline", "digest", "systems", "paired", "without_evidence", "missing_streams")


def write(
    folder: Path,
    *,
    text: bool | None = None,
    examples: int = 5,
    baseline: str | None = None,
    with_plots: bool = True,
) -> list[Path]:
    """Writes the page of the run in `folder`, and its plots, and returns their paths. The same run gives the same bytes.

    text: whether the data is quoted; None: unless its licence forbids passing it on. examples: questions per system.
    baseline: the system that paired differences are taken from (None: bm25, or the first). Raises InputError when the
    folder is no scored run, MissingExtra when plots are wanted and matplotlib is not there; the page stands then.
    """
    if examples < 0:
        raise InputError(f"examples is {examples}; expected 0 or more")
    run, scores = read(folder)
    if baseline is not None and baseline not in scores["systems"]:
        raise InputError(
            f"there is no system {baseline!r} in {folder}; expected one of {', '.join(scores['systems'])}"
        )
    quoted = run["task"]["licence"]["redistribution"] != "no" if text is None else text
    logs = {spec: finished(folder, spec).lines() for spec in scores["systems"]}
    path = folder / PAGE
    whole = pages.page(run, scores, logs, text=quoted, examples=examples, baseline=baseline)
    path.write_text(whole, encoding="utf-8")
    return [path, *(plots.write(scores, folder, title=run["task"]["title"]) if with_plots else ())]


def overview(folders: Sequence[Path], path: Path) -> Path:
    """Writes one table over several runs to `path`: a row for each run, the headline score of each system, and a link
    to the run's page. Raises InputError when a folder is no scored run or none is given."""
    if not folders:
        raise InputError("no run was given; expected the folders of one or more scored runs")
    records = [(folder, *read(folder)) for folder in folders]
    specs = list(dict.fromkeys(spec for _, _, scores in records for spec in scores["systems"]))
    rows = [_row(folder, run, scores, specs, path) for folder, run, scores in records]
    lines = [
        f"{_name(folder, run)}: {lacking:,} streams were not run to their end."
        for folder, run, scores in records
        if (lacking := missing.count(run, scores))
    ]
    parts = [
        tag("h1", f"{len(records)} runs of the judge"),
        tag(
            "p",
            "Mean ± standard error of each task's headline score, clustered by conversation; "
            "n where it is not that of the row.",
            class_="soft",
        ),
        table("Tasks and systems", ["task", "score", "n", "reader", *map(breakable, specs)], rows),
        *([tag("div", *(tag("p", line) for line in lines), class_="warn")] if lines else []),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = pages.render(
        f"{len(records)} runs of the judge", join([tag("main", *parts, id="main", tabindex="-1")])
    )
    path.write_text(whole, encoding="utf-8")
    return path


def _row(
    folder: Path, run: dict[str, Any], scores: dict[str, Any], specs: Sequence[str], path: Path
) -> list[object]:
    """A run in the overview at `path`: link, score, n, reader, and each system's headline."""
    name, systems = scores["headline"], scores["systems"]
    link = quote(Path(os.path.relpath(folder / PAGE, path.parent)).as_posix())
    usual = pages.usual_n(system["scores"].get(name) for system in systems.values())
    reader = run["reader"]["name"] if run["reader"]["spec"] != "none" else "none"
    values = (
        pages.value(name, systems[spec]["scores"].get(name), usual) if spec in systems else "not run"
        for spec in specs
    )
    linked = tag("a", _name(folder, run), href=link, title=run["task"]["title"])
    return [linked, label(name), f"{usual or 0:,}", reader, *values]


def _name(folder: Path, run: dict[str, Any]) -> str:
    """The task's, and the folder's where it is another."""
    name = run["task"]["name"]
    return name if folder.name == name else f"{name} ({folder.name})"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """run.json and scores.json of a folder. InputError when one is not there or is not what it should be."""
    run = _record(folder / "run.json", RUN_KEYS, "make one with: nestmem eval run TASK --out ...")
    scores = _record(folder / "scores.json", SCORE_KEYS, f"score it first: nestmem eval score {folder}")
    return run, scores


def _record(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; {remedy}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {remedy}") from error
    lacking = [key for key in keys if not isinstance(record, dict) or key not in record]
    if lacking:
        raise InputError(f"{path} has no {', '.join(lacking)}; {remedy}")
    return record
