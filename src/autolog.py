"""Let MLflow log the training by itself, and see what it leaves out.

What you learn: one line records params, training metrics, plots and the shape of the data; the
code, your own metrics and your own judgement stay yours to log.

    python src/autolog.py

In the UI: Model training > Experiments > autolog. Compare the run's params with those of
basic-run: autolog also records the ones that you didn't choose.
"""

# %% Settings
import warnings
from importlib.metadata import version

import mlflow
import pandas as pd
from mlflow.models import infer_signature
from sklearn import metrics
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
SCRIPT = globals().get("__file__", "autolog.py")  # a notebook has no __file__

connected = connect()
experiment_id = mlflow.set_experiment("autolog").experiment_id

# MLflow's own call uses a name that scikit-learn 1.9 has deprecated: not a fault of your code.
warnings.filterwarnings("ignore", "`y_pred` was renamed", FutureWarning)

# %% Switch it on before training. It would pickle the model, so the model is logged by hand.
mlflow.autolog(log_models=False)

# %% Data
wine = load_wine(as_frame=True).frame.astype(float)
train, test = train_test_split(wine, test_size=0.1, random_state=SEED)
X_train, y_train = train.drop(columns="target"), train["target"]
X_test, y_test = test.drop(columns="target"), test["target"]

# %% Train: not one logging call in sight
with mlflow.start_run(experiment_id=experiment_id, run_name="autologged forest") as run:
    forest = RandomForestClassifier(n_estimators=50, max_depth=5, random_state=SEED)
    forest.fit(X_train, y_train)
    predicted = forest.predict(X_test)
    # Seen because it is called through its module; `from sklearn.metrics import accuracy_score`
    # before autolog() would have kept the function that MLflow doesn't watch.
    metrics.accuracy_score(y_test, predicted)

# %% Read the run back from the store: only what is there was recorded
run_id = run.info.run_id
recorded = mlflow.get_run(run_id)
files = [file.path for file in mlflow.MlflowClient().list_artifacts(run_id)]
data = recorded.inputs.dataset_inputs


def row(what, values):
    """One line of the table: what, whether it is in the store, how many, for example which."""
    return what, "yes" if values else "NO", len(values), ", ".join(sorted(values)[:2])


logged = recorded.data.metrics
table = [
    row("params, defaults included", recorded.data.params),
    row("metrics on the training rows", [name for name in logged if name.startswith("training_")]),
    row("metric calls after the fit", [name for name in logged if name.endswith("_X_test")]),
    row("files", files),
    row("data: name and digest", [f"{d.dataset.name} {d.dataset.digest}" for d in data]),
    row("rows of the data", [file for file in files if file.endswith((".csv", ".parquet"))]),
    row("your code", [file for file in files if file.endswith(".py")]),
    row("your own metric", [name for name in logged if name == "test_errors"]),
    row("model (switched off above)", recorded.outputs.model_outputs),
]
print(pd.DataFrame(table, columns=["what", "recorded", "count", "such as"]).to_string(index=False))

# %% Add by hand what autolog can't know: the same run ID continues the run
with mlflow.start_run(run_id=run_id):
    mlflow.log_metric("test_errors", int((y_test != predicted).sum()))
    mlflow.log_artifact(SCRIPT)
    mlflow.sklearn.log_model(
        forest,
        name="forest",
        signature=infer_signature(X_test, predicted),
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        pip_requirements=REQUIREMENTS,
    )

print("Added by hand: test_errors, this script, the model")
print(f'Run "{run.info.run_name}", ID {run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run_id}")
print("Next: python src/select_experiment.py")
