import random
import re
import signal
import time

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from patched import before, run_patched
from running import run_script, uri
from sentences import assert_one_sentence, assert_success
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression
from stores import runs_of

CURVES = ["train_loss", "val_loss", "best_val_loss", "best_epoch"]
SAVED = [1, 6, 11, 16, 21, 26, 31]
KEPT = ["epoch-21", "epoch-31"]
# Of one run on one machine; a kill changes none of it.
SYSTEM = "system/cpu_utilization_percentage"


def curves(client, run_id):
    """The points of each curve as pairs of step and value, in their order."""
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in CURVES
    }


def checkpoints(client, run):
    """The run's checkpoints, in the order of their names."""
    found = client.search_logged_models(
        [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    return sorted(found, key=lambda model: model.name)


def without_steps(store):
    """MLflow's store in a folder forgets the step of a run's value that has a dataset."""
    return store.uri.startswith("file:")


def digest_of(data):
    return mlflow.data.from_pandas(data, targets="target").digest


def test_run_holds_one_point_an_epoch_and_the_best(store):
    run, output = store.lesson("training_loop")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits"
    assert store.files(run.info.run_id) == ["training_loop.py"]
    assert run.data.params == {
        "loss": "log_loss",
        "learning_rate": "constant",
        "eta0": "0.001",
        "alpha": "0",
        "random_state": "42",
    }
    points = curves(store.client, run.info.run_id)
    epochs = range(1, 34)
    for name in CURVES:
        steps = [0 if without_steps(store) and e in SAVED else e for e in epochs]
        assert [step for step, _ in points[name]] == steps
        points[name] = list(zip(epochs, (value for _, value in points[name]), strict=True))
        assert run.data.metrics[name] == points[name][-1][1]  # what the table shows
    losses = dict(points["val_loss"])
    assert min(losses, key=losses.get) == run.data.metrics["best_epoch"] == 23
    assert run.data.metrics["best_val_loss"] == losses[23] == pytest.approx(0.2401, abs=1e-4)
    assert losses[33] > losses[23]
    train = [value for _, value in points["train_loss"]]
    assert train == sorted(train, reverse=True)
    assert "stopped after epoch 33, best val_loss 0.2401 in epoch 23\n" in output
    assert f"go on by: python src/training_loop.py {run.info.run_id}\n" in output
    (used,) = run.inputs.dataset_inputs
    data = load_digits(as_frame=True).frame.astype(float)
    assert used.dataset.name == "digits"
    assert used.dataset.digest == digest_of(data)
    data.loc[1796, "pixel_7_7"] += 1
    assert used.dataset.digest != digest_of(data)


def test_the_best_checkpoint_and_the_last_stay_with_the_scores_of_their_step(store, track_in):
    track_in(store.uri)
    run, output = store.lesson("training_loop")
    points = curves(store.client, run.info.run_id)
    kept = checkpoints(store.client, run)
    assert [model.name for model in kept] == KEPT
    for model in kept:
        step = int(model.params["epoch"])
        own = [m for m in model.metrics if not m.key.startswith("system/")]
        assert {m.key: m.value for m in own} == {name: points[name][step - 1][1] for name in CURVES}
        assert {(m.step, m.dataset_name) for m in own} == {(step, "digits")}
    # The outputs still list the deleted ones, whose files are gone.
    steps = {each.model_id: each.step for each in run.outputs.model_outputs}
    assert sorted(steps.values()) == SAVED
    assert {model.name for model in kept} == {f"epoch-{steps[m.model_id]}" for m in kept}
    for model_id, step in steps.items():
        place = kept[0].artifact_location.replace(kept[0].model_id, model_id)
        files = [file.path for file in get_artifact_repository(place).list_artifacts()]
        assert ("model.skops" in files) == (f"epoch-{step}" in KEPT)
    data = load_digits(as_frame=True)
    loaded = mlflow.sklearn.load_model(kept[0].model_uri)
    assert loaded.score(data.data, data.target) > 0.94
    assert "best checkpoint: epoch-21, right on 94.3% of the validation digits\n" in output


def test_system_metrics_are_there_unless_the_store_is_a_folder(store):
    run, _ = store.lesson("training_loop")
    if store.uri.startswith("file:"):
        # get_run reads each metric's file. Another thread may just have opened it for its first
        # point. Then MLflow ends the run by "Metric 'system/...' is malformed. No data found".
        assert set(run.data.metrics) == set(CURVES)
        return
    points = store.client.get_metric_history(run.info.run_id, SYSTEM)
    assert [point.step for point in points] == list(range(len(points)))
    assert points and "system/system_memory_usage_percentage" in run.data.metrics


@pytest.fixture(scope="module")
def whole(template, tmp_path_factory):
    """The curves of a run that nothing interrupts, and what it printed last."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mlflow.db").write_bytes(template.read_bytes())
    output = assert_success(run_script("training_loop", folder, MLFLOW_TRACKING_URI=uri(folder)))
    (run,) = runs_of(uri(folder), "training-loop")
    return curves(MlflowClient(uri(folder)), run.info.run_id), result_of(output)


def result_of(output):
    """What the script says of the training itself."""
    return re.findall(r"^(?:stopped|best checkpoint).*", output, re.MULTILINE)


def assert_as_if_never_interrupted(folder, output, whole):
    """The one run has one unbroken curve; of its checkpoints the last and the best are whole."""
    (run,) = runs_of(uri(folder), "training-loop")
    client = MlflowClient(uri(folder))
    assert run.info.status == "FINISHED"
    assert curves(client, run.info.run_id) == whole[0]
    assert result_of(output) == whole[1]
    kept = checkpoints(client, run)
    assert [model.name for model in kept] == KEPT
    for model in kept:
        assert model.status == "READY"
        scores = {m.key: m.value for m in model.metrics}
        assert scores["val_loss"] == dict(whole[0]["val_loss"])[int(model.params["epoch"])]
    steps = [point.step for point in client.get_metric_history(run.info.run_id, SYSTEM)]
    assert len(steps) == len(set(steps))
    # Nor does a file of another checkpoint lie anywhere.
    files = (folder / "mlruns").rglob("models/*/artifacts/*")
    assert {path.parts[-3] for path in files} == {model.model_id for model in kept}


def interrupted(folder, call, condition, number, run_id):
    """Run the script until it calls CALL and the CONDITION holds, then send it the signal NUMBER.

    Return the process, and the run's ID as the script's arguments.
    """
    patch = before(call, f"if {condition}: os.kill(os.getpid(), {number})").replace(
        "import mlflow, ",
        "import mlflow.store.tracking.sqlalchemy_store, mlflow.store.artifact.local_artifact_repo\n"
        "import mlflow, ",
    )
    process = run_patched("training_loop", patch, folder, *run_id)
    return process, re.findall(r"training_loop.py (\w+)\n", process.stdout)


def resumed(folder, run_id):
    """What the script prints that goes on to the end."""
    return assert_success(
        run_script("training_loop", folder, *run_id, MLFLOW_TRACKING_URI=uri(folder))
    )


REMOVE = "mlflow.store.artifact.local_artifact_repo.LocalArtifactRepository.delete_artifacts"
# Between the points of the run and those of the checkpoint, which one call writes.
BETWEEN = "mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore._log_model_metrics"


@pytest.mark.ci
def test_killed_at_each_weak_moment_it_goes_on_as_if_never_interrupted(folder, whole):
    run_id = []
    for call, condition in [
        ("mlflow.log_metrics", "number == 4"),  # between two epochs
        ("mlflow.sklearn.log_model", "number == 2"),  # in epoch 11, with no checkpoint yet
        ("MlflowClient.finalize_logged_model", "number == 1"),  # its files are there
        ("mlflow.log_metrics", "number == 1"),  # it is whole, but has no scores
        ("mlflow.log_metrics", "number == 3"),
        (BETWEEN, "args[2] and args[2][0].model_id and args[2][0].step == 16"),
        (REMOVE, "number == 2"),  # the first is the checkpoint without scores
        ("MlflowClient.delete_logged_model", "number == 1"),  # without files, and still listed
        ("mlflow.log_metrics", "number == 8"),
    ]:
        killed, run_id = interrupted(folder, call, condition, signal.SIGKILL, run_id)
        assert killed.returncode == -signal.SIGKILL, (call, killed.stderr)
        (run,) = runs_of(uri(folder), "training-loop")
        assert (run_id, run.info.status) == ([run.info.run_id], "RUNNING")
    assert_as_if_never_interrupted(folder, resumed(folder, run_id), whole)


@pytest.mark.ci
def test_killed_at_any_moment_it_goes_on_as_if_never_interrupted(folder, whole):
    chance, run_id, kills = random.Random(16), [], 0
    while kills < 6:
        delay = chance.uniform(0.1, 2)
        alarm = f"__import__('signal').setitimer(__import__('signal').ITIMER_REAL, {delay})"
        patch = before("mlflow.log_params", alarm)
        process = run_patched("training_loop", patch, folder, *run_id)
        run_id = re.findall(r"training_loop.py (\w+)\n", process.stdout)
        if process.returncode == 0:  # it was quicker
            break
        assert process.returncode == -signal.SIGALRM, process.stderr
        kills += 1
    assert kills
    assert_as_if_never_interrupted(folder, resumed(folder, run_id), whole)


@pytest.mark.ci
def test_after_ctrl_c_the_run_is_failed_and_goes_on(folder, whole):
    stopped, run_id = interrupted(folder, "mlflow.log_metrics", "number == 9", signal.SIGINT, [])
    assert (stopped.returncode, stopped.stderr) == (130, "Interrupted: what was logged is kept\n")
    (run,) = runs_of(uri(folder), "training-loop")
    assert (run.info.status, run_id) == ("FAILED", [run.info.run_id])
    points = curves(MlflowClient(uri(folder)), run.info.run_id)
    assert points == {name: each[:8] for name, each in whole[0].items()}
    output = resumed(folder, run_id)
    assert_as_if_never_interrupted(folder, output, whole)
    # Once more, at its end.
    again = resumed(folder, run_id)
    assert "epoch-" not in again.split("stopped")[0]
    assert_as_if_never_interrupted(folder, again, whole)


@pytest.mark.ci
def test_an_id_that_is_not_of_the_experiment_is_refused_in_one_sentence(folder):
    client = MlflowClient(uri(folder))
    for word in "0" * 32, "it's", client.create_run("0").info.run_id:
        result = run_script("training_loop", folder, word, MLFLOW_TRACKING_URI=uri(folder))
        assert_one_sentence(result, f"The experiment training-loop has no run with the ID {word}")
    assert not runs_of(uri(folder), "training-loop")


@pytest.fixture
def here(folder, track_in):
    """This process logs into the database in FOLDER; return a client."""
    track_in(uri(folder))
    return MlflowClient()


def system_metrics(client, run):
    return [name for name in client.get_run(run.info.run_id).data.metrics if "system/" in name]


@pytest.mark.facts
@pytest.mark.ci
def test_without_psutil_a_run_with_system_metrics_stays_running(here, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(mlflow.MlflowException, match="pip install psutil"):
        with mlflow.start_run(log_system_metrics=True):
            raise AssertionError("it isn't reached")
    (run,) = here.search_runs(["0"])
    assert run.info.status == "RUNNING"


@pytest.mark.facts
@pytest.mark.ci
def test_system_metrics_of_a_short_run_and_of_a_child_are_missing(here):
    with mlflow.start_run(log_system_metrics=True) as short:
        time.sleep(2)
    assert not system_metrics(here, short)
    mlflow.set_system_metrics_sampling_interval(0.1)
    try:
        with mlflow.start_run(log_system_metrics=True) as parent:
            with mlflow.start_run(nested=True) as child:
                time.sleep(1)
    finally:
        mlflow.set_system_metrics_sampling_interval(None)
    assert system_metrics(here, parent) and not system_metrics(here, child)


@pytest.mark.facts
@pytest.mark.ci
def test_which_points_land_on_a_checkpoint(here, folder):
    """What the page warns of."""
    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    experiment_id = here.create_experiment("traps", folder.as_uri())
    with mlflow.start_run(experiment_id=experiment_id):
        mlflow.log_metric("system/of_step_0", 1)
        first, third = (
            mlflow.sklearn.log_model(
                model, name=f"epoch-{step}", step=step, pip_requirements=["scikit-learn"]
            ).model_id
            for step in (0, 2)
        )
        mlflow.log_metric("final_test", 99)
        mlflow.log_metrics({"val_loss": 0.5}, step=2)
        mlflow.log_metrics({"val_loss": 0.4}, step=3)

    def scores(model_id):
        return {m.key: m.value for m in here.get_logged_model(model_id).metrics}

    assert scores(first) == {"system/of_step_0": 1, "final_test": 99}
    assert scores(third) == {"val_loss": 0.5}
    here.delete_logged_model(first)
    assert list(folder.rglob(f"{first}/artifacts/MLmodel"))
    (run,) = here.search_runs([experiment_id])
    assert first in {each.model_id for each in run.outputs.model_outputs}
