"""Let the newest search's model through a gate; what passes gets a version and the alias `staging`.

What you learn: a registered model is a name with numbered versions; an alias points to one of
them. A candidate that is worse than the version in production is refused, and nothing changes.

    python src/register_model.py        (after src/hypertune2.py)
"""

# %% Settings
import logging

import mlflow
from mlflow.models import MetricThreshold
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
NAME = "breast-cancer-forest"
# In these data 0 is malignant. So recall is the share of the malignant tumours that are found.
HOW = {"model_type": "classifier", "evaluators": "classifier", "evaluator_config": {"pos_label": 0}}
# Each score must reach this number, and also what the version in production reaches. It is recall,
# not false_negatives: if production misses no tumour, MLflow can't compare with that 0.
GATE = {
    name: MetricThreshold(threshold=least, min_relative_change=0.0, greater_is_better=True)
    for name, least in {"accuracy_score": 0.9, "recall_score": 0.88}.items()
}

connected = connect()
# It would warn that labels 0 and 1 may be no classes.
logging.getLogger("mlflow.models.evaluation.evaluators.classifier").setLevel(logging.ERROR)
experiment_id = mlflow.set_experiment("register-model").experiment_id
client = mlflow.MlflowClient()

# %% The candidate: the model of the newest finished search that has one, and where it comes from
finished = f"attributes.status = 'FINISHED' AND tags.search = '{NAME}'"
searches = mlflow.search_runs(None, finished, search_all_experiments=True, output_format="list")
search = next((each for each in searches if each.outputs.model_outputs), None)  # newest first
if not search:
    raise SystemExit("No finished search with a model is here: run python src/hypertune2.py first")
candidate = f"models:/{search.outputs.model_outputs[0].model_id}"
print(f"Candidate: {candidate}, of a search by {search.data.tags.get('mlflow.user', 'unknown')}")
print(f"  search  {search.info.run_name}, {search.info.run_id}")
chosen = f"tags.mlflow.parentRunId = '{search.info.run_id}' AND metrics.rank_test_score = 1"
for child in client.search_runs([search.info.experiment_id], chosen, max_results=1):
    print(f"  child   {child.info.run_name}, {child.info.run_id}")
print(f"  code    git commit {search.data.tags.get('mlflow.source.git.commit', 'unknown')[:12]}")
for given in sorted(search.inputs.dataset_inputs, key=lambda each: each.dataset.name):
    print(f"  data    {given.dataset.name}, digest {given.dataset.digest}", flush=True)

# %% What is registered: the version of this model, if any, and the one in production
registered = client.search_registered_models(f"name = '{NAME}'")
production = str(registered[0].aliases.get("production", "")) if registered else ""
versions = client.search_model_versions(f"name = '{NAME}'")
version = next((each for each in versions if each.source == candidate), None)
if version and str(version.version) == production:
    print(f"Version {production} has this model, and is in production: nothing to do")
    raise SystemExit
if version and (status := version.tags.get("status")) in ("rolled back", "retired"):
    raise SystemExit(f"This model is version {version.version}, {status}: search again first")

# %% The gate: production and candidate, a run for each, on the rows that the search held back
data = load_breast_cancer(as_frame=True).frame.astype(float)
_, test = train_test_split(data, test_size=0.2, random_state=SEED)
rows = mlflow.data.from_pandas(test, name="breast-cancer-testing", targets="target")
same = [given for given in search.inputs.dataset_inputs if given.dataset.digest == rows.digest]
if {tag.value for given in same for tag in given.tags} != {"testing"}:  # it may know them
    raise SystemExit(f"The search {search.info.run_id} didn't hold these test rows back")
models = {f"version {production}": f"models:/{NAME}/{production}"} if production else {}
results = []
for name, uri in (models | {"candidate": candidate}).items():
    try:
        predict = mlflow.pyfunc.load_model(uri).predict
        with mlflow.start_run(experiment_id=experiment_id, run_name=name, tags={"model": uri}):
            results.append(mlflow.models.evaluate(predict, rows, **HOW))
    except Exception as error:  # each kind of model and of store raises its own
        if "API request" in str(error):
            raise  # the server's fault, not the model's
        raise SystemExit(f"{uri} can't be evaluated, nothing is changed: {error!r:.200}") from None
try:  # with nothing in production the candidate is its own baseline
    mlflow.validate_evaluation_results(GATE, results[-1], results[0])
except mlflow.MlflowException as error:
    raise SystemExit(f"Refused, nothing is changed: {' '.join(str(error).split())}") from None

# %% A version, if it has none: the description is for people, tags for queries, alias for programs
number = str((version or mlflow.register_model(candidate, NAME)).version)
scores = {name: f"{results[-1].metrics[name]:.4g}" for name in GATE}
reached = ", ".join(f"{name} {score}" for name, score in scores.items())
against = f"version {production}" if production else "no other"
text = f"Best of the search {search.info.run_id}. Passed the gate against {against} with {reached}."
client.update_model_version(NAME, number, description=text)
tags = {"status": "validated", "gate_run": results[-1].run_id, "gate_against": production or "none"}
for key, value in (tags | scores).items():
    client.set_model_version_tag(NAME, number, key, value)
client.set_registered_model_alias(NAME, "staging", number)
print(f"models:/{NAME}@staging is version {number}, {reached}")
print(f"{connected}/#/models/{NAME}/versions/{number}")
print("Next: python src/promote_model.py")
