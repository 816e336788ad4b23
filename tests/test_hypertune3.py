"""The lesson hypertune3 finds what hypertune2 does, and whatever ends it, it goes on."""

import json
import os
import random
import shutil
import signal
import socket
import sys
from contextlib import suppress
from importlib.metadata import version

import joblib
import mlflow
import numpy as np
import pytest
from connecting import answering
from mlflow import MlflowClient
from running import PYTHON, ROOT, run, run_script, uri
from searches import (
    ONE,
    RESULT,
    THREE,
    TWO,
    BackgroundSearch,
    assert_found,
    assert_goes_on,
    before_fit,
    finished,
    found_by_hypertune2,
    hold,
    kill_before,
    run_search,
    search,
    searches_in,
    statuses,
)
from sentences import assert_one_sentence
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ParameterGrid, train_test_split
from stores import assert_loads_elsewhere

# Two of these four share the first rank.
FOUR = {"n_estimators": [16, 32], "max_depth": [8, None]}


@pytest.fixture(scope="module", autouse=True)
def taken_port():
    """Another program has the port that Dask's web page has by default."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # it has it already
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        yield


# What it finds: the same as hypertune2


@pytest.fixture(scope="session")
def searched(store, tmp_path_factory, template):
    """The store, the parent and its children, and what was printed."""
    if store.uri.startswith("sqlite"):
        shutil.copy(template, store.folder)
    workers = 1 if store.uri.startswith("file") else 2
    printed = search(tmp_path_factory.mktemp("search"), FOUR, workers=workers, **store.env)
    ((parent, children),) = searches_in(store.uri)
    return store, parent, children, printed


def test_children_are_those_of_hypertune2(searched):
    _, parent, children, _ = searched
    assert len(children) == 4
    assert_found(parent, children, FOUR)
    for child in children:
        params = ParameterGrid(FOUR)[int(child.data.tags["candidate"])]
        assert child.data.params == {key: str(value) for key, value in params.items()}
        assert child.data.tags["host"] == os.uname().nodename
        for tag in "mlflow.user", "mlflow.source.name":
            assert child.data.tags[tag] == parent.data.tags[tag]


def test_parent_is_that_of_hypertune2(searched):
    store, parent, _, _ = searched
    assert parent.info.run_name == "grid search"
    assert parent.data.tags["search"] == found_by_hypertune2()[0].data.tags["search"]

    def inputs(run):
        """Names, digests and sources of the data, and what it was used for."""
        return sorted(
            (i.dataset.name, i.dataset.digest, i.dataset.source, [tag.value for tag in i.tags])
            for i in run.inputs.dataset_inputs
        )

    assert inputs(parent) == inputs(found_by_hypertune2()[0])
    # What a search must have in common with this one to continue it.
    data = load_breast_cancer(as_frame=True).frame.astype(float)
    assert parent.data.tags["data"] == joblib.hash(data)
    packages = [f"{name}=={version(name)}" for name in ("scikit-learn", "skops")]
    assert parent.data.tags["packages"] == ", ".join(packages)
    assert store.files(parent.info.run_id) == ["hypertune3.py"]
    model, files = store.model_files(parent)
    assert model.name == "best-forest" and "model.skops" in files


def test_its_model_is_the_best_forest_on_the_training_rows(searched, track_in):
    store, parent, _, _ = searched
    (output,) = parent.outputs.model_outputs
    track_in(store.uri)
    forest = mlflow.sklearn.load_model(f"models:/{output.model_id}")
    assert_loads_elsewhere(f"models:/{output.model_id}")
    signature = mlflow.models.get_model_info(f"models:/{output.model_id}").signature
    data = load_breast_cancer(as_frame=True).frame
    train, test = train_test_split(data, test_size=0.2, random_state=42)
    X, y, unseen = train.drop(columns="target"), train["target"], test.drop(columns="target")
    same = RandomForestClassifier(16, max_depth=8, random_state=42).fit(X, y)
    assert np.array_equal(forest.predict_proba(unseen), same.predict_proba(unseen))
    assert forest.score(unseen, test["target"]) == parent.data.metrics["test_accuracy"]
    assert signature.inputs.input_names() == list(X)


def test_it_prints_the_result(searched):
    store, parent, _, printed = searched
    ui = store.uri if store.uri.startswith("http") else "http://127.0.0.1:5000"
    told = f"""
