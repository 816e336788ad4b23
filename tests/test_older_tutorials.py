"""Every row of the table in older-tutorials.md is run: the older form prints the words that
the page quotes and has the effect that it states, today's form works without a warning."""

import json
from dataclasses import dataclass

import pytest
from doc_tables import code, codes, results, rows

pytestmark = [pytest.mark.facts, pytest.mark.ci]
PAGE = rows("older-tutorials.md")
ROWS = {code(older): cells for older, cells in PAGE.items()}


@dataclass
class Check:
    """What both cells of a row need before they run, and Python expressions that are true after
    the older form, after today's, or after each that isn't given one of its own."""

    setup: str = ""
    older: str = ""
    today: str = ""
    both: str = "True"


MODELS = "mlflow.search_logged_models(output_format='list')"
VERSIONS = "client.search_model_versions(\"name = 'wine'\")"
HAS_MODEL = f"sorted(m.name for m in {MODELS})"
CHILDREN = """len(mlflow.search_runs(filter_string=f"tags.mlflow.parentRunId = '{run_id}'"))"""
DEFAULT = "mlflow.set_tracking_uri(None); import os; os.environ.pop('MLFLOW_TRACKING_URI', 0)"
EVALUATE_CALL = '{}evaluate(info.model_uri, data, targets="target", model_type="regressor"{})'
DOUBLE = '''
code = """import mlflow


class Double(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[float]) -> list[float]:
        return [2 * x for x in model_input]
"""
open("double.py", "w").write(code + "mlflow.models.set_model(Double())")
exec(code)
'''

