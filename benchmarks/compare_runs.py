"""What comparing the runs of a search costs, by its number of children: time and memory.

    pip install -r tests/requirements.txt
    python benchmarks/compare_runs.py              # some ten minutes

Each search is made in a SQLite store of its own: the parent by MLflow, the children by inserting
rows such as MLflow writes for hypertune2's (2 params, 9 metrics, 5 tags), thousands at a time.
Then all sizes take turns. "script" is src/compare_runs.py, a new process: its wall-clock time and
its own peak memory. The others are timed inside one, after a first call that opens the store:
"search_runs" fetches all children into a DataFrame; "by page" fetches them with
MlflowClient.search_runs in pages of 1,000, the default, and keeps none; "sorted" is by a metric, as
in the script. Printed are medians over the rounds [least, most], each round's ratio to the smallest
size, and what each child more than in the row above adds to the median.
"""

import argparse
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import measure as tools
import sqlalchemy
from lessons import SRC
from measure import ratios, spread
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels import models
from services import ENV

FOLDS = [f"split{fold}_test_score" for fold in range(5)]
METRICS = [*FOLDS, "mean_test_score", "std_test_score", "rank_test_score", "mean_fit_time"]
# What is measured, in which unit: the script, and FETCH.
WHATS = [("script", "s"), ("script, peak memory", "MB"), ("search_runs, sorted", "s")]
WHATS += [("by page, sorted", "s"), ("search_runs", "s"), ("by page", "s")]
# Run with the store's URI and the search's ID: the seconds of each way and how many it fetched.
FETCH = """
import sys, time
import mlflow
uri, experiment, parent = sys.argv[1:]
mlflow.set_tracking_uri(uri)
client = mlflow.MlflowClient()
query, order = f"tags.mlflow.parentRunId = '{parent}'", ["metrics.mean_test_score DESC"]
mlflow.search_runs([experiment], query, max_results=1)  # imports pandas too
for sort in order, None:
    began = time.perf_counter()
    count = len(mlflow.search_runs([experiment], query, order_by=sort))
    print(time.perf_counter() - began, count)
    began = time.perf_counter()
    page = client.search_runs([experiment], query, order_by=sort)
    count = len(page)
    while page.token:
        page = client.search_runs([experiment], query, order_by=sort, page_token=page.token)
        count += len(page)
    print(time.perf_counter() - began, count)
"""
PEAK = """
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def params_of(count):
    """COUNT pairs of max_depth and n_estimators, on a grid about as wide as high."""
    side = round(count**0.5)
    depths = [*range(2, side + 1), None]
    pairs = itertools.product(depths, range(16, 16 * (count // side + 2), 16))
    return list(itertools.islice(pairs, count))


def make(uri, count):
    """Make a search with COUNT children in the store; return its experiment and run ID."""
    client = MlflowClient(uri, registry_uri=uri)
    files = Path(f"{sqlalchemy.make_url(uri).database}-files").as_uri()  # not ./mlruns
    experiment = client.create_experiment("hypertune2", artifact_location=files)
    tags = {"search": "breast-cancer-forest"}
    parent = client.create_run(experiment, tags=tags, run_name="grid search").info
    for key, value in {"best_max_depth": "8", "best_n_estimators": "128"}.items():
        client.log_param(parent.run_id, key, value)
    for key in "best_cv_score", "test_accuracy":
        client.log_metric(parent.run_id, key, 0.96)
    draw = random.Random(42)
    rows = {table: [] for table in (models.SqlRun, models.SqlParam, models.SqlTag)}
    rows |= {models.SqlMetric: [], models.SqlLatestMetric: []}
    for number, (depth, trees) in enumerate(params_of(count)):
        run_id, now = uuid.UUID(int=draw.getrandbits(128)).hex, parent.start_time + number
        name = f"{trees} trees, depth {depth or 'unlimited'}"
        rows[models.SqlRun].append(
            {"run_uuid": run_id, "name": name, "experiment_id": int(experiment), "user_id": "ada"}
            | {"status": "FINISHED", "start_time": now, "end_time": now + 20, "source_version": ""}
            | {"lifecycle_stage": "active", "source_type": "UNKNOWN", "source_name": ""}
            | {"entry_point_name": "", "artifact_uri": f"{parent.artifact_uri}/../../{run_id}"}
        )
        for key, value in {"max_depth": depth, "n_estimators": trees}.items():
            rows[models.SqlParam].append({"run_uuid": run_id, "key": key, "value": str(value)})
        tags = {"runName": name, "parentRunId": parent.run_id, "user": "ada"}
        for key, value in (tags | {"source.name": "hypertune2.py", "source.type": "LOCAL"}).items():
            tag = {"run_uuid": run_id, "key": f"mlflow.{key}", "value": value}
            rows[models.SqlTag].append(tag)
        for key in METRICS:
            metric = {"run_uuid": run_id, "key": key, "value": 0.9 + draw.random() / 20}
            metric |= {"timestamp": now, "step": 0, "is_nan": False}
            rows[models.SqlMetric].append(metric)
            rows[models.SqlLatestMetric].append(metric)
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(sqlalchemy.insert(table.__table__), values)
    engine.dispose()
    client.set_terminated(parent.run_id)
    return experiment, parent.run_id


def script(uri):
    """Run the lesson; return its seconds and peak memory in MB."""
    # By a small process, since Linux counts the memory of the one that starts it as well.
    command = [sys.executable, "-c", PEAK, sys.executable, SRC / "compare_runs.py"]
    env = ENV | {"MLFLOW_TRACKING_URI": uri, "MPLBACKEND": "agg"}
    seconds, kilobytes = subprocess.check_output(command, text=True, env=env).split()
    return float(seconds), float(kilobytes) / (1024 * 1024 if sys.platform == "darwin" else 1024)


def fetch(uri, experiment, parent, count):
    """Seconds of the ways to fetch all children."""
    command = [sys.executable, "-c", FETCH, uri, experiment, parent]
    lines = subprocess.check_output(command, text=True, env=ENV).splitlines()
    assert [int(line.split()[1]) for line in lines] == [count] * 4
    return [float(line.split()[0]) for line in lines]


def measure(sizes, rounds):
    """{(what, unit): {size: the value of each round}}."""
    found = {what: {size: [] for size in sizes} for what in WHATS}
    with tempfile.TemporaryDirectory() as name:
        searches = {}
        for size in sizes:
            uri = f"sqlite:///{name}/{size}.db"
            searches[size] = uri, *make(uri, size)
        for _, size in itertools.product(range(rounds), sizes):
            values = [*script(searches[size][0]), *fetch(*searches[size], size)]
            for what, value in zip(WHATS, values, strict=True):
                found[what][size].append(value)
    return found


def table(found):
    """What was FOUND as a table of Markdown."""
    rows = []
    for (what, unit), sizes in found.items():
        base, last = sizes[min(sizes)], None
        for size, values in sizes.items():
            median, each = statistics.median(values), ""
            if last:
                each = (median - last[1]) / (size - last[0]) * 1000
                each = f"{each:.2f} {'ms' if unit == 's' else 'kB'}"
            last = size, median
            shown = spread(values, 2 if unit == "s" else 0, f" {unit}")
            rows.append([what, f"{size:,}", shown, spread(ratios(values, base), 1), each])
    return tools.table(["What", "Children", "Median", "Ratio", "Each child more"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tools.quiet()
    print(table(measure(options.sizes, options.rounds)))
