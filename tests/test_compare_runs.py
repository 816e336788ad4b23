import io
import re
import runpy
import shutil
import sqlite3
import sys
from contextlib import closing
from types import SimpleNamespace

import matplotlib.pyplot as plt
import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from running import ROOT, run, run_script

FILES = ["compare/children.csv", "compare/heatmap.png", "compare/parallel.png"]
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "compare_runs.py"))
# What the pictures show, asked of the script's own variables.
PICTURES = """
import runpy, sys
names = runpy.run_path(sys.argv[1])
for figure in names["heatmap"], names["parallel"]:
    print("title:", repr(figure.axes[0].get_title()))
lines = names["parallel"].axes[0].lines
axes = names["heatmap"].axes[0]
print("cells:", names["grid"].shape, "labelled:", len(axes.texts), "lines:", len(lines))
print("rows:", [text.get_text() for text in axes.get_yticklabels()])
print("columns:", [text.get_text() for text in axes.get_xticklabels()])
print("best line:", *lines[-1].get_ydata())
"""


def children_of(client, parent):
    """The finished child runs of PARENT, best first."""
    return client.search_runs(
        [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND attributes.status = 'FINISHED'",
        order_by=["metrics.mean_test_score DESC"],
    )


def compare_files(client, run_id):
    return sorted(file.path for file in client.list_artifacts(run_id, "compare"))


def rows_after(line, output):
    """The words of each row of the table whose header starts with LINE's words."""
    header = r" +".join(re.escape(word) for word in line.split())
    rows = re.split(rf"^ *{header}.*\n", output, flags=re.MULTILINE)[1].splitlines()
    return [row.split() for row in rows]


@pytest.fixture(scope="module")
def compared(store, tmp_path_factory):
    """hypertune2's search before and after the lesson, what it printed, and what it left."""
    before, _ = store.lesson("hypertune2")
    after, output = store.lesson("compare_runs")
    folder = str(tmp_path_factory.mktemp("compare"))
    download = store.client.download_artifacts
    return SimpleNamespace(
        before=before,
        after=after,
        output=output,
        local=[download(after.info.run_id, file, folder) for file in FILES],
        files=[compare_files(store.client, after.info.run_id), store.files(after.info.run_id)],
        children=children_of(store.client, before),
    )


def test_the_search_is_as_before_but_for_the_folder(compared):
    assert compared.after.info.status == "FINISHED"
    assert dict(compared.after.info) == dict(compared.before.info)
    assert compared.after.data.to_dictionary() == compared.before.data.to_dictionary()
    assert compared.files == [FILES, ["compare", "heatmap.png", "hypertune2.py"]]


def test_the_csv_holds_the_children(compared):
    # As text, so that a param None isn't taken for a missing one.
    table = pd.read_csv(compared.local[0], dtype=str, keep_default_na=False)
    assert list(table["run_id"]) == [child.info.run_id for child in compared.children]
    assert len(table) == 16
    first = [name for name in table.columns if name.startswith(("metrics.", "params."))]
    assert list(table.columns)[: len(first)] == sorted(first)
    for row, child in zip(table.to_dict("records"), compared.children, strict=True):
        for name, value in child.data.params.items():
            assert row[f"params.{name}"] == value
        for name, value in child.data.metrics.items():
            assert float(row[f"metrics.{name}"]) == value
        assert row["tags.mlflow.runName"] == child.info.run_name
    assert sum(table["params.max_depth"] == "None") == 4
    # Else it is.
    taken = pd.read_csv(compared.local[0])
    assert sum(taken["params.max_depth"].isna()) == 4


def test_the_pictures_are_pictures(compared):
    for file in compared.local[1:]:
        picture = plt.imread(file)
        height, width, _ = picture.shape
        assert (width, height) == (800, 500)
        assert len({tuple(pixel) for row in picture for pixel in row}) > 100


def test_prints_the_best_and_what_moves_the_score(compared):
    assert "16 children to compare, 0 didn't finish" in compared.output
    rows = rows_after("max_depth n_estimators mean_test_score", compared.output)[:5]
    for row, child in zip(rows, compared.children[:5], strict=True):
        params, score = child.data.params, child.data.metrics["mean_test_score"]
        depth = params["max_depth"].replace("None", "unlimited")
        assert row == [depth, params["n_estimators"], f"{score:.6f}"]
    moves = {}
    for name in "max_depth", "n_estimators":
        scores = {}
        for child in compared.children:
            score = child.data.metrics["mean_test_score"]
            scores.setdefault(child.data.params[name], []).append(score)
        means = [sum(each) / len(each) for each in scores.values()]
        moves[name] = max(means) - min(means)
    assert moves["max_depth"] > 2 * moves["n_estimators"]
    finding = f"max_depth moves it by {moves['max_depth']:.4f}"
    finding += f" and n_estimators moves it by {moves['n_estimators']:.4f}\n"
    assert finding in compared.output


def test_prints_the_search(compared):
    assert "Searches in this store: 1\n" in compared.output
    header = "start_time params.best_max_depth params.best_n_estimators"
    (row, *_) = rows_after(header, compared.output)
    info, params = compared.before.info, compared.before.data.params
    start = pd.to_datetime(info.start_time, unit="ms").strftime("%Y-%m-%d %H:%M:%S")
    best = [params["best_max_depth"], params["best_n_estimators"]]
    metrics = compared.before.data.metrics
    scores = [f"{metrics[name]:.6f}" for name in ("best_cv_score", "test_accuracy")]
    assert " ".join(row[:2]).startswith(start)
    assert row[2:] == [*best, *scores]
    ending = f'Run "grid search", ID {info.run_id}\nNext: python src/register_model.py\n'
    assert compared.output.endswith(ending)


class Own:
    """A SQLite store of a test's own, with searches made by the client."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client = MlflowClient(self.uri, registry_uri=self.uri)

    def search(self, candidates, *, tag="breast-cancer-forest", status="FINISHED", **metrics):
        """Log a search with these (depth, trees, score, status); return its ID."""
        found = self.client.get_experiment_by_name("searches")
        files = (self.folder / "files").as_uri()  # not ./mlruns
        experiment = (
            found.experiment_id if found else self.client.create_experiment("searches", files)
        )
        parent = self.client.create_run(experiment, tags={"search": tag}, run_name="a search")
        for depth, trees, score, ending in candidates:
            tags = {"mlflow.parentRunId": parent.info.run_id}
            child = self.client.create_run(experiment, tags=tags).info.run_id
            params = [Param("max_depth", str(depth)), Param("n_estimators", str(trees))]
            score = [Metric("mean_test_score", score, 0, 0)] if score is not None else []
            self.client.log_batch(child, params=params, metrics=score)
            self.client.set_terminated(child, ending)
        for name, value in metrics.items():
            self.client.log_metric(parent.info.run_id, name, value)
        self.client.set_terminated(parent.info.run_id, status)
        return parent.info.run_id

    def lesson(self):
        """Run the lesson, with success; what it printed."""
        result = run_script("compare_runs", self.folder, MLFLOW_TRACKING_URI=self.uri)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    def refused(self):
        """Run the lesson, which must end with one sentence; return that."""
        result = run_script("compare_runs", self.folder, MLFLOW_TRACKING_URI=self.uri)
        assert result.returncode == 1
        return result.stderr

    def pictures(self):
        """Run the lesson, with success; what its pictures show."""
        command = [sys.executable, "-c", PICTURES, ROOT / "src" / "compare_runs.py"]
        env = {"MLFLOW_TRACKING_URI": self.uri, "PYTHONPATH": str(ROOT / "src")}
        result = run(command, self.folder, **env)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    def csv(self, run_id):
        """The exported table."""
        path = self.client.download_artifacts(run_id, FILES[0], self.folder)
        with open(path, newline="") as file:
            return file.read()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    own = Own(tmp_path_factory.mktemp("empty"))
    own.client.search_experiments()
    return own


@pytest.fixture
def own(empty, tmp_path):
    shutil.copy(empty.folder / "mlflow.db", tmp_path)
    return Own(tmp_path)


GRID = [(2, 16, 0.90, "FINISHED"), (None, 16, 0.91, "FINISHED"), (2, 128, 0.92, "FINISHED")]


def test_without_a_finished_search_it_says_what_to_run(own):
    own.search(GRID, status="FAILED")
    own.search(GRID, tag="another")
    no_search = "No finished search is in this store: run python src/hypertune2.py first\n"
    assert own.refused() == no_search


def test_without_a_scored_child_it_says_so(own):
    search = own.search([(2, 16, None, "FINISHED"), (2, 32, float("nan"), "FINISHED")])
    assert own.refused() == f"No child of the search {search} has a mean_test_score of 0 or more\n"
    assert compare_files(own.client, search) == []


def test_children_without_such_params_are_left_out(own):
    search = own.search([("sqrt", 16, 0.9, "FINISHED")])
    error = own.refused()
    assert (
        error == f"No child of the search {search} has numbers for ['max_depth', 'n_estimators']\n"
    )
    own.search([("sqrt", 16, 0.95, "FINISHED"), *GRID])
    assert "3 children to compare" in own.lesson()


def test_of_two_searches_the_newest_is_compared_and_both_are_listed(own):
    older = own.search([(8, 64, 0.99, "FINISHED")], best_cv_score=0.99, test_accuracy=0.5)
    newer = own.search(GRID, best_cv_score=0.92, test_accuracy=0.6)
    failed = own.search(GRID, status="FAILED")
    output = own.lesson()
    assert re.findall(r'^Run "a search", ID (\w+)$', output, re.MULTILINE) == [newer]
    assert "3 children to compare" in output
    assert "Searches in this store: 2\n" in output
    rows = rows_after("start_time metrics.best_cv_score metrics.test_accuracy", output)[:2]
    assert [row[2:] for row in rows] == [["0.92", "0.6"], ["0.99", "0.5"]]
    assert [compare_files(own.client, each) for each in (older, newer, failed)] == [[], FILES, []]
    children = children_of(own.client, own.client.get_run(newer))
    table = pd.read_csv(io.StringIO(own.csv(newer)))
    assert list(table["run_id"]) == [child.info.run_id for child in children]


def test_a_failed_child_is_counted_and_left_out(own):
    failed = [(8, 64, None, "FAILED"), (8, 128, 0.99, "FAILED"), (8, 16, None, "RUNNING")]
    search = own.search([*GRID, *failed])
    assert "3 children to compare, 3 didn't finish" in own.lesson()
    table = pd.read_csv(io.StringIO(own.csv(search)))
    assert list(table["metrics.mean_test_score"]) == [0.92, 0.91, 0.90]
    assert set(table["status"]) == {"FINISHED"}


def test_again_replaces_what_it_left(own):
    search = own.search(GRID)
    first = own.lesson()
    before, csv = own.client.get_run(search), own.csv(search)
    child = children_of(own.client, before)[-1].info.run_id
    own.client.delete_run(child)
    assert "2 children to compare" in own.lesson()
    assert compare_files(own.client, search) == FILES
    assert dict(own.client.get_run(search).info) == dict(before.info)
    own.client.restore_run(child)
    assert own.lesson() == first
    assert own.csv(search) == csv
    assert csv.count("\n") == 4 and "\r" not in csv


def test_the_pictures_show_the_grid_and_the_finding(own):
    own.search([*GRID, (2, 64, 0.94, "FINISHED"), (8, 64, None, "FAILED")])
    shown = own.pictures()
    # 16 is less than 128 as a number, and no limit comes last.
    assert "rows: ['2', 'unlimited']" in shown
    assert "columns: ['16', '64', '128']" in shown
    assert "cells: (2, 3) labelled: 4 lines: 4" in shown
    assert "title: 'Best of 4: max_depth 2, n_estimators 64 (0.9400)'" in shown
    # max_depth: 0.92, 0.91; n_estimators: 0.905, 0.94, 0.92.
    finding = "max_depth moves it by 0.0100 and n_estimators moves it by 0.0350"
    assert f"title: 'mean_test_score: {finding}'" in shown
    assert "best line: 0.0 0.5 1.0\n" in shown


def test_one_child_is_enough(own):
    own.search(GRID[:1])
    shown = own.pictures()
    assert "cells: (1, 1) labelled: 1 lines: 1" in shown
    assert "moves it by 0.0000" in shown
    assert "best line: 0.0 0.0 0.0\n" in shown


def test_a_large_search_is_shown_whole_and_counted_by_pages(own):
    experiment, search = BENCHMARK["make"](own.uri, 3600)
    with closing(sqlite3.connect(own.folder / "mlflow.db")) as database, database:
        changed = database.execute(
            "UPDATE runs SET status = 'FAILED' WHERE run_uuid != ? AND end_time % 3 = 0", (search,)
        )
    failed = changed.rowcount
    query = [experiment], "attributes.status = 'FAILED'"
    page = own.client.search_runs(*query)
    assert len(page) == 1000 < failed and page.token
    shown = own.pictures()
    assert f"{3600 - failed:,} children to compare, {failed:,} didn't finish" in shown
    assert re.search(r"cells: \(\d\d, \d\d\) labelled: 0 lines: 400\n", shown)
    assert own.csv(search).count("\n") == 3600 - failed + 1


def test_start_run_would_open_it_again(own):
    """Why the files are added by the client."""
    search = own.search(GRID)
    before = own.client.get_run(search).info.end_time
    outside = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(own.uri)
    try:
        with mlflow.start_run(run_id=search):
            assert own.client.get_run(search).info.status == "RUNNING"
    finally:
        mlflow.set_tracking_uri(outside)
    assert own.client.get_run(search).info.end_time > before
