"""hypertune3 as its tests need it: with another grid, ended at a moment, in the background."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache

import psutil
from filled import repo_after
from lessons import copy_with_grid
from mlflow import MlflowClient
from patched import before, run_patched
from running import ENV, uri
from sklearn.model_selection import ParameterGrid
from stores import children_of, runs_of

THREE = {"n_estimators": [16], "max_depth": [2, 4, 8]}
TWO = {"n_estimators": [16, 32], "max_depth": [2]}
ONE = {"n_estimators": [16], "max_depth": [2]}
# What the search calls to end the run of a candidate whose result is there.
RESULT = "MlflowClient.set_terminated"

# What the store holds


def name_of(params):
    """The name that the lessons give to the candidate with these PARAMS."""
    return ", ".join(f"{key} {value}" for key, value in sorted(params.items()))


def searches_in(store, experiment="hypertune3"):
    """The parents of the experiment, oldest first, each with its children."""
    runs = runs_of(store, experiment)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return [(parent, children_of(MlflowClient(store), parent)) for parent in parents]


def finished(children):
    """The finished CHILDREN by name; no name is there twice."""
    done = [child for child in children if child.info.status == "FINISHED"]
    by_name = {child.info.run_name: child for child in done}
    assert len(by_name) == len(done)
    return by_name


def statuses(children):
    return sorted(child.info.status for child in children)


@cache
def found_by_hypertune2():
    """Its parent, and its children by name."""
    ((parent, children),) = searches_in(uri(repo_after(("hypertune2",))), "hypertune2")
    return parent, finished(children)


def assert_found(parent, children, grid):
    """Each candidate of GRID is there once, as hypertune2 has it; the PARENT has the best."""
    old_parent, old_children = found_by_hypertune2()
    names = [name_of(params) for params in ParameterGrid(grid)]
    done = finished(children)
    assert sorted(done) == sorted(names)
    assert parent.info.status == "FINISHED" and "RUNNING" not in statuses(children)
    means = {name: old_children[name].data.metrics["mean_test_score"] for name in names}
    ranks = {name: 1 + sum(mean > means[name] for mean in means.values()) for name in names}
    for name, child in done.items():
        same = old_children[name].data
        assert child.data.params == same.params
        assert child.data.metrics["mean_fit_time"] > 0
        times = {"mean_fit_time": child.data.metrics["mean_fit_time"]}
        assert child.data.metrics == same.metrics | times | {"rank_test_score": ranks[name]}
    best = min(names, key=ranks.get)
    fixed = {key: old_parent.data.params[key] for key in ("cv", "random_state", "test_size")}
    best_params = {f"best_{key}": value for key, value in done[best].data.params.items()}
    assert parent.data.params == fixed | best_params
    assert parent.data.metrics["best_cv_score"] == means[best]
    assert set(parent.data.metrics) == {"best_cv_score", "test_accuracy"}


# Searches


def run_search(folder, grid, patch="", *args, workers=1, **env):
    """Run hypertune3 with this GRID on so many WORKERS, after the code PATCH; return the process.

    The same GRID and PATCH make the same script again, whatever WORKERS is: so a search can go on.
    ARGS are the words after the script's name.
    """
    copy_with_grid(folder, "hypertune3", grid)
    cores = "import os, dask.system\ndask.system.CPU_COUNT = int(os.environ['WORKERS'])\n"
    env["WORKERS"] = str(workers)
    return run_patched("hypertune3", cores + patch, folder, *args, root=folder, **env)


def search(folder, grid, patch="", *args, **options):
    """Run hypertune3 as `run_search` does, with success and quietly; return what it printed."""
    result = run_search(folder, grid, patch, *args, **options)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


def kill_before(call, number, *, victim="os.getpid()", seconds=0, after="."):
    """A patch: SECONDS before the search's NUMBERth call of CALL it kills VICTIM, a process ID.

    Of the calls of RESULT only those count by which a run is FINISHED.
    It waits for the file AFTER first. It kills once, however often the search is started again.
    """
    kill = f"""
