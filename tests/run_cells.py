"""Run code cells as somebody types them: each in a process, a folder and a store of its own.

Reads JSON cells {id: {"setup", "code", "effect"}} from stdin and writes {id: {"text", "raised",
"effect"}} to stdout: all that the code printed, with its value or its exception; whether it raised;
and whether the expression "effect" is true afterwards.
Importing, fitting and logging are done once, and every cell is a fork of that state, with a copy of
the database; only the files of the one run are in the same folder for all.
"""

import ast
import json
import os
import shutil
import sys
import traceback
from pathlib import Path

import mlflow
import mlflow.data
from mlflow import MlflowClient
from mlflow.models import MetricThreshold
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV

SHARED = Path("shared").resolve()
PROCESSES = 2


def shared_state():
    """The names that every cell knows: a forest, its open run, its registered model."""
    SHARED.mkdir()
    os.chdir(SHARED)
    mlflow.set_tracking_uri(f"sqlite:///{SHARED}/mlflow.db")
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


def run_cell(folder, names, cell):
    """In the forked process: set up, run the code, test its effects, and write what came of it."""
    shutil.copytree(SHARED, folder, ignore=shutil.ignore_patterns("mlruns"))
    os.chdir(folder)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    names["client"] = MlflowClient()
    names["run"] = mlflow.start_run(run_id=names["run_id"])  # a fork has no active run
    exec(cell["setup"], names)
    printed = open("printed", "w")
    for stream in (1, 2):
        os.dup2(printed.fileno(), stream)
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
    sys.stdout.flush()
    sys.stderr.flush()
    text = Path(folder, "printed").read_text()
    effect = bool(eval(cell["effect"], names | {"text": text, "raised": raised, "fails": fails}))
    result = {"text": text, "raised": raised, "effect": effect}
    Path(folder, "result.json").write_text(json.dumps(result))


def main():
    root = Path.cwd()
    names = shared_state()
    results, waiting = {}, {}
    for number, (key, cell) in enumerate(json.load(sys.stdin).items()):
        if len(waiting) == PROCESSES:
            waiting.pop(os.wait()[0])
        folder = root / f"cell{number}"
        results[key] = folder / "result.json"
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            try:
                run_cell(str(folder), names, cell)
            except BaseException:
                Path(f"{folder}.error").write_text(traceback.format_exc())
            os._exit(0)
        waiting[pid] = key
    while waiting:
        waiting.pop(os.wait()[0])
    mlflow.end_run()
    report = {}
    for key, path in results.items():
        if path.exists():
            report[key] = json.loads(path.read_text())
        else:
            report[key] = {"broken": path.parent.with_suffix(".error").read_text()}
    json.dump(report, sys.__stdout__)


if __name__ == "__main__":
    main()
