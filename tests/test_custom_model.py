import json
import re
import shutil

import mlflow
import numpy as np
import pytest
import requests
from mlflow.models import Model
from patched import without_connect
from running import PYTHON, ROOT, run, uri
from sentences import assert_success
from services import Service, free_port
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestCentroid

IRIS = load_iris()
X_TRAIN, X_TEST, Y_TRAIN, Y_TEST = train_test_split(
    IRIS.data, IRIS.target_names[IRIS.target], test_size=0.2, random_state=42
)
REFERENCE = NearestCentroid().fit(X_TRAIN, Y_TRAIN)
PAGE = (ROOT / "docs/lessons/custom_model.md").read_text()


def expected(farthest=3.0):
    """What scikit-learn's own nearest centroid says of the test irises."""
    distances = np.linalg.norm(X_TEST[:, None] - REFERENCE.centroids_, axis=2).min(axis=1)
    return np.where(distances > farthest, "unknown", REFERENCE.predict(X_TEST)).tolist()


@pytest.fixture
def logged(store, tmp_path):
    """The run, what was printed, its model as the store has it, and a copy of the model's files."""
    run, printed = store.lesson("custom_model")
    model, _ = store.model_files(run)
    files = mlflow.artifacts.download_artifacts(
        model.artifact_location, dst_path=str(tmp_path), tracking_uri=store.uri
    )
    return run, printed, model, tmp_path / files


def test_the_run_and_its_model_hold_params_metric_and_version(store, logged):
    run, printed, model, _ = logged
    assert (run.info.status, run.info.run_name) == ("FINISHED", "nearest centroid")
    assert store.files(run.info.run_id) == ["custom_model.py"]
    assert model.params == {"farthest": "3.0", "random_state": "42"}
    settings = {"classes": "['setosa', 'versicolor', 'virginica']"}
    assert run.data.params == model.params | settings
    assert run.data.metrics == {"test_accuracy": pytest.approx(29 / 30)}
    assert [(each.key, each.value) for each in model.metrics] == [*run.data.metrics.items()]
    (version,) = store.client.search_model_versions("name = 'iris-centroid'")
    assert (str(version.version), version.source) == ("1", model.model_uri)
    assert version.run_id == run.info.run_id
    assert "\nmodels:/iris-centroid/1 is the model of this run\n" in printed


def test_code_weights_settings_and_signature_travel_with_the_model(logged):
    _, _, model, files = logged
    assert model.name == "centroids"
    code = ROOT / "src" / "centroid_model.py"
    assert (files / code.name).read_text() == code.read_text()
    assert not list(files.rglob("*.pkl"))
    weights = np.load(files / "artifacts" / "centroids.npy")
    assert weights == pytest.approx(REFERENCE.centroids_)
    stored = Model.load(files)
    flavor = stored.flavors["python_function"]
    assert flavor["config"] == {"classes": ["setosa", "versicolor", "virginica"]}
    assert flavor["artifacts"]["centroids"]["path"] == "artifacts/centroids.npy"
    signature = stored.signature.to_dict()
    assert json.loads(signature["inputs"])[0]["tensor-spec"] == {
        "dtype": "float64",
        "shape": [-1, 4],
    }
    assert json.loads(signature["outputs"])[0]["tensor-spec"] == {"dtype": "str", "shape": [-1]}
    assert json.loads(signature["params"]) == [
        {"name": "farthest", "default": 3.0, "shape": None, "type": "double"}
    ]
    requirements = (files / "requirements.txt").read_text().split()
    assert requirements == [f"mlflow=={mlflow.__version__}", f"numpy=={np.__version__}"]


def test_a_param_changes_the_answer_and_the_printed_counts_are_right(logged):
    _, printed, _, files = logged
    model = mlflow.pyfunc.load_model(str(files))
    assert model.predict(X_TEST).tolist() == expected()
    for farthest, named, right in (3.0, 30, 29), (0.5, 15, 15):
        answers = model.predict(X_TEST, params={"farthest": farthest})
        assert answers.tolist() == expected(farthest)
        assert (sum(answers != "unknown"), sum(answers == Y_TEST)) == (named, right)
        line = f"farthest {farthest}: {named} of 30 irises named, {right} of them right\n"
        assert line in printed


@pytest.fixture(scope="module")
def without_sources(tmp_path_factory, template):
    """A folder with the store of a copy of the lesson, without `connect`, and nothing else."""
    folder = tmp_path_factory.mktemp("without-sources")
    shutil.copy(template, folder)
    sources = folder / "own"
    sources.mkdir()
    for name in "custom_model.py", "centroid_model.py":
        (sources / name).write_text(without_connect((ROOT / "src" / name).read_text()))
    done = run([PYTHON, sources / "custom_model.py"], folder, MLFLOW_TRACKING_URI=uri(folder))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(sources)
    return folder


def test_another_process_gives_the_same_answers_after_the_sources_are_gone(
    without_sources, tmp_path
):
    code = """
import json, sys, mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/iris-centroid/1")
rows = np.array(json.loads(sys.argv[1]))
print(json.dumps([model.predict(rows).tolist(), model.predict(rows, {"farthest": 0.5}).tolist()]))
other = mlflow.pyfunc.load_model("models:/iris-centroid/1", model_config={"classes": [*"abc"]})
print(*other.predict(rows[:3]))
"""
    command = [PYTHON, "-c", code, json.dumps(X_TEST.tolist())]
    done = run(command, tmp_path, MLFLOW_TRACKING_URI=uri(without_sources))
    answers, renamed = assert_success(done).splitlines()
    assert json.loads(answers) == [expected(), expected(0.5)]
    letters = dict(zip(IRIS.target_names, "abc", strict=True))
    assert renamed.split() == [letters[name] for name in expected()[:3]]


@pytest.mark.ci
def test_http_answers_are_the_same_and_the_request_carries_params(without_sources):
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", "models:/iris-centroid/1"]
    command += ["--env-manager", "local", "--port", str(port)]
    service = Service(
        command, without_sources, port, path="/ping", MLFLOW_TRACKING_URI=uri(without_sources)
    )

    def ask(request):
        return requests.post(f"{service.uri}/invocations", json=request, timeout=60)

    try:
        rows = X_TEST.tolist()
        assert ask({"inputs": rows}).json() == {"predictions": expected()}
        narrow = {"inputs": rows, "params": {"farthest": 0.5}}
        assert ask(narrow).json() == {"predictions": expected(0.5)}
        request = json.loads(re.search(r'`(\{"inputs".*\})`', PAGE)[1])
        assert ask(request).json() == {"predictions": ["unknown"]}
        # The page: lists and integers are fine here.
        assert ask({"inputs": [[5, 3, 1, 0]]}).json() == {"predictions": ["setosa"]}
        wrong = ask({"inputs": [[5.1, 3.5, 1.4]]})
        assert wrong.status_code == 400
        assert "Shape of input (1, 3) does not match" in wrong.json()["message"]
    finally:
        service.stop()
