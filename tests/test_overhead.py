"""benchmarks/overhead.py compares searches that log what it says, and measures each."""

import itertools
from pathlib import Path

import measure as tools
import overhead
import pytest
from doc_tables import tables
from lessons import with_grid
from matplotlib.figure import Figure
from mlflow import MlflowClient
from running import uri
from stores import children_of, runs_of

pytestmark = pytest.mark.ci
GRID = {"n_estimators": [1, 2], "max_depth": [2, 4, None]}
PAIRS = sorted(itertools.product("12", ("2", "4", "None")))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The URI of the store in which all have made a small search, and what was measured."""
    folder, script = tmp_path_factory.mktemp("overhead"), overhead.script
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overhead, "script", lambda *args: with_grid(script(*args), GRID))
        found = overhead.measure(folder, 1, 2)
    return uri(folder), found


def parents_in(store, experiment):
    """The runs that are nobody's child; every run is finished."""
    runs = runs_of(store, experiment)
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == (1 + len(PAIRS)) * len(parents)
    return parents


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
    store, _ = searched
    parents = parents_in(store, experiment)
    assert len(parents) == searches
    metrics = metrics | {"mean_test_score", "std_test_score", "rank_test_score", "mean_fit_time"}
    for parent in parents:
        children = children_of(MlflowClient(store), parent)
        params = [(c.data.params["n_estimators"], c.data.params["max_depth"]) for c in children]
        assert sorted(params) == PAIRS
        for child in children:
            assert set(child.data.metrics) == metrics
            assert 0.5 < child.data.metrics["mean_test_score"] < 1


@pytest.mark.parametrize(("experiment", "models"), [("hypertune2", 1), ("Default", 2)])
def test_autolog_logs_two_models(searched, experiment, models):
    for parent in parents_in(searched[0], experiment):
        assert len(parent.outputs.model_outputs) == models


def test_the_untracked_searches_leave_no_run(searched):
    store, _ = searched
    experiments = MlflowClient(store).search_experiments()
    assert {one.name for one in experiments} == {"Default", "hypertune2"}
    files = {run.data.tags["mlflow.source.name"] for run in runs_of(store, "Default")}
    assert {Path(file).name for file in files} == {"autolog.py"}


@pytest.mark.parametrize("form", overhead.FORMS)
def test_the_longer_search_differs_in_its_folds_alone(form):
    short, long = (overhead.script(form, folds).splitlines() for folds in (5, 20))
    ((old, new),) = [lines for lines in zip(short, long, strict=True) if lines[0] != lines[1]]
    assert old.split("5") == new.split("20")


def test_each_is_measured(searched):
    _, found = searched
    assert list(found) == ["hypertune1", "floor", "hypertune2", "autolog"]
    untracked = found["hypertune1"]["memory"][0]
    for form, values in found.items():
        ((whole,), (after,), (memory,)) = (values[what] for what in overhead.WHATS)
        assert 0 < after < whole
        assert form == "hypertune1" or 1.2 < memory / untracked < 4  # what was imported stays


# Times and memory of two rounds, such that ratios are plain.
FOUND = {
    "hypertune1": {"whole": [2, 4], "after imports": [1, 2], "memory": [100, 100]},
    "hypertune2": {"whole": [3, 5], "after imports": [2, 4], "memory": [200, 300]},
    "autolog": {"whole": [6, 16], "after imports": [3, 6], "memory": [200, 200]},
}


def test_the_table_has_ratios_to_hypertune1_and_a_verdict():
    rows = overhead.table({5: FOUND, 20: FOUND}).splitlines()[2:]
    assert rows[:3] == [
        "| 5 | hypertune1 | 3.0 [2.0, 4.0] s | 1.5 [1.0, 2.0] s | 100 [100, 100] MB |  |",
        "| 5 | hypertune2 | 1.38 [1.25, 1.50] | 2.00 [2.00, 2.00] | 2.50 [2.00, 3.00] "
        "| at most 1.40: kept |",
        "| 5 | autolog | 3.50 [3.00, 4.00] | 3.00 [3.00, 3.00] | 2.00 [2.00, 2.00] |  |",
    ]
    assert rows[4].endswith("| at most 1.12: missed |")


def test_the_pictures_title_is_made_of_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "IMAGES", tmp_path)
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text: titles.append(text))
    overhead.picture({5: FOUND, 20: FOUND})
    assert (tmp_path / "overhead.png").stat().st_size > 5000
    assert titles == [
        "With 5 folds hypertune2 takes 1.38 times as long as hypertune1, autolog 3.50 times\n"
        "With 20 folds hypertune2 takes 1.38 times as long as hypertune1, autolog 3.50 times"
    ]


def test_the_page_shows_its_rows_and_verdicts():
    rows = tables("benchmarks.md")["What tracking costs a search"]
    forms = [[folds, form] for folds in ("5", "20") for form in overhead.FORMS]
    assert [row[:2] for row in rows] == forms
    for folds, form, whole, *_, goal in rows:
        shown = {"hypertune1": {"whole": [1]}, form: {"whole": [float(whole.split()[0])]}}
        assert goal == overhead.verdict(shown, form, int(folds))
