"""What a kill costs hypertune3: how many candidates are fitted again when it goes on.

    pip install -r tests/requirements.txt
    python benchmarks/resume.py                    # some five minutes

The search of src/hypertune3.py, on SQLite and a worker a core, is ended by SIGKILL at a random
moment between the first child and the last, and the same command started again. A candidate was
repeated if it has another child than the finished one. A search that logs at its end, as hypertune2
does, repeats all that were fitted before the kill.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import measure as tools
import psutil
from lessons import SRC
from mlflow import MlflowClient
from services import ENV

SCRIPT = SRC / "hypertune3.py"


def children(uri):
    """The children in the store."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("hypertune3")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def of_status(runs, status):
    """The runs' candidates that have this status."""
    return [run.data.tags["candidate"] for run in runs if run.info.status == status]


def lives(process):
    """Whether it still runs; one that has ended may wait to be removed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE


def kill_and_resume(script, folder, fits, wait):
    """Kill it WAIT seconds after FITS children have finished, and let it go on.

    Returns how many were finished and under way at the kill, and how many were repeated.
    """
    uri = f"sqlite:///{folder}/mlflow.db"
    command, env = [sys.executable, script, "--resume"], ENV | {"MLFLOW_TRACKING_URI": uri}
    MlflowClient(uri).search_experiments()  # makes the store
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # it speaks of the kill
    with subprocess.Popen(command, cwd=folder, env=env, **null) as search:
        while len(of_status(children(uri), "FINISHED")) < fits:
            assert search.poll() is None, "it ended before the kill"
            time.sleep(0.02)
        time.sleep(wait)
        workers = psutil.Process(search.pid).children(recursive=True)
        search.kill()
    while any(map(lives, workers)):
        time.sleep(0.05)
    before = children(uri)
    subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)
    after = children(uri)
    finished = of_status(after, "FINISHED")
    assert len(set(finished)) == len(finished)
    repeated = set(of_status(after, "KILLED")) & set(finished)
    return len(of_status(before, "FINISHED")), len(of_status(before, "RUNNING")), len(repeated)


def measure(script, rounds, seed=42):
    """(finished, under way, repeated) of each kill."""
    draw, found = random.Random(seed), []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            # One kill in each part of the search.
            fits = round(15 * (number + draw.random()) / rounds)
            found.append(kill_and_resume(script, Path(name), fits, draw.random() / 2))
    return found


def table(found):
    """The kills as a table of Markdown."""
    return tools.table(["Finished at the kill", "Under way", "Repeated"], sorted(found))


def plot(found):
    """Repeated by finished, in docs/images/resume.png."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    finished, way, repeated = zip(*sorted(found), strict=True)
    axes.plot(finished, finished, "s--", color="C1", label="a search that logs at its end")
    axes.plot(finished, repeated, "o-", color="C0", label="hypertune3")
    axes.set(xlabel="candidates finished at the kill, of 16", ylabel="candidates fitted again")
    axes.set_title(
        f"After a kill, hypertune3 repeats at most {max(repeated)} of 16 candidates:\n"
        f"those that {os.cpu_count()} workers had in hand"
    )
    axes.legend()
    tools.save(figure, "resume")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8, help="how many kills")
    options = parser.parse_args()
    tools.quiet()
    found = measure(SCRIPT, options.rounds)
    print(table(found))
    plot(found)
