"""The search of hypertune2, logged live, spread over processes, and taken up again after a kill.

What you learn: child runs that workers log while the search goes on. Dask gives the candidates to
the cores of this machine, or of the cluster whose scheduler DASK_SCHEDULER_ADDRESS names.

    pip install -r requirements-cluster.txt
    python src/hypertune3.py

In the UI, while it runs: Model training > Experiments > hypertune3, and the + beside the parent.
"""

# %% Settings
import logging
import os
import signal
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import joblib
import mlflow
import pandas as pd
import skops.io
from mlflow import MlflowClient
from mlflow.models import infer_signature
from rich.progress import Progress
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ParameterGrid, cross_validate, train_test_split

from interrupts import exit_on_interrupt
from tracking import connect

try:
    import psutil  # comes with Dask
    from dask.distributed import CancelledError, Client, KilledWorker, as_completed
    from distributed.comm import CommClosedError
except ImportError:
    sys.exit("This lesson needs Dask: pip install -r requirements-cluster.txt")

SEED = 42
FOLDS = 5
TEST_SIZE = 0.2
MODEL = RandomForestClassifier(random_state=SEED)
GRID = {"n_estimators": [16, 32, 64, 128], "max_depth": [2, 4, 8, None]}
SEARCH = "breast-cancer-forest"
SOURCE = "https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic"
FINISHED, RUNNING = (f"attributes.status = '{status}'" for status in ("FINISHED", "RUNNING"))
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
SCRIPT = globals().get("__file__", "hypertune3.py")  # a notebook has no __file__


# %% One candidate: what a worker does. Its machine has the packages, not this repo
def try_candidate(number, params, X, y, uri, parent):
    os.environ.pop("MLFLOW_RUN_ID", None)  # it would send this child into an old run
    if uri:
        mlflow.set_tracking_uri(uri)
    # An earlier start has done it, or a worker that died, whose work Dask gives to another.
    for earlier in children(parent, f"tags.candidate = '{number}'"):
        if earlier.info.status == "FINISHED":
            return "skipped", earlier.data.metrics["mean_test_score"]
        if earlier.info.status == "RUNNING":
            end([earlier], "KILLED")
    name = ", ".join(f"{key} {value}" for key, value in params.items())[:250]
    tags = {"candidate": number, "host": socket.gethostname()}
    where = {"experiment_id": parent.experiment_id, "parent_run_id": parent.run_id}
    with mlflow.start_run(run_name=name, tags=tags, **where) as child:
        mlflow.log_params(params)
        try:
            model = clone(MODEL).set_params(**params)
            folds = cross_validate(model, X, y, cv=FOLDS, error_score="raise")
        except Exception as error:  # whatever it is, the search goes on without this candidate
            mlflow.set_tag("error", f"{type(error).__name__}: {error.__cause__ or error}")
            mlflow.end_run("FAILED")
            return "failed", 0
        scores = folds["test_score"]
        metrics = {f"split{fold}_test_score": score for fold, score in enumerate(scores)}
        metrics |= {"mean_test_score": scores.mean(), "std_test_score": scores.std()}
        mlflow.log_metrics(metrics | {"mean_fit_time": folds["fit_time"].mean()})
        # A search that was killed has gone on elsewhere meanwhile, and given this child up.
        if mlflow.get_run(child.info.run_id).info.status == "KILLED":
            mlflow.end_run("KILLED")
    return "done", scores.mean()


def children(parent, condition):
    condition = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and {condition}"
    return mlflow.search_runs([parent.experiment_id], condition, output_format="list")


