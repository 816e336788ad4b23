"""What tracking costs, as ratios measured in one run: interleaved, median [fastest, slowest].

    pip install -r tests/requirements.txt
    python benchmarks/overhead.py              # whole processes and children: some 6 minutes
    python benchmarks/overhead.py --long       # also a search of a minute or longer: 30 more

Whole process: hypertune2 against hypertune1, both as they stand in src/, on a store that exists:
wall-clock time and peak memory, of the process and of the job, its workers included (the sum of
their resident memory, sampled every 50 ms). "floor" is hypertune1 that also imports what hypertune2
imports and opens the store, but logs nothing.
Children: one run with 2 params and 9 metrics, in the form of hypertune2 and in others.
"""

import argparse
import contextlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import mlflow
import psutil
import sqlalchemy

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
# Two ways to a search of a minute: more fits of the same forests, and larger forests.
LONGER = {
    "80 folds": [("cv=5", "cv=80"), ("FOLDS = 5", "FOLDS = 80")],
    "400 to 1,600 trees": [("[16, 32, 64, 128]", "[400, 800, 1200, 1600]")],
}
FLOOR = """import matplotlib.pyplot, mlflow, pandas, seaborn, skops.io, sys
sys.path.insert(0, {src!r})
from tracking import connect
connect()
"""
PARAMS = {"n_estimators": 128, "max_depth": 8}
METRICS = {f"split{fold}_test_score": 0.9 + fold / 100 for fold in range(5)}
METRICS |= {"mean_test_score": 0.9, "std_test_score": 0.1, "rank_test_score": 1, "mean_fit_time": 1}


def spread(values, unit=""):
    """Median and range of VALUES as text."""
    return f"{statistics.median(values):.2f}{unit} [{min(values):.2f}, {max(values):.2f}]"


def run(script, env):
    """Run SCRIPT; return wall seconds, seconds to the first line, and two peaks of memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, script], env=env, stdout=subprocess.PIPE)
    peaks = [0, 0]

    def watch():
        job = psutil.Process(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.returncode is None:
                own = job.memory_info().rss
                total = own
                for worker in job.children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        total += worker.memory_info().rss
                peaks[:] = max(peaks[0], own / 2**20), max(peaks[1], total / 2**20)
                time.sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    process.stdout.readline()
    first = time.perf_counter() - began
    process.stdout.read()
    assert process.wait() == 0, script
    seconds = time.perf_counter() - began
    watcher.join()
    return seconds, first, *peaks


def whole_process(folder, repeats, changes=()):
    """Print hypertune2 and the floor against hypertune1, pair by pair."""
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    scripts = {}
    for name in "hypertune1", "hypertune2", "floor":
        text = (SRC / f"{name.replace('floor', 'hypertune1')}.py").read_text()
        text = FLOOR.format(src=str(SRC)) + text if name == "floor" else text
        scripts[name] = folder / f"{name}.py"
        for change in changes:
            text = text.replace(*change)
        scripts[name].write_text(text)
    (folder / "tracking.py").write_text((SRC / "tracking.py").read_text())
    if changes:
        del scripts["floor"]
    figures = {name: [] for name in scripts}
    run(scripts["hypertune2"], env)  # creates the store and warms the disk cache
    for _ in range(repeats):
        for name, script in scripts.items():
            figures[name].append(run(script, env))
    base = figures.pop("hypertune1")
    peak = spread([row[3] for row in base], " MB")
    print(f"hypertune1: {spread([row[0] for row in base], ' s')}, job {peak}")
    for name, rows in figures.items():
        ratios = [row[0] / one[0] for row, one in zip(rows, base, strict=True)]
        memory = [row[2] / one[2] for row, one in zip(rows, base, strict=True)]
        job = [row[3] / one[3] for row, one in zip(rows, base, strict=True)]
        print(
            f"{name} / hypertune1: time {spread(ratios)}, peak memory of the process "
            f"{spread(memory)}, of the job {spread(job)}, "
            f"first line after {spread([row[1] for row in rows], ' s')}"
        )


def separate():
    """One call a value, as most tutorials do it."""
    with mlflow.start_run(nested=True):
        for key, value in PARAMS.items():
            mlflow.log_param(key, value)
        for key, value in METRICS.items():
            mlflow.log_metric(key, value)


def batched():
    """hypertune2's form."""
    with mlflow.start_run(nested=True):
        mlflow.log_params(PARAMS)
        mlflow.log_metrics(METRICS)


def client():
    """MlflowClient, without the active run: three calls."""
    api = mlflow.MlflowClient()
    parent = mlflow.active_run().info
    tags = {"mlflow.parentRunId": parent.run_id}
    child = api.create_run(parent.experiment_id, tags=tags).info.run_id
    now = int(time.time() * 1000)
    metrics = [mlflow.entities.Metric(key, value, now, 0) for key, value in METRICS.items()]
    params = [mlflow.entities.Param(key, str(value)) for key, value in PARAMS.items()]
    api.log_batch(child, metrics=metrics, params=params)
    api.set_terminated(child)


def children(folder, repeats):
    """Print the cost of a child in each form, at 16, 100 and 1,000 children of one parent."""
    for wal in False, True:
        uri = f"sqlite:///{folder}/children-{'wal' if wal else 'default'}.db"
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("children")
        if wal:
            with sqlalchemy.create_engine(uri).connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        for count in (16, 100, 1000) if not wal else (100,):
            figures = {form: [] for form in (separate, batched, client)}
            for _ in range(repeats if count < 1000 else max(1, repeats // 2)):
                for form, costs in figures.items():
                    with mlflow.start_run():
                        began = time.perf_counter()
                        for _ in range(count):
                            form()
                        costs.append((time.perf_counter() - began) / count * 1000)
            print(f"{count} children{', WAL' if wal else ''}:")
            for form, costs in figures.items():
                ratios = [a / b for a, b in zip(costs, figures[separate], strict=True)]
                print(f"    {form.__name__}: {spread(costs, ' ms')}, / separate {spread(ratios)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long", action="store_true")
    options = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        whole_process(Path(name), options.repeats)
        children(Path(name), options.repeats)
        if options.long:
            for what, changes in LONGER.items():
                print(f"A longer search, {what}:")
                whole_process(Path(name), options.repeats, changes)
