"""Run the script that a run stores once more, and compare every metric.

What you learn: what a run must hold so that you can repeat it, and what is different here.

    python src/reproduce_run.py                 the newest search (after src/hypertune2.py)
    python src/reproduce_run.py RUN_ID --yes    any run that stores its script, without a question
"""

# %% Settings
import os
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from subprocess import getoutput, run

import mlflow
import pandas as pd

from tracking import connect

SEARCH = "attributes.status = 'FINISHED' AND tags.search = 'breast-cancer-forest'"
NEVER_EQUAL = r"(?:^|_)time(?:_|$)|^system/"  # metrics of the clock and of the machine
HERE = Path(globals().get("__file__", "reproduce_run.py")).resolve().parent
words = [] if "kernel_launcher" in sys.argv[0] else sys.argv[1:]  # in a notebook write into []
connect()
client = mlflow.MlflowClient()

# %% The run that you name, or the newest finished search, and its script
wanted = " AND ".join(f"attributes.run_id = '{word}'" for word in words if word != "--yes")
runs = mlflow.search_runs(None, wanted or SEARCH, output_format="list", search_all_experiments=True)
if not runs:
    raise SystemExit("No such run is here. Without an ID: run python src/hypertune2.py first")
old, run_id, home = runs[0], runs[0].info.run_id, [runs[0].info.experiment_id]
stored = [file.path for file in client.list_artifacts(run_id) if file.path.endswith(".py")]
if len(stored) != 1:
    raise SystemExit(f"Run {run_id} can't be repeated: it stores {len(stored) or 'no'} scripts")
temp = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # gone when this program ends
script = Path(client.download_artifacts(run_id, stored[0], temp.name))

# %% What differs here? Script, commit with -dirty for uncommitted changes, versions in its model
texts = [each.read_text("utf-8") for each in (script, HERE / script.name) if each.exists()]
then, here = ({"script": t and sha256(t.encode()).hexdigest()[:12]} for t in [*texts, ""][:2])
then["commit"] = old.data.tags.get("mlflow.source.git.commit", "unknown")[:12]
git = f'git -C "{HERE}" describe --always --dirty --abbrev=12 --exclude=* 2>{os.devnull}'
here["commit"] = getoutput(git) or "unknown"  # without git, or outside of a repo of yours
for model in client.search_logged_models(home, f"source_run_id = '{run_id}'", max_results=1):
    needs = mlflow.artifacts.load_text(f"{model.artifact_location}/requirements.txt").split()
    for name, version in (line.split("==") for line in needs if line.count("==") == 1):
        installed = next((each.version for each in distributions(name=name)), "missing")
        then[name], here[name] = version, installed
print(pd.DataFrame({"then": then, "here": here}).to_string(), flush=True)

# %% It is a program of whoever wrote it, so you must agree. It runs unchanged, but on a new store
ask = f"Read {script}\nIt takes as long as it did then. Run it? Write yes: "
if "--yes" not in words and not (sys.stdin.isatty() and input(ask) == "yes"):
    raise SystemExit("Nothing was run: read the run's script, then write yes here or add --yes")
uri = f"sqlite:///{Path(temp.name).as_posix()}/again.db"
env = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))  # tracking.py is there
done = run([sys.executable, script], cwd=temp.name, env=env, capture_output=True, errors="replace")
new = mlflow.MlflowClient(uri)
experiments = [each.experiment_id for each in new.search_experiments()]
found = new.search_runs(experiments, order_by=["attributes.start_time ASC"])
if done.returncode or not found:
    raise SystemExit(f"No new run to compare: exit code {done.returncode}\n{done.stderr[-500:]}")
again = max(found, key=lambda each: each.info.run_name == old.info.run_name)

# %% Compare the data's digests, the params, and all points of the metrics, of the children too
points = []
for when, store, each, facts in ("then", client, old, then), ("here", new, again, here):
    facts |= each.data.params
    for given in each.inputs.dataset_inputs:
        facts[" ".join([given.dataset.name, *(t.value for t in given.tags)])] = given.dataset.digest
    of_run = f"tags.`mlflow.parentRunId` = '{each.info.run_id}'"
    children = store.search_runs([each.info.experiment_id], of_run, max_results=50_000)
    for name, one in [("", each), *((child.info.run_name, child) for child in children)]:
        for metric in one.data.metrics:
            for point in store.get_metric_history(one.info.run_id, metric):
                points.append((when, name, metric, point.step, point.value))
differs = pd.DataFrame({"then": then, "here": here}).fillna("missing").query("then != here")
keys = ["run", "metric", "step"]
table = pd.DataFrame(points, columns=["when", *keys, "value"]).pivot_table("value", keys, "when")
table = table.reset_index().reindex(columns=[*keys, "then", "here"])
scores = table[~table["metric"].str.contains(NEVER_EQUAL)].fillna(float("inf"))
off = scores.query("then != here").eval("off = here - then").sort_values("off", key=abs)[::-1]

# %% Result
experiment_id = mlflow.set_experiment("reproduce-run").experiment_id
tags = {"equal": "no" if len(off) or scores.empty else "yes"}
with mlflow.start_run(experiment_id=experiment_id, run_name=script.stem, tags=tags) as report:
    mlflow.log_params({"run_id": run_id, "script": script.name})
    mlflow.log_metrics({"all": len(scores), "off": len(off), "worst": max([0, *off["off"].abs()])})
    mlflow.log_text(differs.to_csv(index_label="what", lineterminator="\n"), "differs.csv")
    mlflow.log_text(table.to_csv(index=False, lineterminator="\n"), "metrics.csv")
print(f"Different here:\n{differs.to_string()}" if len(differs) else "No difference found")
print(off.to_string(index=False, max_rows=10) if len(off) else "All scores are equal")
print(f"Of {len(scores)} scores {len(off)} differ; {len(table) - len(scores)} values are left out")
print(f'Run "{report.info.run_name}", ID {report.info.run_id}\nNext: python src/register_model.py')
