"""Do what the rows of docs/runs.md say; test_runs.py asks the store what it left behind.

    python tests/runs_cases.py

Code in the page is executed as it stands. What may kill its process, or must not share a database
connection with one, runs in a fork: a process of its own that needn't import MLflow again. The last
line of standard output is JSON: what the store can't tell.
"""

import json
import logging
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import mlflow

# Loaded when a store is first used: once here instead of in each fork.
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import numpy as np
from doc_tables import blocks, code, tables

TABLES = tables("runs.md")
SIGNALS = {"Ctrl-C": signal.SIGINT, "`kill`": signal.SIGTERM, "`kill -9`": signal.SIGKILL}
told = {"exit codes": [], "errors": {}, "warnings": {}}


def log():
    mlflow.log_metric("loss", 1)


def fork(do, *args):
    """Start DO in a new process; return its ID and a pipe that it writes to."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    os.close(read)
    do(*args, write)
    # Not os._exit: a program's end, where MLflow ends an open run.
    sys.exit()


def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def make_store(pipe):
    mlflow.MlflowClient().search_experiments()


def make_percent_store(pipe):
    del os.environ["MLFLOW_TRACKING_URI"]
    folder = Path("with%20percent")
    folder.mkdir()
    os.chdir(folder)
    with mlflow.start_run():
        mlflow.log_text("text", "a.txt")


def interrupt(number, text, pipe):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    mlflow.set_experiment(f"interruption {number}")

    def wait():
        os.write(pipe, b".")
        time.sleep(60)

    exec(text, globals() | {"wait": wait})


def interruptions():
    """Four at a time, each ended as its row says."""
    cases = [(number, *row) for number, row in enumerate(TABLES["Interruptions"])]
    for start in range(0, len(cases), 4):
        wave = []
        for number, text, ended_by, _ in cases[start : start + 4]:
            wave.append((ended_by, *fork(interrupt, number, code(text))))
        for ended_by, pid, pipe in wave:
            if ended_by in SIGNALS:
                assert os.read(pipe, 1) == b".", "it never came to wait()"
                os.kill(pid, SIGNALS[ended_by])
            told["exit codes"].append(wait_for(pid))


def worker_process(name, by, pipe):
    """A worker that is there before its parent's run opens the store."""
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe()

    def work():
        parent = its.recv()
        mlflow.set_experiment(name)
        with mlflow.start_run(**({"nested": True} if by == "nested" else {by: parent})):
            pass

    worker = context.Process(target=work)
    worker.start()
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mine.send(run.info.run_id)
        worker.join()


def attempt(what, do):
    """DO it; keep the text of its error and of MLflow's warnings under WHAT."""
    warned = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())
    logging.getLogger("mlflow.utils.validation").addHandler(handler)
    try:
        do()
    except Exception as error:
        told["errors"][what] = str(error)
    logging.getLogger("mlflow.utils.validation").removeHandler(handler)
    told["warnings"][what] = warned


def execute(text):
    return lambda: exec(text, globals())


def in_runs_of_their_own(heading):
    """Execute the code of each row; the run has the row's first cell as its name."""
    mlflow.set_experiment(heading)
    Path("note.txt").write_text("a note")
    for first, *_ in TABLES[heading]:
        with mlflow.start_run(run_name=first):
            if first.startswith("`"):
                attempt(first, execute(code(first)))
            elif first.startswith("a name"):
                for char in re.findall("`(.)`", first) + [" "] * ("a space" in first):
                    for call in (mlflow.log_param, mlflow.log_metric, mlflow.set_tag):
                        attempt(call.__name__ + char, lambda c=char, call=call: call(f"a{c}b", 1))


def thread(do):
    worker = threading.Thread(target=do)
    worker.start()
    worker.join()


def nested_run(**how):
    with mlflow.start_run(**how):
        pass


