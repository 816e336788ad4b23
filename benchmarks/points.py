"""What a point of a curve costs: by one call each, by one call for each step, and in batches.

    pip install -r tests/requirements.txt
    python benchmarks/points.py                    # some two minutes

Two metrics are logged into a new run on SQLite, in the ways that WAYS names. Printed are medians
over the rounds, in which the ways take turns, and each round's ratio to the first way: median
[least, most].
"""

import argparse
import tempfile
import time

import measure as tools
import mlflow
from measure import ratios, spread
from mlflow.entities import Metric

NAMES = ["train_loss", "val_loss"]


def one_by_one(client, steps):
    """A call of log_metric for each point."""
    for step in range(steps):
        for name in NAMES:
            mlflow.log_metric(name, 1 / (step + 1), step=step)


def step_by_step(client, steps):
    """A call of log_metrics for each step."""
    for step in range(steps):
        mlflow.log_metrics(dict.fromkeys(NAMES, 1 / (step + 1)), step=step)


def in_batches(client, steps):
    """A call of client.log_batch for each thousand points, which is the most that it takes."""
    run_id, now = mlflow.active_run().info.run_id, int(time.time() * 1000)
    points = [Metric(name, 1 / (step + 1), now, step) for step in range(steps) for name in NAMES]
    for first in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=points[first : first + 1000])


# The function, and how many steps it logs.
WAYS = {
    "`log_metric`": (one_by_one, 150),
    "`log_metrics`, once for each step": (step_by_step, 150),
    "`client.log_batch` of 1,000": (in_batches, 5000),
}


def measure(rounds, folder):
    """{way: milliseconds for a point in each round} on a new database in FOLDER."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    experiment_id = client.create_experiment("points")
    found = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, (log, steps) in WAYS.items():
            with mlflow.start_run(experiment_id=experiment_id, run_name=way):
                began = time.perf_counter()
                log(client, steps)
                took = time.perf_counter() - began
            found[way].append(took / steps / len(NAMES) * 1000)
    return found


def table(found):
    """FOUND as a table of Markdown."""
    base = next(iter(found.values()))
    rows = []
    for way, times in found.items():
        points = f"{WAYS[way][1] * len(NAMES):,}"
        rows.append([way, points, spread(times, unit=" ms"), spread(ratios(times, base), 3)])
    return tools.table(["How", "Points", "Each point", "Ratio"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tools.quiet()
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(options.rounds, folder)))
