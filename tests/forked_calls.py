"""Call functions in forks of this process, which needn't import or make again what it has."""

import gc
import json
import os
import shutil
import sys
import traceback
from functools import cache
from pathlib import Path

import mlflow
from mlflow.store.db import utils
from running import uri

PROCESSES = 2
# With each store that is opened MLflow reads all its migrations to find the last one.
utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)


def exit_code(pid):
    """Wait until the process ends; return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def empty_store():
    """A folder with an empty database; a run in another one loads what MLflow loads late."""
    Path("empty").mkdir()
    mlflow.MlflowClient(uri(Path("empty").resolve())).search_experiments()
    shutil.copytree("empty", "warm")
    mlflow.set_tracking_uri(uri(Path("warm").resolve()))
    with mlflow.start_run():
        mlflow.log_metric("loss", 1)
        mlflow.log_text("text", "a.txt")
    mlflow.search_runs(search_all_experiments=True)
    return Path("empty")


def without_inference():
    """Log models without finding out what they need, for which MLflow imports itself again."""
    mlflow.models.infer_pip_requirements = lambda *_, fallback, **__: fallback


def said():
    """All that this fork has printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    return Path(os.environ["PRINTED"]).read_text()


def work(job, folder, template):
    """In the fork: call the job in a copy of the template; leave what it yields in result.json."""
    shutil.copytree(template, folder)
    os.chdir(folder)
    mlflow.set_tracking_uri(uri(folder))
    os.environ["PRINTED"] = f"{folder}/printed"
    with open("printed", "a") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    pid, found, errors = os.getpid(), {}, []
    try:
        for key, value in job():
            found[key] = value
    except BaseException:
        if os.getpid() != pid:
            raise  # a process that the job made ends as it would without us
        errors.append(traceback.format_exc())
    (folder / "result.json").write_text(json.dumps([found, errors]))
    os._exit(0)


def in_forks(jobs, template):
    """Call each job in a fork, its folder and store being a copy of TEMPLATE.

    A job yields pairs of key and value. Return all of them, and under "errors" the tracebacks of
    the jobs that broke off.
    """
    waiting, root, template = set(), Path.cwd(), template.resolve()
    folders = [root / f"fork{number}" for number in range(len(jobs))]
    gc.freeze()  # a collection in a fork would copy all memory
    for job, folder in zip(jobs, folders, strict=True):
        if len(waiting) == PROCESSES:
            waiting.remove(os.wait()[0])
        pid = os.fork()
        if not pid:
            work(job, folder, template)
        waiting.add(pid)
    while waiting:
        waiting.remove(os.wait()[0])
    all_found = {"errors": []}
    for folder in folders:
        found, errors = json.loads((folder / "result.json").read_text())
        all_found["errors"] += errors
        all_found |= found
    return all_found