CHECKS = {
    "mlflow.get_tracking_uri()": Check(
        DEFAULT,
        older="value == f'sqlite:///{os.getcwd()}/mlflow.db' and"
        " client.get_experiment(client.create_experiment('new')).artifact_location.startswith("
        "f'{os.getcwd()}/mlruns/')",
        today="mlflow.search_runs().shape[0] == 1",
    ),
    'mlflow.set_tracking_uri("mlruns"); mlflow.set_experiment("trees")': Check(
        older="not os.path.exists('mlruns')",
        today="client.get_experiment_by_name('trees') is not None",
    ),
    'mlflow.set_tracking_uri("file:./mlruns"); mlflow.search_runs()': Check(
        older="not os.path.exists('mlruns')",
        today="len(value) == 1",
    ),
    'mlflow.set_tracking_uri("127.0.0.1:5000"); mlflow.search_runs()': Check(
        older="not os.path.exists('127.0.0.1:5000')",
        today="mlflow.get_tracking_uri() == 'http://127.0.0.1:5000'",
    ),
    'urlparse(mlflow.get_tracking_uri()).scheme != "file"': Check(
        DEFAULT + "; from urllib.parse import urlparse",
        older="value is True",
        today=f"len({VERSIONS}) == 2",
    ),
    'mlflow.sklearn.log_model(forest, "model")': Check(
        older="'untrusted types' in text",
        today=f"{HAS_MODEL} == ['model', 'model'] and value.model_uri.startswith('models:/m-')",
    ),
    (
        'mlflow.sklearn.log_model(line, artifact_path="model", pip_requirements=["scikit-learn"])'
    ): Check(both=f"{HAS_MODEL} == ['model', 'model']"),
    'mlflow.sklearn.log_model(line, "models/line", pip_requirements=["scikit-learn"])': Check(
        older=f"{HAS_MODEL} == ['model']",
        today=f"{HAS_MODEL} == ['line', 'model']",
    ),
    'mlflow.pyfunc.log_model("double", python_model=Double(), pip_requirements=["mlflow"])': Check(
        DOUBLE,
        both="mlflow.pyfunc.load_model(value.model_uri).predict([3.0]) == [6.0]",
    ),
    "client.list_artifacts(run_id)": Check(
        older="value == [] and client.list_artifacts(run_id, 'model') != []",
        today="list(value.model_id) == [info.model_id]",
    ),
    'mlflow.get_run(run_id).data.tags["mlflow.log-model.history"]': Check(
        today="[m.model_id for m in value] == [info.model_id]"
    ),
    'mlflow.sklearn.load_model(f"runs:/{run_id}/model")': Check(
        both="(value.predict(X) == forest.predict(X)).all()"
    ),
    'mlflow.sklearn.load_model(mlflow.get_artifact_uri("model"))': Check(
        today="(value.predict(X) == forest.predict(X)).all()"
    ),
    'mlflow.register_model(f"runs:/{run_id}/model", "wine")': Check(
        both="mlflow.sklearn.load_model('models:/wine/2').n_estimators == 2"
    ),
    'mlflow.register_model(mlflow.get_artifact_uri("model"), "wine")': Check(
        older="fails(lambda: mlflow.sklearn.load_model('models:/wine/2'))",
        today="mlflow.sklearn.load_model('models:/wine/2').n_estimators == 2",
    ),
    'client.transition_model_version_stage("wine", 1, "Production")': Check(
        older="client.get_model_version('wine', 1).current_stage == 'Production'",
        today="client.get_model_version('wine', 1).aliases == ['production']",
    ),
    'client.get_latest_versions("wine", stages=["Production"])': Check(
        "client.set_registered_model_alias('wine', 'production', 1);"
        "client.transition_model_version_stage('wine', 1, 'Production')",
        older="[v.version for v in value] == [1]",
        today="value.version == 1",
    ),
    'mlflow.sklearn.load_model("models:/wine/Production")': Check(
        "client.set_registered_model_alias('wine', 'production', 1)",
        older="client.transition_model_version_stage('wine', 1, 'Production')"
        " and mlflow.sklearn.load_model('models:/wine/Production').n_estimators == 2",
        today="value.n_estimators == 2",
    ),
    "client.search_model_versions(\"name = 'wine'\")[0].aliases": Check(
        "client.set_registered_model_alias('wine', 'production', 1)",
        older="value == []",
        today="value == ['production']",
    ),
    'mlflow.set_experiment("old")': Check(
        "old_id = client.create_experiment('old'); client.delete_experiment(old_id)",
        today="client.get_experiment(old_id).lifecycle_stage == 'active'",
    ),
    EVALUATE_CALL.format("mlflow.", ""): Check(both="value.metrics['r2_score'] > 0.1"),
    EVALUATE_CALL.format("mlflow.models.", ", validation_thresholds=thresholds"): Check(
        today="fails(lambda: mlflow.validate_evaluation_results("
        "candidate_result=result, validation_thresholds={'r2_score': "
        "MetricThreshold(threshold=0.9, greater_is_better=True)}))",
    ),
    EVALUATE_CALL.format("mlflow.models.", ", baseline_model=info.model_uri"): Check(
        today="fails(lambda: mlflow.validate_evaluation_results("
        "candidate_result=result, baseline_result=baseline, validation_thresholds={'r2_score': "
        "MetricThreshold(min_absolute_change=0.1, greater_is_better=True)}))",
    ),
    'mlflow.log_input(X, context="training")': Check(
        today="[d.dataset.name for d in client.get_run(run_id).inputs.dataset_inputs]"
        " == ['diabetes']"
    ),
    'mlflow.log_artifact("plot", "plot.png")': Check(
        "open('plot.png', 'w').close()",
        today="[f.path for f in client.list_artifacts(run_id, 'plots')] == ['plots/plot.png']",
    ),
    "run.info.run_uuid": Check(today="value == run_id"),
    "client.list_experiments()": Check(today="[e.name for e in value] == ['Default']"),
    'client.list_run_infos("0")': Check(today="[r.info.run_id for r in value] == [run_id]"),
    'mlflow.list_run_infos("0")': Check(today="list(value.run_id) == [run_id]"),
    "client.list_registered_models()": Check(today="[m.name for m in value] == ['wine']"),
    "import mlflow.recipes": Check("import sklearn.pipeline", today="value.steps[0][1] is forest"),
    "import mlflow.pipelines": Check(
        "import sklearn.pipeline", today="value.steps[0][1] is forest"
    ),
    "mlflow.autolog(); forest.fit(X, y)": Check(
        "from forked_calls import without_inference; without_inference()",
        older=f"{HAS_MODEL} == ['model', 'model'] and client.get_run(run_id).data.params",
        today=f"{HAS_MODEL} == ['model'] and client.get_run(run_id).data.params",
    ),
    "mlflow.sklearn.autolog(log_models=False); search.fit(X, y)": Check(
        older=f"{CHILDREN} == 5", today=f"{CHILDREN} == 6"
    ),
    "mlflow.tracking.MlflowClient()": Check(
        older="type(value) is mlflow.MlflowClient",
        today="value.get_run(run_id)",
    ),
    "from mlflow.models.signature import infer_signature": Check(both="infer_signature(X)"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What came of every cell, by its row's older form and the field of Check."""
    cells = []
    for older, (_, today) in ROWS.items():
        check = CHECKS.get(older, Check())
        for kind, text in (("older", older), ("today", code(today))):
            cell = {"key": f"{kind}: {older}", "setup": check.setup, "code": text}
            cells.append(cell | {"effect": getattr(check, kind) or check.both})
    folder = tmp_path_factory.mktemp("cells")
    return results("run_cells.py", folder, input=json.dumps(cells))


def test_every_row_has_a_check_and_every_check_a_row(ran):
    assert list(ROWS) == list(CHECKS) and len(ROWS) == len(PAGE)
    forms = [cell for older, (_, today) in PAGE.items() for cell in (older, today)]
    assert {len(codes(form)) for form in forms} == {1}
    assert all(check.today or check.both != "True" for check in CHECKS.values())
    assert not ran["errors"], "\n".join(ran["errors"])


@pytest.mark.parametrize("older", ROWS)
def test_row(older, ran):
    words, _ = ROWS[older]
    then, now = ran[f"older: {older}"], ran[f"today: {older}"]
    for quoted in codes(words):
        assert quoted in then["text"]
    # "Else" is where it doesn't work.
    assert then["raised"] == ("rror" in words or "Else: " in words), then["text"]
    assert "warning" not in then["text"].lower() or codes(words), then["text"]
    assert then["effect"], then["text"]
    assert not now["raised"], now["text"]
    assert "warning" not in now["text"].lower(), now["text"]
    assert now["effect"], now["text"]
