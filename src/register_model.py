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
KIND = {"model_type": "classifier", "evaluators": ["classifier"]}
# A relative change of 0.0 or more means: not worse than the version in production. Positive means
# benign, as 1 in the data: a false positive is a malignant tumour that is missed.
GATE = {
    "accuracy_score": MetricThreshold(
        threshold=0.9, min_relative_change=0.0, greater_is_better=True
    ),
    "false_positives": MetricThreshold(threshold=5, greater_is_better=False),
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
if not searches or not searches[0].outputs.model_outputs:
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
if version and (status := version.tags.get("status")) in ("rolled back", "retired"):
    raise SystemExit(
        f"Version {version.version} has this model and is {status}: search again first"
    )

# %% The rows that the search held back, by their digest: others it may have trained on
data = load_breast_cancer(as_frame=True).frame.astype(float)
_, test = train_test_split(data, test_size=0.2, random_state=SEED)
rows = mlflow.data.from_pandas(test, name="breast-cancer-testing", targets="target")
same = [given for given in search.inputs.dataset_inputs if given.dataset.digest == rows.digest]
if {tag.value for given in same for tag in given.tags} != {"testing"}:
    raise SystemExit(f"The search {search.info.run_id} didn't hold these test rows back")

# %% The gate: the version in production and the candidate on these rows, a run for each
models = {f"version {production}": f"models:/{NAME}/{production}"} if production else {}
results = []
for name, uri in (models | {"candidate": f"models:/{model_id}"}).items():
    try:
        predict = mlflow.pyfunc.load_model(uri).predict
        with mlflow.start_run(experiment_id=experiment_id, run_name=name) as run:
            mlflow.set_tag("model", uri)
            results.append(mlflow.models.evaluate(predict, rows, **KIND))
    except Exception as error:  # each kind of model and of store raises its own
        if "API request" in str(error):
            raise  # the server's fault, not the model's
        raise SystemExit(f"{uri} can't be evaluated, nothing is changed: {error!r:.200}") from None
try:
    # With nothing in production the candidate is its own baseline.
    mlflow.validate_evaluation_results(GATE, results[-1], results[0])
except ModelValidationFailedException as error:
    raise SystemExit(f"Refused, nothing is changed: {' '.join(str(error).split())}") from None
scores = {name: f"{results[-1].metrics[name]:.4g}" for name in GATE}
reached = ", ".join(f"{name} {score}" for name, score in scores.items())

# %% Register: every call makes a new version, so look first whether this model has one
version = version or mlflow.register_model(f"models:/{model_id}", NAME)
number = str(version.version)

# %% Say what it is: the description for people, tags for queries, the alias for programs
against = f"version {production}" if production else "no other"
text = f"Best of the search {search.info.run_id}. Passed the gate against {against} with {reached}."
client.update_model_version(NAME, number, description=text)
tags = {"status": "validated", "gate_run": run.info.run_id, "gate_against": production or "none"}
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
for given in sorted(search.inputs.dataset_inputs, key=lambda each: each.dataset.name):
    print(f"  data    {given.dataset.name}, digest {given.dataset.digest}")
print(f"  code    git commit {search.data.tags.get('mlflow.source.git.commit', 'unknown')[:12]}")
print("Next: python src/promote_model.py")
