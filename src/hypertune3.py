"""The search of hypertune2, logged live by many processes, and continued after a kill.

What you learn: child runs that workers log while the search goes on. Dask gives the candidates to
the cores of this machine, or of the cluster whose scheduler DASK_SCHEDULER_ADDRESS names.

    pip install -r requirements-cluster.txt
    python src/hypertune3.py    RUN_ID continues that search, --resume the newest unfinished one
"""

# %% Settings
import logging
import os
import signal
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path

import joblib
import mlflow
import skops.io
from mlflow.entities import Metric, Param, RunTag
from rich.progress import track
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ParameterGrid, cross_validate, train_test_split

from interrupts import exit_on_interrupt
from tracking import connect

try:
    import dask
    from dask.distributed import CancelledError, Client, KilledWorker, as_completed
except ImportError:
    sys.exit("This lesson needs Dask: pip install -r requirements-cluster.txt")
for name in "distributed", "distributed.client":  # this script says in a sentence what ended
    logging.getLogger(name).setLevel("CRITICAL")

SEED, FOLDS, TEST_SIZE = 42, 5, 0.2
MODEL = RandomForestClassifier(random_state=SEED)
GRID = {"n_estimators": [16, 32, 64, 128], "max_depth": [2, 4, 8, None]}
SOURCE = "https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic"
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
SCRIPT = globals().get("__file__", "hypertune3.py")  # a notebook has no __file__


# %% What a worker does: it fits a candidate and logs it. It has the packages, not this repo
def try_candidate(number, params, rows, uri, experiment_id, tags):
    client, scores, errors = mlflow.MlflowClient(uri), {}, []
    tags = tags | {"candidate": number, "host": socket.gethostname()}
    name = ", ".join(f"{key} {value}" for key, value in params.items())[:250]
    child = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    try:
        model, X, y = clone(MODEL).set_params(**params), rows.drop(columns="target"), rows["target"]
        folds = cross_validate(model, X, y, cv=FOLDS, error_score="raise")
        tests, scores["mean_fit_time"] = folds["test_score"], folds["fit_time"].mean()
        scores |= {"mean_test_score": tests.mean(), "std_test_score": tests.std()}
        scores |= {f"split{fold}_test_score": score for fold, score in enumerate(tests)}
    except Exception as error:  # whatever it is, the search goes on without this candidate
        errors = [RunTag("error", f"{type(error).__name__}: {error.__cause__ or error}")]
    metrics = [Metric(key, value, int(time.time() * 1000), 0) for key, value in scores.items()]
    client.log_batch(child, metrics, [Param(k, str(v)) for k, v in params.items()], errors)
    return child, "FAILED" if errors else "FINISHED"


# %% The search: the workers log, and this process ends each child. So a candidate finishes once,
# even if a worker dies after its work, or still fits for a search that was killed.
def search(candidates, rows, uri, parent):
    client, before, lost = mlflow.MlflowClient(), take_stock(parent, {}), {}
    todo = [number for number in candidates if number not in before]
    # A child's parent is a tag. The user and the source are the parent's.
    tags = {k: v for k, v in parent.data.tags.items() if k.startswith(("mlflow.u", "mlflow.so"))}
    tags["mlflow.parentRunId"] = parent.info.run_id
    # Without an address Dask starts workers here, and a web page on port 8787, maybe in use.
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    here = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    here |= {"timeout": 60}  # seconds: to end may wait for a worker that starts
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"})  # a new one may start slowly
    try:
        with Client(**({"timeout": 10} if address else here)) as cluster:
            if not cluster.ncores():
                print("Dask's scheduler has no workers: start some, this waits", flush=True)
            # Dask gets the rows once. If the worker that has them dies, it makes them again.
            # pure=False: else it may answer with what a search that was killed still computes.
            given = cluster.submit(rows.copy, pure=False), uri, parent.info.experiment_id, tags
            futures = {
                cluster.submit(try_candidate, n, candidates[n], *given, pure=False): n for n in todo
            }
            quiet = not sys.stdout.isatty()
            for future in track(as_completed(futures), "Search", len(todo), disable=quiet):
                try:
                    client.set_terminated(*future.result())
                    future.release()  # if its worker died, Dask would repeat it
                except KilledWorker as error:  # it ended four, perhaps for want of memory
                    lost[futures[future]] = str(error)
    except (OSError, CancelledError):
        sys.exit(f"Dask's scheduler {address} is gone: start it and workers, then continue")
    finally:  # after Ctrl-C too
        found = take_stock(parent, lost)
    print(f"{len(candidates)} candidates: {len(found)} finished, {len(before)} of them earlier")
    return [found[number] for number in candidates if number in found]


def take_stock(parent, lost):
    """The finished child of each candidate. A second one, or one that still runs, is ended."""
    client, found = mlflow.MlflowClient(), {}
    children = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    options = {"order_by": ["attributes.start_time"], "output_format": "list"}
    for child in mlflow.search_runs([parent.info.experiment_id], children, **options):
        number, run_id = child.data.tags["candidate"], child.info.run_id
        if child.info.status == "FINISHED" and number not in found:
            found[number] = child
        elif child.info.status in ("FINISHED", "RUNNING"):
            client.set_terminated(run_id, "FAILED" if number in lost else "KILLED")
            if number in lost:
                client.set_tag(run_id, "error", lost[number])
    return found


