"""The forms that benchmarks/overhead.py compares must all log the same."""

import runpy

import mlflow
from running import ROOT


def test_all_forms_log_the_same_child(tmp_path):
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "overhead.py"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        experiment = mlflow.create_experiment("forms", artifact_location=tmp_path.as_uri())
        # Without this the children would go to the Default experiment, not to their parent's.
        mlflow.set_experiment(experiment_id=experiment)
        with mlflow.start_run() as parent:
            for form in "separate", "batched", "client":
                benchmark[form]()
        runs = mlflow.MlflowClient().search_runs([experiment])
    finally:
        mlflow.set_tracking_uri(before)
    children = [run for run in runs if run.info.run_id != parent.info.run_id]
    assert len(children) == 3
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.metrics == benchmark["METRICS"]
        assert child.data.params == {"n_estimators": "128", "max_depth": "8"}
