"""What tracking costs a search: hypertune2, and autolog, against hypertune1.

    pip install -r tests/requirements.txt
    python benchmarks/overhead.py                  # some five minutes
    python benchmarks/overhead.py --long           # also a search of a minute: half an hour

Each is a new process, on a store that exists, and all take turns. hypertune1 and hypertune2 are
those of src/. "floor" is hypertune1 that also imports what hypertune2 imports and opens the store,
but logs nothing. "autolog" is hypertune1 that opens the store and calls
mlflow.sklearn.autolog(max_tuning_runs=None), which logs every candidate too.
Of each, the seconds of the whole process, and those after its imports: store, search and logging;
and the peak of its resident memory in MB, sampled every 50 ms. Printed are medians over the rounds
[least, most] for hypertune1, and for the others each round's ratio to it. The longer search has 20
folds, not 5.
"""

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import measure as tools
import psutil
from lessons import SRC
from measure import ratios, spread
from services import ENV

# The lesson, imports before its own, and what it does before all else.
FORMS = {
    "hypertune1": ("hypertune1", "", ""),
    "floor": (
        "hypertune1",
        "import matplotlib.pyplot, mlflow, pandas, seaborn, skops.io\n"
        "from tracking import connect\n",
        "connect()",
    ),
    "hypertune2": ("hypertune2", "", ""),
    "autolog": (
        "hypertune1",
        "import mlflow\nfrom tracking import connect\n",
        "connect()\nmlflow.sklearn.autolog(max_tuning_runs=None)",
    ),
}
WHATS = ["whole", "after imports", "memory"]
GOALS = {5: 1.4, 20: 1.12}  # hypertune2's time to hypertune1's, by folds


def script(form, folds):
    """The text of a form of the search, which says when its imports are done."""
    name, imports, first = FORMS[form]
    text = imports + (SRC / f"{name}.py").read_text()
    text, once = re.subn(
        r"^SEED = ", f"print('imported', flush=True)\n{first}\nSEED = ", text, flags=re.M
    )
    text, again = re.subn(r"\b(cv=|FOLDS = )5\b", rf"\g<1>{folds}", text)
    assert once == again == 1, f"{name}.py has other lines"
    return text


def spent(file):
    """Run the script; return its seconds, those after its imports, and its peak in MB."""
    uri = f"sqlite:///{file.parent}/mlflow.db"
    env = ENV | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(SRC), "MPLBACKEND": "agg"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, file],
        cwd=file.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    sizes = []

    def watch():
        job = psutil.Process(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.returncode is None:
                sizes.append(job.memory_info().rss / 2**20)
                time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.stdout.readline()
    imported = time.perf_counter()
    _, errors = process.communicate()
    ended = time.perf_counter()
    watcher.join()
    assert process.returncode == 0, errors
    return ended - began, ended - imported, max(sizes)


def measure(folder, rounds, folds=5):
    """{form: {what: the value of each round}}."""
    found = {form: {what: [] for what in WHATS} for form in FORMS}
    for form in FORMS:
        (folder / f"{form}.py").write_text(script(form, folds))
    spent(folder / "hypertune2.py")  # makes the store, and warms the disk's cache
    for _ in range(rounds):
        for form, values in found.items():
            for what, value in zip(WHATS, spent(folder / f"{form}.py"), strict=True):
                values[what].append(value)
    return found


def ratio(found, form, what="whole"):
    """Each round's ratio to hypertune1."""
    return ratios(found[form][what], found["hypertune1"][what])


def verdict(found, form, folds):
    """Whether hypertune2 keeps to its goal."""
    if form != "hypertune2" or folds not in GOALS:
        return ""
    kept = statistics.median(ratio(found, form)) <= GOALS[folds]
    return f"at most {GOALS[folds]:.2f}: {'kept' if kept else 'missed'}"


def table(searches):
    """What was found, by folds, as a table of Markdown."""
    rows = []
    for folds, found in searches.items():
        for form, values in found.items():
            cells = [spread(ratio(found, form, what)) for what in WHATS]
            if form == "hypertune1":
                units = [(1, " s"), (1, " s"), (0, " MB")]
                cells = [spread(values[w], *unit) for w, unit in zip(WHATS, units, strict=True)]
            rows.append([folds, form, *cells, verdict(found, form, folds)])
    heads = ["Folds", "Form", "Whole process", "After imports", "Memory", "Goal"]
    return tools.table(heads, rows)


def title(searches):
    """What the figures say."""
    lines = []
    for folds, found in searches.items():
        ours, autolog = (
            statistics.median(ratio(found, form)) for form in ("hypertune2", "autolog")
        )
        lines.append(
            f"With {folds} folds hypertune2 takes {ours:.2f} times as long as hypertune1, "
            f"autolog {autolog:.2f} times"
        )
    return "\n".join(lines)


def picture(searches):
    """Draw where the time goes."""
    figure, panels = plt.subplots(
        1, len(searches), figsize=(9, 2.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (folds, found) in zip(panels[0], searches.items(), strict=True):
        for form, values in found.items():
            whole, after = (statistics.median(values[what]) for what in ("whole", "after imports"))
            axes.barh(form, whole - after, color="C1", label="start and imports")
            axes.barh(form, after, left=whole - after, color="C0", label="store, search, logging")
            times = f" {statistics.median(ratio(found, form)):.2f}"
            axes.text(whole, form, times, va="center")
        axes.margins(x=0.15)
        axes.set(xlabel=f"seconds, {folds} folds (number: times hypertune1)")
    panels[0][0].invert_yaxis()
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2)
    figure.suptitle(title(searches))
    tools.save(figure, "overhead")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long", action="store_true", help="also the search with 20 folds")
    options = parser.parse_args()
    searches = {}
    for folds in (5, 20) if options.long else (5,):
        with tempfile.TemporaryDirectory() as name:
            searches[folds] = measure(Path(name), options.rounds, folds)
    picture(searches)
    print(table(searches))