# %% The story. Under `if`, because each worker on this machine imports this file, if it is one
if __name__ == "__main__":
    connected = connect()
    exit_on_interrupt()
    client, uri = mlflow.MlflowClient(), mlflow.get_tracking_uri()
    experiment_id = mlflow.set_experiment("hypertune3").experiment_id
    if "@" in uri or "password=" in uri:  # which no task may hold; workers here inherit it
        print("MLFLOW_TRACKING_URI has a password: workers elsewhere need it in their environment")
        uri = None

    # Data: 569 tumours, 30 measurements each; 80% to search on, 20% held back
    data = load_breast_cancer(as_frame=True).frame.astype(float)
    train, test = train_test_split(data, test_size=TEST_SIZE, random_state=SEED)

    # Only a search of the same code, packages and data goes on
    tags = {"code": joblib.hash(Path(SCRIPT).read_bytes()), "packages": ", ".join(REQUIREMENTS)}
    tags |= {"data": joblib.hash(data), "search": "breast-cancer-forest"}
    unfinished = f"tags.search = '{tags['search']}' and attributes.status != 'FINISHED'"
    begun = mlflow.search_runs([experiment_id], unfinished, output_format="list")  # newest first
    differ = {run.info.run_id: tags.items() - run.data.tags.items() for run in begun}
    mine = [run_id for run_id, differences in differ.items() if not differences]
    # In a notebook the words in sys.argv are the kernel's: write the run's ID in the place of "".
    word = " ".join(sys.argv[1:]) if "kernel_launcher" not in sys.argv[0] else ""
    resumed = next(iter(mine), None) if word == "--resume" else word or None
    if resumed and resumed not in mine:
        other = " and ".join(sorted(name for name, _ in differ.get(resumed, [])))
        why = f"it has other {other}" if other else "no unfinished search has this ID"
        sys.exit(f"Can't continue run {resumed}: {why}")
    if mine and not resumed:
        print(f"To continue an unfinished search instead: python src/hypertune3.py {mine[0]}")

    with mlflow.start_run(resumed, experiment_id, "grid search", tags=tags) as parent:
        run_id = parent.info.run_id
        print(f"To continue this search if it breaks off: python src/hypertune3.py {run_id}")
        for rows, name in (train, "training"), (test, "testing"):
            dataset = mlflow.data.from_pandas(rows, SOURCE, "target", f"breast-cancer-{name}")
            mlflow.log_input(dataset, context=name)
        mlflow.log_params({"cv": FOLDS, "random_state": SEED, "test_size": TEST_SIZE})
        mlflow.log_artifact(SCRIPT)
        print(f"Fitting {FOLDS} folds of each candidate: some seconds", flush=True)
        candidates = {str(number): params for number, params in enumerate(ParameterGrid(GRID))}
        children = search(candidates, train, uri, parent)
        if not children:
            sys.exit("All candidates failed: see the tag `error` of the children")

        # The ranks are known only now
        children.sort(key=lambda child: -child.data.metrics["mean_test_score"])
        scores = [child.data.metrics["mean_test_score"] for child in children]
        for child, score in zip(children, scores, strict=True):
            client.log_metric(child.info.run_id, "rank_test_score", scores.index(score) + 1)
        # The best, and a model of it on all training rows. A kill may have left half a model.
        best = candidates[children[0].data.tags["candidate"]]
        X, y, X_test = train.drop(columns="target"), train["target"], test.drop(columns="target")
        model = clone(MODEL).set_params(**best).fit(X, y)
        test_accuracy = model.score(X_test, test["target"])
        mlflow.log_metrics({"best_cv_score": scores[0], "test_accuracy": test_accuracy})
        for half in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
            client.delete_logged_model(half.model_id)
        # A stranger's model may hold types that run code. This one is your own.
        trusted = skops.io.get_untrusted_types(data=skops.io.dumps(model))
        options = {"skops_trusted_types": trusted, "pip_requirements": REQUIREMENTS}
        signature = mlflow.models.infer_signature(X_test, model.predict(X_test))
        mlflow.sklearn.log_model(model, name="best-forest", signature=signature, **options)
        # Last: a param can't change, and the best may, if a candidate that failed is tried again.
        mlflow.log_params({f"best_{key}": value for key, value in best.items()})

    print(f"best parameters: {best}")
    print(f"cross-validation accuracy: {scores[0]:.4f}\ntest accuracy: {test_accuracy:.4f}")
    print(f'Run "{parent.info.run_name}", ID {run_id}, with {len(children)} finished children')
    print(f"{connected}/#/experiments/{experiment_id}/runs/{run_id}")
    print("Next: python src/compare_runs.py compares these")
elif __name__ == "__mp_main__":  # a worker on this machine: the search ends it, not Ctrl-C
    signal.signal(signal.SIGINT, signal.SIG_IGN)
