"""How far a cluster takes hypertune3: 1 to 64 workers, simulated by candidates that sleep.

    pip install -r tests/requirements.txt          # and PostgreSQL: apt-get install postgresql
    python benchmarks/cluster.py                   # some twenty-five minutes

The search and the workers' part of it are those of src/hypertune3.py; only the fit is a sleep, so
that two cores can play 64 workers: Dask's, in up to eight processes of up to eight threads.
Efficiency is the time that the sleeps take on so many workers, candidates / workers * seconds, to
the time that the search took. "Dask alone" is a search that logs nothing. Then candidates that take
no time at all: the rate at which all of it takes children, and the processor time that each part
spends on one. In every round the stores take turns; medians [least, most].
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import dask
import matplotlib.pyplot as plt
import measure as tools
import numpy as np
import pandas as pd
import psutil
from dask.distributed import Client, LocalCluster
from lessons import SRC
from measure import spread
from mlflow import MlflowClient
from services import WITHOUT_JOBS, Postgres, Server

sys.path.insert(0, str(SRC))
import hypertune3  # noqa: E402

SIZES = [1, 8, 64]
PROCESSES = 8
EACH = 3  # candidates for each worker
ALONE, DEFAULT = "Dask alone", "Dask alone, by default"
# As server/.env.example has it: with MLflow's 15 connections, 15 log_batch at once may fail.
SERVER = WITHOUT_JOBS | {"MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "40"}


def set_seconds(seconds):
    """Let a sleep take the place of scikit-learn's cross_validate, in the process that calls."""

    def cross_validate(forest, X, y, cv, error_score):
        time.sleep(seconds)
        return {"test_score": np.linspace(0.9, 1, cv), "fit_time": np.full(cv, seconds / cv)}

    hypertune3.cross_validate = cross_validate


@contextlib.contextmanager
def workers(count, saturation=1.0):
    """Dask's scheduler and COUNT workers, one a thread, which hypertune3 finds by its variable.

    SATURATION: with more than 1.0 a worker gets candidates before it is free for them.
    """
    processes = min(count, PROCESSES)
    options = {"n_workers": processes, "threads_per_worker": count // processes}
    options |= {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
    with (
        dask.config.set({"distributed.scheduler.worker-saturation": saturation}),
        LocalCluster(**options) as cluster,
        # Dask itself reads the variable when it is imported.
        dask.config.set({"scheduler-address": cluster.scheduler_address}),
    ):
        os.environ["DASK_SCHEDULER_ADDRESS"] = cluster.scheduler_address
        try:
            yield cluster
        finally:
            del os.environ["DASK_SCHEDULER_ADDRESS"]


def search(uri, count, seconds):
    """Search among COUNT candidates of SECONDS each; return the seconds that it took."""
    candidates = {
        f"candidate {n}": {"n_estimators": n, "max_depth": 8} for n in range(1, count + 1)
    }
    hypertune3.mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("cluster")
    experiment = experiment.experiment_id if experiment else client.create_experiment("cluster")
    parent = client.create_run(experiment)
    with Client() as dask_client:
        dask_client.run(set_seconds, seconds)
    printed = io.StringIO()
    began = time.perf_counter()
    # As connect() has it: else MLflow asks the server for each child's address, and prints it.
    quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    with contextlib.redirect_stdout(printed), patch.dict(os.environ, quiet):
        hypertune3.search(candidates, pd.DataFrame({"target": []}), uri, parent)
    took = time.perf_counter() - began
    client.set_terminated(parent.info.run_id)
    assert printed.getvalue() == f"{count} candidates: {count} finished, 0 of them earlier\n"
    return took


def sleep(count, seconds):
    """COUNT sleeps by Dask alone; return the seconds that they took."""
    began = time.perf_counter()
    with Client() as client:
        client.gather(client.map(time.sleep, [seconds] * count, pure=False))
    return time.perf_counter() - began


@contextlib.contextmanager
def servers():
    """{database: the MLflow server on it}, and the process ID of PostgreSQL."""
    with ExitStack() as stack:
        postgres, started = Postgres(), {}
        stack.callback(postgres.remove)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = {"SQLite": f"sqlite:///{folder}/bench.db"}
        stores["PostgreSQL"] = postgres.make_database("bench")
        for database, store in stores.items():
            (folder / database).mkdir()
            command = ["server", "--workers", "1", "--backend-store-uri", store]
            started[database] = Server(folder / database, *command, **SERVER)
            stack.callback(started[database].stop)
        yield started, int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])


