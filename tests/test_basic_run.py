import subprocess

import pytest
from running import PYTHON, ROOT, run, uri


def test_run_holds_what_was_logged(store):
    run, output = store.lesson("basic_run")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"n_estimators": "50", "max_depth": "5", "random_state": "42"}
    assert run.data.metrics == pytest.approx(
        {"test_accuracy": 17 / 18, "test_f1_macro": 0.9373}, abs=1e-4
    )
    assert run.data.tags["dataset"] == "wine"
    assert run.data.tags["purpose"] == "first run"
    assert run.data.tags["mlflow.runName"] == "forest of 50"
    assert run.data.tags["mlflow.source.name"].endswith("basic_run.py")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    assert run.data.tags["mlflow.source.git.commit"] == head
    assert store.files(run.info.run_id) == ["basic_run.py", "confusion_matrix.png"]
    for name, value in run.data.metrics.items():
        assert f"{name}: {value:.4f}\n" in output


def test_files_are_whole(store, tmp_path):
    run, _ = store.lesson("basic_run")
    copy = store.client.download_artifacts(run.info.run_id, "basic_run.py", tmp_path)
    assert "mlflow.log_artifact(SCRIPT)" in open(copy).read()
    png = store.client.download_artifacts(run.info.run_id, "confusion_matrix.png", tmp_path)
    assert open(png, "rb").read(8) == b"\x89PNG\r\n\x1a\n"


def test_model_is_skops_with_signature_example_and_requirements(store):
    run, _ = store.lesson("basic_run")
    model, files = store.model_files(run)
    assert model.name == "forest"
    assert model.source_run_id == run.info.run_id
    assert {"MLmodel", "model.skops", "requirements.txt", "input_example.json"} <= set(files)
    assert not [name for name in files if name.endswith(".pkl")]
    assert model.params == run.data.params


def test_model_predicts_and_refuses_a_missing_column(store, track_in):
    import mlflow
    from sklearn.datasets import load_wine

    run, _ = store.lesson("basic_run")
    model, _ = store.model_files(run)
    track_in(store.uri)
    loaded = mlflow.pyfunc.load_model(model.model_uri)
    X = load_wine(as_frame=True).data.astype(float)
    assert (loaded.predict(X) == load_wine().target).mean() > 0.95
    reordered = X[sorted(X.columns)]
    assert (loaded.predict(reordered) == loaded.predict(X)).all()
    with pytest.raises(mlflow.MlflowException, match="missing inputs"):
        loaded.predict(X.drop(columns="alcohol"))
    with pytest.raises(mlflow.MlflowException, match="Incompatible input types"):
        loaded.predict(X.astype(int))


def test_a_forest_without_trusted_types_is_refused(tmp_path):
    import mlflow
    from sklearn.datasets import load_wine
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=2).fit(*load_wine(return_X_y=True))
    with pytest.raises(mlflow.MlflowException, match="sklearn.tree._tree.Tree"):
        mlflow.sklearn.save_model(forest, tmp_path / "model", pip_requirements=["scikit-learn"])


@pytest.mark.parametrize(
    ("name", "title", "cells"),
    [
        ("basic_run", "1 of 18 test wines wrong", 3 * 3),
        pytest.param(
            "hypertune2",
            "Best of 16: max_depth 8, n_estimators 128 (0.9626)",
            4 * 4,
            marks=pytest.mark.ci,
        ),
    ],
)
def test_a_picture_says_what_was_found_and_has_a_number_in_every_cell(folder, name, title, cells):
    """Older seaborn with newer matplotlib writes the first row of numbers only."""
    code = """
import runpy, sys
axes = runpy.run_path(sys.argv[1])["axes"]
print(axes.get_title())
print(*(text.get_text() for text in axes.texts))
"""
    script = ROOT / "src" / f"{name}.py"
    env = {"MLFLOW_TRACKING_URI": uri(folder), "PYTHONPATH": str(ROOT / "src")}
    result = run([PYTHON, "-c", code, script], folder, **env)
    assert result.returncode == 0, result.stderr
    *_, shown, numbers = result.stdout.splitlines()
    assert shown == title
    assert len([float(number) for number in numbers.split()]) == cells
