import re
import sqlite3
from contextlib import closing

from mlflow import MlflowClient
from running import run_script, uri


def test_both_ways_reach_the_same_experiment(store):
    output = store.run("select_experiment")
    experiment = store.client.get_experiment_by_name("select-experiment")
    runs = store.client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} >= {"chosen by name", "chosen by ID"}
    assert {run.data.metrics["answer"] for run in runs} == {42}
    assert {run.info.lifecycle_stage for run in runs} == {"active"}
    assert re.search(rf"{experiment.experiment_id} +2  select-experiment\n", output)


def test_experiment_is_described_and_active(store):
    output = store.run("select_experiment")
    experiment = store.client.get_experiment_by_name("select-experiment")
    assert experiment.lifecycle_stage == "active"
    assert experiment.tags["mlflow.note.content"].startswith("Where the lesson")
    assert experiment.tags["team"] == "tutorial"
    assert experiment.tags["topic"] == "experiments"
    assert "After deleting it: " in output and "Cannot set a deleted experiment" in output
    assert "Restored: select-experiment is active" in output


def test_a_deleted_experiment_is_restored_with_its_runs(tmp_path):
    where = {"MLFLOW_TRACKING_URI": uri(tmp_path)}
    assert run_script("select_experiment", tmp_path, **where).returncode == 0
    client = MlflowClient(uri(tmp_path))
    experiment_id = client.get_experiment_by_name("select-experiment").experiment_id
    client.delete_experiment(experiment_id)
    assert run_script("select_experiment", tmp_path, **where).returncode == 0
    assert client.get_experiment(experiment_id).lifecycle_stage == "active"
    assert len(client.search_runs([experiment_id])) == 4


def test_more_runs_than_one_page_are_not_cut_short_in_silence(folder):
    client = MlflowClient(uri(folder))
    run_id = client.create_run("0").info.run_id
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(runs)")]
        copied = ", ".join(columns).replace("run_uuid", "hex(randomblob(16))")
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 1200)"
        database.execute(f"INSERT INTO runs {numbers} SELECT {copied} FROM runs, n")
    assert client.get_run(run_id)
    result = run_script("select_experiment", folder, MLFLOW_TRACKING_URI=uri(folder))
    assert "                   0  1000+  Default\n" in result.stdout, result.stderr
