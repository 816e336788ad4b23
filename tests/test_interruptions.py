"""What the reader sees and the store holds when a script is interrupted or its store fails."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from functools import partial

import pytest
from mlflow import MlflowClient
from running import ENV, ROOT, at_once, run, run_script, uri

KEPT = "; an open run is marked FAILED, what it logged is kept\n"


def runs_in(folder, name):
    """All runs of an experiment, oldest first."""
    client = MlflowClient(uri(folder))
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def interrupt_search(folder, number):
    """Start hypertune2 and send it the signal NUMBER when it has logged six runs; its ending."""
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, ROOT / "src" / "hypertune2.py"],
            cwd=folder,
            env=ENV | {"MLFLOW_TRACKING_URI": uri(folder)},
            stdout=subprocess.DEVNULL,
            stderr=printed,
            start_new_session=True,
        )
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        deadline = time.monotonic() + 120
        while database.execute("SELECT count(*) FROM runs").fetchone()[0] < 6:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
    os.kill(process.pid, number)
    process.wait(60)
    # Workers of a killed search would wait for five minutes for their parent.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, (folder / "printed").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_search_is_failed_and_keeps_its_children(folder, number):
    code, error = interrupt_search(folder, number)
    assert code != 0
    assert error == f"Interrupted{KEPT}"
    parent, *children = runs_in(folder, "hypertune2")
    assert parent.info.status == "FAILED"
    assert parent.info.end_time
    assert parent.data.params["cv"] == "5"
    assert len(children) >= 5
    finished = [child for child in children if child.info.status == "FINISHED"]
    assert len(finished) >= len(children) - 1
    for child in finished:
        assert len(child.data.params) == 2 and len(child.data.metrics) == 9


INTERRUPTED_AGAIN_AND_AGAIN = """
import random, signal
import mlflow
from tracking import connect

connect()
experiment_id = mlflow.set_experiment("interrupted").experiment_id
signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGINT))
moments = random.Random(42)
for attempt in range(40):
    try:
        with mlflow.start_run(experiment_id=experiment_id):
            signal.setitimer(signal.ITIMER_REAL, 0.1 * moments.random())
            while True:
                with mlflow.start_run(experiment_id=experiment_id, nested=True):
                    mlflow.log_params({"depth": 2, "trees": 16})
    except KeyboardInterrupt:
        while mlflow.active_run():
            mlflow.end_run("FAILED")
"""


def test_whenever_an_interrupt_comes_the_run_is_ended(folder):
    # One in the middle of a transaction would leave it open, and the database locked.
    env = {"MLFLOW_TRACKING_URI": uri(folder), "PYTHONPATH": str(ROOT / "src")}
    result = run([sys.executable, "-c", INTERRUPTED_AGAIN_AND_AGAIN], folder, timeout=120, **env)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    runs = runs_in(folder, "interrupted")
    parents = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert [each.info.status for each in parents] == ["FAILED"] * 40
    assert {each.info.status for each in runs} == {"FAILED", "FINISHED"}
    for each in runs:
        if each.info.status == "FINISHED":
            assert each.data.params == {"depth": "2", "trees": "16"}


def test_killed_search_stays_running_and_the_next_one_is_whole(folder):
    code, _ = interrupt_search(folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    parent, *children = runs_in(folder, "hypertune2")
    assert (parent.info.status, parent.info.end_time) == ("RUNNING", None)
    assert len([child for child in children if child.info.status == "FINISHED"]) >= 4

    refused = run_script("register_model", folder, MLFLOW_TRACKING_URI=uri(folder))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "run python src/hypertune2.py first" in refused.stderr

    assert run_script("hypertune2", folder, MLFLOW_TRACKING_URI=uri(folder)).returncode == 0
    later = runs_in(folder, "hypertune2")[1 + len(children) :]
    assert [each.info.status for each in later] == ["FINISHED"] * 17


def test_a_kill_while_the_database_is_made_leaves_none_that_is_half_made(tmp_path):
    script = [sys.executable, ROOT / "src" / "log_dataset.py"]
    env = ENV | {"MLFLOW_TRACKING_URI": uri(tmp_path)}
    process = subprocess.Popen(script, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("*/mlflow.db")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert run_script("log_dataset", tmp_path, MLFLOW_TRACKING_URI=uri(tmp_path)).returncode == 0


@pytest.mark.parametrize("name", ["basic_run", "autolog", "hypertune2"])
def test_files_that_cannot_be_written_fail_the_run_and_keep_its_values(folder, name):
    (folder / "mlruns").write_text("a file where the folder for files should be")
    result = run_script(name, folder, MLFLOW_TRACKING_URI=uri(folder))
    assert result.returncode == 1
    runs = runs_in(folder, name.replace("_", "-"))
    assert runs[0].data.params
    assert result.stderr.endswith(KEPT), result.stderr
    assert "Traceback" not in result.stderr
    assert {each.info.status for each in runs} == {"FAILED"}


def run_patched(name, patch, folder):
    """Run the lesson after the code PATCH, which changes MLflow."""
    src = ROOT / "src"
    code = f"{patch}\nimport runpy\nrunpy.run_path({str(src / name)!r} + '.py')"
    command = [sys.executable, "-c", code]
    return run(command, folder, PYTHONPATH=str(src), MLFLOW_TRACKING_URI=uri(folder))


def failing(call, number):
    """Code that makes MLflow's function CALL raise at its NUMBERth call."""
    return f"""
import itertools
import mlflow
calls, real = itertools.count(1), mlflow.{call}
def failing(*args, **kwargs):
    if next(calls) == {number}:
        raise RuntimeError("as a bug would")
    return real(*args, **kwargs)
mlflow.{call} = failing
"""