# %% The search: Dask gives the candidates to its workers, and this process counts
def search(candidates, X, y, uri, parent):
    counts, best = {"done": 0, "failed": 0, "skipped": 0}, 0
    line = "{task.completed} of {task.total}: {task.description}"
    # Without an address Dask starts workers here, and a web page on port 8787, maybe in use.
    here = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
    here |= {"threads_per_worker": 1, "timeout": 60}  # seconds: to end may wait for a new worker
    here = {"timeout": 10} if os.environ.get("DASK_SCHEDULER_ADDRESS") else here
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # see CommClosedError
    try:
        dask = Client(**here)
    except OSError as error:
        sys.exit(f"Start Dask's scheduler, or correct DASK_SCHEDULER_ADDRESS: {error}")
    with dask, Progress(line, disable=not sys.stdout.isatty()) as bar:
        if not dask.ncores():
            print("Dask's scheduler has no workers: start some, this waits", flush=True)
        task = bar.add_task("", total=len(candidates))
        # pure=False: else Dask may answer with what a search that was killed still computes.
        futures = {
            dask.submit(try_candidate, number, params, X, y, uri, parent, pure=False): number
            for number, params in candidates.items()
        }
        for future in as_completed(futures):
            try:
                what, score = future.result()
            except (CancelledError, CommClosedError):
                sys.exit("Dask's scheduler is gone: start it and workers, then this script again")
            except KilledWorker as error:  # for want of memory, perhaps: it ended four workers
                what, score = "failed", 0
                last = children(parent, f"tags.candidate = '{futures[future]}' and {RUNNING}")
                end(last, "FAILED", error=str(error))
            counts[what] += 1
            best = max(best, score)
            text = ", ".join(f"{count} {what}" for what, count in counts.items())
            bar.update(task, advance=1, description=f"{text}, best {best:.4f}")
    print(f"{len(candidates)} candidates: {text}")
    return counts["failed"]


def end(runs, status, **tags):
    for run in runs:
        for key, value in tags.items():
            MlflowClient().set_tag(run.info.run_id, key, value)
        MlflowClient().set_terminated(run.info.run_id, status)