def whose_runs():
    """The cases in words by their first words, the rest as they stand; an experiment each."""
    client = mlflow.MlflowClient()

    def without_a_run(text):
        exec(text)
        told["status in between"] = client.get_run(mlflow.active_run().info.run_id).info.status

    def after_the_block():
        with mlflow.start_run():
            mlflow.log_param("depth", 3)
        log()

    def other_experiment():
        with mlflow.start_run():
            mlflow.set_experiment("the new experiment")
            nested_run(nested=True)

    def in_thread(**how):
        with mlflow.start_run() as run:
            how = {k: run.info.run_id if v is ... else v for k, v in how.items()}
            thread(lambda: nested_run(**how))

    def log_in_thread():
        with mlflow.start_run():
            thread(lambda: mlflow.log_param("depth", 3))

    def continue_failed():
        with suppress(ValueError), mlflow.start_run() as run:
            raise ValueError
        told["failed"] = client.get_run(run.info.run_id).info.status
        nested_run(run_id=run.info.run_id)

    def run_id_twice():
        experiment = mlflow.set_experiment("environment").experiment_id
        told["given"] = os.environ["MLFLOW_RUN_ID"] = client.create_run(experiment).info.run_id
        told["got"] = []
        for _ in range(2):
            with mlflow.start_run() as run:
                told["got"].append(run.info.run_id)

    def run_id_and_parent():
        experiment = mlflow.set_experiment("environment and parent").experiment_id
        parent = client.create_run(experiment).info.run_id
        told["given 2"] = os.environ["MLFLOW_RUN_ID"] = client.create_run(experiment).info.run_id
        with mlflow.start_run(parent_run_id=parent) as run:
            told["got 2"] = run.info.run_id
        os.environ.pop("MLFLOW_RUN_ID", None)

    def delete():
        with mlflow.start_run() as run:
            mlflow.log_param("depth", 3)
        told["deleted"] = run.info.run_id
        mlflow.delete_run(run.info.run_id)
        nested_run(run_id=run.info.run_id)

    words = {
        "`mlflow.log_param(": lambda: without_a_run('mlflow.log_param("depth", 3)'),
        "`mlflow.log_metric` after": after_the_block,
        "`mlflow.set_experiment`": other_experiment,
        "`start_run(nested=True)` in a thread": lambda: in_thread(nested=True),
        "`start_run(parent_run_id=...)` in a thread": lambda: in_thread(parent_run_id=...),
        "`mlflow.log_param` in a thread": log_in_thread,
        "`start_run(run_id=...)` of": continue_failed,
        "environment variable `MLFLOW_RUN_ID`, `start_run()` twice": run_id_twice,
        "environment variable `MLFLOW_RUN_ID`, `start_run(par": run_id_and_parent,
        "`mlflow.delete_run(run_id)`": delete,
    }
    for first, *_ in TABLES["Whose run it is"]:
        if "worker process" in first:
            continue
        mlflow.set_experiment(first.replace("/", " "))
        matching = [do for start, do in words.items() if first.startswith(start)]
        (do,) = matching or [execute(code(first))]
        attempt(first, do)
        while mlflow.active_run():
            mlflow.end_run()


def close_runs():
    """The page's own lines for runs that look as if they were going."""
    (block,) = [text for text in blocks("runs.md", "python") if "set_terminated" in text]
    experiment = mlflow.set_experiment("closed").experiment_id
    told["left open"] = [mlflow.MlflowClient().create_run(experiment).info.run_id for _ in "12"]
    nested_run()
    exec(block.replace("docs-runs", "closed"), {})


if __name__ == "__main__":
    for pid, _ in [fork(make_store), fork(make_percent_store)]:
        assert wait_for(pid) == 0
    interruptions()
    workers = [
        fork(worker_process, name, by)
        for by in ("nested", "parent_run_id")
        for (name, *_) in TABLES["Whose run it is"]
        if by in name and "worker process" in name
    ]
    assert [wait_for(pid) for pid, _ in workers] == [0, 0]
    in_runs_of_their_own("Values")
    in_runs_of_their_own("Files")
    whose_runs()
    close_runs()
    assert math and np  # for the code in the page
    print(json.dumps(told))