To continue this search if it breaks off: python src/hypertune3.py {parent.info.run_id}
Fitting 5 folds of each candidate: some seconds
4 candidates: 4 finished, 0 of them earlier
best parameters: {{'max_depth': 8, 'n_estimators': 16}}
cross-validation accuracy: 0.9538
test accuracy: 0.9649
Run "grid search", ID {parent.info.run_id}, with 4 finished children
{ui}/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}
Next: python src/compare_runs.py compares these
"""
    assert printed.endswith(told)


# What can go wrong in it


def test_a_failing_candidate_is_a_failed_child(folder):
    printed = search(folder, {"n_estimators": [0, 16], "max_depth": [2]})
    assert "\n2 candidates: 1 finished, 0 of them earlier\n" in printed
    ((parent, children),) = searches_in(uri(folder))
    assert parent.info.status == "FINISHED"
    assert parent.data.params["best_n_estimators"] == "16"
    assert list(finished(children)) == ["max_depth 2, n_estimators 16"]
    (failed,) = [child for child in children if child.info.status == "FAILED"]
    assert failed.data.params["n_estimators"] == "0"
    assert failed.data.tags["error"].startswith("InvalidParameterError: ")
    assert "n_estimators" in failed.data.tags["error"]


@pytest.mark.ci
def test_importing_it_leaves_the_signal_handlers(tmp_path):
    """Only Dask's workers on this machine ignore Ctrl-C."""
    code = """
import signal
before = signal.getsignal(signal.SIGINT)
import hypertune3
print(signal.getsignal(signal.SIGINT) == before != signal.SIG_IGN)
"""
    result = run([PYTHON, "-c", code], tmp_path, PYTHONPATH=str(ROOT / "src"))
    assert (result.stdout, result.stderr, result.returncode) == ("True\n", "", 0)


@pytest.mark.ci
def test_a_candidate_costs_three_requests_and_one_for_its_rank(tmp_path):
    """The worker's function runs alone here, as on a machine without the search."""
    asked = []

    def answer(path):
        asked.append(path.rpartition("/mlflow/")[2])
        run_id = {"run_id": "0" * 32, "run_uuid": "0" * 32}
        return 200, json.dumps({"run": {"info": run_id}, "run_info": run_id}).encode()

    code = """
import hypertune3, mlflow, os
from sklearn.datasets import load_breast_cancer
uri, rows = os.environ["STORE"], load_breast_cancer(as_frame=True).frame
child, status = hypertune3.try_candidate("0", {"n_estimators": 1}, rows, uri, "1", {})
client = mlflow.MlflowClient(uri)
client.set_terminated(child, status)
client.log_metric(child, "rank_test_score", 1)
"""
    with answering(answer, "application/json") as port:
        quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # as connect() has it
        env = {"PYTHONPATH": str(ROOT / "src"), "STORE": f"http://127.0.0.1:{port}"}
        result = run([PYTHON, "-c", code], tmp_path, **(env | quiet))
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
    assert asked == ["runs/create", "runs/log-batch", "runs/update", "runs/log-metric"]


@pytest.mark.ci
def test_no_password_is_in_a_task(folder):
    """What looks like one isn't sent; the workers here inherit it."""
    patch = """
import cloudpickle, distributed
from pathlib import Path
for name in "submit", "map":
    def patched(self, *args, real=getattr(distributed.Client, name), **kwargs):
        with Path("tasks").open("ab") as tasks:
            tasks.write(cloudpickle.dumps((args, kwargs)))
        return real(self, *args, **kwargs)
    setattr(distributed.Client, name, patched)
"""
    own = folder / "ada:secret@host"
    own.mkdir()
    shutil.copy(folder / "mlflow.db", own)
    search(folder, ONE, patch, MLFLOW_TRACKING_URI=uri(own))
    tasks = (folder / "tasks").read_bytes()
    assert b"n_estimators" in tasks and b"secret" not in tasks
    ((parent, children),) = searches_in(uri(own))
    assert_found(parent, children, ONE)


