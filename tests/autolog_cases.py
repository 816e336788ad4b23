"""Fit the models of autolog.md and print as JSON what MLflow recorded, in the page's words.

Each function is a case: it runs in a fork with a store of its own, and yields the first cell of a
row and what the cell *Recorded* has to be. Advice that is code is executed as it stands.
"""

import json
import os
import re
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import mlflow
import mlflow.sklearn
import numpy as np
from doc_tables import code, rows
from forked_calls import empty_store, exit_code, in_forks, said, without_inference
from sklearn import metrics
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import recall_score as imported_before
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ADVICE = {what: cells[1] for what, cells in rows("autolog.md").items()}
CAUTION = "pickle or cloudpickle format requires exercising caution"
SEED = 42
CASES = []


def case(yield_rows):
    CASES.append(yield_rows)
    return yield_rows


class Own(ClassifierMixin, BaseEstimator):
    """A model of one's own that always answers 0."""

    def __init__(self, k=1):
        self.k = k

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.zeros(len(X), int)


class Grove(RandomForestClassifier):
    """A model of one's own, made from scikit-learn's forest."""


class Stand(RandomForestClassifier):
    """One that prepares something before the forest's fit."""

    def fit(self, X, y):
        return super().fit(X, y)


def split(data):
    table = data(as_frame=True).frame.astype(float)
    train, test = train_test_split(table, test_size=0.1, random_state=SEED)
    features = [part.drop(columns="target") for part in (train, test)]
    return *features, train["target"], test["target"]


X_train, X_test, y_train, y_test = split(load_wine)
X_train2, X_test2, y_train2, y_test2 = split(load_breast_cancer)
X_scaled = StandardScaler().fit_transform(X_train)


def fit(n_estimators=5):
    forest = RandomForestClassifier(n_estimators=n_estimators, random_state=SEED)
    return forest.fit(X_train, y_train)


def all_runs():
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def runs_of(do):
    """The runs that DO leaves in the store."""
    before = {run.info.run_id for run in all_runs()}
    do()
    return [run for run in all_runs() if run.info.run_id not in before]


def run_of(do):
    (run,) = runs_of(do)
    return run


def files(run):
    found = mlflow.MlflowClient().list_artifacts(run.info.run_id)
    return {file.path for file in found}


def models(run):
    outputs = run.outputs.model_outputs if run.outputs else []
    return [mlflow.get_logged_model(output.model_id) for output in outputs]


def folder(address):
    return Path(address.removeprefix("file://"))


def quoted(names):
    return ", ".join(f"`{name}`" for name in sorted(names))


def yes_or_no(found):
    return "yes" if found else "NO"


def counted(run):
    return f"{len(run.data.params)} params, {len(run.data.metrics)} metrics"


@case
def a_fit_and_its_model():
    assert not models(run_of(fit)) and CAUTION not in said()  # by the advice: see the end
    mlflow.autolog()
    run = run_of(fit)
    chosen = {"n_estimators": "5", "random_state": str(SEED)}
    assert run.data.params.items() >= chosen.items() and run.data.params["bootstrap"] == "True"
    yield "Params", f"{len(run.data.params)}: the {len(chosen)} chosen and all defaults"

    (model,) = models(run)
    inside = folder(model.artifact_location)
    (file,) = inside.glob("model.*")
    assert "serialization_format: cloudpickle" in (inside / "MLmodel").read_text()
    assert CAUTION in said() and not list(inside.glob("*.skops"))
    caution = "with a caution on the screen"
    yield "Model", f"yes, as `{file.name}` by cloudpickle, {caution}; not as skops"

    assert "scikit-learn==" in (inside / "requirements.txt").read_text()
    needs = [file.name for file in inside.iterdir() if file.suffix in (".txt", ".yaml")]
    yield "What the model needs", quoted(needs)

    signature = mlflow.models.Model.load(inside).signature
    assert "alcohol" in signature.inputs.input_names()
    schema = f"yes, {len(signature.inputs.inputs)} columns in, {len(signature.outputs.inputs)} out"
    yield "Signature: schema of input and output", schema
    yield "Input example", yes_or_no(list(inside.glob("*example*")))

    other = [name for name in files(run) if not name.endswith((".html", ".png", ".json"))]
    yield "Rows of the data", yes_or_no(other)


