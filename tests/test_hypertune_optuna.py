"""In hypertune_optuna no trial counts twice, whoever joins the search, is killed or fails."""

import re
import signal
import time
from collections import Counter
from functools import partial

import mlflow
import optuna
import pytest
from doc_tables import tables
from lessons import copy_with_trials
from mlflow import MlflowClient
from mlflow.optuna.storage import MlflowStorage
from optuna_integration import MLflowCallback
from patched import before, run_patched, without_connect
from running import PYTHON, at_once, run, run_script, uri
from sentences import assert_one_sentence, assert_success
from stores import children_of, contents, files_of, runs_of

TRIALS = 4
PLOTS = ["optimization_history.png", "param_importances.png", "slice.png"]
STATES = {"complete": "COMPLETE", "pruned": "PRUNED"}


def start(folder, *args, patch="", trials=TRIALS, **env):
    """Run a small search in FOLDER after the code PATCH; return the process."""
    copy_with_trials(folder, trials)
    return run_patched("hypertune_optuna", patch, folder, *args, root=folder, **env)


def id_of(process):
    """The ID of the search, as the process prints it for others."""
    return re.search(r"go on: python src/hypertune_optuna.py (\w+)\n", process.stdout)[1]


def family(store, run_id):
    """The run of the search, and its children by name."""
    parent, *others = sorted(runs_of(store, "hypertune-optuna"), key=lambda r: r.info.start_time)
    assert parent.info.run_id == run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in others} <= {run_id}
    children = {run.info.run_name: run for run in others}
    assert len(children) == len(others)
    return parent, children


def trials_in(folder, run_id):
    """Optuna's trials of the search by the names of their runs."""
    study = optuna.load_study(study_name=run_id, storage=f"sqlite:///{folder}/optuna.db")
    return {f"trial {trial.number}": trial for trial in study.trials}


def assert_searched(store, folder, run_id, trials=TRIALS):
    """So many trials count, each has one child with the same numbers, and the parent the best."""
    parent, children = family(store, run_id)
    client, searched = MlflowClient(store), trials_in(folder, run_id)
    states = {name: trial.state.name for name, trial in searched.items()}
    counted = {name for name, state in states.items() if state in STATES.values()}
    assert len(counted) == trials
    assert {name for name, run in children.items() if run.info.status == "FINISHED"} == counted
    for name in counted:
        trial, child = searched[name], children[name]
        assert STATES[child.data.tags["trial"]] == trial.state.name
        assert child.data.params == {key: str(value) for key, value in trial.params.items()}
        points = client.get_metric_history(child.info.run_id, "test_score")
        assert [point.step for point in points] == list(trial.intermediate_values)
        mean = sum(point.value for point in points) / len(points)
        assert mean == pytest.approx(trial.value)
        whole = trial.state.name == "COMPLETE"
        assert len(points) == 5 or not whole
        assert child.data.metrics.get("mean_test_score") == (trial.value if whole else None)
    lost = {run.info.status for name, run in children.items() if name not in counted}
    assert lost <= {"KILLED", "FAILED"}
    best = max(searched[n].value for n in counted if states[n] == "COMPLETE")
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"cv": "5", "random_state": "42", "test_size": "0.2"}
    assert parent.data.metrics == {"best_cv_score": best}
    tags = {key: parent.data.tags[f"best_{key}"] for key in ("n_estimators", "max_depth")}
    best_params = [searched[n].params for n in counted if searched[n].value == best]
    assert tags in [{key: str(value) for key, value in each.items()} for each in best_params]
    assert files_of(client, run_id) == ["hypertune_optuna.py", *PLOTS]


def test_a_trial_is_a_child_run(folder):
    process = start(folder, trials=2)
    printed = assert_success(process)
    assert_searched(uri(folder), folder, id_of(process), 2)
    parent, children = family(uri(folder), id_of(process))
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    best = parent.data.metrics["best_cv_score"]
    assert re.search(rf"best of 2 trials: {{.*}}\ncross-validation accuracy: {best:.4f}\n", printed)
    assert f'\nRun "optuna", ID {parent.info.run_id}\n' in printed