def test_without_dask(tmp_path):
    (tmp_path / "dask.py").write_text("raise ImportError")
    result = run_script("hypertune3", tmp_path, python=sys.executable, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "This lesson needs Dask: pip install -r requirements-cluster.txt\n"


@pytest.mark.ci
def test_where_all_fail_the_search_has_failed_and_only_the_same_search_continues_it(folder):
    none = {"n_estimators": [0], "max_depth": [2]}
    result = run_search(folder, none)
    assert result.returncode == 1
    assert result.stderr == "All candidates failed: see the tag `error` of the children\n"
    ((failed, children),) = searches_in(uri(folder))
    assert (failed.info.status, statuses(children)) == ("FAILED", ["FAILED"])

    printed = search(folder, ONE, "", "--resume")  # there is none of this code: it begins one
    assert "an unfinished search" not in printed
    (_, (new, _)) = searches_in(uri(folder))

    # Of two that are unfinished, --resume continues the newer.
    twin = MlflowClient(uri(folder)).create_run(failed.info.experiment_id, tags=failed.data.tags)
    again = run_search(folder, none, "", "--resume")
    assert f"breaks off: python src/hypertune3.py {twin.info.run_id}\n" in again.stdout
    MlflowClient(uri(folder)).delete_run(twin.info.run_id)

    def assert_refused(grid, wanted, why):
        refused = run_search(folder, grid, "", wanted)
        assert assert_one_sentence(refused) == f"Can't continue run {wanted}: {why}\n"

    old = failed.info.run_id
    assert_refused(ONE, old, "it has other code")
    assert_refused(ONE, new.info.run_id, "no unfinished search has this ID")
    assert_refused(ONE, "0" * 32, "no unfinished search has this ID")
    for tag, why in ("data", "data"), ("packages", "data and packages"):
        MlflowClient(uri(folder)).set_tag(old, tag, "those of a year ago")
        assert_refused(none, old, f"it has other {why}")
    (old, children), (new, new_children) = searches_in(uri(folder))
    assert (old.data.params, old.data.metrics) == (failed.data.params, failed.data.metrics)
    assert (old.info.status, statuses(children)) == ("FAILED", ["FAILED"])
    assert (new.info.status, statuses(new_children)) == ("FINISHED", ["FINISHED"])


@pytest.mark.ci
def test_a_killed_worker(folder):
    env = before_fit(folder, 32, "first and os.kill(os.getpid(), 9)")
    assert "\n2 candidates: 2 finished, 0 of them earlier\n" in search(folder, TWO, **env)
    ((parent, children),) = searches_in(uri(folder))
    assert_found(parent, children, TWO)
    assert statuses(children) == ["FINISHED", "FINISHED", "KILLED"]


@pytest.mark.ci
def test_a_candidate_that_kills_its_workers(folder):
    """As one does that needs too much memory.

    Dask blames all that waits at a worker for its death. With two workers nothing else waits.
    """
    env = before_fit(folder, 32, "os.kill(os.getpid(), 9)")
    env["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "1"
    printed = search(folder, TWO, workers=2, **env)
    assert "\n2 candidates: 1 finished, 0 of them earlier\n" in printed
    ((parent, children),) = searches_in(uri(folder))
    assert parent.info.status == "FINISHED" and list(finished(children)) == [
        "max_depth 2, n_estimators 16"
    ]
    assert statuses(children) == ["FAILED", "FAILED", "FINISHED"]
    for failed in children:
        if failed.info.status == "FAILED":
            assert failed.info.run_name == "max_depth 2, n_estimators 32"
            assert "2 different workers" in failed.data.tags["error"]


# Going on


# Before which call a start is killed, and how many candidates are finished by then. The starts
# follow each other in this order, and each finishes what the earlier ones left.
MOMENTS = {
    "no worker is there": ("mlflow.log_artifact", 1, 0),
    "the first are in hand": ("distributed.Client.submit", 4, 0),
    "one is finished": (RESULT, 2, 1),
    "the last is logged": (RESULT, 2, 2),
    "ranks are half logged": ("MlflowClient.log_metric", 2, 3),
    "a model is half made": ("MlflowClient.log_model_artifacts", 1, 3),
    "all is logged": (RESULT, 1, 3),
}


@pytest.mark.ci
def test_a_search_that_was_killed_goes_on(folder):
    """By the same command, as a scheduler of jobs starts it again after it needed the machine.

    The first time there is none to go on with, so --resume begins one.
    """
    patch = "import os\nexec(os.environ.get('KILL', ''), {})\n"
    ended = set()
    for moment, (call, number, count) in MOMENTS.items():
        (folder / "killed").unlink(missing_ok=True)
        kill = kill_before(call, number, seconds=random.Random(moment).uniform(0, 0.5))
        workers = 2 if count < 3 else 1  # all are fitted
        killed = run_search(folder, THREE, patch, "--resume", workers=workers, KILL=kill)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        ((parent, children),) = searches_in(uri(folder))
        now = {child.info.run_id for child in finished(children).values()}
        assert (parent.info.status, len(now)) == ("RUNNING", count), moment
        assert ended <= now, moment
        ended = now
    assert_goes_on(folder, patch, "--resume", kills=3)


@pytest.mark.ci
def test_two_at_once_are_two_searches(folder):
    """The second leaves the first one's run alone, and says so."""
    one = BackgroundSearch(folder, TWO, **hold(folder, 32))
    one.wait_for_held()
    two = run_script("hypertune3", folder, root=folder, MLFLOW_TRACKING_URI=uri(folder))
    assert (two.returncode, two.stderr) == (0, "")
    ((first, children), _) = searches_in(uri(folder))
    assert first.info.status == "RUNNING" and statuses(children) == ["FINISHED", "RUNNING"]
    told = f"an unfinished search instead: python src/hypertune3.py {first.info.run_id}\n"
    assert told in two.stdout
    (folder / "go").touch()
    assert one.end() == 0, one.printed()
    for parent, children in searches_in(uri(folder)):
        assert len(children) == 2
        assert_found(parent, children, TWO)


@pytest.mark.ci
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_search_is_failed_and_has_no_running_child(folder, number):
    one = BackgroundSearch(folder, TWO, **hold(folder, 32))
    one.wait_for_held()
    if number == signal.SIGINT:
        os.killpg(one.process.pid, number)  # as a terminal does
    else:
        one.process.terminate()
    assert one.end() == 128 + number
    assert one.printed()[1] == "Interrupted: what was logged is kept\n"
    ((parent, children),) = searches_in(uri(folder))
    assert (parent.info.status, statuses(children)) == ("FAILED", ["FINISHED", "KILLED"])


@pytest.mark.ci
def test_a_candidate_that_failed_before_a_kill_may_be_the_best(folder):
    """The second start has the memory for it that the first one lacked."""
    grid = {"n_estimators": [16, 64], "max_depth": [8]}
    kill = kill_before("mlflow.sklearn.log_model", 1)
    env = before_fit(folder, 64, "raise MemoryError('too little')")
    assert run_search(folder, grid, kill, **env).returncode == -signal.SIGKILL
    ((parent, _),) = searches_in(uri(folder))
    printed = search(folder, grid, kill, parent.info.run_id)
    assert "\n2 candidates: 2 finished, 1 of them earlier\n" in printed
    ((parent, children),) = searches_in(uri(folder))
    assert parent.info.status == "FINISHED" and parent.data.params["best_n_estimators"] == "64"
    assert statuses(children) == ["FAILED", "FINISHED", "FINISHED"]
