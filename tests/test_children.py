"""benchmarks/children.py measures what it says: the same children by each form, in each store."""

import shutil
import sqlite3
from contextlib import closing
from queue import Empty, Queue
from threading import Event

import children as benchmark
import mlflow
import pytest
from doc_tables import tables
from mlflow.protos.service_pb2 import MlflowService
from mlflow.tracking._tracking_service.utils import _get_store
from running import uri
from team import need_postgresql

pytestmark = pytest.mark.ci
CHILDREN = [form for form in benchmark.FORMS if form != "one table"]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder for MLflow's files, and few children to log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("children"))
        patch.setattr(benchmark, "LAST", 2)
        patch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
        patch.setenv("MLFLOW_EXPERIMENT_ID", "")
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory, template):
    """A search of 20, the last to come."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(template, folder)
    return benchmark.Store(uri(folder), uri(folder), 20)


@pytest.fixture
def log(store):
    """Log two candidates by a form; return the runs that it made."""

    def log(form):
        with store.search():
            benchmark.FORMS[form](store, 2)
        made = store.run_ids() - store.kept
        return [mlflow.get_run(run_id) for run_id in made]

    yield log
    store.remove(store.run_ids() - store.kept)


@pytest.mark.parametrize("form", CHILDREN)
def test_each_form_logs_the_same_children(store, log, form):
    runs = log(form)
    assert len(runs) == 2
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.info.experiment_id == store.experiment
        assert run.data.tags["mlflow.parentRunId"] == store.parent
        assert run.data.params == {"n_estimators": "128", "max_depth": "8"}
        assert run.data.metrics == benchmark.METRICS
        assert len(run.data.metrics) == 9


def what_it_holds(run):
    """All that MLflow reads of it, but its name, its times and its ID."""
    info = dict(run.info)
    info["artifact_uri"] = info["artifact_uri"].replace(run.info.run_id, "ID")
    own = ["run_id", "run_uuid", "run_name", "start_time", "end_time"]
    history = [
        (metric.key, metric.value, metric.step)
        for key in sorted(run.data.metrics)
        for metric in mlflow.MlflowClient().get_metric_history(run.info.run_id, key)
    ]
    tags = run.data.tags | {"mlflow.runName": None}
    return {k: v for k, v in info.items() if k not in own}, run.data.params, tags, history


def test_the_floor_s_rows_and_those_inserted_before_are_read_as_mlflow_s(store, log):
    logged = what_it_holds(log("batched")[0])
    assert all(what_it_holds(run) == logged for run in log("floor"))
    children = [mlflow.get_run(run_id) for run_id in store.kept - {store.parent}]
    assert len(children) == 20 - benchmark.LAST
    assert all(what_it_holds(run) == logged for run in children)


def test_one_table_is_an_artifact_and_no_runs(store, log):
    assert log("one table") == []
    client = mlflow.MlflowClient()
    *_, file = sorted(client.list_artifacts(store.parent), key=lambda file: file.path)
    found = mlflow.load_table(file.path, run_ids=[store.parent])
    assert found.to_dict("records") == [benchmark.PARAMS | benchmark.METRICS] * 2
    parent = mlflow.get_run(store.parent)
    assert (parent.data.params, parent.data.metrics) == ({}, {})
    # Nothing to search by: only the other children are found.
    found = client.search_runs([store.experiment], "metrics.mean_test_score > 0")
    assert {run.info.run_id for run in found} == store.kept - {store.parent}


def test_a_measurement_leaves_the_store_as_it_was(store):
    def rows():
        with closing(sqlite3.connect(store.engine.url.database)) as connection:
            return [
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                for table in benchmark.TABLES
            ]

    store.cost("one table")  # the first adds a tag to the parent
    before = rows()
    for form in "batched", "4 threads", "floor", "one table":
        assert store.cost(form) > 0
        assert store.run_ids() == store.kept
        assert rows() == before


@pytest.mark.facts
@pytest.mark.parametrize(
    "form, count", [("separate", 13), ("batched", 4), ("client", 4), ("floor", 1)]
)
def test_commits_of_a_child(store, log, form, count):
    def written():
        """SQLite counts its writing transactions in the file."""
        with open(store.engine.url.database, "rb") as file:
            return int.from_bytes(file.read(28)[24:], "big")

    with store.search():
        before = written()
        benchmark.FORMS[form](store, 1)
        assert written() - before == count


@pytest.mark.facts
def test_no_call_logs_several_runs():
    names = [method.name for method in MlflowService.DESCRIPTOR.methods]
    assert [name for name in names if "Runs" in name] == ["searchRuns"]
    assert "logBatch" in names


@pytest.mark.facts
@pytest.mark.parametrize("buffer", [None, "1"])
def test_asynchronous_logging_waits_for_more_at_the_end_of_a_run(store, log, monkeypatch, buffer):
    """A get() of the queue, once begun, takes its second; with the buffer there is none."""
    if buffer:
        monkeypatch.setenv("MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS", buffer)
    asked, in_vain = Event(), []

    class Watched(Queue):
        def get(self, block=True, timeout=None):
            # Until the run's end wants the thread to stop, whenever that is.
            while timeout and self.empty():
                asked.set()
                if stop.wait(0.01):
                    in_vain.append(timeout)
                    raise Empty
            return super().get(block, timeout)

    with store.search():
        queue = _get_store()._async_logging_queue
        stop = queue._stop_data_logging_thread_event
        monkeypatch.setattr(queue, "_queue", Watched())
        with mlflow.start_run(nested=True) as child:
            mlflow.log_params(benchmark.PARAMS, synchronous=False).wait()
            asked.clear()
            assert buffer or asked.wait(60)
            assert not in_vain
        assert in_vain == ([] if buffer else [1])
    assert len(mlflow.get_run(child.info.run_id).data.params) == 2


def test_tables():
    costs = {
        ("SQLite", 16): {"separate": [10, 20], "batched": [5, 8], "one table": [0.01, 0.06]},
        ("SQLite", 1000): {"separate": [20, 20], "batched": [10, 4]},
        ("PostgreSQL", 16): {"separate": [40, 30], "batched": [10, 9]},
    }
    assert benchmark.by_form(costs).splitlines() == [
        "| Store | Children | separate | batched | client | 4 threads | floor | one table "
        "| asynchronous | asynchronous, buffered |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| SQLite | 16 | 15.0 [10.0, 20.0] ms | 0.45 [0.40, 0.50] |  |  |  "
        "| 0.002 [0.001, 0.003] |  |  |",
        "| SQLite | 1,000 | 20.0 [20.0, 20.0] ms | 0.35 [0.20, 0.50] |  |  |  |  |  |  |",
        "| PostgreSQL | 16 | 35.0 [30.0, 40.0] ms | 0.28 [0.25, 0.30] |  |  |  |  |  |  |",
    ]
    assert benchmark.by_count(costs).splitlines() == [
        "| Form | 16 children | 1,000 children |",
        "|---|---|---|",
        "| separate | 1.00 [1.00, 1.00] | 1.50 [1.00, 2.00] |",
        "| batched | 1.00 [1.00, 1.00] | 1.25 [0.50, 2.00] |",
    ]


def test_the_title_says_what_was_found():
    costs = {
        ("SQLite", 16): {"separate": [10], "batched": [5], "client": [4]},
        ("SQLite", 1000): {"separate": [10], "batched": [6], "client": [3]},
        ("PostgreSQL", 16): {"separate": [10], "batched": [7], "client": [2]},
    }
    assert benchmark.finding(costs) == (
        "A child logged in bulk costs 0.20 to 0.70 of one logged call by call,\n"
        "and with 1,000 children 0.75 to 1.20 of what it does with 16"
    )


def test_the_picture_shows_it(monkeypatch):
    drawn = []
    monkeypatch.setattr(benchmark.tools, "save", lambda figure, name: drawn.append((figure, name)))
    places = [("SQLite", 16), ("SQLite", 1000), *((name, 16) for name in benchmark.STORES[1:])]
    costs = {place: {form: [4, 6] for form in benchmark.forms(*place)} for place in places}
    benchmark.picture(costs)
    ((figure, name),) = drawn
    assert name == "children"
    assert figure.get_suptitle() == benchmark.finding(costs)
    forms, growth = figure.axes
    assert [text.get_text() for text in forms.get_legend().get_texts()] == benchmark.STORES
    assert [text.get_text() for text in growth.get_xticklabels()] == ["16", "1,000"]


@pytest.fixture(scope="module")
def stores():
    """Of 16 children in each store, and 101 in SQLite."""
    need_postgresql()
    with benchmark.make_stores([16, 101]) as made:
        yield made


def test_each_store_is_what_it_is_called(stores):
    others = [(name, 16) for name in benchmark.STORES[1:]]
    assert list(stores) == [("SQLite", 16), ("SQLite", 101), *others]
    for (name, count), store in stores.items():
        backend = "postgresql" if name == "PostgreSQL" else "sqlite"
        assert store.engine.url.get_backend_name() == backend
        assert store.uri.startswith("http://" if "server" in name else f"{backend}")
        if backend == "sqlite":
            with store.engine.connect() as connection:
                mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            assert mode == ("wal" if "WAL" in name else "delete")
        assert len(store.kept) == 1 + count - benchmark.LAST  # the parent's too


def test_each_form_is_measured_in_each_store(stores):
    costs = benchmark.measure(stores, 1)
    assert list(costs) == list(stores)
    for place, found in costs.items():
        assert list(found) == benchmark.forms(*place)
        assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in found.values())


def test_the_page_shows_all_that_is_measured():
    rows = tables("benchmarks.md")["What a child costs"]
    (second,) = [number for number, row in enumerate(rows) if row[0] == "Form"]
    counts = ["16", "100", "1,000", "10,000"]
    places = [("SQLite", count) for count in counts]
    places += [(name, count) for name in benchmark.STORES[1:] for count in counts[:2]]
    assert [(store, count) for store, count, *_ in rows[:second]] == places
    for store, count, *cells in rows[:second]:
        measured = [form for form, cell in zip(benchmark.FORMS, cells, strict=True) if cell]
        assert measured == benchmark.forms(store, int(count.replace(",", "")))
    assert rows[second] == ["Form", *(f"{count} children" for count in counts)]
    assert [row[0] for row in rows[second + 2 :]] == list(benchmark.FORMS)[:5]
