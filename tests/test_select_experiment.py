import re

from running import run_script


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
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run_script("select_experiment", tmp_path, MLFLOW_TRACKING_URI=uri).returncode == 0
    client = MlflowClient(uri)
    experiment_id = client.get_experiment_by_name("select-experiment").experiment_id
    client.delete_experiment(experiment_id)
    assert run_script("select_experiment", tmp_path, MLFLOW_TRACKING_URI=uri).returncode == 0
    assert client.get_experiment(experiment_id).lifecycle_stage == "active"
    assert len(client.search_runs([experiment_id])) == 4
