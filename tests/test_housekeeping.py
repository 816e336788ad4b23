"""What docs/guides/housekeeping.md says of many runs, and of a parent and its children."""

import sqlite3
import sys
from contextlib import closing

import pytest
from doc_tables import blocks
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from running import run, uri
from stores import children_of

pytestmark = [pytest.mark.ci, pytest.mark.facts]
SEARCH, MODELS = blocks("housekeeping.md", "python")


@pytest.fixture
def client(folder):
    return MlflowClient(uri(folder))


def add_newer_copies(folder, run_id, count):
    """Add COUNT copies of the run to the database, each as if it had begun a second later."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(runs)")]
        new = {"run_uuid": "printf('%032d', ?1)", "start_time": "start_time + 1000 * ?1"}
        values = ", ".join(new.get(name, name) for name in names)
        copy = f"INSERT INTO runs ({', '.join(names)}) SELECT {values} FROM runs WHERE run_uuid = ?"
        database.executemany(copy, [(number, run_id) for number in range(1, count + 1)])


def test_models_of_the_oldest_of_many_deleted_runs_are_deleted(folder, client):
    client.create_experiment("first")
    experiment = client.create_experiment("second")
    oldest = client.create_run(experiment).info.run_id
    model = client.create_logged_model(experiment, source_run_id=oldest).model_id
    client.log_outputs(oldest, [LoggedModelOutput(model, step=0)])
    client.delete_run(oldest)
    add_newer_copies(folder, oldest, 1000)

    done = run([sys.executable, "-c", MODELS], folder, MLFLOW_TRACKING_URI=uri(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"deleted the model {model} of ")
    assert not client.search_logged_models([experiment])


def test_children_stay_if_only_their_parent_is_deleted(folder, client):
    experiment = client.create_experiment("hypertune2")
    parent = client.create_run(experiment, run_name="grid search")
    for _ in range(3):
        client.create_run(experiment, tags={"mlflow.parentRunId": parent.info.run_id})
    command = ["mlflow", "runs", "delete", "--run-id", parent.info.run_id]
    assert run(command, folder, MLFLOW_TRACKING_URI=uri(folder)).returncode == 0
    assert client.get_run(parent.info.run_id).info.lifecycle_stage == "deleted"
    assert len(children_of(client, parent)) == 3

    client.restore_run(parent.info.run_id)
    done = run([sys.executable, "-c", SEARCH], folder, MLFLOW_TRACKING_URI=uri(folder))
    assert (done.returncode, done.stdout) == (0, "deleted grid search and 3 children\n")
    assert not client.search_runs([experiment])
