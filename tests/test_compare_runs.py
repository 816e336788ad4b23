import io
import re
import runpy
import sqlite3
from contextlib import closing
from types import SimpleNamespace

import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import pytest
from filled import copy_repo
from mlflow.entities import Metric, Param
from registry import Registry, small_repo
from running import PYTHON, ROOT, run, run_script, uri
from sentences import assert_success

FILES = ["compare/children.csv", "compare/heatmap.png", "compare/parallel.png"]
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks" / "compare_runs.py"))
# What the pictures show, asked of the script's own variables.
PICTURES = """
import runpy, sys
names = runpy.run_path(sys.argv[1])
if "heatmap" in names:
    axes, bar = names["heatmap"].axes
    print("title:", repr(axes.get_title()))
    print("cells:", names["grid"].shape, "labelled:", len(axes.texts))
    print("a cell:", bar.get_ylabel())
    print("numbers:", *(text.get_text() for text in axes.texts))
    print("rows:", axes.get_ylabel(), [text.get_text() for text in axes.get_yticklabels()])
    print("columns:", axes.get_xlabel(), [text.get_text() for text in axes.get_xticklabels()])
axes = names["parallel"].axes[0]
print("title:", repr(axes.get_title()))
print("axes:", *(text.get_text() for text in axes.get_xticklabels()))
print("labels:", *(text.get_text() for text in axes.texts))
print("lines:", len(axes.lines))
print("best line:", *axes.lines[-1].get_ydata())
print("best colour:", *axes.lines[-1].get_color()[:3])
"""


