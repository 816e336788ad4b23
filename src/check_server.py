"""Ask a tracking server what it can do, before you or your team depend on it.

What you learn: which calls it answers, and which lessons run there. What this makes, it removes.

    python src/check_server.py          (set MLFLOW_TRACKING_URI to the server first)
"""

# %% Settings
import re
import time
from contextlib import ExitStack
from multiprocessing.pool import ThreadPool

import mlflow
from mlflow.entities import Dataset, DatasetInput, Metric
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request_safe

from tracking import connect

NAME, ONE, ALL = f"check-server-{time.time_ns()}", 8, 15  # seconds for one answer, and for all
LESSONS = {  # and what they need, with the lessons before them
    "dagshub_run": {"runs", "log_batch", "files up", "files down"},
    "basic_run": (MODEL := {"runs", "log_batch", "files up", "logged models"}),
    "select_experiment": {"runs", "searches", "restore", "logged models"},
    "log_dataset": {"runs", "dataset inputs", "logged models"},
    "autolog, training_loop, pipeline_run": (DATA := MODEL | {"files down", "dataset inputs"}),
    "custom_model": MODEL | {"files down", "versions"},
    "reproduce_run": MODEL | {"files down", "searches"},
    "hypertune_optuna": MODEL | {"nested runs", "searches"},
    "hypertune2": (GRID := MODEL | {"nested runs", "dataset inputs"}),
    "compare_runs, hypertune3": GRID | {"searches"},
    "register_model, promote_model, score_model": GRID | DATA | {"searches", "aliases", "tags"},
}
connect(oldest=2)
mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)  # its first answer counts
client, server = mlflow.MlflowClient(), get_default_host_creds(mlflow.get_tracking_uri())
end, pool, begun, table, seconds = time.monotonic() + ALL, ThreadPool(20), [], {}, []


# %% One question, into the table. A thread asks, because some stores let a call wait for minutes
def ask(what, call, *needs):
    value, began, late = None, time.monotonic(), "more time" * (time.monotonic() > end)
    missing = [late or need for need in needs if late or table[need] != "yes"]
    table[what] = f"not asked: it needs {missing[0]}" if missing else "yes"
    begun.extend([] if missing else [pool.apply_async(call)])
    try:
        value = None if missing else begun[-1].get(ONE)
    except Exception as error:
        words = " ".join(str(error).split()) or f"no answer within {ONE} seconds"
        denied = re.search("error code 40[13]|40[13] Client Error|PERMISSION_DENIED", words)
        table[what] = "not allowed" if denied else f"no: {words:.150}"
    seconds.extend([] if missing else [time.monotonic() - began])
    print(f"{what:20}{value if what == 'version' and value else table[what]:.200}", flush=True)
    return value


def remove():  # by its name: an answer that came too late has made something as well
    with ExitStack() as each:  # an error doesn't keep the rest
        for home in client.search_experiments(filter_string=f"name = '{NAME}'"):
            each.callback(client.delete_experiment, home.experiment_id)
            for run in client.search_runs([home.experiment_id]):
                each.callback(get_artifact_repository(run.info.artifact_uri).delete_artifacts)
        if re.match("yes|no: no answer", table.get("registry", "")):  # else no model is there
            for model in client.search_registered_models(f"name = '{NAME}'"):
                each.callback(client.delete_registered_model, model.name)


# %% The questions: one cell, because all is removed again after Ctrl-C too
try:
    if server.host.startswith("http"):
        ask("version", lambda: http_request_safe(server, "/version", "GET").text)
    home = ask("experiments", lambda: client.create_experiment(NAME))
    run = ask("runs", lambda: client.create_run(home, tags={"a": "b"}).info, "experiments")
    ask("log_batch", lambda: client.log_batch(run.run_id, [Metric("score", 0.5, 1, 0)]), "runs")
    ask("searches", lambda: client.search_runs([home], "tags.a = 'b'")[0], "runs")
    parent, at = {"mlflow.parentRunId": run and run.run_id}, f"{run and run.artifact_uri}/check.txt"
    ask("nested runs", lambda: client.create_run(home, tags=parent), "runs")
    data = [DatasetInput(Dataset("check", "0", "local", "-"))]
    ask("dataset inputs", lambda: client.log_inputs(run.run_id, data), "runs")
    ask("files up", lambda: client.log_text(run.run_id, NAME, "check.txt"), "runs")
    ask("files down", lambda: mlflow.artifacts.load_text(at), "files up")
    ask("logged models", lambda: client.create_logged_model(home), "experiments")
    ask("delete", lambda: client.delete_experiment(home), "experiments")
    ask("restore", lambda: client.restore_experiment(home), "delete")
    ask("registry", lambda: client.create_registered_model(NAME))
    ask("versions", lambda: client.create_model_version(NAME, at, run.run_id), "registry", "runs")
    ask("aliases", lambda: client.set_registered_model_alias(NAME, "best", "1"), "versions")
    ask("tags", lambda: client.set_model_version_tag(NAME, "1", "a", "b"), "versions")
finally:
    begun[-1].wait(ONE)  # after Ctrl-C it may still make something
    ask("removed again", remove)

# %% Result
can = {what for what, answer in table.items() if answer == "yes"}
for names, needs in LESSONS.items():
    print(f"{names}: {'no, without ' + ', '.join(sorted(needs - can)) if needs - can else 'yes'}")
print(f"Half of its answers took less than {sorted(seconds)[len(seconds) // 2] * 1000:.0f} ms")
print("Next: the lessons that run there")