# %% All around it: in a function, because each worker on this machine imports this file
def main():
    connected = connect()
    exit_on_interrupt()
    uri = mlflow.get_tracking_uri()
    client = MlflowClient()
    experiment_id = mlflow.set_experiment("hypertune3").experiment_id
    on_disk = "://" not in uri or uri.startswith(("sqlite:", "file:"))
    if on_disk and os.environ.get("DASK_SCHEDULER_ADDRESS"):
        print("Runs go to a file: workers elsewhere need a server, those here its whole path")
    if "@" in uri or "password=" in uri:  # which no task may hold; workers here inherit it
        uri = None
        if os.environ.get("DASK_SCHEDULER_ADDRESS"):
            print("MLFLOW_TRACKING_URI has a password: set it in the workers' environment too")

    # Data: 569 tumours, 30 measurements each; 80% to search on, 20% held back
    data = load_breast_cancer(as_frame=True).frame.astype(float)
    train, test = train_test_split(data, test_size=TEST_SIZE, random_state=SEED)
    X_train, y_train = train.drop(columns="target"), train["target"]
    X_test, y_test = test.drop(columns="target"), test["target"]

    # Was a search of this code, these settings and rows left unfinished?
    code = Path(SCRIPT).read_bytes()
    tags = {"search": SEARCH, "fingerprint": joblib.hash([code, REQUIREMENTS, data])}
    tags |= {"host": socket.gethostname(), "process": f"{os.getpid()} of {began(os.getpid())}"}
    left = f"tags.search = '{SEARCH}' and attributes.status != 'FINISHED'"
    left = mlflow.search_runs([experiment_id], left, output_format="list")  # newest first
    same = [run for run in left if run.data.tags["fingerprint"] == tags["fingerprint"]]
    resumed = next((run.info.run_id for run in same if not may_run(run, tags)), None)
    if resumed:
        print(f"Going on with run {resumed}: what finished there isn't fitted again")
    elif left:
        print(f"Run {left[0].info.run_id} is unfinished, but of other code or data, or may still")
        print("run: this is a new search")

    with mlflow.start_run(resumed, experiment_id, "grid search", tags=tags) as run:
        parent = run.info
        for split, name in (train, "training"), (test, "testing"):
            dataset = mlflow.data.from_pandas(
                split, name=f"breast-cancer-{name}", targets="target", source=SOURCE
            )
            mlflow.log_input(dataset, context=name)
        mlflow.log_params({"cv": FOLDS, "random_state": SEED, "test_size": TEST_SIZE})
        mlflow.log_artifact(SCRIPT)

        # Search: 16 candidates x 5 folds = 80 fits, less what an earlier start finished
        # By number, because a name may be long, or hold quotes that end a filter's text.
        candidates = {str(n): params for n, params in enumerate(ParameterGrid(GRID))}
        print(f"Fitting {FOLDS} folds of each candidate: some seconds", flush=True)
        try:
            failed = search(candidates, X_train, y_train, uri, parent)
        finally:  # after Ctrl-C too; what a dead worker began stays RUNNING otherwise
            end(children(parent, RUNNING), "KILLED")

        # Children: their ranks, which are known only now
        found = {child.data.tags["candidate"]: child for child in children(parent, FINISHED)}
        if not found:
            sys.exit("All candidates failed: see the tag `error` of the children")
        if len(found) + failed < len(candidates):
            sys.exit("Another start of this search ended runs of it: start it once more")
        results = pd.DataFrame({number: child.data.metrics for number, child in found.items()}).T
        results = results.reindex(number for number in candidates if number in found)
        results["rank_test_score"] = results["mean_test_score"].rank(method="min", ascending=False)
        for number, rank in results["rank_test_score"].items():
            client.log_metric(found[number].info.run_id, "rank_test_score", rank)

        # Parent: what the search found, and a model of it on all training rows
        best = results["rank_test_score"].idxmin()
        model = clone(MODEL).set_params(**candidates[best]).fit(X_train, y_train)
        best_score, test_accuracy = results["mean_test_score"][best], model.score(X_test, y_test)
        mlflow.log_metrics({"best_cv_score": best_score, "test_accuracy": test_accuracy})
        # A kill may have come just here, and left half a model.
        of_parent = f"source_run_id = '{parent.run_id}'"
        for half in client.search_logged_models([experiment_id], of_parent):
            client.delete_logged_model(half.model_id)
        mlflow.sklearn.log_model(
            model,
            name="best-forest",
            signature=infer_signature(X_test, model.predict(X_test)),
            # A stranger's model may hold types that run code. This one is your own.
            skops_trusted_types=skops.io.get_untrusted_types(data=skops.io.dumps(model)),
            pip_requirements=REQUIREMENTS,
        )
        # Last: a param can't change, and the best may, if a candidate that failed is tried again.
        mlflow.log_params({f"best_{name}": value for name, value in candidates[best].items()})

    # Result
    columns = ["rank_test_score", "mean_test_score", "std_test_score"]
    table = results[columns].astype({"rank_test_score": int})
    table.index = [found[number].info.run_name for number in table.index]
    print(table.sort_values("rank_test_score", kind="stable").head().to_string())
    print(f"best parameters: {candidates[best]}")
    print(f"cross-validation accuracy: {best_score:.4f}")
    print(f"test accuracy: {test_accuracy:.4f}")
    print(f'Run "{parent.run_name}", ID {parent.run_id}, with {len(found)} finished children')
    print(f"{connected}/#/experiments/{experiment_id}/runs")
    print("Next: python src/compare_runs.py compares these")


def may_run(run, tags):
    """Whether a process is still at this search; of another machine it can't be told."""
    host, process = run.data.tags["host"], run.data.tags["process"]
    if run.info.status != "RUNNING" or (host, process) == (tags["host"], tags["process"]):
        return False
    number, start = process.split(" of ")
    # After a restart of the machine another program may have the number.
    return host != tags["host"] or abs(began(int(number)) - int(start)) < 5


def began(number):
    """The second in which the process of this number began; 0 if none is alive."""
    try:
        process = psutil.Process(number)
        return 0 if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a worker on this machine: the search ends it, not Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # At the end it may miss its scheduler for a moment; Dask prints a traceback of that.
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)
