"""What tracking costs with other trackers: one search, logged as each one's documentation does it.

    pip install -r tests/requirements.txt
    python benchmarks/peers.py                     # some half an hour, the installing included
    python benchmarks/peers.py --folder ~/peers    # keeps the virtual environments there

The job is src/hypertune1.py. benchmarks/peers/with_NAME.py imports it, which runs it, and logs by
the tracker NAME a run of each candidate (2 params, 9 metrics) and one of the search (2 params,
1 metric), on this machine, without a server. Each tracker has a virtual environment of its own,
with the job's packages in the same versions. All take turns: each round runs the job untracked and
tracked, and the import of the tracker alone, all as new processes. Printed are medians over the
rounds [least, most]: the seconds that the job takes more when tracked, those of the import, and
each round's ratio of tracked to untracked in the same environment.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import measure as tools
from lessons import SRC
from measure import ratios, spread
from services import ENV

HERE = Path(__file__).resolve().parent
UV = [sys.executable, "-m", "uv"]
JOB = [f"{package}=={version(package)}" for package in ("scikit-learn", "pandas")]
JOB += ["setuptools<81"]  # sacred imports pkg_resources, which newer ones lack
TRACKERS = {
    "mlflow": f"mlflow=={version('mlflow')}",
    "wandb": "wandb==0.31.0",
    "aim": "aim==3.29.1",
    "dvclive": "dvclive==3.49.1",
    "trackio": "trackio==0.43.0",
    "sacred": "sacred==0.8.7",
    "clearml": "clearml==2.1.12",
}
# No reports on their use, and nothing outside the folder.
QUIET = {"WANDB_ERROR_REPORTING": "false"}
QUIET |= {"DVC_NO_ANALYTICS": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}
QUIET |= {"TRACKIO_DIR": "trackio", "CLEARML_CACHE_DIR": "clearml"}
MINUTES = 10  # that the job may take


class Environment:
    """A virtual environment with one tracker, and a folder in which the job runs."""

    def __init__(self, folder, name, job):
        self.name, self.folder = name, folder / f"{name}-runs"
        self.bin = folder / name / "bin"
        self.env = ENV | QUIET | {"HOME": str(self.folder)}
        self.env |= {"PATH": f"{self.bin}{os.pathsep}{ENV['PATH']}"}
        self.env |= {"PYTHONPATH": os.pathsep.join([str(self.folder), str(HERE / "peers")])}
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "hypertune1.py").write_text(job)
        if not self.bin.exists():
            self.command(*UV, "venv", "-q", "--seed", folder / name)
        # What is imported is compiled then, in the round before those that count.
        install = [*UV, "pip", "install", "-q", "--python", self.bin / "python"]
        self.command(*install, *JOB, TRACKERS[name], HOME=ENV["HOME"])
        if name == "dvclive":  # wants a git repo with DVC
            self.command("git", "init", "-q")
            self.command("dvc", "init", "-q")
            author = ["-c", "user.name=a", "-c", "user.email=a@b"]
            self.command("git", *author, "commit", "-q", "-m", "DVC")
        if name == "clearml":
            # Its default forks a process for each task, while a thread starts git: now and then the
            # fork keeps a pipe of git's open, and close() waits for ever.
            setting = "sdk.development.report_use_subprocess: false\n"
            (self.folder / "clearml.conf").write_text(setting)

    def command(self, *command, **env):
        """Run the command in the folder; return what it prints."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60 * MINUTES,
        )
        if result.returncode:
            words = " ".join(result.stderr.split())[-200:] or "it says nothing"
            raise RuntimeError(f"{self.name}: {words}")
        return result.stdout

    def run(self, *args, **env):
        """Run the environment's Python; return what it prints."""
        return self.command(self.bin / "python", *map(str, args), **env)

    def seconds(self, *args):
        """The time that the environment's Python takes."""
        began = time.perf_counter()
        self.run(*args)
        return time.perf_counter() - began

    def round(self):
        """Seconds of the job without tracking and with it, and of the tracker's import."""
        nothing = self.seconds("-c", "")
        return (
            self.seconds("hypertune1.py"),
            self.seconds(HERE / "peers" / f"with_{self.name}.py"),
            self.seconds("-c", f"import {self.name}") - nothing,
        )

    def stored(self):
        """[params, metrics] of each run that the tracker has stored."""
        return json.loads(self.run(HERE / "peers" / "read.py", self.name))


def build(folder, names, job):
    """{name: its environment, or what is wrong with it}, each having tracked the job once."""
    found = {}
    for name in names:
        try:
            found[name] = Environment(folder, name, job)
            found[name].round()  # makes the store, and warms the disk's cache
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            found[name] = str(error)
    return found


def measure(environments, rounds):
    """{name: seconds of each round without, with and importing, or what is wrong}."""
    ready = {name: one for name, one in environments.items() if not isinstance(one, str)}
    found = {name: [] for name in ready}
    for _ in range(rounds):
        for name, environment in ready.items():
            found[name].append(environment.round())
    return {name: found.get(name, wrong) for name, wrong in environments.items()}


def ratio(values):
    """Each round's ratio of the job with tracking to that without."""
    without, tracked, _ = zip(*values, strict=True)
    return ratios(tracked, without)


def ranked(found):
    """The names of what was measured, the least ratio first."""
    measured = [name for name, values in found.items() if not isinstance(values, str)]
    return sorted(measured, key=lambda name: statistics.median(ratio(found[name])))


def table(found):
    """What was found as a table of Markdown."""
    rows = []
    for name in ranked(found):
        more = [tracked - without for without, tracked, _ in found[name]]
        imports = [importing for *_, importing in found[name]]
        cells = [spread(more, 1, " s"), spread(imports, 1, " s"), spread(ratio(found[name]))]
        rows.append([TRACKERS[name].replace("==", " "), *cells])
    for name, wrong in found.items():
        if isinstance(wrong, str):
            rows.append([TRACKERS[name].replace("==", " "), wrong, "", ""])
    return tools.table(["Tracker", "More than untracked", "of it the import", "Ratio"], rows)


def title(found):
    """What the figures say."""
    names = ranked(found)
    first, mlflow = names[0], statistics.median(ratio(found["mlflow"]))
    said = f"Tracked by MLflow the search takes {mlflow:.2f} times as long as untracked"
    if first == "mlflow":
        return f"{said},\nthe least of {len(names)}"
    least = statistics.median(ratio(found[first]))
    place = names.index("mlflow") + 1
    return f"{said},\nrank {place} of {len(names)}; the least is {first} with {least:.2f}"


def picture(found):
    """Draw the seconds that each tracker adds."""
    names = ranked(found)
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(names) + 1.6), layout="constrained")
    for name in names:
        more = statistics.median(tracked - without for without, tracked, _ in found[name])
        imports = statistics.median(importing for *_, importing in found[name])
        axes.barh(name, imports, color="C1", label="import")
        axes.barh(name, more - imports, left=imports, color="C0", label="17 runs and their store")
        axes.text(
            max(more, imports), name, f" {statistics.median(ratio(found[name])):.2f}", va="center"
        )
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="seconds more than untracked (number: times untracked)", title=title(found))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[:2], labels[:2])
    tools.save(figure, "peers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the virtual environments in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        job = (SRC / "hypertune1.py").read_text()
        found = measure(build(folder.resolve(), TRACKERS, job), options.rounds)
    picture(found)
    print(table(found))