import itertools, multiprocessing, os, time
from pathlib import Path
import distributed
def kill():
    if not multiprocessing.parent_process() and not Path("killed").exists():
        deadline = time.monotonic() + 120
        while not Path({str(after)!r}).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        Path("killed").touch()
        time.sleep({seconds})
        os.kill({victim}, 9)
counted = itertools.count(1)
"""
    counts = "'FINISHED' in args" if call == RESULT else "True"
    return kill + before(call, f"{counts} and next(counted) == {number} and kill()")


def before_fit(folder, trees, deed):
    """The variable by which Dask's workers do DEED before they fit a forest of so many TREES.

    DEED is code. It may ask whether this is the `first` such fit, before which FOLDER/fitted isn't
    there, and it may call `wait_for`, which waits for a file in FOLDER.
    """
    patch = folder / "before_fit.py"
    patch.write_text(f"""
import os, time
from pathlib import Path
from sklearn.ensemble import RandomForestClassifier
folder, real = Path({str(folder)!r}), RandomForestClassifier.fit
def wait_for(name):
    deadline = time.monotonic() + 300
    while not (folder / name).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
def fit(self, *args):
    if self.n_estimators == {trees}:
        first = not (folder / "fitted").exists()
        (folder / "fitted").touch()
        {deed}
    return real(self, *args)
def dask_setup(worker):
    RandomForestClassifier.fit = fit
""")
    return {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(patch)}


def hold(folder, trees):
    """The variable by which the first fit of so many TREES lasts until FOLDER/go is there."""
    return before_fit(folder, trees, "first and wait_for('go')")


def wait_until(condition, limit, why):
    """Wait until CONDITION(), at most LIMIT seconds; WHY() is what a failure shows."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


class BackgroundSearch:
    """hypertune3 in the background, in a process group of its own as in a terminal."""

    def __init__(self, folder, grid, **env):
        self.folder = folder
        self.env = ENV | {"MLFLOW_TRACKING_URI": uri(folder)} | env
        script = copy_with_grid(folder, "hypertune3", grid)
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as error:
            self.process = subprocess.Popen(
                [sys.executable, script],
                cwd=folder,
                env=self.env,
                stdout=out,
                stderr=error,
                start_new_session=True,
            )

    def printed(self):
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def wait_until(self, condition):
        """Wait until CONDITION() while the search runs."""

        def reached():
            assert self.process.poll() is None, self.printed()
            return condition()

        wait_until(reached, 120, self.printed)

    def wait_for_held(self):
        """Wait until one candidate is finished and the first of `hold` is in its fit."""
        held, store = self.folder / "fitted", self.env["MLFLOW_TRACKING_URI"]
        self.wait_until(lambda: held.exists() and finished(searches_in(store)[-1][1]))

    def end(self):
        """Wait for it and all its processes to end by themselves; return the exit code."""
        try:
            code = self.process.wait(120)
            wait_until(lambda: not alive(self.process.pid), 20, lambda: alive(self.process.pid))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return code


def alive(group):
    """The processes of a group that haven't ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
    return found


def assert_goes_on(folder, patch, wanted, *, kills=1, **env):
    """A search for THREE in FOLDER goes on after its end, and nothing is done twice.

    WANTED: what says so in the command, the run's ID or --resume. KILLS: those during its fits.
    """
    ((parent, before),) = searches_in(uri(folder))
    printed = search(folder, THREE, patch, wanted, **env)
    assert f"breaks off: python src/hypertune3.py {parent.info.run_id}\n" in printed
    assert "an unfinished search" not in printed
    earlier = len(finished(before))
    assert f"\n3 candidates: 3 finished, {earlier} of them earlier\n" in printed
    ((parent, children),) = searches_in(uri(folder))
    assert_found(parent, children, THREE)
    after = {child.info.run_id for child in finished(children).values()}
    assert {child.info.run_id for child in finished(before).values()} <= after
    models = MlflowClient(uri(folder)).search_logged_models([parent.info.experiment_id])
    assert [model.status for model in models] == ["READY"]
    assert [model.source_run_id for model in models] == [parent.info.run_id]
    # Repeated: at most what the two workers had in hand at each kill.
    assert len(children) - len(after) <= 2 * kills