def test_without_optuna(tmp_path):
    (tmp_path / "optuna.py").write_text("raise ImportError")
    process = run_script("hypertune_optuna", tmp_path, PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    assert process.stderr == "This lesson needs Optuna: pip install -r requirements-optuna.txt\n"


@pytest.mark.ci
def test_on_each_store(store, tmp_path):
    process = start(tmp_path, **store.env)
    assert_success(process)
    studies = store.folder if store.uri.startswith("sqlite") else tmp_path
    assert_searched(store.uri, studies, id_of(process))


@pytest.mark.ci
def test_two_processes_share_a_search_and_one_is_killed(folder):
    """The second begins its first trial while the first one has another in hand."""
    tell = "number == 1 and open('new', 'w').write(mlflow.active_run().info.run_id)"
    wait = (
        "\n    while number == 2 and not os.path.exists('joined'): __import__('time').sleep(0.05)"
    )
    kill = "\n    if number == 3: os.kill(os.getpid(), 9)"
    first = before("mlflow.log_params", tell + wait + kill)
    second = before("mlflow.log_params", "if number == 2: open('joined', 'w').close()")

    def join():
        deadline = time.monotonic() + 120
        while not (folder / "new").exists() or not (folder / "new").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return start(folder, (folder / "new").read_text(), patch=second)

    killed, other = at_once(lambda: start(folder, patch=first), join)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert_success(other)
    assert_searched(uri(folder), folder, id_of(killed))
    _, children = family(uri(folder), id_of(killed))
    assert Counter(run.info.status for run in children.values())["KILLED"] == 1


HEARTBEAT = "optuna.storages._heartbeat.HeartbeatThread.start"
# Before which call a start is killed, and how many trials count by then. The starts follow each
# other, and each goes on with what the earlier ones left.
MOMENTS = {
    "no trial has begun": ("mlflow.log_artifact", 1, 0),
    "one has begun, without a heartbeat": (HEARTBEAT, 1, 0),
    "one has two folds": ("mlflow.log_metric", 3, 0),
    "one is logged, and Optuna doesn't know": ("mlflow.set_tag", 3, 2),
    "the result is half logged": ("mlflow.log_figure", 2, 4),
}


@pytest.mark.ci
def test_a_search_that_was_killed_goes_on_by_the_same_command(folder):
    args = []
    for moment, (call, number, count) in MOMENTS.items():
        kill = before(call, f"if number == {number}: os.kill(os.getpid(), 9)")
        killed = start(folder, *args, patch=f"import optuna.storages._heartbeat\n{kill}")
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        args = [id_of(killed)]
        parent, _ = family(uri(folder), *args)
        states = Counter(trial.state.name for trial in trials_in(folder, *args).values())
        assert (parent.info.status, states["COMPLETE"]) == ("RUNNING", count), moment
    assert_success(start(folder, *args))
    assert_searched(uri(folder), folder, *args)
    _, children = family(uri(folder), *args)
    assert Counter(run.info.status for run in children.values()) == {"FINISHED": 4, "KILLED": 2}

    finished, trials = contents(uri(folder)), trials_in(folder, *args)
    again = assert_success(start(folder, *args))
    assert "best of 4 trials" in again
    assert (contents(uri(folder)), trials_in(folder, *args)) == (finished, trials)

    # With more trials it goes on.
    assert "best of 5 trials" in assert_success(start(folder, *args, trials=5))
    assert_searched(uri(folder), folder, *args, 5)


@pytest.mark.ci
def test_complete_pruned_failed_and_interrupted_are_told_apart(folder):
    prune = "import optuna\noptuna.Trial.should_prune = lambda trial: trial.number == 1\n"
    fail = before("mlflow.log_metric", "if number == 8: raise MemoryError('too little')")
    failed = start(folder, patch=prune + fail)
    assert failed.returncode == 1 and failed.stderr.endswith("\nMemoryError: too little\n")
    stop = before("mlflow.log_metric", "if number == 3: os.kill(os.getpid(), 2)")
    stopped = start(folder, id_of(failed), patch=prune + stop)
    assert (stopped.returncode, stopped.stderr) == (130, "Interrupted: what was logged is kept\n")

    parent, children = family(uri(folder), id_of(failed))
    assert parent.info.status == "FAILED"
    ends = {name: (run.info.status, run.data.tags.get("trial")) for name, run in children.items()}
    assert ends == {
        "trial 0": ("FINISHED", "complete"),
        "trial 1": ("FINISHED", "pruned"),
        "trial 2": ("FAILED", None),
        "trial 3": ("FAILED", None),
    }
    assert_success(start(folder, id_of(failed)))
    assert_searched(uri(folder), folder, id_of(failed))
    states = [trial.state.name for trial in trials_in(folder, id_of(failed)).values()]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.ci
def test_two_that_begin_the_last_trial_at_once_count_once(folder):
    """Here the other process finishes its trial, when this one has given up its own."""
    patch = f"""
import optuna
real = optuna.study.Study.optimize
def optimize(study, objective, **options):
    rivals = []
    def in_a_race(trial):
        if trial.number == {TRIALS} - 1:
            rivals.append(study.ask())
            rivals[0].suggest_int("n_estimators", 1, 8)
            rivals[0].suggest_int("max_depth", 2, 16)
        return objective(trial)
    real(study, in_a_race, **options)
    for rival in rivals:
        study.tell(rival, 0.5)
optuna.study.Study.optimize = optimize
"""
    process = start(folder, patch=patch)
    assert_success(process)
    parent, children = family(uri(folder), id_of(process))
    assert sorted(children) == ["trial 0", "trial 1", "trial 2"]
    states = [trial.state.name for trial in trials_in(folder, id_of(process)).values()]
    assert states == ["COMPLETE"] * 3 + ["FAIL", "COMPLETE"]


@pytest.mark.ci
def test_an_id_that_is_no_search_is_refused_in_one_sentence(folder):
    other = MlflowClient(uri(folder)).create_run("0").info.run_id
    for word in "0" * 32, "it's", other:
        assert_one_sentence(start(folder, word), f"Optuna has no search with the ID {word}\n")
    assert not runs_of(uri(folder), "hypertune-optuna")


@pytest.mark.ci
def test_a_copy_without_connect(folder):
    """MLflow itself reads MLFLOW_TRACKING_URI, and both stores are beside each other."""
    script = copy_with_trials(folder, 2)
    script.write_text(without_connect(script.read_text()))
    process = run([PYTHON, script], folder / "src", MLFLOW_TRACKING_URI=uri(folder))
    assert process.returncode == 0, process.stderr
    assert_searched(uri(folder), folder, id_of(process), 2)


# What other ways leave behind: the function of each row of the page measures its last cell.
ROWS = {case: left for _, case, left in tables("runs.md")["Optuna's searches"]}
WAYS = {}


def way(beginning):
    """The function below measures the row whose case has this beginning."""
    return partial(WAYS.setdefault, beginning)


def value(trial):
    return trial.suggest_float("x", -1, 1)


def one_of_each(trial):
    """The first is complete, the second pruned, the third fails."""
    x = value(trial)
    if trial.number:
        raise [optuna.TrialPruned, ValueError][trial.number - 1]
    return x


def parents_of(runs):
    return {"mlflow.parentRunId" in run.data.tags for run in runs}


@way("`start_run(nested=True)`")
def nested_in_threads(store, folder):
    def objective(trial):
        with mlflow.start_run(nested=True):
            return value(trial)

    with mlflow.start_run() as parent:
        optuna.create_study().optimize(objective, n_trials=2, n_jobs=2)
    children = [run for run in runs_of(store, "Default") if run.info.run_id != parent.info.run_id]
    return f"children {'with' if parents_of(children) != {False} else 'without'} a parent"


@way("`raise TrialPruned`")
def pruned_inside(store, folder):
    def objective(trial):
        with mlflow.start_run(nested=True):
            raise optuna.TrialPruned

    with mlflow.start_run():
        optuna.create_study().optimize(objective, n_trials=1)
    return f"a {runs_of(store, 'Default')[1].info.status} child"


@way("a storage without")
def killed_without_heartbeat(store, folder):
    code = """
import optuna, os
study = optuna.create_study(storage="sqlite:///optuna.db", study_name="killed")
study.optimize(lambda trial: os.kill(os.getpid(), 9), n_trials=1)
"""
    assert run([PYTHON, "-c", code], folder).returncode == -signal.SIGKILL
    study = optuna.load_study(storage=f"sqlite:///{folder}/optuna.db", study_name="killed")
    study.optimize(value, n_trials=1)
    return f"a trial that stays {study.trials[0].state.name}"


@way("`optimize(n_trials=3)`")
def started_twice(store, folder):
    for _ in range(2):
        study = optuna.create_study(
            storage=f"sqlite:///{folder}/optuna.db", study_name="twice", load_if_exists=True
        )
        study.optimize(value, n_trials=3)
    return f"{len(study.trials)} trials"


@way("two processes")
def same_seed(store, folder):
    found = []
    for _ in range(2):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=42))
        study.optimize(value, n_trials=12)
        found.append([trial.params for trial in study.trials])
    return "the same params in both" if found[0] == found[1] else "other params"


