"""benchmarks/points.py measures what it says: the same points, logged in each way."""

import re

import mlflow
import points as benchmark
import pytest
from doc_tables import tables
from running import uri

pytestmark = pytest.mark.ci


def test_each_way_leaves_the_same_points(folder, monkeypatch):
    few = {way: (log, 600) for way, (log, _) in list(benchmark.WAYS.items())[2:]}
    few |= {way: (log, 5) for way, (log, _) in list(benchmark.WAYS.items())[:2]}
    monkeypatch.setattr(benchmark, "WAYS", few)
    found = benchmark.measure(2, folder)
    assert {way: len(times) for way, times in found.items()} == dict.fromkeys(few, 2)
    client = mlflow.MlflowClient(uri(folder))
    runs = client.search_runs([client.get_experiment_by_name("points").experiment_id])
    assert len(runs) == 2 * len(few)
    for run in runs:
        steps = few[run.info.run_name][1]
        expected = [(step, 1 / (step + 1)) for step in range(steps)]
        for name in "train_loss", "val_loss":
            history = client.get_metric_history(run.info.run_id, name)
            assert [(point.step, point.value) for point in history] == expected


def test_the_page_shows_its_rows_and_what_it_says_of_them():
    made = benchmark.table({way: [1] for way in benchmark.WAYS}).splitlines()[2:]
    shown = tables("benchmarks.md")["A point of a curve: by one call each, or in batches"]
    assert [row.split(" | ")[:2] for row in made] == [[f"| {row[0]}", row[1]] for row in shown]
    medians = [float(re.match(r"[\d.]+", row[3])[0]) for row in shown]
    assert medians[0] == 1 and medians[1] < 0.75 and medians[2] <= 0.1
