"""What a store holds, for the tests of all lessons."""

import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.models import Model


def runs_of(uri, experiment_name):
    """All runs of the experiment, oldest first; none if it is missing."""
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(experiment_name)
    if not experiment:
        return []
    order = ["attributes.start_time ASC"]
    return list(client.search_runs([experiment.experiment_id], max_results=50_000, order_by=order))


def children_of(client, parent):
    """The child runs of PARENT, best rank first."""
    return list(
        client.search_runs(
            [parent.info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
            max_results=50_000,
            order_by=["metrics.rank_test_score"],
        )
    )


def contents(uri):
    """All that a reader finds in the store, in an order and without what differs on each run."""
    client = MlflowClient(uri, registry_uri=uri)
    experiments = sorted(client.search_experiments(), key=lambda each: each.name)
    found = {each.name: (dict(each.tags), each.lifecycle_stage) for each in experiments}
    for name in list(found):
        # Two workers begin in any order.
        runs = sorted(runs_of(uri, name), key=lambda run: (run.info.run_name, run.info.start_time))
        found[name] += ([described(client, run) for run in runs],)
    for model in client.search_registered_models():
        versions = client.search_model_versions(f"name = '{model.name}'")
        texts = [(each.version, each.tags, each.description) for each in versions]
        found[f"model {model.name}"] = without_ids([model.aliases, model.tags, sorted(texts)])
    return found


def contents_without_source(folder):
    """What the store of the repo in FOLDER holds, without what MLflow says of the program."""
    found = contents(f"sqlite:///{folder}/mlflow.db") if (folder / "mlflow.db").exists() else {}
    for name, (*_, runs) in found.items():
        for run in runs if not name.startswith("model ") else []:
            run["tags"] = {k: v for k, v in run["tags"].items() if "mlflow.source." not in k}
    return found


def described(client, run):
    """What the run holds, without the machine's metrics; a time is only said to be there."""
    scores = {k: v if "time" not in k else "a time" for k, v in run.data.metrics.items()}
    scores = {k: v for k, v in scores.items() if not k.startswith("system/")}
    parent = run.data.tags.get("mlflow.parentRunId")
    inputs = run.inputs.dataset_inputs
    # The run's outputs still list a model that was deleted.
    of_run = f"source_run_id = '{run.info.run_id}'"
    models = client.search_logged_models([run.info.experiment_id], of_run)
    return without_ids(
        {
            "name": run.info.run_name,
            "status": run.info.status,
            "parent": parent and client.get_run(parent).info.run_name,
            "params": run.data.params,
            "metrics": scores,
            "tags": run.data.tags,
            "data": sorted(
                (i.dataset.name, i.dataset.digest, [tag.value for tag in i.tags]) for i in inputs
            ),
            "files": files_of(client, run.info.run_id),
            "models": [
                (model.name, model.params, files_of(client, model.model_id))
                for model in sorted(models, key=lambda model: model.name)
            ],
        }
    )


def files_of(client, owner, folder=None):
    """The paths of all files of a run or a logged model, sorted."""
    listed = client.list_logged_model_artifacts if owner[:2] == "m-" else client.list_artifacts
    found = []
    for file in listed(owner, folder):
        found += files_of(client, owner, file.path) if file.is_dir else [file.path]
    return sorted(found)


def assert_loads_elsewhere(model):
    """The MODEL, an address or a folder, says what it takes and gives and what it needs."""
    folder = download_artifacts(model)
    signature = Model.load(folder).signature
    assert signature.inputs and signature.outputs
    needs = (Path(folder) / "requirements.txt").read_text()
    assert re.findall("^(.+)==", needs, re.MULTILINE) == ["mlflow", "scikit-learn", "skops"]


def without_ids(value):
    """VALUE with a placeholder for each ID and each moment, in all its texts."""
    if isinstance(value, dict):
        return {key: without_ids(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_ids(each) for each in value]
    if isinstance(value, str):
        return re.sub(r"\b(m-)?[0-9a-f]{32}\b", "ID", value)
    return value
