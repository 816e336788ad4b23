"""What an interrupt leaves behind: runs that stay RUNNING, with and without src/interrupts.py.

    pip install -r tests/requirements.txt
    python benchmarks/interrupted.py                # some ten minutes

A loop logs small child runs on SQLite. A signal comes at a random moment of its first half second.
The table says how the parents ended: FAILED is right.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections import Counter

from lessons import SRC
from mlflow import MlflowClient
from services import ENV

LOOP = """
import os, signal, sys, threading
import mlflow
form, number, moment = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
# A shell that starts this in the background has Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
if form == "interrupts.py":
    from interrupts import exit_on_interrupt
    exit_on_interrupt()
with mlflow.start_run(run_name=f"{form} {number}"):
    threading.Timer(moment, os.kill, (os.getpid(), number)).start()
    while True:
        with mlflow.start_run(nested=True):
            mlflow.log_params({"depth": 2, "trees": 16})
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=24, help="interrupts of each kind")
    times = parser.parse_args().times
    moments = random.Random(42)
    print("| signal | with | FAILED | RUNNING | FINISHED | database locked |")
    print("|---|---|---|---|---|---|")
    for signal, number in ("Ctrl-C", 2), ("SIGTERM", 15):
        for form in "plain MLflow", "interrupts.py":
            with tempfile.TemporaryDirectory() as folder:
                uri = f"sqlite:///{folder}/mlflow.db"
                client = MlflowClient(uri)
                client.search_experiments()  # makes the store
                env = ENV | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(SRC)}
                locked = 0
                for _ in range(times):
                    command = [sys.executable, "-c", LOOP, form, str(number)]
                    command.append(str(0.5 * moments.random()))
                    ended = subprocess.run(
                        command, env=env, capture_output=True, text=True, timeout=120
                    )
                    locked += "database is locked" in ended.stderr
                parents = client.search_runs(["0"], f"run_name = '{form} {number}'")
                count = Counter(run.info.status for run in parents)
            counts = " | ".join(str(count[status]) for status in ("FAILED", "RUNNING", "FINISHED"))
            print(f"| {signal} | {form} | {counts} | {locked} |", flush=True)


if __name__ == "__main__":
    main()
