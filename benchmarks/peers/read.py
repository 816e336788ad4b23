"""What a tracker has stored: python read.py NAME, in the folder and by the Python that it ran in.

Prints a list of [params, metrics], one of each run, as JSON: through the tracker's own reader where
it has one, else from the files that it documents.
"""

import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile


def mlflow():
    import mlflow

    for run in mlflow.search_runs(search_all_experiments=True, output_format="list"):
        yield run.data.params, run.data.metrics


def wandb():
    for folder in Path("wandb").glob("offline-run-*"):
        command = ["wandb", "leet", "inspect", "--summary", "--json", folder]
        run = json.loads(subprocess.check_output(command))
        yield run["config"], run["summary"]


def aim():
    from aim import Repo

    # Else it shows only what a running `aim up` has indexed.
    subprocess.run(["aim", "storage", "reindex", "-y"], check=True, stdout=sys.stderr)
    for run in Repo(".").iter_runs():
        yield run["hparams"], {metric.name: metric.values.last()[1] for metric in run.metrics()}


def dvclive():
    from dvc.api import exp_show

    names = {"max_depth", "n_estimators"}
    for row in exp_show():
        if row["Experiment"]:
            numbers = {name: value for name, value in row.items() if isinstance(value, float)}
            yield (
                {name: row[name] for name in names},
                {name: value for name, value in numbers.items() if name not in names},
            )


def trackio():
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    for run in trackio.Api().runs("search"):
        (metrics,) = SQLiteStorage.get_logs(run.project, run.name)
        yield run.config, metrics


def sacred():
    for folder in Path("runs").glob("[0-9]*"):
        metrics = json.loads((folder / "metrics.json").read_text())
        yield (
            json.loads((folder / "config.json").read_text()),
            {name: metric["values"][-1] for name, metric in metrics.items()},
        )


def clearml():
    for file in Path("clearml").rglob("*.zip"):
        with ZipFile(file) as archive:
            params = json.loads(archive.read("task.json"))["hyperparams"]["General"]
            events = map(json.loads, archive.read("metrics.jsonl").splitlines())
            yield (
                {name: param["value"] for name, param in params.items()},
                {event["variant"]: event["value"] for batch in events for event in batch},
            )


if __name__ == "__main__":
    print(json.dumps(list(globals()[sys.argv[1]]())))
