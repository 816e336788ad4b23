"""benchmarks/optuna_search.py looks up what a fit finds, and each way logs what it says."""

import math

import mlflow
import numpy as np
import optuna
import optuna_search as benchmark
import pytest
from doc_tables import tables
from running import uri
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score, train_test_split
from stores import children_of, runs_of

pytestmark = pytest.mark.ci


def test_a_fit_is_looked_up():
    X, y = load_breast_cancer(return_X_y=True)
    X, _, y, _ = train_test_split(X, y, test_size=0.2, random_state=42)
    fits = benchmark.look_up([3, None], most=9)
    assert len(fits) == 2 * 9
    for trees, depth in (4, 3), (9, None):
        model = RandomForestClassifier(trees, max_depth=depth, random_state=42)
        scores, seconds = zip(*fits[trees, depth], strict=True)
        assert list(scores) == list(cross_val_score(model, X, y, cv=5))
        assert min(seconds) > 0


def test_the_searches_and_their_table():
    """The best forest is one of the grid; the others score by their number of trees."""
    depths = [*range(2, 17), None]
    fits = {(t, d): [(t / 1000, 1.0)] * 5 for t in range(1, 129) for d in depths}
    fits[128, 8] = [(0.9, 1.0)] * 5
    found = benchmark.searches(fits, seeds=3, trials=20)
    for trials in found["grid"]:
        scores = [score for score, _ in trials]
        assert sorted(scores) == sorted(np.mean([s for s, _ in fits[g]]) for g in benchmark.GRID)
        assert benchmark.reached(trials, 0.9) == (
            scores.index(max(scores)) + 1,
            5 * (scores.index(max(scores)) + 1),
        )
    pruned = [spent for trials in found["Optuna, TPE"] for score, spent in trials if not score]
    assert pruned and max(pruned) < 5 + 1
    assert benchmark.reached([(0.1, 2), (0.2, 3)], 0.9) == (math.inf, math.inf)
    rows = benchmark.table_of_searches(found, 0.9).splitlines()[2:]
    assert rows[0].startswith("| grid | 3 of 3 | ") and rows[0].endswith(" | 0.9000 |")
    assert rows[2].endswith("never] | never | 0.1280 |") or "| 0 of 3 | never" in rows[2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("track_in_default")
def test_each_way_logs_what_it_says(folder):
    found = benchmark.costs(folder, 1, 2)
    assert {way: len(ms) for way, ms in found.items()} == dict.fromkeys(benchmark.WAYS, 1)
    client = mlflow.MlflowClient()
    (parent,) = [r for r in runs_of(uri(folder), "warm up") if not r.data.params]
    children = children_of(client, parent)
    assert len(children) == 2
    for child in children:
        assert len(client.get_metric_history(child.info.run_id, "test_score")) == 5
    assert len(runs_of(uri(folder), "storage")) == 3
    assert len(runs_of(uri(folder), "callback")) == 2
    assert len(optuna.get_all_study_names(f"sqlite:///{folder}/optuna.db")) == 2


def test_the_page_shows_its_rows_and_what_it_says_of_them():
    shown = tables("benchmarks.md")["Optuna beside the grid"]
    searches = [row for row in shown if len(row) == 5]
    assert [row[0] for row in searches] == ["grid", "Optuna, TPE", "Optuna, at random"]
    needed = [int(row[2].split()[0]) for row in searches]
    assert needed == sorted(needed) == [12, 31, 79]
    reached = [int(row[1].split()[0]) for row in searches]
    assert reached == sorted(reached, reverse=True)
    best = [float(row[4]) for row in searches]
    assert (max(best) - min(best)) * 455 < 1.1
    assert len(range(16, 129)) * len(range(2, 17)) == 1695
    costs = {row[0]: float(row[2].split()[0]) for row in shown if len(row) == 3 and "ms" in row[1]}
    assert list(costs) == list(benchmark.WAYS)
    assert 0.4 < costs["Optuna alone, in a database"] < 0.5
    assert max(costs, key=costs.get) == "`MlflowStorage`"
    assert costs["`MLflowCallback`"] < 0.5