def test_an_exception_in_a_run_shows_the_bug_and_keeps_what_was_logged(folder):
    result = run_patched("basic_run", failing("log_figure", 1), folder)
    assert result.returncode == 1
    assert result.stderr.endswith("RuntimeError: as a bug would\n")
    (run,) = runs_in(folder, "basic-run")
    assert run.info.status == "FAILED"
    assert run.data.metrics["test_accuracy"] == 17 / 18


def test_an_exception_in_a_child_fails_child_and_parent(folder):
    # The first call of log_metrics is the first child's.
    result = run_patched("hypertune2", failing("log_metrics", 3), folder)
    assert result.returncode == 1
    assert result.stderr.endswith("RuntimeError: as a bug would\n")
    statuses = [each.info.status for each in runs_in(folder, "hypertune2")]
    assert statuses == ["FAILED", "FINISHED", "FINISHED", "FAILED"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder])
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk: run the tests as root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_full_disk(small_disk, template):
    shutil.copy(template, small_disk)
    space = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (space.f_bavail * space.f_bsize - 8192))
    result = run_script("basic_run", small_disk, MLFLOW_TRACKING_URI=uri(small_disk))
    assert result.returncode == 1
    assert "full" in result.stderr or "No space left" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    (small_disk / "ballast").unlink()
    assert run_script("basic_run", small_disk, MLFLOW_TRACKING_URI=uri(small_disk)).returncode == 0
    assert runs_in(small_disk, "basic-run")[-1].info.status == "FINISHED"


def test_read_only_disk(small_disk, template):
    shutil.copy(template, small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    began = time.monotonic()
    for name in "mlflow.db", "new.db":
        store = f"sqlite:///{small_disk}/{name}"
        result = run_script("basic_run", small_disk, MLFLOW_TRACKING_URI=store)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert "read" in result.stderr.lower()
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(True, id="new database"),
        pytest.param(False, id="database that is there", marks=pytest.mark.ci),
    ],
)
def test_eight_processes_at_once(tmp_path, template, new):
    if not new:
        shutil.copy(template, tmp_path)
    lesson = partial(run_script, "log_dataset", tmp_path, MLFLOW_TRACKING_URI=uri(tmp_path))
    processes = at_once(*[lesson] * 8)
    errors = [process.stderr for process in processes]
    runs = runs_in(tmp_path, "log-dataset")
    # One that describes the same new dataset in the same instant may be refused, in one sentence.
    refused = [error for error in errors if error]
    for error in refused:
        assert "UNIQUE constraint failed: datasets" in error and error.count("\n") == 1, error
    assert len(refused) < 8
    assert [process.returncode for process in processes].count(1) == len(refused)
    assert [each.info.status for each in runs].count("FAILED") == len(refused)
    finished = [each for each in runs if each.info.status == "FINISHED"]
    assert 2 * (8 - len(refused)) <= len(finished) <= 16 - len(refused)
    for each in finished:
        assert each.inputs.dataset_inputs
    assert not MlflowClient(uri(tmp_path)).search_runs(["0"])
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db"}


def test_runs_go_to_the_scripts_experiment_also_for_the_loser_of_the_race(folder):
    """MLflow doesn't switch to an experiment that another process made just before."""
    beaten = """
from mlflow.tracking._tracking_service.client import TrackingServiceClient as Service
real = Service.create_experiment
def beaten(self, name, *args, **kwargs):
    real(self, name)
    return real(self, name, *args, **kwargs)
Service.create_experiment = beaten
"""
    for name, expected in ("basic_run", 1), ("log_dataset", 2), ("hypertune2", 17):
        result = run_patched(name, beaten, folder)
        assert result.returncode == 0, result.stderr
        assert len(runs_in(folder, name.replace("_", "-"))) == expected
    assert not MlflowClient(uri(folder)).search_runs(["0"])


@pytest.mark.parametrize("name", ["select_experiment", "hypertune2"])
def test_a_left_over_run_id_is_ignored_and_said(folder, name):
    client = MlflowClient(uri(folder))
    old = client.create_run("0")
    result = run_script(
        name, folder, MLFLOW_TRACKING_URI=uri(folder), MLFLOW_RUN_ID=old.info.run_id
    )
    assert result.returncode == 0, result.stderr
    assert "MLFLOW_RUN_ID is ignored" in result.stdout
    after = client.get_run(old.info.run_id)
    assert (after.data.params, after.data.metrics) == ({}, {})
    assert runs_in(folder, name.replace("_", "-"))


@pytest.mark.parametrize(
    "env",
    [
        {"MLFLOW_EXPERIMENT_NAME": "elsewhere"},
        {"MLFLOW_EXPERIMENT_ID": "0"},
        {"MLFLOW_EXPERIMENT_ID": "777", "MLFLOW_EXPERIMENT_NAME": "elsewhere"},
    ],
    ids=lambda env: "+".join(env),
)
def test_an_experiment_in_the_environment_does_not_divert_a_lesson(folder, env):
    result = run_script("log_dataset", folder, MLFLOW_TRACKING_URI=uri(folder), **env)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert len(runs_in(folder, "log-dataset")) == 2
    assert not MlflowClient(uri(folder)).get_experiment_by_name("elsewhere")
    assert not MlflowClient(uri(folder)).search_runs(["0"])
