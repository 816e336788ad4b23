"""Give the best model a name, a version and an alias.

What you learn: a registered model is a name with numbered versions; an alias points to one of
them, and whoever loads by alias needs no code change when it moves.

    python src/register_model.py        (after src/hypertune2.py)

In the UI: Model training > Model registry > breast-cancer-forest: versions, tags and aliases.

The stages of older courses (Staging, Production, Archived) are deprecated. Today's form:
Staging and Production are aliases, as many as you like; Development is a version without an
alias; Retirement is an alias removed and a tag set, such as status=retired.
"""

# %% Settings
import mlflow
from mlflow import MlflowClient
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
NAME = "breast-cancer-forest"
ALIAS = "staging"

connect()
client = MlflowClient()

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

# %% Register: every call makes a new version, so look first whether this model has one
existing = client.search_model_versions(f"name = '{NAME}'")
version = next((v for v in existing if v.source == f"models:/{model_id}"), None)
version = version or mlflow.register_model(f"models:/{model_id}", NAME)

# %% Say what it is: the description for people, tags for queries, the alias for programs
client.update_model_version(
    NAME,
    version.version,
    description=f"Best of the search {search.info.run_id}: {search.data.params}",
)
client.set_model_version_tag(NAME, version.version, "status", "candidate")
client.set_model_version_tag(
    NAME, version.version, "test_accuracy", f"{search.data.metrics['test_accuracy']:.4f}"
)
client.set_registered_model_alias(NAME, ALIAS, version.version)

# %% Load by alias and predict, as another program would
data = load_breast_cancer(as_frame=True).frame.astype(float)
_, test = train_test_split(data, test_size=0.2, random_state=SEED)
model = mlflow.pyfunc.load_model(f"models:/{NAME}@{ALIAS}")
correct = model.predict(test.drop(columns="target")) == test["target"]

print(f"models:/{NAME}@{ALIAS} is version {version.version}")
print(f"It predicts {correct.sum()} of {len(test)} test tumours correctly")
print(f'From the run "{search.info.run_name}", ID {search.info.run_id}')
print("Next: look at it under Model training > Model registry")
