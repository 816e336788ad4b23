"""benchmarks/compare_runs.py makes searches like hypertune2's, and measures what it says."""

import runpy
from types import SimpleNamespace

import pytest
from doc_tables import tables
from mlflow import MlflowClient
from running import ROOT, run_script
from stores import children_of

pytestmark = pytest.mark.ci
# By its path, since src/ has a compare_runs.py too.
benchmark = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "compare_runs.py")))


def test_a_search_is_as_large_and_its_children_are_like_hypertune2s(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment, parent = benchmark.make(uri, 30)
    client = MlflowClient(uri, registry_uri=uri)
    children = children_of(client, client.get_run(parent))
    assert len(children) == 30
    assert len({tuple(child.data.params.values()) for child in children}) == 30
    assert "None" in {child.data.params["max_depth"] for child in children}
    for child in children:
        assert child.info.status == "FINISHED"
        assert set(child.data.metrics) == set(benchmark.METRICS)
        assert len(client.get_metric_history(child.info.run_id, "mean_test_score")) == 1
    assert client.get_run(parent).data.tags["search"] == "breast-cancer-forest"
    result = run_script("compare_runs", tmp_path, MLFLOW_TRACKING_URI=uri)
    assert "30 children to compare, 0 didn't finish" in result.stdout
    assert f", ID {parent}\n" in result.stdout


def test_children_made_by_mlflow_have_the_same_rows(tmp_path):
    """What the benchmark inserts is what MLflow's own calls leave, but for the values."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment, parent = benchmark.make(uri, 2)
    client = MlflowClient(uri, registry_uri=uri)
    tags = {"mlflow.parentRunId": parent, "mlflow.user": "ada"}
    tags |= {"mlflow.source.name": "hypertune2.py", "mlflow.source.type": "LOCAL"}
    made = client.create_run(experiment, tags=tags, run_name="by MLflow").info.run_id
    for name in "max_depth", "n_estimators":
        client.log_param(made, name, 8)
    for name in benchmark.METRICS:
        client.log_metric(made, name, 0.9)
    client.set_terminated(made)
    shapes = set()
    for child in children_of(client, client.get_run(parent)):
        data = child.data
        info = child.info.status, child.info.lifecycle_stage, child.info.end_time is not None
        shapes.add((info, *map(frozenset, (data.params, data.metrics, data.tags))))
    assert len(shapes) == 1


@pytest.fixture(scope="module")
def found():
    """What is measured of two small searches."""
    return benchmark.measure([20, 1200], 1)


def test_each_is_measured_for_each_size(found):
    assert all(len(rounds) == 1 for sizes in found.values() for rounds in sizes.values())
    times = {what: sizes for (what, unit), sizes in found.items() if unit == "s"}
    memory = found["script, peak memory", "MB"]
    assert 100 < memory[20][0] < memory[1200][0] < 2000
    for what, _ in benchmark.WHATS[2:]:
        assert 0 < times[what][20][0] < times[what][1200][0] < times["script"][1200][0]


def test_the_table_has_medians_ratios_and_the_cost_of_a_child():
    rows = benchmark.table(
        {("a", "s"): {100: [1, 2, 3], 1000: [3, 4, 15]}, ("b", "MB"): {100: [300], 1000: [309]}}
    ).splitlines()[2:]
    assert rows == [
        "| a | 100 | 2.00 [1.00, 3.00] s | 1.0 [1.0, 1.0] |  |",
        "| a | 1,000 | 4.00 [3.00, 15.00] s | 3.0 [2.0, 5.0] | 2.22 ms |",
        "| b | 100 | 300 [300, 300] MB | 1.0 [1.0, 1.0] |  |",
        "| b | 1,000 | 309 [309, 309] MB | 1.0 [1.0, 1.0] | 10.00 kB |",
    ]


def test_the_page_shows_its_rows():
    (rows,) = [rows for title, rows in tables("benchmarks.md").items() if "Comparing" in title]
    sizes = ["100", "1,000", "10,000"]
    assert [row[:2] for row in rows] == [[what, n] for what, _ in benchmark.WHATS for n in sizes]
