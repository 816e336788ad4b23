"""Log one training run by hand.

What you learn: an experiment holds runs; a run holds params (what you chose), metrics (what came
out), tags (what to find it by), artifacts (files) and a model.

    python src/basic_run.py

In the UI: Model training > Experiments > basic-run > "forest of 50". Overview has the params and
metrics, Artifacts the confusion matrix and this script; the model is linked under Logged models.
"""

# %% Settings
from importlib.metadata import version

import matplotlib.pyplot as plt
import mlflow
import seaborn as sns
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.model_selection import train_test_split

from tracking import connect

SEED = 42
PARAMS = {"n_estimators": 50, "max_depth": 5}
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
SCRIPT = globals().get("__file__", "basic_run.py")  # a notebook has no __file__

connected = connect()
# Passed on below: where two scripts create it at once, MLflow makes it active in one only.
experiment_id = mlflow.set_experiment("basic-run").experiment_id

# %% Data: 178 wines, 13 measurements each, 3 growers; 10% held back for the test
# All columns float: an integer column in a model's schema can't hold a missing value, and a
# model with float columns refuses 64-bit integers.
wine = load_wine(as_frame=True)
train, test = train_test_split(wine.frame.astype(float), test_size=0.1, random_state=SEED)
X_train, y_train = train.drop(columns="target"), train["target"]
X_test, y_test = test.drop(columns="target"), test["target"]

# %% Run: `with` ends it, and marks it FAILED if the code inside raises
name = f"forest of {PARAMS['n_estimators']}"
with mlflow.start_run(experiment_id=experiment_id, run_name=name) as run:
    mlflow.log_params(PARAMS | {"random_state": SEED})
    mlflow.set_tags({"dataset": "wine", "purpose": "first run"})

    forest = RandomForestClassifier(**PARAMS, random_state=SEED).fit(X_train, y_train)
    predicted = forest.predict(X_test)
    scores = {
        "test_accuracy": accuracy_score(y_test, predicted),
        "test_f1_macro": f1_score(y_test, predicted, average="macro"),
    }
    mlflow.log_metrics(scores)

    # Files: a figure straight from memory, and from disk the code that made all this
    figure, axes = plt.subplots(layout="constrained")
    sns.heatmap(
        confusion_matrix(y_test, predicted),
        annot=True,
        fmt="d",
        cmap="cividis",
        xticklabels=wine.target_names,
        yticklabels=wine.target_names,
        ax=axes,
    )
    wrong = (y_test != predicted).sum()
    axes.set(xlabel="predicted", ylabel="true", title=f"{wrong} of {len(test)} test wines wrong")
    axes.tick_params(axis="y", rotation=0)
    mlflow.log_figure(figure, "confusion_matrix.png")
    mlflow.log_artifact(SCRIPT)

    # Model: with the signature, pyfunc refuses wrong columns instead of predicting nonsense
    # skops loads only types that it knows, or that you vouch for. Explicit requirements spare
    # MLflow from loading the model again to guess them.
    mlflow.sklearn.log_model(
        forest,
        name="forest",
        signature=infer_signature(X_test, predicted),
        input_example=X_test.head(3),
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        pip_requirements=REQUIREMENTS,
    )

# %% Result
print(*(f"{name}: {value:.4f}" for name, value in scores.items()), sep="\n")
print(f'Run "{run.info.run_name}", ID {run.info.run_id}')
print(f"{connected}/#/experiments/{experiment_id}/runs/{run.info.run_id}")
print("Next: python src/autolog.py")