@way("`MlflowStorage`: one")
def storage(store, folder):
    home = mlflow.set_experiment("study").experiment_id
    optuna.create_study(storage=MlflowStorage(home)).optimize(one_of_each, n_trials=2)
    parent, *children = sorted(runs_of(store, "study"), key=lambda r: r.info.start_time)
    ends = ", ".join(f"a {child.info.status} child" for child in children)
    metrics = ", ".join(f"`{name}`" for name in parent.data.metrics)
    return f"a parent that stays {parent.info.status}, with no metric but {metrics}; {ends}"


@way("`MlflowStorage` and")
def storage_started_twice(store, folder):
    home = mlflow.set_experiment("study").experiment_id
    for _ in range(2):
        study = optuna.create_study(
            storage=MlflowStorage(home), study_name="twice", load_if_exists=True
        )
        study.optimize(value, n_trials=3)
    runs = runs_of(store, "study")
    studies = [run for run in runs if parents_of([run]) == {False}]
    children = {len(children_of(MlflowClient(store), study)) for study in studies}
    (name,) = {study.info.run_name for study in studies}
    assert name == "twice"
    return (
        f"{len(studies)} studies of the same name, with {', '.join(map(str, children))} trials each"
    )


@way("`MLflowCallback`")
def callback(store, folder):
    log = MLflowCallback(tracking_uri=store, metric_name="x")
    study = optuna.create_study(study_name="callback")
    study.optimize(one_of_each, n_trials=3, catch=ValueError, callbacks=[log])
    runs = runs_of(store, "callback")
    (status,) = {run.info.status for run in runs}
    return f"{len(runs)} {status} runs, with{'out' * (parents_of(runs) == {False})} a parent"


@pytest.mark.ci
@pytest.mark.facts
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", ROWS)
@pytest.mark.usefixtures("track_in_default")
def test_what_another_way_leaves_behind(case, folder):
    (measure,) = [WAYS[beginning] for beginning in WAYS if case.startswith(beginning)]
    assert measure(uri(folder), folder) == ROWS[case]
