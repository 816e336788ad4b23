"""benchmarks/overhead.py compares searches that log what it says, and measures each."""

import itertools
import re
from pathlib import Path

import measure as tools
import overhead
import pytest
from doc_tables import tables
from matplotlib.figure import Figure
from mlflow import MlflowClient
from running import ENV, ROOT, uri

GRID = sorted(itertools.product("1234", ("2", "4", "8", "None")))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A client of the store in which all have made a small search, and what was measured."""
    folder, real = tmp_path_factory.mktemp("overhead"), overhead.script
    with pytest.MonkeyPatch.context() as patch:
        for key, value in ENV.items():
            patch.setenv(key, value)
        small = "[1, 2, 3, 4]"
        patch.setattr(
            overhead, "script", lambda *args: real(*args).replace("[16, 32, 64, 128]", small)
        )
        found = overhead.measure(folder, 1, 2)
    return MlflowClient(uri(folder), registry_uri=uri(folder)), found


def searches_in(client, experiment):
    """The runs of an experiment that have a parent, by its ID."""
    (found,) = [one for one in client.search_experiments() if one.name == experiment]
    runs = client.search_runs([found.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 17 * len(parents)
    return {
        parent: [
            run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
        ]
        for parent in parents
    }


@pytest.mark.parametrize(
    ("experiment", "searches", "metrics"),
    [
        # One more to warm up.
        ("hypertune2", 2, {"split0_test_score", "split1_test_score"}),
        # autolog, which sets no experiment.
        ("Default", 1, {"std_fit_time", "mean_score_time", "std_score_time"}),
    ],
)
def test_every_candidate_is_a_child(searched, experiment, searches, metrics):
    found = searches_in(searched[0], experiment)
    assert len(found) == searches
    metrics = metrics | {"mean_test_score", "std_test_score", "rank_test_score", "mean_fit_time"}
    for children in found.values():
        params = [(c.data.params["n_estimators"], c.data.params["max_depth"]) for c in children]
        assert sorted(params) == GRID
        for child in children:
            assert set(child.data.metrics) == metrics
            assert 0.5 < child.data.metrics["mean_test_score"] < 1


@pytest.mark.parametrize(("experiment", "models"), [("hypertune2", 1), ("Default", 2)])
def test_autolog_logs_two_models(searched, experiment, models):
    for parent in searches_in(searched[0], experiment):
        assert len(parent.outputs.model_outputs) == models


def test_the_untracked_searches_leave_no_run(searched):
    client, _ = searched
    assert {one.name for one in client.search_experiments()} == {"Default", "hypertune2"}
    files = {run.data.tags["mlflow.source.name"] for run in client.search_runs(["0"])}
    assert {Path(file).name for file in files} == {"autolog.py"}


@pytest.mark.parametrize("form", overhead.FORMS)
def test_the_longer_search_differs_in_its_folds_alone(form):
    short, long = (overhead.script(form, folds).splitlines() for folds in (5, 80))
    ((old, new),) = [lines for lines in zip(short, long, strict=True) if lines[0] != lines[1]]
    assert old.split("5") == new.split("80")


def test_each_is_measured(searched):
    _, found = searched
    assert list(found) == ["hypertune1", "floor", "hypertune2", "autolog"]
    untracked = found["hypertune1"]["process"][0]
    for form, values in found.items():
        ((whole,), (after,), (process,), (job,)) = (values[what] for what in overhead.WHATS)
        assert 0 < after < whole
        assert process < job
        assert form == "hypertune1" or 1.2 < process / untracked < 4  # what was imported stays


# Times and memory of two rounds, such that ratios are plain.
FOUND = {
    "hypertune1": {
        "whole": [2, 4],
        "after imports": [1, 2],
        "process": [100, 100],
        "job": [500] * 2,
    },
    "hypertune2": {
        "whole": [3, 5],
        "after imports": [2, 4],
        "process": [200, 300],
        "job": [500] * 2,
    },
    "autolog": {"whole": [6, 16], "after imports": [3, 6], "process": [200, 200], "job": [750] * 2},
}


def test_the_table_has_ratios_to_hypertune1_and_a_verdict():
    rows = overhead.table({5: FOUND, 80: FOUND}).splitlines()[2:]
    assert rows[:3] == [
        "| 5 | hypertune1 | 3.0 [2.0, 4.0] s | 1.5 [1.0, 2.0] s | 100 [100, 100] MB "
        "| 500 [500, 500] MB |  |",
        "| 5 | hypertune2 | 1.38 [1.25, 1.50] | 2.00 [2.00, 2.00] | 2.50 [2.00, 3.00] "
        "| 1.00 [1.00, 1.00] | at most 1.40: kept |",
        "| 5 | autolog | 3.50 [3.00, 4.00] | 3.00 [3.00, 3.00] | 2.00 [2.00, 2.00] "
        "| 1.50 [1.50, 1.50] |  |",
    ]
    assert rows[4].endswith("| at most 1.12: missed |")


def test_the_pictures_title_is_made_of_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "IMAGES", tmp_path)
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text: titles.append(text))
    overhead.picture({5: FOUND, 80: FOUND})
    assert (tmp_path / "overhead.png").stat().st_size > 5000
    assert titles == [
        "With 5 folds hypertune2 takes 1.38 times as long as hypertune1, autolog 3.50 times\n"
        "With 80 folds hypertune2 takes 1.38 times as long as hypertune1, autolog 3.50 times"
    ]


def test_the_page_shows_its_rows_and_picture():
    rows = tables("benchmarks.md")["What tracking costs a search"]
    assert [row[:2] for row in rows] == [
        [folds, form] for folds in ("5", "80") for form in overhead.FORMS
    ]
    for row in rows:
        if row[1] == "hypertune2":
            goal = overhead.GOALS[int(row[0])]
            kept = "kept" if float(row[2].split()[0]) <= goal else "missed"
            assert row[-1] == f"at most {goal:.2f}: {kept}"
    times = {row[1]: float(row[2].split()[0]) for row in rows if row[0] == "5"}
    assert (times["floor"] - 1) / (times["hypertune2"] - 1) == pytest.approx(2 / 3, rel=0.1)
    base, tracked = (float(row[4].split()[0]) for row in rows[::2][:2])
    assert (tracked - 1) * base == pytest.approx(170, rel=0.05)  # MB
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    alt = re.search(r"!\[(.*?)\]\(images/overhead\.png\)", page)[1]
    said = [row[2].split()[0] for row in rows if row[1] in ("hypertune2", "autolog")]
    assert re.findall(r"\d\.\d\d", alt) == said
    assert (ROOT / "docs" / "images" / "overhead.png").exists()