def finished_children(client, parent):
    """The finished child runs of PARENT, best first."""
    return client.search_runs(
        [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND attributes.status = 'FINISHED'",
        order_by=["metrics.mean_test_score DESC"],
    )


def finished_searches(client):
    """The finished searches of the store, newest first."""
    return client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        "tags.search = 'breast-cancer-forest' AND attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
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
    """A small search before and after the lesson, what it printed, and what it left."""
    folder = tmp_path_factory.mktemp("compare")
    small_repo(folder / "repo", {"n_estimators": [4, 8, 16], "max_depth": [2, None]})
    searched = run_script("hypertune2", store.folder, root=folder / "repo", **store.env)
    run_id = re.search(r'^Run ".*", ID (\w+)', assert_success(searched), re.MULTILINE)[1]
    before = store.client.get_run(run_id)
    after, output = store.lesson("compare_runs")
    assert after.info.run_id == run_id
    download = store.client.download_artifacts
    return SimpleNamespace(
        before=before,
        after=after,
        output=output,
        local=[download(run_id, file, str(folder)) for file in FILES],
        files=[compare_files(store.client, run_id), store.files(run_id)],
        children=finished_children(store.client, before),
        searches=finished_searches(store.client),
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
    assert len(table) == 6
    first = [name for name in table.columns if name.startswith(("metrics.", "params."))]
    assert list(table.columns)[: len(first)] == sorted(first)
    for row, child in zip(table.to_dict("records"), compared.children, strict=True):
        for name, value in child.data.params.items():
            assert row[f"params.{name}"] == value
        for name, value in child.data.metrics.items():
            assert float(row[f"metrics.{name}"]) == value
        assert row["tags.mlflow.runName"] == child.info.run_name
    assert sum(table["params.max_depth"] == "None") == 3
    # Else it is.
    taken = pd.read_csv(compared.local[0])
    assert sum(taken["params.max_depth"].isna()) == 3


def test_the_pictures_are_pictures(compared):
    for file in compared.local[1:]:
        picture = plt.imread(file)
        assert picture.shape == (500, 800, 4)
        colours = (picture * 255).astype("uint8").view("uint32")
        assert len(np.unique(colours)) > 100


def test_prints_the_best_and_what_moves_the_score(compared):
    assert "6 children to compare, 0 didn't finish" in compared.output
    rows = rows_after("max_depth n_estimators mean_test_score", compared.output)[:5]
    for row, child in zip(rows, compared.children[:5], strict=True):
        params, score = child.data.params, child.data.metrics["mean_test_score"]
        assert row == [params["max_depth"], params["n_estimators"], f"{score:.6f}"]
    moves = {}
    for name in "max_depth", "n_estimators":
        scores = {}
        for child in compared.children:
            score = child.data.metrics["mean_test_score"]
            scores.setdefault(child.data.params[name], []).append(score)
        means = [sum(each) / len(each) for each in scores.values()]
        moves[name] = max(means) - min(means)
    finding = f"averaged over the other params: max_depth moves it by {moves['max_depth']:.4f}"
    finding += f" and n_estimators moves it by {moves['n_estimators']:.4f}\n"
    assert finding in compared.output


def test_prints_the_search(compared):
    assert compared.searches[0].info.run_id == compared.before.info.run_id
    assert f"Finished searches in this store: {len(compared.searches)}\n" in compared.output
    header = "start_time params.best_max_depth params.best_n_estimators"
    rows = rows_after(header, compared.output)
    for row, search in zip(rows, compared.searches, strict=False):
        info, params, metrics = search.info, search.data.params, search.data.metrics
        start = pd.to_datetime(info.start_time, unit="ms").strftime("%Y-%m-%d %H:%M:%S")
        best = [params["best_max_depth"], params["best_n_estimators"]]
        scores = [f"{metrics[name]:.6f}" for name in ("best_cv_score", "test_accuracy")]
        assert " ".join(row[:2]).startswith(start)
        assert row[2:] == [*best, *scores]
    info, last = compared.before.info, compared.output.splitlines()[-3:]
    assert last[0] == f'Run "grid search", ID {info.run_id}'
    assert last[1].startswith("http")
    assert last[1].endswith(f"/#/experiments/{info.experiment_id}/runs/{info.run_id}")
    assert last[2] == "Next: python src/training_loop.py"


@pytest.mark.ci
def test_of_the_whole_search_the_depth_moves_the_score_most(tmp_path):
    copy_repo(tmp_path, "hypertune2")
    env = {"MLFLOW_TRACKING_URI": uri(tmp_path)}
    printed = assert_success(run_script("compare_runs", tmp_path, **env))
    assert "16 children to compare, 0 didn't finish" in printed
    finding = r"max_depth moves it by (\S+) and n_estimators moves it by (\S+)\n"
    depth, trees = map(float, re.search(finding, printed).groups())
    assert depth > 2 * trees


class Own(Registry):
    """A store of a test's own, with searches made by the client."""

    def log_search(self, candidates, *, tag="breast-cancer-forest", status="FINISHED", **metrics):
        """Log a search with these (depth, trees, score, status); return its ID.

        Instead of depth and trees it may be a dict of other params.
        """
        found = self.client.get_experiment_by_name("searches")
        files = (self.folder / "files").as_uri()  # not ./mlruns
        experiment = (
            found.experiment_id if found else self.client.create_experiment("searches", files)
        )
        parent = self.client.create_run(experiment, tags={"search": tag}, run_name="a search")
        for *given, score, ending in candidates:
            tags = {"mlflow.parentRunId": parent.info.run_id}
            child = self.client.create_run(experiment, tags=tags).info.run_id
            own = isinstance(given[0], dict)
            params = (
                given[0] if own else dict(zip(("max_depth", "n_estimators"), given, strict=True))
            )
            params = [Param(key, str(value)) for key, value in params.items()]
            score = [Metric("mean_test_score", score, 0, 0)] if score is not None else []
            self.client.log_batch(child, params=params, metrics=score)
            self.client.set_terminated(child, ending)
        for name, value in metrics.items():
            self.client.log_metric(parent.info.run_id, name, value)
        self.client.set_terminated(parent.info.run_id, status)
        return parent.info.run_id

    def pictures(self):
        """Run the lesson, with success; what its pictures show."""
        command = [PYTHON, "-c", PICTURES, ROOT / "src" / "compare_runs.py"]
        env = {"MLFLOW_TRACKING_URI": self.uri, "PYTHONPATH": str(ROOT / "src")}
        return assert_success(run(command, self.folder, **env))

    def csv(self, run_id):
        """The exported table."""
        path = self.client.download_artifacts(run_id, FILES[0], self.folder)
        with open(path, newline="") as file:
            return file.read()


@pytest.fixture
def own(folder):
    return Own(folder)


GRID = [(2, 16, 0.90, "FINISHED"), (None, 16, 0.91, "FINISHED"), (2, 128, 0.92, "FINISHED")]


def test_without_a_finished_search_it_says_what_to_run(own):
    own.log_search(GRID, status="FAILED")
    own.log_search(GRID, tag="another")
    assert own.refused("compare_runs") == (
        "No finished search is in this store: run python src/hypertune2.py first\n"
    )


@pytest.mark.ci
def test_without_a_scored_child_it_says_so(own):
    search = own.log_search([(2, 16, None, "FINISHED"), (2, 32, float("nan"), "FINISHED")])
    assert own.refused("compare_runs") == (
        f"No child of the search {search} has a mean_test_score of 0 or more\n"
    )
    assert compare_files(own.client, search) == []


@pytest.mark.ci
def test_params_that_are_words_and_numbers(own):
    scores = {"sqrt": 0.9, "None": 0.8, "log2": 0.7, "10": 0.6, "0.5": 0.5, "1e-05": 0.4}
    own.log_search(
        [
            ({"max_features": value, "criterion": word, "n_jobs": 1}, score + more, "FINISHED")
            for value, score in scores.items()
            for word, more in {"gini": 0, "entropy": 0.05}.items()
        ]
    )
    shown = own.pictures()
    assert rows_after("criterion max_features mean_test_score", shown)[0] == [
        "entropy",
        "sqrt",
        "0.95",
    ]
    assert "rows: criterion ['entropy', 'gini']\n" in shown
    words = ["1e-05", "0.5", "10", "None", "log2", "sqrt"]
    assert f"columns: max_features {words}\n" in shown
    cells = [f"{scores[word] + more:.4f}" for more in (0.05, 0) for word in words]
    assert f"numbers: {' '.join(cells)}\n" in shown
    assert "axes: criterion max_features mean_test_score\n" in shown
    assert f"labels: entropy gini {' '.join(words)} 0.4000 0.9500\n" in shown
    assert "best line: 0.0 1.0 1.0\n" in shown


@pytest.mark.ci
def test_of_three_params_the_heatmap_has_the_two_that_move_the_score_most(own):
    """A cell is the mean over the third."""
    own.log_search(
        [
            ({"a": a, "b": b, "c": c}, 0.5 + 0.2 * a + 0.01 * b + 0.1 * c, "FINISHED")
            for a in (0, 1)
            for b in (0, 1)
            for c in (0, 1)
        ]
    )
    shown = own.pictures()
    assert "rows: a ['0', '1']\ncolumns: c ['0', '1']\n" in shown
    assert "numbers: 0.5050 0.6050 0.7050 0.8050\n" in shown
    assert "a cell: mean_test_score, averaged over the other params\n" in shown
    finding = "a moves it by 0.2000 and b moves it by 0.0100 and c moves it by 0.1000"
    assert f"mean_test_score, averaged over the other params: {finding}\n" in shown
    assert "title: 'Best of 8: a 1, c 1 (0.8100)'\n" in shown
    assert "best line: 1.0 1.0 1.0 1.0\n" in shown


@pytest.mark.ci
def test_children_with_different_params(own):
    linear = [({"kernel": "linear"}, 0.8, "FINISHED")]
    other = [({"kernel": "rbf", "gamma": gamma}, 0.9 + gamma, "FINISHED") for gamma in (0.01, 0.02)]
    own.log_search(linear + other)
    shown = own.pictures()
    header = "gamma kernel mean_test_score"
    assert rows_after(header, shown)[2] == ["not", "set", "linear", "0.80"]
    assert "rows: gamma ['0.01', '0.02', 'not set']\ncolumns: kernel ['linear', 'rbf']\n" in shown
    assert "labelled: 3\n" in shown and "lines: 3\n" in shown


@pytest.mark.ci
def test_searches_with_different_params_are_listed_together(own):
    for grid in GRID, [({"kernel": "linear"}, 0.8, "FINISHED")]:
        search = own.log_search(grid, best_cv_score=0.9, test_accuracy=0.5)
        for child in finished_children(own.client, own.client.get_run(search))[:1]:
            for key, value in child.data.params.items():
                own.client.log_param(search, f"best_{key}", value)
    rows = rows_after(
        "start_time params.best_kernel params.best_max_depth params.best_n_estimators",
        own.done("compare_runs"),
    )
    assert rows[0][2:] == ["linear", "not", "set", "not", "set", "0.9", "0.5"]
    assert rows[1][2:] == ["not", "set", "2", "128", "0.9", "0.5"]


@pytest.mark.ci
def test_of_two_searches_the_newest_is_compared_and_both_are_listed(own):
    older = own.log_search([(8, 64, 0.99, "FINISHED")], best_cv_score=0.99, test_accuracy=0.5)
    newer = own.log_search(GRID, best_cv_score=0.92, test_accuracy=0.6)
    failed = own.log_search(GRID, status="FAILED")
    own.client.update_run(newer, name="the newer")
    output = own.done("compare_runs")
    assert re.findall(r'^Run "(.+)", ID (\w+)$', output, re.MULTILINE) == [("the newer", newer)]
    assert "3 children to compare" in output
    assert "Finished searches in this store: 2\n" in output
    rows = rows_after("start_time metrics.best_cv_score metrics.test_accuracy", output)[:2]
    assert [row[2:] for row in rows] == [["0.92", "0.6"], ["0.99", "0.5"]]
    assert [compare_files(own.client, each) for each in (older, newer, failed)] == [[], FILES, []]
    children = finished_children(own.client, own.client.get_run(newer))
    table = pd.read_csv(io.StringIO(own.csv(newer)))
    assert list(table["run_id"]) == [child.info.run_id for child in children]


@pytest.mark.ci
def test_a_failed_child_is_counted_and_left_out(own):
    failed = [(8, 64, None, "FAILED"), (8, 128, 0.99, "FAILED"), (8, 16, None, "RUNNING")]
    search = own.log_search([*GRID, *failed])
    assert "3 children to compare, 3 didn't finish" in own.done("compare_runs")
    table = pd.read_csv(io.StringIO(own.csv(search)))
    assert list(table["metrics.mean_test_score"]) == [0.92, 0.91, 0.90]
    assert set(table["status"]) == {"FINISHED"}


@pytest.mark.ci
def test_again_replaces_what_it_left(own):
    search = own.log_search(GRID)
    first = own.done("compare_runs")
    before, csv = own.client.get_run(search), own.csv(search)
    child = finished_children(own.client, before)[-1].info.run_id
    own.client.delete_run(child)
    assert "2 children to compare" in own.done("compare_runs")
    assert compare_files(own.client, search) == FILES
    assert dict(own.client.get_run(search).info) == dict(before.info)
    own.client.restore_run(child)
    assert own.done("compare_runs") == first
    assert own.csv(search) == csv
    assert csv.count("\n") == 4 and "\r" not in csv


@pytest.mark.ci
def test_the_pictures_show_the_grid_and_the_finding(own):
    own.log_search([*GRID, (2, 64, 0.94, "FINISHED"), (8, 64, None, "FAILED")])
    shown = own.pictures()
    # 16 is less than 128 as a number, and no limit comes last.
    assert "rows: max_depth ['2', 'None']\n" in shown
    assert "columns: n_estimators ['16', '64', '128']\n" in shown
    assert "cells: (2, 3) labelled: 4\n" in shown and "lines: 4\n" in shown
    assert "title: 'Best of 4: max_depth 2, n_estimators 64 (0.9400)'" in shown
    # max_depth: 0.92, 0.91; n_estimators: 0.905, 0.94, 0.92.
    finding = "max_depth moves it by 0.0100 and n_estimators moves it by 0.0350"
    assert f"title: 'mean_test_score: {finding}'" in shown
    assert "best line: 0.0 0.5 1.0\n" in shown
    assert f"best colour: {' '.join(map(str, plt.cm.cividis(1.0)[:3]))}\n" in shown


@pytest.mark.ci
def test_one_child_is_enough(own):
    search = own.log_search([(2, 16, 0.0, "FINISHED")])  # a score of 0 is one, too
    shown = own.pictures()
    assert "cells: " not in shown and "lines: 1\n" in shown
    assert "moves it by 0.0000" in shown
    assert "best line: 0.0 0.0 0.0\n" in shown
    assert compare_files(own.client, search) == [FILES[0], FILES[2]]


@pytest.mark.ci
def test_where_one_param_varies_there_is_no_heatmap(own):
    search = own.log_search([GRID[0], GRID[2]])
    shown = own.pictures()
    assert (
        "mean_test_score, averaged over the other params: n_estimators moves it by 0.0200\n"
        in shown
    )
    assert "axes: n_estimators mean_test_score\n" in shown
    assert "best line: 1.0 1.0\n" in shown
    assert compare_files(own.client, search) == [FILES[0], FILES[2]]


@pytest.mark.ci
def test_children_without_params(own):
    search = own.log_search([({}, 0.9, "FINISHED")])
    shown = own.pictures()
    assert "mean_test_score, averaged over the other params: none\n" in shown
    assert "axes: mean_test_score\n" in shown
    assert compare_files(own.client, search) == [FILES[0], FILES[2]]


@pytest.mark.ci
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
    assert re.search(r"cells: \(\d\d, \d\d\) labelled: 0\n", shown)
    assert "lines: 400\n" in shown
    assert own.csv(search).count("\n") == 3600 - failed + 1


@pytest.mark.ci
def test_start_run_would_open_it_again(own, track_in):
    """Why the files are added by the client."""
    search = own.log_search(GRID)
    before = own.client.get_run(search).info.end_time
    track_in(own.uri)
    with mlflow.start_run(run_id=search):
        assert own.client.get_run(search).info.status == "RUNNING"
    assert own.client.get_run(search).info.end_time > before
