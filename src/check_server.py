"""Ask a tracking server what it can do, before you or your team depend on it.

What you learn: which calls it answers, and which lessons run there. What this makes, it removes.

    python src/check_server.py          (set MLFLOW_TRACKING_URI to the server first)
"""

# %% Settings
import re
import time
from multiprocessing.pool import ThreadPool

import mlflow
from mlflow.entities import Dataset, DatasetInput, Metric, Param
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request_safe

from tracking import connect

NAME = f"check-server-{time.time_ns()}"
ONE, ALL = 8, 30  # seconds for one answer, and for all
USUAL = {"runs", "log_batch", "files up", "files down", "searches", "logged models"}
LESSONS = {  # and what they need
    "dagshub_run": USUAL - {"searches", "logged models"},
    "basic_run, training_loop": USUAL,
    "select_experiment": USUAL | {"restore"},
    "autolog, log_dataset, pipeline_run, reproduce_run": (DATA := USUAL | {"dataset inputs"}),
    "hypertune_optuna": USUAL | {"nested runs"},
    "hypertune2, hypertune3, compare_runs": DATA | {"nested runs"},
    "custom_model": USUAL | {"versions"},
    "register_model, promote_model, score_model": DATA | {"nested runs", "aliases", "tags"},
}
connect(oldest=2)
mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)  # its first answer counts
client, server = mlflow.MlflowClient(), get_default_host_creds(mlflow.get_tracking_uri())
pool, table, seconds, end = ThreadPool(20), {}, [], time.monotonic() + ALL


# %% One question. A thread asks it, because some stores let a call wait for minutes
def ask(what, call, *needs):
    """Put the server's answer into the table. Returns what CALL returns, or None."""
    value, began = None, time.monotonic()
    missing = [need for need in needs if table[need] != "yes"] + ["more time"] * (began > end)
    try:
        value = None if missing else pool.apply_async(call).get(ONE)
        table[what] = f"not asked: it needs {missing[0]}" if missing else "yes"
    except Exception as error:
        words = " ".join(str(error).split()) or f"no answer within {ONE} seconds"
        denied = re.search(r"error code 40[13]|^40[13] Client|PERMISSION_DENIED", words)
        table[what] = "not allowed" if denied else f"no: {words:.150}"
    seconds.extend([] if missing else [time.monotonic() - began])
    print(f"{what:20}{value if what == 'version' and value else table[what]}", flush=True)
    return value


def remove():
    """Find all by its name: an answer that came too late has made something as well."""
    for home in client.search_experiments(filter_string=f"name = '{NAME}'"):
        for run in client.search_runs([home.experiment_id]):
            get_artifact_repository(run.info.artifact_uri).delete_artifacts()
        client.delete_experiment(home.experiment_id)
    for model in client.search_registered_models(f"name = '{NAME}'"):
        client.delete_registered_model(model.name)


# %% The questions: one cell, because all is removed again after Ctrl-C too
try:
    if server.host.startswith("http"):
        ask("version", lambda: http_request_safe(server, "/version", "GET").text)
    home = ask("experiments", lambda: client.create_experiment(NAME))
    run = ask("runs", lambda: client.create_run(home).info, "experiments")
    values = {"metrics": [Metric("score", 0.5, 1, 0)], "params": [Param("depth", "2")]}
    ask("log_batch", lambda: client.log_batch(run.run_id, **values), "runs")
    where = "metrics.score > 0.4 AND params.depth = '2'"
    ask("searches", lambda: client.search_runs([home], where)[0], "log_batch")
    parent = {"mlflow.parentRunId": run and run.run_id}
    ask("nested runs", lambda: client.create_run(home, tags=parent), "runs")
    data = [DatasetInput(Dataset("check", "0", "local", "-"))]
    ask("dataset inputs", lambda: client.log_inputs(run.run_id, data), "runs")
    ask("files up", lambda: client.log_text(run.run_id, NAME, "check.txt"), "runs")
    at = f"{run and run.artifact_uri}/check.txt"
    ask("files down", lambda: mlflow.artifacts.load_text(at), "files up")
    ask("logged models", lambda: client.create_logged_model(home), "experiments")
    ask("delete", lambda: client.delete_experiment(home), "experiments")
    ask("restore", lambda: client.restore_experiment(home), "delete")
    ask("registry", lambda: client.create_registered_model(NAME))
    ask("versions", lambda: client.create_model_version(NAME, at, run.run_id), "registry", "runs")
    ask("aliases", lambda: client.set_registered_model_alias(NAME, "best", "1"), "versions")
    ask("tags", lambda: client.set_model_version_tag(NAME, "1", "a", "b"), "versions")
finally:
    end = float("inf")
    ask("removed again", remove)

# %% Result
can = {what for what, answer in table.items() if answer == "yes"}
for names, needs in LESSONS.items():
    print(f"{names}: {'no, without ' + ', '.join(sorted(needs - can)) if needs - can else 'yes'}")
print(f"Half of its answers took less than {sorted(seconds)[len(seconds) // 2] * 1000:.0f} ms")
print("Next: the lessons that run there")
