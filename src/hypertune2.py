"""Search the best forest for the breast-cancer data, and keep every candidate.

What you learn: nested runs. The search is the parent; each of the 16 candidates is a child with
its params and scores, so the UI can sort, filter and compare them.

    python src/hypertune2.py

In the UI: Model training > Experiments > hypertune2. The + beside the parent opens its children
(only in the order of Created), Columns shows their scores, two or more ticked can be compared.
"""

# %% Settings
import sys
from importlib.metadata import version

import matplotlib.pyplot as plt
import mlflow
import pandas as pd
import seaborn as sns
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, train_test_split

from interrupts import exit_on_interrupt
from tracking import connect

SEED = 42
FOLDS = 5
TEST_SIZE = 0.2
GRID = {"n_estimators": [16, 32, 64, 128], "max_depth": [2, 4, 8, None]}
# scikit-learn's names: in cv_results_ "test" means the fold left out, not the test data.
SCORES = ["mean_test_score", "std_test_score", "rank_test_score", "mean_fit_time"]
SCORES += [f"split{fold}_test_score" for fold in range(FOLDS)]
SOURCE = "https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic"
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]

connect()
exit_on_interrupt()
experiment_id = mlflow.set_experiment("hypertune2").experiment_id

# %% Data: 569 tumours, 30 measurements each; 80% to search on, 20% held back
data = load_breast_cancer(as_frame=True).frame.astype(float)
train, test = train_test_split(data, test_size=TEST_SIZE, random_state=SEED)
X_train, y_train = train.drop(columns="target"), train["target"]
X_test, y_test = test.drop(columns="target"), test["target"]

tags = {"search": "breast-cancer-forest"}
with mlflow.start_run(experiment_id=experiment_id, run_name="grid search", tags=tags) as parent:
    for split, name in (train, "training"), (test, "testing"):
        dataset = mlflow.data.from_pandas(
            split, name=f"breast-cancer-{name}", targets="target", source=SOURCE
        )
        mlflow.log_input(dataset, context=name)
    mlflow.log_params({"cv": FOLDS, "random_state": SEED, "test_size": TEST_SIZE})
    mlflow.log_artifact(__file__)

    # %% Search: 16 candidates x 5 folds = 80 fits, and one more of the best on all training rows
    search = GridSearchCV(RandomForestClassifier(random_state=SEED), GRID, cv=FOLDS, n_jobs=-1)
    print(f"Fitting {FOLDS} folds of each candidate: some seconds", flush=True)
    if sys.stdout.isatty():
        from sklearn.callback import ProgressBar

        search.set_callbacks(ProgressBar(max_propagation_depth=0))
    search.fit(X_train, y_train)

    # %% Children: one run a candidate, worst first, because the UI shows the newest on top
    results = pd.DataFrame(search.cv_results_).sort_values("rank_test_score", kind="stable")
    for candidate in results[::-1].to_dict("records"):
        params = candidate["params"]
        name = f"{params['n_estimators']} trees, depth {params['max_depth'] or 'unlimited'}"
        with mlflow.start_run(experiment_id=experiment_id, run_name=name, nested=True):
            mlflow.log_params(params)
            mlflow.log_metrics({score: candidate[score] for score in SCORES})

    # %% Parent: what the search found, as a table row, a picture and a model
    mlflow.log_params({f"best_{name}": value for name, value in search.best_params_.items()})
    test_accuracy = search.score(X_test, y_test)
    mlflow.log_metrics({"best_cv_score": search.best_score_, "test_accuracy": test_accuracy})

    # In the order of the search again: for each depth, all numbers of trees.
    scores = results.sort_index()["mean_test_score"].to_numpy().reshape(len(GRID["max_depth"]), -1)
    figure, axes = plt.subplots(layout="constrained")
    sns.heatmap(
        scores,
        annot=True,
        fmt=".4f",
        cmap="cividis",
        xticklabels=GRID["n_estimators"],
        yticklabels=[depth or "unlimited" for depth in GRID["max_depth"]],
        ax=axes,
    )
    # The last child is the best, so `name` is still its.
    title = f"Mean accuracy over {FOLDS} folds: best {search.best_score_:.4f}, with {name}"
    axes.set(xlabel="n_estimators", ylabel="max_depth", title=title)
    axes.tick_params(axis="y", rotation=0)
    mlflow.log_figure(figure, "heatmap.png")

    mlflow.sklearn.log_model(
        search.best_estimator_,
        name="best-forest",
        signature=infer_signature(X_test, search.predict(X_test)),
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        pip_requirements=REQUIREMENTS,
    )

# %% Result
columns = ["rank_test_score", "mean_test_score", "std_test_score"]
columns = ["param_n_estimators", "param_max_depth", *columns]
print(results[columns].head().to_string(index=False, na_rep="None"))
print(f"best parameters: {search.best_params_}")
print(f"cross-validation accuracy: {search.best_score_:.4f}")
print(f"test accuracy: {test_accuracy:.4f}")
print(f'Run "{parent.info.run_name}", ID {parent.info.run_id}, with {len(results)} children')
print("Next: look at them, then python src/log_dataset.py")
