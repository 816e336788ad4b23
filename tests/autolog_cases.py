"""Fit the models of docs/autolog.md, a case an experiment; test_autolog_claims.py asks the store.

    python tests/autolog_cases.py fits|searches

Advice that is code is read from the page and executed as it stands. Standard error gets the line
`### CASE` where a case begins; the last line of standard output is JSON: what the store can't tell.
"""

import json
import sys
import warnings

import matplotlib.pyplot as plt
import mlflow
import numpy as np
from doc_tables import code, rows
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
SEED = 42


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


def case(name):
    mlflow.set_experiment(name)
    print(f"### {name}", file=sys.stderr, flush=True)


def split(data):
    table = data(as_frame=True).frame.astype(float)
    train, test = train_test_split(table, test_size=0.1, random_state=SEED)
    features = [part.drop(columns="target") for part in (train, test)]
    return *features, train["target"], test["target"]


def fit(n_estimators=5):
    return RandomForestClassifier(n_estimators=n_estimators, random_state=SEED).fit(
        X_train, y_train
    )


def score_the_modules_variable(forest):
    return metrics.jaccard_score(y_test, forest.predict(X_test), average="macro")


def fits(X_train, X_test, y_train, y_test):
    told = {}
    mlflow.autolog()
    from sklearn.metrics import f1_score as imported_after

    case("one fit")
    forest = fit()
    told["open run after a fit outside runs"] = mlflow.active_run() is not None
    predicted = forest.predict(X_train)
    told["accuracy on training rows"] = float((predicted == y_train).mean())

    exec(code(ADVICE["Model"]))
    case("without model")
    fit()

    case("after the fit")
    with mlflow.start_run() as run:
        forest = fit()
        told["run still open"] = mlflow.active_run().info.run_id == run.info.run_id
        predicted = forest.predict(X_test)
        forest.score(X_test, y_test)
        metrics.accuracy_score(y_test, predicted)
        metrics.accuracy_score(y_test, predicted)
        imported_after(y_test, predicted, average="macro")
        imported_before(y_test, predicted, average="macro")
        metrics.balanced_accuracy_score(y_test, forest.predict(X_test.head(18)))
        metrics.confusion_matrix(y_test, predicted)
        plt.plot([int((y_test != predicted).sum())])
        plt.close()
    metrics.precision_score(y_test, predicted, average="macro")

    case("variable of the module")
    score_the_modules_variable(fit())

    case("new array")
    forest = RandomForestClassifier(n_estimators=5).fit(X_train2, y_train2)
    metrics.roc_auc_score(y_test2, forest.predict_proba(X_test2)[:, 1])

    case("regressor")
    RandomForestRegressor(n_estimators=5).fit(X_train2, y_train2)

    X, y = StandardScaler().fit_transform(X_train), y_train
    case("array and Series")
    LogisticRegression().fit(X, y)
    case("two arrays")
    exec(code(ADVICE["Data, where X is an array and y a Series"]))
    case("pipeline")
    exec(code(ADVICE["What you did to the data before `fit`"]))

    case("error")
    try:
        LogisticRegression(C=-1).fit(X, y)
    except ValueError:
        told["error reached the caller"] = True

    case("partial_fit")
    SGDClassifier().partial_fit(X, y, classes=[0, 1, 2])

    case("cross_val_score")
    told["folds"] = list(cross_val_score(LogisticRegression(), X, y, cv=5))

    case("stages")
    GradientBoostingClassifier(n_estimators=10).fit(X, y)

    case("own")
    Own().fit(X_train, y_train)
    case("own from a model")
    Grove(n_estimators=5).fit(X_train, y_train)
    case("own that calls a model")
    Stand(n_estimators=5).fit(X_train, y_train)
    case("own in a pipeline")
    make_pipeline(StandardScaler(), Own(k=7)).fit(X_train, y_train)

    case("advice")
    names = {"errors": 1, "auc": 0.9, "scores": np.array([0.5, 1]), "__file__": __file__}
    names |= {"matrix": np.eye(2), "figure": plt.figure(), "mlflow": mlflow}
    with mlflow.start_run():
        for text in ADVICE.values():
            if text.startswith("`mlflow.log_"):
                exec(code(text), names)

    case("twice")
    fit()
    fit()

    case("twice in one run")
    with mlflow.start_run():
        fit(2)
        told["second accuracy"] = float((fit(9).predict(X_train) == y_train).mean())

    mlflow.autolog(silent=True)
    case("silent")
    fit()
    exec(code(ADVICE["FutureWarning about `y_pred` with `mlflow.autolog(silent=True)`"]))
    mlflow.autolog(silent=True, log_models=False)
    case("silent and filtered")
    fit()
    warnings.resetwarnings()

    mlflow.autolog(disable=True)
    case("disabled")
    fit()
    return told


def searches(X_train, X_test, y_train, y_test):
    told = {"runs during the search": []}
    client = mlflow.MlflowClient()
    grid = {"max_depth": [1, 2, 3, 4], "n_estimators": [2, 3]}

    def score(model, X, y):
        experiment = client.get_experiment_by_name("search").experiment_id
        runs = client.search_runs([experiment])
        told["runs during the search"].append(
            sum("mlflow.parentRunId" in run.data.tags for run in runs)
        )
        return model.score(X, y)

    def search(scoring=None):
        forest = RandomForestClassifier(random_state=SEED)
        GridSearchCV(forest, grid, cv=2, scoring=scoring).fit(X_train, y_train)

    mlflow.autolog()
    case("search")
    search(score)

    case("generic setting")
    try:
        mlflow.autolog(max_tuning_runs=None)
    except TypeError as error:
        told["TypeError"] = str(error)

    mlflow.sklearn.autolog(log_models=False)
    # Less the models, which take ten seconds.
    exec(code(ADVICE["A run for a candidate"]).replace("(", "(log_models=False, "))
    case("search, all")
    search()

    mlflow.autolog(disable=True)
    case("disabled in vain")
    fit()
    last = "A fit after `mlflow.sklearn.autolog()` and then `mlflow.autolog(disable=True)`"
    exec(code(ADVICE[last]))
    case("disabled for scikit-learn")
    fit()
    return told


if __name__ == "__main__":
    wine = X_train, X_test, y_train, y_test = split(load_wine)
    X_train2, X_test2, y_train2, y_test2 = split(load_breast_cancer)
    print(json.dumps({"fits": fits, "searches": searches}[sys.argv[1]](*wine)))