def efficiencies(started, sizes, rounds, seconds):
    """{(what, size): efficiency in each round}, what being a database of the servers or Dask."""
    found = {}
    for size in sizes:
        count, ideal = EACH * size, EACH * seconds
        with workers(size):
            for _ in range(rounds):
                for database, server in started.items():
                    took = search(server.uri, count, seconds)
                    found.setdefault((database, size), []).append(ideal / took)
                found.setdefault((ALONE, size), []).append(ideal / sleep(count, seconds))
    with workers(size, 1.1):  # the last, the most
        found[DEFAULT, size] = [ideal / sleep(count, seconds) for _ in range(rounds)]
    return found


def spent(process):
    """The processor's seconds of a process and of all that it has started."""
    try:
        own = process.cpu_times()
        children = process.children()
    except psutil.NoSuchProcess:  # it has just ended, and its parent counts it
        return 0
    own = own.user + own.system + own.children_user + own.children_system
    return own + sum(spent(child) for child in children)


def costs(started, postgres, size, rounds, count):
    """{database: its rounds}: children per second, and what spends how many ms on a child."""

    def seconds(server):
        """By part, what it has spent so far."""
        parts = {"server": [server.process.pid], "PostgreSQL": [postgres]}
        parts["workers"] = [worker.pid for worker in cluster.workers.values()]
        so_far = {part: sum(spent(psutil.Process(pid)) for pid in parts[part]) for part in parts}
        # Dask's scheduler is a part of this process, and so is the search.
        return so_far | {"scheduler and search": time.process_time()}

    found = {}
    with workers(size) as cluster:
        for _ in range(rounds):
            for database, server in started.items():
                before = seconds(server)
                took = search(server.uri, count, 0)
                after = seconds(server)
                ms = {part: (after[part] - before[part]) / count * 1000 for part in after}
                found.setdefault(database, []).append({"rate": count / took} | ms)
    return found


def table(found, sizes):
    """The efficiencies as a table of Markdown, a line for each way."""
    rows = []
    for what in dict.fromkeys(what for what, _ in found):
        values = [[one * 100 for one in found.get((what, size), [])] for size in sizes]
        rows.append([what, *(spread(of_size, 0) + " %" if of_size else "" for of_size in values)])
    heads = [f"{size} worker{'s' * (size > 1)}" for size in sizes]
    return tools.table(["Efficiency", *heads], rows)


def costs_table(found):
    """What a child costs, as a table of Markdown."""
    parts = list(next(iter(found.values()))[0])[1:]
    rows = []
    for database, rounds in found.items():
        rate = spread([one["rate"] for one in rounds], 1)
        rows.append([database, rate, *(spread([r[part] for r in rounds], 1) for part in parts)])
    return tools.table(["Server on", "Children per second", *(f"ms: {p}" for p in parts)], rows)


def plot(found, sizes, seconds):
    """Efficiency by the number of workers, in docs/images/cluster.png."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    styles = {"SQLite": "s-", "PostgreSQL": "o-", ALONE: "^:"}
    for number, (what, style) in enumerate(styles.items()):
        of_what = [np.array(found[what, size]) * 100 for size in sizes]
        middle = [statistics.median(values) for values in of_what]
        axes.plot(sizes, middle, style, color=f"C{number}", label=what)
        least, most = [v.min() for v in of_what], [v.max() for v in of_what]
        axes.fill_between(sizes, least, most, color=f"C{number}", alpha=0.2)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="workers", ylabel="% of ideal", ylim=(0, 105))
    reached = statistics.median(found["PostgreSQL", sizes[-1]])
    axes.set_title(
        f"{sizes[-1]} workers reach {reached:.0%} of ideal on PostgreSQL, "
        f"with candidates of {seconds:g} seconds"
    )
    axes.legend(loc="lower left")
    tools.save(figure, "cluster")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of a candidate")
    options = parser.parse_args()
    tools.quiet()
    with servers() as (started, _):
        found = efficiencies(started, SIZES, options.rounds, options.seconds)
    print(table(found, SIZES))
    plot(found, SIZES, options.seconds)
    print()
    with servers() as (started, postgres):
        print(costs_table(costs(started, postgres, SIZES[-1], options.rounds, 256)))
