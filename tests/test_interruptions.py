"""What the reader sees and the store holds when a script is interrupted or its store fails."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest
from filled import copy_before
from lessons import copy_with_grid
from mlflow import MlflowClient
from patched import run_patched
from running import ENV, PYTHON, ROOT, at_once, run, run_script, uri
from stores import runs_of

pytestmark = pytest.mark.ci
INTERRUPTED = "Interrupted: what was logged is kept\n"
GRID = {"n_estimators": [16, 32], "max_depth": [2, 4, 8]}


def statuses(runs):
    return [each.info.status for each in runs]


def interrupt_search(folder, number):
    """Start a small search, send it the signal NUMBER when it has logged four runs; its ending."""
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, copy_with_grid(folder, "hypertune2", GRID)],
            cwd=folder,
            env=ENV | {"MLFLOW_TRACKING_URI": uri(folder)},
            stdout=subprocess.DEVNULL,
            stderr=printed,
            start_new_session=True,
        )
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        deadline = time.monotonic() + 120
        while database.execute("SELECT count(*) FROM runs").fetchone()[0] < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
    os.kill(process.pid, number)
    process.wait(60)
    return process.returncode, (folder / "printed").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_search_is_failed_and_keeps_its_children(folder, number):
    code, error = interrupt_search(folder, number)
    assert (code, error) == (128 + number, INTERRUPTED)
    parent, *children = runs_of(uri(folder), "hypertune2")
    assert parent.info.status == "FAILED"
    assert parent.info.end_time
    assert parent.data.params["cv"] == "5"
    assert len(children) >= 3
    finished = [child for child in children if child.info.status == "FINISHED"]
    assert len(finished) >= len(children) - 1
    for child in finished:
        assert len(child.data.params) == 2 and len(child.data.metrics) == 9


LOOP = """
import random, signal, sys
import mlflow
from interrupts import exit_on_interrupt

exit_on_interrupt()
signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGTERM))
with mlflow.start_run():
    signal.setitimer(signal.ITIMER_REAL, 0.1 * random.Random(int(sys.argv[1])).random())
    while True:
        with mlflow.start_run(nested=True):
            mlflow.log_params({"depth": 2, "trees": 16})
