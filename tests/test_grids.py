"""The reader's first change of a search: another grid, another model, a copy without `connect`."""

import re
import shutil
from statistics import mean

import pytest
from lessons import SRC, copy_with_grid, with_grid
from patched import without_connect
from registry import Registry
from running import PYTHON, run, uri
from searches import finished, name_of, searches_in
from sentences import assert_success
from sklearn.model_selection import ParameterGrid
from sklearn.preprocessing import MinMaxScaler, StandardScaler

pytestmark = pytest.mark.ci
PIPELINE = """
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
MODEL = make_pipeline(MinMaxScaler(), KNeighborsClassifier())
"""
BOOSTING = """
from sklearn.ensemble import HistGradientBoostingClassifier
MODEL = HistGradientBoostingClassifier(max_iter=10, random_state=SEED)
"""
# The grid, the lines for another model, and whether the search passes register_model's gate.
GRIDS = {
    "one param": ({"learning_rate": [0.3, 0.5]}, BOOSTING),
    "three params": (
        {"n_estimators": [16, 32], "min_samples_leaf": [1, 5], "max_depth": [4, None]},
        None,
    ),
    "words, None and a float": (
        {"max_features": ["sqrt", None, 0.5], "criterion": ["gini", "entropy"]},
        None,
    ),
    "two grids": (
        [{"n_estimators": [16, 32]}, {"criterion": ["gini", "entropy"], "max_depth": [4]}],
        None,
    ),
    "a pipeline, tuples and estimators": (
        [
            {
                "minmaxscaler__feature_range": [(0, 1), (-1, 1)],
                "kneighborsclassifier__metric": ["euclidean", "manhattan"],
            },
            {"minmaxscaler": [StandardScaler(), "passthrough", MinMaxScaler((-2, 2))]},
        ],
        PIPELINE,
    ),
    "no params": ({}, None),
}
# hypertune2, and what its picture shows.
HEATMAP = """
import runpy, sys
names = runpy.run_path(sys.argv[1])
if "axes" in names:
    axes, bar = names["axes"].figure.axes
    print("rows:", axes.get_ylabel(), [text.get_text() for text in axes.get_yticklabels()])
    print("columns:", axes.get_xlabel(), [text.get_text() for text in axes.get_xticklabels()])
    print("numbers:", *(text.get_text() for text in axes.texts))
    print("a cell:", bar.get_ylabel())
    print("title:", axes.get_title())
"""


def heatmap_of(candidates, scores, best):
    """What the heatmap is to show of the CANDIDATES, texts by param, in the order of the search."""
    names = list(dict.fromkeys(name for params in candidates for name in params))
    table = [[params.get(name, "not set") for name in names] for params in candidates]
    varying = [n for n in range(len(names)) if len({row[n] for row in table}) > 1]
    if len(varying) < 2:
        return []
    rows, columns = varying[:2]
    cells = {}
    for row, score in zip(table, scores, strict=True):
        cells.setdefault((row[rows], row[columns]), []).append(score)
    ticks = [list(dict.fromkeys(row[axis] for row in table)) for axis in (rows, columns)]
    numbers = [f"{mean(cells[r, c]):.4f}" for r in ticks[0] for c in ticks[1] if (r, c) in cells]
    return [
        f"rows: {names[rows]} {ticks[0]}",
        f"columns: {names[columns]} {ticks[1]}",
        f"numbers: {' '.join(numbers)}",
        "a cell: mean_test_score, averaged over the other params",
        f"title: Best of {len(table)}: {best} ({max(scores):.4f})",
    ]


def test_copies_without_connect(tmp_path):
    """In somebody's project, where MLflow itself reads MLFLOW_TRACKING_URI."""
    shutil.copy(SRC / "interrupts.py", tmp_path)
    for name in ("hypertune1", "hypertune2", "compare_runs", "hypertune3"):
        text = (SRC / f"{name}.py").read_text()
        if name != "compare_runs":
            text = with_grid(text, {"n_estimators": [16], "max_depth": [4, 8]})
        (tmp_path / f"{name}.py").write_text(without_connect(text))
        command = [PYTHON, tmp_path / f"{name}.py"]
        result = run(command, tmp_path, MLFLOW_TRACKING_URI=uri(tmp_path))
        assert result.returncode == 0, result.stderr
    for name in "hypertune2", "hypertune3":
        ((parent, children),) = searches_in(uri(tmp_path), name)
        assert parent.info.status == "FINISHED" and len(finished(children)) == 2
    (search,) = searches_in(uri(tmp_path), "hypertune2")
    files = Registry(tmp_path).client.list_artifacts(search[0].info.run_id, "compare")
    assert sorted(file.path for file in files) == ["compare/children.csv", "compare/parallel.png"]


@pytest.mark.parametrize("key", GRIDS)
def test_another_grid(key, folder):
    grid, model = GRIDS[key]
    env = {"MLFLOW_TRACKING_URI": uri(folder), "PYTHONPATH": str(SRC)}
    copies = {n: copy_with_grid(folder / str(n), f"hypertune{n}", grid, model) for n in (1, 2, 3)}
    untracked = assert_success(run([PYTHON, copies[1]], folder))

    printed = assert_success(run([PYTHON, "-c", HEATMAP, copies[2]], folder, **env))
    assert untracked.split("Next:")[0] in printed
    ((parent, children),) = searches_in(uri(folder), "hypertune2")
    texts = [{k: str(v) for k, v in params.items()} for params in ParameterGrid(grid)]
    done = finished(children)
    if grid:  # without params MLflow makes a name
        assert sorted(done) == sorted(map(name_of, texts))
    by_params = [[child for child in children if child.data.params == params] for params in texts]
    assert [len(found) for found in by_params] == [1] * len(texts) and len(children) == len(texts)
    scores = [child.data.metrics["mean_test_score"] for (child,) in by_params]
    best = children[0]
    assert {f"best_{k}": v for k, v in best.data.params.items()} == {
        k: v for k, v in parent.data.params.items() if k not in ("cv", "random_state", "test_size")
    }
    shown = re.findall(r"^(?:rows|columns|numbers|a cell|title): .*", printed, re.MULTILINE)
    assert shown == heatmap_of(texts, scores, best.info.run_name)

    registry = Registry(folder)
    assert f"{len(texts)} children to compare, 0 didn't finish" in registry.done("compare_runs")
    files = {file.path for file in registry.client.list_artifacts(parent.info.run_id, "compare")}
    assert ("compare/heatmap.png" in files) == bool(shown)
    assert f"  child   {best.info.run_name}, {best.info.run_id}\n" in registry.done(
        "register_model"
    )

    assert_success(run([PYTHON, copies[3]], folder, **env))
    ((live, live_children),) = searches_in(uri(folder))
    assert len(finished(live_children)) == len(texts) == len(live_children)
    found = sorted((str(c.data.params), c.data.metrics["mean_test_score"]) for c in live_children)
    assert found == sorted(
        (str(c.data.params), c.data.metrics["mean_test_score"]) for c in children
    )
    assert live.data.metrics["best_cv_score"] == parent.data.metrics["best_cv_score"]
    assert set(live.data.params) == set(parent.data.params)
    assert f"{len(texts)} children to compare, 0 didn't finish" in registry.done("compare_runs")