@case
def a_fit_without_its_model():
    forest = fit()
    (run,) = all_runs()
    assert mlflow.active_run() is None and run.info.status == "FINISHED" and run.info.end_time
    yield "`fit` without an open run", "in a run of its own, ended after the fit"

    scores = run.data.metrics
    assert scores["training_accuracy_score"] == (forest.predict(X_train) == y_train).mean() > 0.9
    assert all(name.startswith("training_") for name in scores)
    yield "Metrics", f"{len(scores)}, all `training_...`: on the rows it was trained on"

    (data,) = run.inputs.dataset_inputs
    size = json.loads(data.dataset.profile)["num_rows"]
    columns = [column["name"] for column in json.loads(data.dataset.schema)["mlflow_colspec"]]
    assert "alcohol" in columns and re.fullmatch("[0-9a-f]{8}", data.dataset.digest)
    found = f"name `{data.dataset.name}`, {len(columns)} features, {size} rows, digest"
    yield "Data: name, schema, size, digest", found

    tags = json.loads(data.dataset.source)["tags"]
    assert data.dataset.source_type == "code"
    assert tags["mlflow.source.name"].endswith("autolog_cases.py")
    yield "Where the data came from", "NO: the source is the script's name"
    yield "Files", quoted(files(run))

    with mlflow.start_run() as two_classes:
        forest = RandomForestClassifier(n_estimators=5).fit(X_train2, y_train2)
        metrics.roc_auc_score(y_test2, forest.predict_proba(X_test2)[:, 1])
    more = files(two_classes) - files(run)
    yield "Files for two classes", f"{quoted(more)} as well"
    scores = mlflow.get_run(two_classes.info.run_id).data.metrics
    assert "training_roc_auc" in scores
    own = [name for name in scores if not name.startswith("training_")]
    yield "a score of `predict_proba(X_test)[:, 1]`, a new array", yes_or_no(own)

    run = run_of(lambda: RandomForestRegressor(n_estimators=5).fit(X_train2, y_train2))
    yield "A regressor", f"{len(run.data.metrics)} metrics, {quoted(files(run))}"


@case
def a_fit_that_fails():
    pid = os.fork()
    if not pid:
        LogisticRegression(C=-1).fit(X_scaled, y_train)
        sys.exit()
    assert exit_code(pid) == 1  # the error reached the caller
    (run,) = all_runs()
    assert run.data.params["C"] == "-1" and not run.data.metrics
    yield "A fit that raises an error", f"its params, status {run.info.status}"


@case
def data_in_arrays():
    what = "Data, where X is an array and y a Series"
    X, y = X_scaled, y_train
    run = run_of(lambda: LogisticRegression().fit(X, y))
    assert "Failed to log training dataset information" in said()
    advised = run_of(lambda: exec(code(ADVICE[what]), globals() | {"X": X, "y": y}))
    assert len(advised.inputs.dataset_inputs) == 1
    yield what, f"{yes_or_no(run.inputs.dataset_inputs)}, only a warning"

    what = "What you did to the data before `fit`"
    pipeline = run_of(lambda: exec(code(ADVICE[what]), globals()))
    assert "standardscaler__with_mean" in pipeline.data.params
    texts = [*advised.data.params, *advised.data.tags.values()]
    yield what, yes_or_no([text for text in texts if "caler" in text])


def score_the_modules_variable(forest):
    return metrics.jaccard_score(y_test, forest.predict(X_test), average="macro")