"""


def test_whenever_an_interrupt_comes_the_run_is_ended(folder):
    # One in the middle of a transaction would leave it open, and the database locked.
    env = {"MLFLOW_TRACKING_URI": uri(folder), "PYTHONPATH": str(ROOT / "src")}
    for seed in range(40):
        result = run([PYTHON, "-c", LOOP, str(seed)], folder, timeout=60, **env)
        assert (result.returncode, result.stderr) == (128 + signal.SIGALRM, INTERRUPTED), seed
    runs = runs_of(uri(folder), "Default")
    parents = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert statuses(parents) == ["FAILED"] * 40
    assert set(statuses(runs)) == {"FAILED", "FINISHED"}
    for each in runs:
        if each.info.status == "FINISHED":
            assert each.data.params == {"depth": "2", "trees": "16"}


def test_killed_search_stays_running_and_the_next_one_is_whole(folder):
    code, _ = interrupt_search(folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    parent, *children = runs_of(uri(folder), "hypertune2")
    assert (parent.info.status, parent.info.end_time) == ("RUNNING", None)
    assert statuses(children).count("FINISHED") >= 2

    refused = run_script("register_model", folder, MLFLOW_TRACKING_URI=uri(folder))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "run python src/hypertune2.py first" in refused.stderr

    env = {"MLFLOW_TRACKING_URI": uri(folder)}
    assert run_script("hypertune2", folder, root=folder, **env).returncode == 0
    later = runs_of(uri(folder), "hypertune2")[1 + len(children) :]
    assert statuses(later) == ["FINISHED"] * 7


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
    copy_before(folder, name)
    (folder / "mlruns").write_text("a file where the folder for files should be")
    result = run_script(name, folder, root=folder, MLFLOW_TRACKING_URI=uri(folder))
    assert result.returncode == 1
    runs = runs_of(uri(folder), name.replace("_", "-"))
    assert runs[0].data.params
    assert result.stderr.count("Traceback (most recent call last)") == 1
    assert re.search(r"\n\w+Error: .*mlruns", result.stderr), result.stderr
    assert set(statuses(runs)) == {"FAILED"}


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
    (run,) = runs_of(uri(folder), "basic-run")
    assert run.info.status == "FAILED"
    assert run.data.metrics["test_accuracy"] == 17 / 18


def test_an_exception_in_a_child_fails_child_and_parent(folder):
    # The first call of log_metrics is the first child's.
    copy_before(folder, "hypertune2")
    result = run_patched("hypertune2", failing("log_metrics", 3), folder, root=folder)
    assert result.returncode == 1
    assert result.stderr.endswith("RuntimeError: as a bug would\n")
    ended = statuses(runs_of(uri(folder), "hypertune2"))
    assert ended == ["FAILED", "FINISHED", "FINISHED", "FAILED"]


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
    assert "database or disk is full" in result.stderr or "No space left" in result.stderr
    (small_disk / "ballast").unlink()
    assert run_script("basic_run", small_disk, MLFLOW_TRACKING_URI=uri(small_disk)).returncode == 0
    assert runs_of(uri(small_disk), "basic-run")[-1].info.status == "FINISHED"


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


@pytest.mark.parametrize("new", [True, False], ids=["new database", "database that is there"])
def test_eight_processes_at_once(tmp_path, template, new):
    if not new:
        shutil.copy(template, tmp_path)
    lesson = partial(run_script, "basic_run", tmp_path, MLFLOW_TRACKING_URI=uri(tmp_path))
    for result in at_once(*[lesson] * 8):
        assert (result.returncode, result.stderr) == (0, "")
    assert statuses(runs_of(uri(tmp_path), "basic-run")) == ["FINISHED"] * 8
    assert not MlflowClient(uri(tmp_path)).search_runs(["0"])
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlruns"}


def test_eight_processes_at_once_with_a_dataset_that_is_known(folder):
    lesson = partial(run_script, "log_dataset", folder, MLFLOW_TRACKING_URI=uri(folder))
    for result in [lesson(), *at_once(*[lesson] * 8)]:
        assert (result.returncode, result.stderr) == (0, "")
    runs = runs_of(uri(folder), "log-dataset")
    assert statuses(runs) == ["FINISHED"] * 18
    for each in runs:
        assert each.inputs.dataset_inputs


def test_of_two_that_describe_the_same_new_dataset_in_one_instant_one_is_refused(folder):
    """Between its look for the dataset and its write, another process writes it."""
    script = str(ROOT / "src" / "log_dataset.py")
    between = f"""
import subprocess, sys, uuid
import mlflow.store.tracking.sqlalchemy_store as store
class Between:
    def uuid4(self):
        if sys._getframe(1).f_code.co_name == "_log_inputs_impl":
            store.uuid = uuid
            subprocess.run({[str(PYTHON), script]}, check=True, stdout=subprocess.DEVNULL)
        return uuid.uuid4()
store.uuid = Between()
"""
    result = run_patched("log_dataset", between, folder, MLFLOW_TRACKING_URI=uri(folder))
    assert result.returncode == 1
    assert "IntegrityError) UNIQUE constraint failed: datasets" in result.stderr
    # The refused one began first; the other one has logged its two runs.
    assert statuses(runs_of(uri(folder), "log-dataset")) == ["FAILED", "FINISHED", "FINISHED"]


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
    copy_before(folder, "hypertune2")
    for name, expected in ("basic_run", 1), ("log_dataset", 2), ("hypertune2", 5):
        result = run_patched(name, beaten, folder, root=folder)
        assert result.returncode == 0, result.stderr
        assert len(runs_of(uri(folder), name.replace("_", "-"))) == expected
    assert not MlflowClient(uri(folder)).search_runs(["0"])


@pytest.mark.parametrize("name", ["select_experiment", "hypertune2"])
def test_a_left_over_run_id_is_ignored_and_said(folder, name):
    client = MlflowClient(uri(folder))
    old = client.create_run("0")
    copy_before(folder, name)
    env = {"MLFLOW_TRACKING_URI": uri(folder), "MLFLOW_RUN_ID": old.info.run_id}
    result = run_script(name, folder, root=folder, **env)
    assert result.returncode == 0, result.stderr
    assert "MLFLOW_RUN_ID is ignored" in result.stdout
    after = client.get_run(old.info.run_id)
    assert (after.data.params, after.data.metrics) == ({}, {})
    assert runs_of(uri(folder), name.replace("_", "-"))


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
    assert len(runs_of(uri(folder), "log-dataset")) == 2
    assert not MlflowClient(uri(folder)).get_experiment_by_name("elsewhere")
    assert not MlflowClient(uri(folder)).search_runs(["0"])
