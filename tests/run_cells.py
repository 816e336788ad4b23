"""Run code cells as somebody types them: each in a process, a folder and a store of its own.

Reads a JSON list of cells, {"key", "setup", "code", "effect"}, from stdin. For each key writes JSON
to stdout: "text", all that the code printed, with its value or its exception; "raised", whether it
raised; "effect", whether that expression is true afterwards. Importing, fitting and logging are
done once; only the files of the one run are in the same folder for all.
"""

import ast
import json
import os
import shutil
import sys
import traceback
from functools import partial
from pathlib import Path

import mlflow
import mlflow.data
from forked_calls import in_forks, said
from mlflow import MlflowClient
from mlflow.models import MetricThreshold
from running import uri
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV


def shared_state():
    """The names that every cell knows: a forest, its open run, its registered model."""
    mlflow.set_tracking_uri(uri(Path.cwd()))
    X, y = load_diabetes(as_frame=True, return_X_y=True)
    forest = RandomForestRegressor(n_estimators=2, max_depth=2, random_state=0).fit(X, y)
    run = mlflow.start_run()
    info = mlflow.sklearn.log_model(
        forest,
        name="model",
        registered_model_name="wine",
        signature=mlflow.models.infer_signature(X, y),
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        pip_requirements=["scikit-learn"],
    )
    line = LinearRegression().fit(X, y)
    search = GridSearchCV(forest, {"max_depth": [1, 2, 3, 4, 5, 6]}, cv=2)
    thresholds = {"r2_score": MetricThreshold(threshold=0.1, greater_is_better=True)}
    data = X.assign(target=y)
    run_id = run.info.run_id
    return globals() | locals()


def fails(call):
    """Whether the call is refused by MLflow."""
    try:
        call()
    except mlflow.MlflowException:
        return True
    return False


def run_cell(names, cell):
    """Set up, run the code, test its effect, and yield what came of it."""
    names["client"] = MlflowClient()
    names["run"] = mlflow.start_run(run_id=names["run_id"])  # a fork has no active run
    exec(cell["setup"], names)
    before = len(said())
    raised = False
    try:
        *statements, last = ast.parse(cell["code"]).body
        exec(compile(ast.Module(statements, []), "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            names["value"] = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            print(repr(names["value"]))
        else:
            exec(compile(ast.Module([last], []), "<cell>", "exec"), names)
    except BaseException:
        raised = True
        traceback.print_exc(limit=0)
    text = said()[before:]
    effect = bool(eval(cell["effect"], names | {"text": text}))
    yield cell["key"], {"text": text, "raised": raised, "effect": effect}


if __name__ == "__main__":
    root, shared = Path.cwd(), Path("shared").resolve()
    shared.mkdir()
    os.chdir(shared)
    names = shared_state()
    # The cells' copy is from before the evaluation, which logs to the run.
    shutil.copytree(shared, root / "cells", ignore=shutil.ignore_patterns("mlruns"))
    names["result"] = names["baseline"] = mlflow.models.evaluate(
        names["info"].model_uri,
        names["data"],
        targets="target",
        model_type="regressor",
        evaluator_config={"log_model_explainability": False},
    )
    os.chdir(root)
    cells = [partial(run_cell, names, cell) for cell in json.load(sys.stdin)]
    print(json.dumps(in_forks(cells, Path("cells"))))
