"""Every row of docs/autolog.md against real runs: a check measures its cell anew."""

import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
from doc_tables import rows
from mlflow import MlflowClient
from mlflow.models import Model
from mlflow.sklearn import load_model
from running import ROOT, at_once, run

pytestmark = pytest.mark.facts
CLAIMS = {what: cells[0] for what, cells in rows("autolog.md").items()}
CHECKS = {}


class Cases:
    """What the two processes of autolog_cases.py left in their stores and on the screen."""

    def __init__(self, folder):
        self.told, self.said, self.clients, calls = {}, {}, [], []
        # At once, each on a store of its own: half of the time is MLflow looking up requirements.
        for part in ("fits", "searches"):
            uri = f"sqlite:///{folder}/{part}.db"
            (folder / part).mkdir()
            command = [sys.executable, ROOT / "tests" / "autolog_cases.py", part]
            env = {"MLFLOW_TRACKING_URI": uri, "MPLBACKEND": "agg"}
            calls.append(partial(run, command, folder / part, **env))
            self.clients.append(MlflowClient(uri))
        for done in at_once(*calls):
            assert done.returncode == 0, done.stderr
            self.told |= json.loads(done.stdout.splitlines()[-1])
            cases = re.findall(r"^### (.*)\n((?:(?!### ).*\n)*)", done.stderr, re.MULTILINE)
            self.said |= dict(cases)

    def runs(self, name):
        """All runs of the case."""
        (found,) = [c for c in self.clients if c.get_experiment_by_name(name)]
        self.client = found
        return found.search_runs([found.get_experiment_by_name(name).experiment_id])

    def run(self, name):
        """The one run of the case."""
        (run,) = self.runs(name)
        return run

    def files(self, run):
        return sorted(file.path for file in self.client.list_artifacts(run.info.run_id))

    def models(self, run):
        outputs = run.outputs.model_outputs if run.outputs else []
        return [self.client.get_logged_model(output.model_id) for output in outputs]

    def model_folder(self, run):
        (model,) = self.models(run)
        return Path(model.artifact_location.removeprefix("file://"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return Cases(tmp_path_factory.mktemp("autolog"))


def claim(what):
    """Register the check of a row: a function that measures the cell and returns its text."""

    def register(check):
        assert what not in CHECKS
        CHECKS[what] = check
        return check

    return register


def quoted(names):
    return ", ".join(f"`{name}`" for name in sorted(names))


def no(found):
    return "yes" if found else "NO"


def test_every_claim_has_a_check_and_every_check_a_claim():
    assert set(CLAIMS) == set(CHECKS)


@pytest.mark.parametrize("what", CHECKS)
def test_claim(what, cases):
    assert CLAIMS.get(what) == CHECKS[what](cases)


def test_what_you_can_do_is_recorded(cases):
    run = cases.run("advice")
    assert run.data.metrics == {"test_errors": 1, "test_roc_auc": 0.9, "cv_mean": 0.75}
    assert cases.files(run) == ["autolog_cases.py", "confusion.json", "errors.png"]


PARAMS = {"n_estimators": "5", "random_state": "42"}
CAUTION = "pickle or cloudpickle format requires exercising caution"


@claim("Params")
def _(cases):
    params = cases.run("one fit").data.params
    assert params.items() >= PARAMS.items() and params["bootstrap"] == "True"
    return f"{len(params)}: the {len(PARAMS)} chosen and all defaults"


@claim("Metrics")
def _(cases):
    scores = cases.run("without model").data.metrics
    assert all(name.startswith("training_") for name in scores)
    assert scores["training_accuracy_score"] == cases.told["accuracy on training rows"] > 0.9
    return f"{len(scores)}, all `training_...`: on the rows it was trained on"


@claim("Model")
def _(cases):
    assert not cases.models(cases.run("without model"))
    assert CAUTION not in cases.said["without model"]
    folder = cases.model_folder(cases.run("one fit"))
    assert "serialization_format: cloudpickle" in (folder / "MLmodel").read_text()
    assert not list(folder.glob("*.skops")) and CAUTION in cases.said["one fit"]
    (file,) = folder.glob("model.*")
    return f"yes, as `{file.name}` by cloudpickle, with a caution on the screen; not as skops"


@claim("What the model needs")
def _(cases):
    folder = cases.model_folder(cases.run("one fit"))
    assert "scikit-learn==" in (folder / "requirements.txt").read_text()
    return quoted(file.name for file in folder.iterdir() if file.suffix in (".txt", ".yaml"))


@claim("Signature: schema of input and output")
def _(cases):
    signature = Model.load(cases.model_folder(cases.run("one fit"))).signature
    assert "alcohol" in signature.inputs.input_names()
    return f"yes, {len(signature.inputs.inputs)} columns in, {len(signature.outputs.inputs)} out"


@claim("Input example")
def _(cases):
    return no(list(cases.model_folder(cases.run("one fit")).glob("*example*")))


@claim("Data: name, schema, size, digest")
def _(cases):
    (data,) = cases.run("without model").inputs.dataset_inputs
    rows = json.loads(data.dataset.profile)["num_rows"]
    columns = [column["name"] for column in json.loads(data.dataset.schema)["mlflow_colspec"]]
    assert "alcohol" in columns and re.fullmatch("[0-9a-f]{8}", data.dataset.digest)
    return f"name `{data.dataset.name}`, {len(columns)} features, {rows} rows, digest"


@claim("Rows of the data")
def _(cases):
    files = cases.files(cases.run("one fit"))
    return no([name for name in files if not name.endswith((".html", ".png", ".json"))])


@claim("Where the data came from")
def _(cases):
    (data,) = cases.run("without model").inputs.dataset_inputs
    tags = json.loads(data.dataset.source)["tags"]
    assert data.dataset.source_type == "code"
    assert tags["mlflow.source.name"].endswith("autolog_cases.py")
    return "NO: the source is the script's name"


@claim("Data, where X is an array and y a Series")
def _(cases):
    run = cases.run("array and Series")
    assert "Failed to log training dataset information" in cases.said["array and Series"]
    assert len(cases.run("two arrays").inputs.dataset_inputs) == 1
    return f"{no(run.inputs.dataset_inputs)}, only a warning"


@claim("Files")
def _(cases):
    return quoted(cases.files(cases.run("without model")))


@claim("Files for two classes")
def _(cases):
    more = set(cases.files(cases.run("new array"))) - set(cases.files(cases.run("without model")))
    return f"{quoted(more)} as well"


@claim("A regressor")
def _(cases):
    run = cases.run("regressor")
    return f"{len(run.data.metrics)} metrics, {quoted(cases.files(run))}"


@claim("A fit that raises an error")
def _(cases):
    run = cases.run("error")
    assert run.data.params["C"] == "-1" and not run.data.metrics
    assert cases.told["error reached the caller"]
    return f"its params, status {run.info.status}"


def scored(cases, start):
    """The names of the scores after the fit that begin with START."""
    names = cases.run("after the fit").data.metrics
    return [name for name in names if name.startswith(start)]


@claim("`forest.score(X_test, y_test)`")
def _(cases):
    return quoted(scored(cases, "RandomForest"))


@claim("`metrics.accuracy_score(y_test, predicted)`")
def _(cases):
    return quoted(scored(cases, "accuracy_score_"))


@claim("the same call again")
def _(cases):
    return f"{quoted(scored(cases, 'accuracy_score-'))} as well"


@claim("a score of `forest.predict(X_test.head(18))`: data without a name of its own")
def _(cases):
    return quoted(scored(cases, "balanced"))


@claim("a score of `forest.predict(X_test)` in a function, `X_test` being the module's")
def _(cases):
    scores = cases.run("variable of the module").data.metrics
    return quoted(name for name in scores if not name.startswith("training_"))


@claim("a function imported after `mlflow.autolog()`")
def _(cases):
    return quoted(scored(cases, "f1"))


@claim("a function imported before it")
def _(cases):
    return no(scored(cases, "recall"))


@claim("a score of `predict_proba(X_test)[:, 1]`, a new array")
def _(cases):
    scores = cases.run("new array").data.metrics
    assert "training_roc_auc" in scores
    return no([name for name in scores if not name.startswith("training_")])


@claim("`metrics.confusion_matrix(y_test, predicted)`, not one number")
def _(cases):
    return no(scored(cases, "confusion"))


@claim("a score after the run has ended")
def _(cases):
    assert cases.run("after the fit").info.status == "FINISHED"
    return f"{quoted(scored(cases, 'precision'))}, in the ended run"


@claim("The code")
def _(cases):
    run = cases.run("after the fit")
    assert not [name for name in cases.files(run) if name.endswith(".py")]
    (tag,) = [k for k, value in run.data.tags.items() if value.endswith("autolog_cases.py")]
    return f"NO, only the tag `{tag}`"


@claim("A score that you compute")
def _(cases):
    watched = ("training_", "RandomForest", "accuracy", "balanced", "f1", "precision")
    scores = cases.run("after the fit").data.metrics
    return no([name for name in scores if not name.startswith(watched)])


@claim("A plot that you draw")
def _(cases):
    files = cases.files(cases.run("after the fit"))
    assert "training_confusion_matrix.png" in files
    return no([name for name in files if name.endswith(".png") and "training" not in name])


@claim("What you did to the data before `fit`")
def _(cases):
    run = cases.run("two arrays")
    assert "standardscaler__with_mean" in cases.run("pipeline").data.params
    return no([text for text in [*run.data.params, *run.data.tags.values()] if "caler" in text])


@claim("Training by `partial_fit`")
def _(cases):
    return f"{no(cases.runs('partial_fit'))}, not even a run"


@claim("`cross_val_score` on 5 folds")
def _(cases):
    runs, folds = cases.runs("cross_val_score"), cases.told["folds"]
    values = [run.data.metrics["LogisticRegression_score_X_test"] for run in runs]
    assert sorted(values) == sorted(folds)
    assert sum(folds) / 5 not in [value for run in runs for value in run.data.metrics.values()]
    return f"{len(runs)} runs, one a fold, and no mean"


@claim("A curve over the 10 stages of a `GradientBoostingClassifier`")
def _(cases):
    run = cases.run("stages")
    assert run.data.params["n_estimators"] == "10"
    client = cases.client
    (length,) = {len(client.get_metric_history(run.info.run_id, k)) for k in run.data.metrics}
    return f"NO, {length} value a metric"


@claim("Your own class with a `fit` of its own")
def _(cases):
    return f"{no(cases.runs('own'))}, not even a run"


@claim("Your own class whose `fit` calls scikit-learn's by `super().fit(X, y)`")
def _(cases):
    run = cases.run("own that calls a model")
    assert run.data.tags["estimator_name"] == "Stand"
    return f"{len(run.data.params)} params, {len(run.data.metrics)} metrics"


@claim("Your own class that inherits scikit-learn's `fit`")
def _(cases):
    run = cases.run("own from a model")
    assert run.data.tags["estimator_name"] == "Grove"
    return f"{len(run.data.params)} params, {len(run.data.metrics)} metrics"


@claim("Your own class, as a step of a `Pipeline`")
def _(cases):
    (name,) = [k for k, v in cases.run("own in a pipeline").data.params.items() if v == "7"]
    return f"its params, such as `{name}`"


@claim("`fit` without an open run")
def _(cases):
    run = cases.run("without model")
    assert run.info.status == "FINISHED" and run.info.end_time
    assert not cases.told["open run after a fit outside runs"]
    return "in a run of its own, ended after the fit"


@claim("`fit` twice without an open run")
def _(cases):
    return f"{len(cases.runs('twice'))} runs"


@claim("`fit` in an open run")
def _(cases):
    assert "training_accuracy_score" in cases.run("after the fit").data.metrics
    assert cases.told["run still open"]
    return "in that run, which stays open"


@claim("`fit` twice in one run, with other params")
def _(cases):
    data = cases.run("twice in one run").data
    assert data.params["n_estimators"] == "2"
    assert data.metrics["training_accuracy_score"] == cases.told["second accuracy"]
    assert "Changing param values is not allowed" in cases.said["twice in one run"]
    return "the params of the first, the metrics of the second, and a warning"


def family(cases, name):
    """The parent and the children of a grid search."""
    runs = cases.runs(name)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    return parent, children


def csv(cases, parent):
    folder = Path(parent.info.artifact_uri.removeprefix("file://"))
    return (folder / "cv_results.csv").read_text().splitlines()


@claim("The best candidate")
def _(cases):
    data = family(cases, "search")[0].data
    best = sorted(k for k in data.params if k.startswith("best_"))
    best += sorted(k for k in data.metrics if k.startswith("best_"))
    return f"{', '.join(f'`{name}`' for name in best)} on the parent"


@claim("All candidates")
def _(cases):
    return (
        f"{len(csv(cases, family(cases, 'search')[0])) - 1} rows in the parent's `cv_results.csv`"
    )


@claim("A run for a candidate")
def _(cases):
    parent, children = family(cases, "search")
    candidates = len(csv(cases, parent)) - 1
    ranks = [run.data.metrics["rank_test_score"] for run in children]
    assert max(ranks) <= len(children)
    return f"{len(children)} of {candidates}, the best ones"


@claim("The same after that line")
def _(cases):
    parent, children = family(cases, "search, all")
    return f"{len(children)} of {len(csv(cases, parent)) - 1}"


@claim("That setting in `mlflow.autolog`")
def _(cases):
    assert "max_tuning_runs" in cases.told["TypeError"]
    return "NO: TypeError"


@claim("A candidate during the search")
def _(cases):
    seen = cases.told["runs during the search"]
    assert len(seen) >= 8 * 2
    return f"NO, {max(seen)} runs until all are fitted"


@claim("A candidate's score on each fold")
def _(cases):
    parent, children = family(cases, "search")
    assert "split0_test_score" in csv(cases, parent)[0]
    names = {name for run in children for name in run.data.metrics}
    scores = [f"`{name}`" for name in sorted(names) if name.endswith("_test_score")]
    scores.remove("`rank_test_score`")
    return f"NO, only {' and '.join(scores)}"


@claim("Models")
def _(cases):
    parent, children = family(cases, "search")
    assert not [run for run in children if cases.models(run)]
    models = {model.name: model for model in cases.models(parent)}
    kinds = {k: type(load_model(model.artifact_location)).__name__ for k, model in models.items()}
    assert kinds == {"model": "GridSearchCV", "best_estimator": "RandomForestClassifier"}
    return f"{len(models)}: {' and '.join(f'`{k}`' for k in sorted(models))}, the whole search"


@claim("Caution about cloudpickle with `mlflow.autolog(silent=True)`")
def _(cases):
    assert cases.models(cases.run("silent"))
    return no(CAUTION in cases.said["silent"])


@claim("FutureWarning about `y_pred` with `mlflow.autolog(silent=True)`")
def _(cases):
    assert "`y_pred` was renamed" not in cases.said["silent and filtered"]
    assert cases.run("silent and filtered").data.metrics
    shown = re.search(r"/sklearn/.*FutureWarning: `y_pred` was renamed", cases.said["silent"])
    return f"{no(shown)}: it is scikit-learn's, on a call by MLflow"


@claim("A fit after `mlflow.autolog(disable=True)`")
def _(cases):
    return no(cases.runs("disabled"))


@claim("A fit after `mlflow.sklearn.autolog()` and then `mlflow.autolog(disable=True)`")
def _(cases):
    assert not cases.runs("disabled for scikit-learn")
    return f"{no(cases.runs('disabled in vain'))}: the setting for scikit-learn stands"