@case
def scores_after_the_fit():
    from sklearn.metrics import f1_score as imported_after

    # Autolog names a score after a variable of the function that asks for it.
    X_test, y_test = globals()["X_test"], globals()["y_test"]
    with mlflow.start_run() as run:
        run_id, known = run.info.run_id, set()

        def added():
            """The metrics that came since the last call."""
            new = set(mlflow.get_run(run_id).data.metrics) - known
            known.update(new)
            return new

        forest = fit()
        assert mlflow.active_run().info.run_id == run_id and "training_accuracy_score" in added()
        yield "`fit` in an open run", "in that run, which stays open"
        predicted = forest.predict(X_test)
        forest.score(X_test, y_test)
        yield "`forest.score(X_test, y_test)`", quoted(added())
        metrics.accuracy_score(y_test, predicted)
        yield "`metrics.accuracy_score(y_test, predicted)`", quoted(added())
        metrics.accuracy_score(y_test, predicted)
        yield "the same call again", f"{quoted(added())} as well"
        metrics.balanced_accuracy_score(y_test, forest.predict(X_test.head(18)))
        unnamed = "a score of `forest.predict(X_test.head(18))`: data without a name of its own"
        yield unnamed, quoted(added())
        imported_after(y_test, predicted, average="macro")
        yield "a function imported after `mlflow.autolog()`", quoted(added())
        imported_before(y_test, predicted, average="macro")
        yield "a function imported before it", yes_or_no(added())
        metrics.confusion_matrix(y_test, predicted)
        matrix = "`metrics.confusion_matrix(y_test, predicted)`, not one number"
        yield matrix, yes_or_no(added())
        errors = int((predicted != y_test).sum())
        yield "A score that you compute", yes_or_no(added())
        plt.plot([errors])
        plt.close()
        assert "training_confusion_matrix.png" in files(run)
        drawn = [n for n in files(run) if n.endswith(".png") and not n.startswith("training_")]
        yield "A plot that you draw", yes_or_no(drawn)
    metrics.precision_score(y_test, predicted, average="macro")
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    yield "a score after the run has ended", f"{quoted(added())}, in the ended run"

    assert not [name for name in files(run) if name.endswith(".py")]
    tags = mlflow.get_run(run_id).data.tags
    (tag,) = [name for name, value in tags.items() if value.endswith("autolog_cases.py")]
    yield "The code", f"NO, only the tag `{tag}`"

    with mlflow.start_run() as run:
        score_the_modules_variable(fit())
    scores = mlflow.get_run(run.info.run_id).data.metrics
    elsewhere = "a score of `forest.predict(X_test)` in a function, `X_test` being the module's"
    yield elsewhere, quoted(name for name in scores if not name.startswith("training_"))


@case
def what_you_can_do():
    names = {"errors": 1, "auc": 0.9, "scores": np.array([0.5, 1]), "__file__": __file__}
    names |= {"matrix": np.eye(2), "figure": plt.figure(), "mlflow": mlflow}
    with mlflow.start_run() as run:
        for text in ADVICE.values():
            if text.startswith("`mlflow.log_"):
                exec(code(text), names)
    yield "advice", [mlflow.get_run(run.info.run_id).data.metrics, sorted(files(run))]


@case
def several_fits():
    X, y = X_scaled, y_train
    found = runs_of(lambda: SGDClassifier().partial_fit(X, y, classes=[0, 1, 2]))
    yield "Training by `partial_fit`", f"{yes_or_no(found)}, not even a run"

    folds = []
    found = runs_of(lambda: folds.extend(cross_val_score(LogisticRegression(), X, y, cv=5)))
    values = [run.data.metrics["LogisticRegression_score_X_test"] for run in found]
    assert sorted(values) == sorted(folds)
    assert sum(folds) / 5 not in [value for run in found for value in run.data.metrics.values()]
    yield "`cross_val_score` on 5 folds", f"{len(found)} runs, one a fold, and no mean"

    run = run_of(lambda: GradientBoostingClassifier(n_estimators=10).fit(X, y))
    history = mlflow.MlflowClient().get_metric_history
    (length,) = {len(history(run.info.run_id, name)) for name in run.data.metrics}
    stages = f"A curve over the {run.data.params['n_estimators']} stages of a"
    yield f"{stages} `GradientBoostingClassifier`", f"NO, {length} value a metric"

    yield "`fit` twice without an open run", f"{len(runs_of(lambda: [fit(), fit()]))} runs"

    with mlflow.start_run() as run:
        fit(2)
        second = (fit(9).predict(X_train) == y_train).mean()
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["n_estimators"] == "2"
    assert data.metrics["training_accuracy_score"] == second
    assert "Changing param values is not allowed" in said()
    what = "the params of the first, the metrics of the second, and a warning"
    yield "`fit` twice in one run, with other params", what


@case
def classes_of_your_own():
    found = runs_of(lambda: Own().fit(X_train, y_train))
    yield "Your own class with a `fit` of its own", f"{yes_or_no(found)}, not even a run"

    run = run_of(lambda: Grove(n_estimators=5).fit(X_train, y_train))
    assert run.data.tags["estimator_name"] == "Grove"
    yield "Your own class that inherits scikit-learn's `fit`", counted(run)

    run = run_of(lambda: Stand(n_estimators=5).fit(X_train, y_train))
    assert run.data.tags["estimator_name"] == "Stand"
    what = "Your own class whose `fit` calls scikit-learn's by `super().fit(X, y)`"
    yield what, counted(run)

    run = run_of(lambda: make_pipeline(StandardScaler(), Own(k=7)).fit(X_train, y_train))
    (name,) = [name for name, value in run.data.params.items() if value == "7"]
    yield "Your own class, as a step of a `Pipeline`", f"its params, such as `{name}`"


