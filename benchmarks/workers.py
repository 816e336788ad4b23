"""What a second worker brings to hypertune3, and what it costs beside plain GridSearchCV.

    pip install -r tests/requirements.txt
    python benchmarks/workers.py                   # some ten minutes

hypertune1, which logs nothing, with n_jobs=1 and 2, and hypertune3 on Dask's scheduler with one and
two workers of one thread, on SQLite: the same search, with twice the trees. "Whole" is the
process's wall-clock time; "search" is the time from the line that says that it begins to the next,
in hypertune1 the fit. All take turns; medians over the rounds [least, most], ratios within a round.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import measure as tools
from dask.distributed import LocalCluster
from lessons import copy_with_grid
from measure import ratios, spread
from services import ENV

GRID = {"n_estimators": [32, 64, 128, 256], "max_depth": [2, 4, 8, None]}
PLAIN, LOGGED = "GridSearchCV", "hypertune3"
BEGINS = "Fitting"


def scripts(folder, grid):
    """Make the scripts in FOLDER, with another GRID; {(what, workers): script}."""
    plain = copy_with_grid(folder / "plain", "hypertune1", grid)
    logged = copy_with_grid(folder / "logged", "hypertune3", grid)
    found = {}
    for count in 1, 2:
        text = plain.read_text().replace("cv=5)", f"cv=5, n_jobs={count})")
        text = text.replace("search.fit(", f'print("{BEGINS}")\nsearch.fit(')
        assert text.count(f"n_jobs={count}") == text.count(f'"{BEGINS}"') == 1
        found[PLAIN, count] = plain.with_name(f"plain{count}.py")
        found[PLAIN, count].write_text(text)
        found[LOGGED, count] = logged
    return found


def seconds(script, env):
    """Run SCRIPT; return the seconds of all of it and of the search."""
    env = ENV | env | {"PYTHONUNBUFFERED": "1"}
    began, search = time.perf_counter(), None
    command, folder = [sys.executable, script], script.parent
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if search is None and line.decode().startswith(BEGINS):
                fits, search = time.perf_counter(), 0
            elif search == 0:
                search = time.perf_counter() - fits
    assert process.returncode == 0, script
    return time.perf_counter() - began, search


def measure(rounds, grid, folder):
    """{(what, workers): (whole, search) of each round}, in stores in FOLDER."""
    found = {(what, count): [] for count in (1, 2) for what in (PLAIN, LOGGED)}
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(n_workers=1, **options) as one,
        LocalCluster(n_workers=2, **options) as two,
    ):
        clusters = {1: one, 2: two}
        made = scripts(folder, grid)

        def once(what, count):
            env = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
            env["DASK_SCHEDULER_ADDRESS"] = clusters[count].scheduler_address
            return seconds(made[what, count], env)

        for count in clusters:  # makes the database and has the workers import
            once(LOGGED, count)
        for _ in range(rounds):
            for key, values in found.items():
                values.append(once(*key))
    return found


def table(found):
    """Seconds, ratios to one worker and to GridSearchCV, as a table of Markdown."""
    rows = []
    for (what, count), values in found.items():
        row = [what, count]
        for part in 0, 1:
            of_part = [value[part] for value in values]
            one = [value[part] for value in found[what, 1]]
            plain = [value[part] for value in found[PLAIN, count]]
            row += [spread(of_part, 1, " s"), spread(ratios(of_part, one))]
            row += [spread(ratios(of_part, plain))]
        rows.append(row)
    heads = [
        f"{part}, {what}" for part in ("whole", "search") for what in ("s", "to 1", "to plain")
    ]
    return tools.table(["What", "Workers", *heads], rows)


def plot(found):
    """The searches' seconds by workers, in docs/images/workers.png."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for place, (what, color) in enumerate({PLAIN: "C7", LOGGED: "C0"}.items()):
        for count in 1, 2:
            searches = [search for _, search in found[what, count]]
            middle = statistics.median(searches)
            ends = [[middle - min(searches)], [max(searches) - middle]]
            label = what if count == 1 else None
            axes.bar(count + place * 0.4, middle, 0.38, yerr=ends, color=color, label=label)
    axes.set_xticks([1.2, 2.2], ["1 worker", "2 workers"])
    axes.set_ylabel("seconds of the search")
    searches = {key: [search for _, search in values] for key, values in found.items()}
    faster = statistics.median(ratios(searches[LOGGED, 1], searches[LOGGED, 2]))
    dearer = statistics.median(ratios(searches[LOGGED, 2], searches[PLAIN, 2]))
    axes.set_title(
        f"Two workers search {faster:.2f} times as fast as one,\n"
        f"and take {dearer:.2f} times what GridSearchCV does"
    )
    axes.legend()
    tools.save(figure, "workers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(options.rounds, GRID, Path(name))
    print(table(found))
    plot(found)
