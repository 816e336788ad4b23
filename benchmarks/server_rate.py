"""Runs logged per second through `mlflow server`: on SQLite and PostgreSQL, one and two workers.

    pip install -r tests/requirements.txt          # and PostgreSQL: apt-get install postgresql
    python benchmarks/server_rate.py               # some four minutes

A run is created, gets 2 params and 9 metrics in one call, and is ended: three calls. It is logged
by one client, and by eight at once (threads). The servers run side by side; each is measured for
half a minute in all, in rounds that take all of them in turn. Printed are medians over the rounds,
and each round's ratio to SQLite with one worker and one client: median [least, most].
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import measure as tools
from measure import ratios, spread
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from services import WITHOUT_JOBS, Postgres, Server

# Number of workers and other options.
SERVERS = {
    ("SQLite", "1"): [],
    ("SQLite", "2"): [],
    ("SQLite", "2, without uvloop"): ["--uvicorn-opts", "--loop asyncio"],
    ("PostgreSQL", "1"): [],
    ("PostgreSQL", "2"): [],
}
PARAMS = {"n_estimators": "128", "max_depth": "8"}
METRICS = {f"split{fold}_test_score": 0.9 + fold / 100 for fold in range(5)}
METRICS |= {"mean_test_score": 0.9, "std_test_score": 0.1, "rank_test_score": 1, "mean_fit_time": 1}


def log_run(client, experiment_id):
    """Log one run by three calls."""
    run_id = client.create_run(experiment_id).info.run_id
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in METRICS.items()]
    params = [Param(key, value) for key, value in PARAMS.items()]
    client.log_batch(run_id, metrics=metrics, params=params)
    client.set_terminated(run_id)


def rate(uri, experiment_id, clients, seconds):
    """Log runs for SECONDS by CLIENTS threads; return runs per second."""
    began = time.perf_counter()

    def work(_):
        client, count = MlflowClient(uri, registry_uri=uri), 0
        while time.perf_counter() - began < seconds:
            log_run(client, experiment_id)
            count += 1
        return count

    with ThreadPoolExecutor(clients) as pool:
        count = sum(pool.map(work, range(clients)))
    return count / (time.perf_counter() - began)


@contextmanager
def servers():
    """{(database, workers): its MLflow server}."""
    with ExitStack() as stack:
        postgres, started = Postgres(), {}
        stack.callback(postgres.remove)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number, ((database, workers), options) in enumerate(SERVERS.items()):
            place = folder / str(number)
            place.mkdir()
            store = f"sqlite:///{place}/mlflow.db"
            if database == "PostgreSQL":
                store = postgres.make_database(f"bench{number}")
            command = ["server", "--workers", workers[0], "--backend-store-uri", store]
            started[database, workers] = Server(place, *command, *options, **WITHOUT_JOBS)
            stack.callback(started[database, workers].stop)
        yield started


def measure(started, rounds, seconds):
    """{(database, workers, clients): runs per second in each round} of the servers."""
    rates = {}
    clients = {key: MlflowClient(server.uri) for key, server in started.items()}
    experiments = {
        key: MlflowClient(server.uri).create_experiment("rate") for key, server in started.items()
    }
    for _, clients in product(range(rounds), [1, 8]):
        for key, server in started.items():
            found = rate(server.uri, experiments[key], clients, seconds)
            rates.setdefault((*key, clients), []).append(found)
    return rates


def table(rates):
    """RATES as a table of Markdown."""
    base = rates["SQLite", "1", 1]
    rows = []
    for (database, workers, clients), found in rates.items():
        speed = f"{statistics.median(found):.1f}"
        rows.append([database, workers, clients, speed, spread(ratios(found, base))])
    return tools.table(["Database", "Workers", "Clients", "Runs per second", "Ratio"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="for each measurement")
    options = parser.parse_args()
    tools.quiet()
    with servers() as started:
        print(table(measure(started, options.rounds, options.seconds)))
