"""The commands of older-tutorials.md turn an old ./mlruns into a database that says the same,
and that MLflow opens by default."""

import hashlib
import json
import re
import sys

import pytest
from doc_tables import blocks, text_of
from running import run

pytestmark = [pytest.mark.ci, pytest.mark.facts]
PAGE = text_of("older-tutorials.md")
SECTION = PAGE[PAGE.index("## An old ./mlruns folder") :]
MARKED = (
    r'^<!-- skip: next "run by tests/test_migrate_filestore\.py[^\n]*" -->\n```bash\n(.*?)^```$'
)
MIGRATE, REPAIR, RENAME, SHOW = re.findall(MARKED, SECTION, re.MULTILINE | re.DOTALL)

# Runs on MLflow 2 and 3.
WRITE = """
import mlflow
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

client = MlflowClient()
X, y = load_diabetes(as_frame=True, return_X_y=True)
line = LinearRegression().fit(X, y)
mlflow.set_experiment("kept")
mlflow.set_experiment_tags({"team": "a"})
with mlflow.start_run(run_name="parent"):
    mlflow.log_params({"alpha": 0.1, "depth": None})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metric("loss", 0.5, step=2)
    run_id = mlflow.active_run().info.run_id
    for _ in range(2):
        client.log_metric(run_id, "in one/millisecond", 1.0, timestamp=1_700_000_000_000)
    mlflow.log_metrics({"nothing": float("nan"), "endless": float("inf"), "low": float("-inf")})
    mlflow.set_tags({"purpose": "test", "mlflow.note.content": "two\\nlines, \\u00fcber"})
    mlflow.log_text("hello", "notes/hello.txt")
    dataset = mlflow.data.from_pandas(X, name="diabetes")
    mlflow.log_input(dataset, context="training")
    for child in range(2):
        with mlflow.start_run(run_name=f"child {child}", nested=True):
            mlflow.log_metric("r2", child)
    for _ in range(2):
        mlflow.sklearn.log_model(
            line,
            "model",
            registered_model_name="line",
            signature=infer_signature(X, y),
            pip_requirements=["scikit-learn"],
        )
with mlflow.start_run(run_name="deleted") as deleted:
    mlflow.log_text("deleted", "deleted.txt")
mlflow.delete_run(deleted.info.run_id)
try:
    with mlflow.start_run(run_name="failed"):
        raise KeyError
except KeyError:
    pass
client.set_registered_model_alias("line", "champion", 1)
client.set_registered_model_tag("line", "task", "regression")
client.transition_model_version_stage("line", 2, "Production")
client.set_model_version_tag("line", 1, "status", "candidate")
client.update_model_version("line", 1, "the first")
mlflow.set_experiment("gone")
with mlflow.start_run(run_name="of a deleted experiment") as run:
    mlflow.log_text("still here", "gone.txt")
mlflow.delete_experiment(run.info.experiment_id)
with mlflow.start_run(experiment_id="0", run_name="in Default"):
    mlflow.log_param("a", 1)
"""

# All that a store says, as JSON; runs on MLflow 2 and 3 and on both kinds of store.
DUMP = """
import json, math, sys
import mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType
from sklearn.datasets import load_diabetes

client = MlflowClient()
X = load_diabetes(as_frame=True).data.head()


def plain(value):
    # A database can't hold infinity: the largest number stands for it.
    if isinstance(value, float) and math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    return "NaN" if value != value else value


def files(run_id, folder=None):
    for file in client.list_artifacts(run_id, folder):
        if file.is_dir:
            yield from files(run_id, file.path)
        else:
            yield file.path, open(client.download_artifacts(run_id, file.path), "rb").read().hex()


store = {"experiments": {}, "runs": {}, "models": {}}
# First, for loading a version adds a file to it.
for model in client.search_registered_models():
    versions = {}
    for found in client.search_model_versions(f"name = '{model.name}'"):
        v = client.get_model_version(model.name, found.version)
        loaded = mlflow.sklearn.load_model(f"models:/{model.name}/{v.version}")
        versions[str(v.version)] = [
            v.current_stage, v.aliases, v.tags, v.description, v.source, v.run_id, v.status,
            v.creation_timestamp, list(loaded.predict(X)),
        ]
    aliases = {alias: str(number) for alias, number in model.aliases.items()}
    store["models"][model.name] = [aliases, model.tags, model.description, versions]
for experiment in client.search_experiments(view_type=ViewType.ALL):
    store["experiments"][experiment.experiment_id] = [
        experiment.name, experiment.lifecycle_stage, experiment.artifact_location, experiment.tags,
        experiment.creation_time, experiment.last_update_time,
    ]
    for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL):
        history = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        gone = experiment.lifecycle_stage == "deleted"
        store["runs"][run.info.run_id] = {
            "info": {k: v for k, v in dict(run.info).items() if k != "run_uuid"},
            "params": run.data.params,
            "metrics": {key: plain(value) for key, value in run.data.metrics.items()},
            "history": {
                key: sorted({(m.step, m.timestamp, plain(m.value)) for m in points})
                for key, points in history.items()
            },
            "tags": run.data.tags,
            "inputs": [i.to_dictionary() for i in run.inputs.dataset_inputs],
            "files": [] if gone else sorted(files(run.info.run_id)),
        }
json.dump(store, open(sys.argv[1], "w"))
"""

