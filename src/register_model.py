"""Let the newest search's model through a gate; what passes gets a version and the alias `staging`.

What you learn: a registered model is a name with numbered versions; an alias points to one of
them. A candidate that is worse than the version in production is refused, and nothing changes.

    python src/register_model.py        (after src/hypertune2.py)

In the UI: Model training > Model registry > breast-cancer-forest: versions, tags and aliases.
"""

# %% Settings
import logging
import sys

import mlflow
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
NAME = "breast-cancer-forest"
SOURCE = "https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic"
# A relative change of at least 0.0 means: not worse than the version in production.
GATE = {
    "accuracy_score": MetricThreshold(
        threshold=0.9, min_relative_change=0.0, greater_is_better=True
    ),
    "roc_auc": MetricThreshold(threshold=0.95, greater_is_better=True),
}

connect()
# It would warn that labels 0 and 1 may be no classes.
logging.getLogger("mlflow.models.evaluation.evaluators.classifier").setLevel(logging.ERROR)
experiment_id = mlflow.set_experiment("register-model").experiment_id
client = mlflow.MlflowClient()

# %% The newest finished search; the store knows it, no file has to pass between the scripts
searches = mlflow.search_runs(
    search_all_experiments=True,
    filter_string=f"attributes.status = 'FINISHED' AND tags.search = '{NAME}'",
    order_by=["attributes.start_time DESC"],
    max_results=1,
    output_format="list",
)
if not searches:
    raise SystemExit("No finished search is in this store: run python src/hypertune2.py first")
search = searches[0]
model_id = search.outputs.model_outputs[0].model_id

# %% What is registered: the version of this model, if any, and the one in production
registered = client.search_registered_models(f"name = '{NAME}'")
production = str(registered[0].aliases.get("production", "")) if registered else ""
versions = client.search_model_versions(f"name = '{NAME}'")
version = next((v for v in versions if v.source == f"models:/{model_id}"), None)
if version and str(version.version) == production:
    print(f"Version {production} has this model, and is in production: nothing to do")
    sys.exit()

# %% The rows that the search held back, by their digest: others it may have trained on
data = load_breast_cancer(as_frame=True).frame.astype(float)
_, test = train_test_split(data, test_size=0.2, random_state=SEED)
rows = mlflow.data.from_pandas(test, name="breast-cancer-testing", targets="target", source=SOURCE)
if rows.digest not in [given.dataset.digest for given in search.inputs.dataset_inputs]:
    raise SystemExit(
        f"The search {search.info.run_id} didn't hold these test rows back: it may have seen them"
    )

# %% The gate: the candidate and the version in production on these rows, a run for each
uris = [f"models:/{model_id}"] + [f"models:/{NAME}/{production}"] * bool(production)
results = []
for uri in uris:
    try:
        model = mlflow.pyfunc.load_model(uri)
    except Exception as error:  # each kind of model and of store raises its own
        raise SystemExit(f"Can't load {uri}, so nothing can be compared with it: {error}") from None
    with mlflow.start_run(experiment_id=experiment_id, run_name=f"evaluate {uri}") as run:
        results.append(
            mlflow.models.evaluate(model, rows, model_type="classifier", evaluators=["classifier"])
        )
try:
    # With nothing in production the candidate is its own baseline.
    mlflow.validate_evaluation_results(GATE, results[0], results[-1])
except ModelValidationFailedException as error:
    raise SystemExit(f"Refused, nothing is changed: {' '.join(str(error).split())}") from None
scores = {name: f"{results[0].metrics[name]:.4f}" for name in GATE}
reached = ", ".join(f"{name} {score}" for name, score in scores.items())

# %% Register: every call makes a new version, so look first whether this model has one
version = version or mlflow.register_model(f"models:/{model_id}", NAME)
number = str(version.version)

# %% Say what it is: the description for people, tags for queries, the alias for programs
client.update_model_version(
    NAME,
    number,
    description=f"Best of the search {search.info.run_id}: {search.data.params}. Passed the gate "
    f"against {f'version {production}' if production else 'no other'} with {reached}.",
)
tags = {"status": "validated", "gate_against": production or "none"}
for key, value in (tags | scores).items():
    client.set_model_version_tag(NAME, number, key, value)
client.set_registered_model_alias(NAME, "staging", number)

# %% Where it comes from: each step is found by what the one before it names
version = client.get_model_version_by_alias(NAME, "staging")
model = client.get_logged_model(version.source.removeprefix("models:/"))
search = client.get_run(model.source_run_id)
chosen = f"tags.mlflow.parentRunId = '{search.info.run_id}' AND metrics.rank_test_score = 1"
print(f"models:/{NAME}@staging is version {version.version}, {reached}, from")
print(f"  model   {model.name}, {model.model_id}")
print(f"  search  {search.info.run_name}, {search.info.run_id}")
for child in client.search_runs([search.info.experiment_id], chosen, max_results=1):
    print(f"  child   {child.info.run_name}, {child.info.run_id}")
for given in search.inputs.dataset_inputs:
    print(f"  data    {given.dataset.name}, digest {given.dataset.digest}")
print(f"  code    git commit {search.data.tags.get('mlflow.source.git.commit', 'unknown')[:12]}")
print("Next: python src/promote_model.py")
