"""Search the best forest for the breast-cancer data, and keep every candidate.

What you learn: nested runs. The search is the parent. Each candidate is a child with its params and
scores, so the UI can sort, filter and compare them: Model training > Experiments > hypertune2.

    python src/hypertune2.py
"""

# %% Settings
from importlib.metadata import version

import mlflow
import pandas as pd
import seaborn as sns
import skops.io
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, cross_validate, train_test_split

from interrupts import exit_on_interrupt
from tracking import connect

SEED = 42
FOLDS = 5
TEST_SIZE = 0.2
MODEL = RandomForestClassifier(random_state=SEED)
GRID = {"n_estimators": [16, 32, 64, 128], "max_depth": [2, 4, 8, None]}
SCORES = ["mean_test_score", "std_test_score", "rank_test_score"]
TO_LOG = [*SCORES, "mean_fit_time", *(f"split{fold}_test_score" for fold in range(FOLDS))]
SOURCE = "https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic"
REQUIREMENTS = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
SCRIPT = globals().get("__file__", "hypertune2.py")  # a notebook has no __file__

connected = connect()
exit_on_interrupt()
experiment_id = mlflow.set_experiment("hypertune2").experiment_id

# %% Data: 569 tumours, 30 measurements each; 80% to search on, 20% held back
data = load_breast_cancer(as_frame=True).frame.astype(float)
train, test = train_test_split(data, test_size=TEST_SIZE, random_state=SEED)
X, y, X_test = train.drop(columns="target"), train["target"], test.drop(columns="target")

# %% The search, its children, and what it found: one cell, since a run ends with its `with` block
tags = {"search": "breast-cancer-forest"}
with mlflow.start_run(experiment_id=experiment_id, run_name="grid search", tags=tags) as parent:
    for rows, name in (train, "training"), (test, "testing"):
        dataset = mlflow.data.from_pandas(rows, SOURCE, "target", f"breast-cancer-{name}")
        mlflow.log_input(dataset, context=name)
    mlflow.log_params({"cv": FOLDS, "random_state": SEED, "test_size": TEST_SIZE})
    mlflow.log_artifact(SCRIPT)
    print(f"Fitting {FOLDS} folds of each candidate: some seconds", flush=True)
    search = GridSearchCV(MODEL, GRID, cv=FOLDS)
    search.fit(X, y)  # 16 candidates x 5 folds, and the best once more on all training rows
    # One child a candidate, worst first, because the UI shows the newest on top
    results = pd.DataFrame(search.cv_results_).sort_values("rank_test_score", kind="stable")
    for candidate in results[::-1].to_dict("records"):
        params = candidate["params"]
        name = ", ".join(f"{key} {value}" for key, value in params.items())[:250]
        with mlflow.start_run(experiment_id=experiment_id, run_name=name, nested=True):
            mlflow.log_params(params)
            if pd.notna(candidate["mean_test_score"]):
                mlflow.log_metrics({score: candidate[score] for score in TO_LOG})
                continue
            try:  # once more, because scikit-learn doesn't keep why this candidate failed
                model = clone(MODEL).set_params(**params)
                cross_validate(model, X, y, cv=FOLDS, error_score="raise")
            except Exception as error:
                mlflow.set_tag("error", f"{type(error).__name__}: {error.__cause__ or error}")
            mlflow.end_run("FAILED")
    mlflow.log_params({f"best_{key}": value for key, value in search.best_params_.items()})
    test_accuracy = search.score(X_test, test["target"])
    mlflow.log_metrics({"best_cv_score": search.best_score_, "test_accuracy": test_accuracy})
    # A picture of two params that vary. As text, since a value may be None or a list
    table = pd.DataFrame(search.cv_results_["params"], dtype=object).map(str)
    varying = [key for key in table if table[key].nunique() > 1]
    table = table.replace("nan", "not set").join(results[SCORES])
    if len(varying) > 1:
        cells = table.pivot_table("mean_test_score", *varying[:2], sort=False)
        label = {"label": "mean_test_score, averaged over the other params"}
        axes = sns.heatmap(cells, annot=cells.size <= 50, fmt=".4f", cmap="cividis", cbar_kws=label)
        axes.tick_params(axis="y", rotation=0)
        axes.set_title(f"Best of {len(results)}: {name} ({search.best_score_:.4f})")
        mlflow.log_figure(axes.figure, "heatmap.png", save_kwargs={"bbox_inches": "tight"})
    best = search.best_estimator_
    signature = mlflow.models.infer_signature(X_test, best.predict(X_test))
    # A stranger's model may hold types that run code. This one is your own.
    trusted = skops.io.get_untrusted_types(data=skops.io.dumps(best))
    options = {"skops_trusted_types": trusted, "pip_requirements": REQUIREMENTS}
    mlflow.sklearn.log_model(best, name="best-forest", signature=signature, **options)

# %% Result
print(table.loc[results.index].head().to_string(index=False))
print(f"best parameters: {search.best_params_}")
print(f"cross-validation accuracy: {search.best_score_:.4f}\ntest accuracy: {test_accuracy:.4f}")
print(f'Run "{parent.info.run_name}", ID {parent.info.run_id}, with {len(results)} children')
children = f"searchFilter=tags.mlflow.parentRunId%3D%27{parent.info.run_id}%27"
best_first = "orderByKey=metrics.%60mean_test_score%60&orderByAsc=false"
print(f"{connected}/#/experiments/{experiment_id}/runs?{children}&{best_first}")
print("Next: look at them, then python src/log_dataset.py")