USE = """
import mlflow
from mlflow import MlflowClient

client = MlflowClient()
mlflow.set_experiment("kept")
with mlflow.start_run(run_name="new"):
    mlflow.log_text("new", "new.txt")
mlflow.set_experiment("a new experiment")
with mlflow.start_run():
    mlflow.log_metric("a", 1)
gone = client.get_experiment_by_name("gone")
client.restore_experiment(gone.experiment_id)
(run,) = client.search_runs([gone.experiment_id])
assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/gone.txt") == "still here"
assert mlflow.sklearn.load_model("models:/line@champion").coef_.size == 10
assert mlflow.sklearn.load_model("models:/line/Production").coef_.size == 10
(run,) = mlflow.search_runs(
    experiment_names=["kept"],
    filter_string="attributes.run_name = 'parent'",
    output_format="list",
)
assert mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model").coef_.size == 10
"""


def python(code, folder, *args, executable=sys.executable, **env):
    """Run Python code in FOLDER; return what it printed."""
    done = run([executable, "-W", "ignore", "-c", code, *args], folder, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(commands, folder, answer=""):
    """Run a block of the page in FOLDER and answer its question."""
    return run(["bash", "-ec", commands], folder, input=answer)


def contents(folder):
    """Every file below FOLDER with the digest of its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(folder):
    """Whether MLflow by default takes ./mlruns for the store and won't open it."""
    done = bash('python -c "import mlflow; mlflow.search_runs()"', folder)
    return done.returncode == 1 and "is in maintenance mode" in done.stderr


@pytest.mark.parametrize("writer", ["today", "2.22"])
def test_an_old_folder_becomes_a_database(writer, tmp_path, request):
    old = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_TRACKING_URI": "./mlruns"}
    if writer == "2.22":
        old["executable"] = request.getfixturevalue("old_python")
    folder = tmp_path / "project"
    folder.mkdir()
    python(WRITE + DUMP, folder, tmp_path / "before.json", **old)
    before = json.loads((tmp_path / "before.json").read_text())
    assert len(before["experiments"]) == 3 and len(before["runs"]) == 7
    assert [len(versions) for *_, versions in before["models"].values()] == [2]
    assert refused(folder)
    files = contents(folder)

    failed = bash(MIGRATE, folder)
    assert failed.returncode == 1 and "UNIQUE constraint failed" in failed.stderr
    assert contents(folder / "mlruns") == files
    repaired = bash(REPAIR, folder)
    assert repaired.returncode == 0, repaired.stderr
    changed = {
        name for name, digest in contents(folder / "mlruns").items() if digest != files[name]
    }
    assert changed and all(re.search("/(m-)?[0-9a-f]{32}/metrics/", name) for name in changed)
    files = contents(folder / "mlruns")
    migrated = bash(MIGRATE, folder, "y\n")
    assert migrated.returncode == 0 and "Overwrite?" in migrated.stdout, migrated.stderr
    database = (folder / "mlflow.db").read_bytes()
    again = bash(MIGRATE, folder)
    assert again.returncode == 1 and "Overwrite?" in again.stdout
    assert (folder / "mlflow.db").read_bytes() == database
    assert contents(folder / "mlruns") == files
    assert refused(folder)

    renamed = bash(RENAME, folder)
    assert renamed.returncode == 0, renamed.stderr
    (shown,) = blocks("older-tutorials.md", "text", "## An old ./mlruns folder")
    expected = shown.replace("/...", str(folder))
    assert bash(SHOW, folder).stdout == expected
    python(DUMP, folder, tmp_path / "after.json")
    after = json.loads((tmp_path / "after.json").read_text())
    assert after == before

    python(USE + DUMP, folder, tmp_path / "used.json")
    assert bash(SHOW, folder).stdout == expected
    used = json.loads((tmp_path / "used.json").read_text())
    assert len(used["runs"]) == len(before["runs"]) + 2