def search(scoring=None):
    """The parent, the children and the lines of cv_results.csv that a grid search leaves."""
    grid = {"max_depth": [1, 2, 3, 4], "n_estimators": [2, 3]}
    forest = RandomForestClassifier(random_state=SEED)
    found = runs_of(lambda: GridSearchCV(forest, grid, cv=2, scoring=scoring).fit(X_train, y_train))
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    csv = folder(parent.info.artifact_uri) / "cv_results.csv"
    return parent, children, csv.read_text().splitlines()


@case
def a_grid_search():
    without_inference()
    mlflow.autolog()
    seen = []

    def score(model, X, y):
        seen.append(sum("mlflow.parentRunId" in run.data.tags for run in all_runs()))
        return model.score(X, y)

    parent, children, (header, *lines) = search(score)
    best = [
        name
        for names in (parent.data.params, parent.data.metrics)
        for name in sorted(names)
        if name.startswith("best_")
    ]
    yield "The best candidate", f"{', '.join(f'`{name}`' for name in best)} on the parent"
    yield "All candidates", f"{len(lines)} rows in the parent's `cv_results.csv`"

    assert max(run.data.metrics["rank_test_score"] for run in children) <= len(children)
    yield "A run for a candidate", f"{len(children)} of {len(lines)}, the best ones"
    assert len(seen) >= len(lines) * 2
    yield "A candidate during the search", f"NO, {max(seen)} runs until all are fitted"

    assert "split0_test_score" in header
    names = {name for run in children for name in run.data.metrics}
    scores = [f"`{name}`" for name in sorted(names) if re.fullmatch("(?!rank).*_test_score", name)]
    yield "A candidate's score on each fold", f"NO, only {' and '.join(scores)}"

    assert not [run for run in children if models(run)]
    kinds = {
        model.name: type(mlflow.sklearn.load_model(model.artifact_location)).__name__
        for model in models(parent)
    }
    assert kinds == {"model": "GridSearchCV", "best_estimator": "RandomForestClassifier"}
    names = " and ".join(f"`{name}`" for name in sorted(kinds))
    yield "Models", f"{len(kinds)}: {names}, the whole search"


@case
def a_grid_search_with_all_runs():
    try:
        mlflow.autolog(max_tuning_runs=None)
    except TypeError as error:
        assert "max_tuning_runs" in str(error)
        yield "That setting in `mlflow.autolog`", "NO: TypeError"
    exec(code(ADVICE["A run for a candidate"]))
    parent, children, (_, *lines) = search()
    assert not models(parent)  # the advice keeps the page's log_models=False
    yield "The same after that line", f"{len(children)} of {len(lines)}"


@case
def silent():
    without_inference()
    mlflow.autolog(silent=True)
    assert models(run_of(fit))
    what = "Caution about cloudpickle with `mlflow.autolog(silent=True)`"
    yield what, yes_or_no(CAUTION in said())

    what = "FutureWarning about `y_pred` with `mlflow.autolog(silent=True)`"
    shown = re.findall("/sklearn/.*FutureWarning: `y_pred` was renamed", said())
    exec(code(ADVICE[what]), {"warnings": warnings})
    mlflow.autolog(silent=True, log_models=False)
    assert run_of(fit).data.metrics
    assert said().count("`y_pred` was renamed") == len(shown)
    yield what, f"{yes_or_no(shown)}: it is scikit-learn's, on a call by MLflow"


@case
def switched_off():
    mlflow.autolog(disable=True)
    yield "A fit after `mlflow.autolog(disable=True)`", yes_or_no(runs_of(fit))

    what = "A fit after `mlflow.sklearn.autolog()` and then `mlflow.autolog(disable=True)`"
    mlflow.sklearn.autolog(log_models=False)
    mlflow.autolog(disable=True)
    found = runs_of(fit)
    exec(code(ADVICE[what]))
    assert not runs_of(fit)
    yield what, f"{yes_or_no(found)}: the setting for scikit-learn stands"


if __name__ == "__main__":
    exec(code(ADVICE["Model"]))
    print(json.dumps(in_forks(CASES, empty_store())))
