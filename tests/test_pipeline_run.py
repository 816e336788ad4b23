import hashlib
import io
import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.data import get_source
from mlflow.models import Model
from patched import without_connect
from running import PYTHON, ROOT, run, uri
from sentences import assert_one_sentence
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder
from stores import runs_of

CSV = ROOT / "data" / "penguins.csv"
NUMBERS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
FEATURES = [*NUMBERS, "island", "sex"]
SPECIES = ["Adelie", "Chinstrap", "Gentoo"]
DIGEST = "f204db2c"
# What a program far from this repo does with the model, as `mlflow models serve` does it.
FAR = """
import json, sys
import mlflow
from mlflow.pyfunc.scoring_server import infer_and_parse_data
folder = mlflow.artifacts.download_artifacts(sys.argv[1], dst_path="model")
model = mlflow.pyfunc.load_model(folder)
schema, answers = model.metadata.get_input_schema(), []
for request in json.load(sys.stdin):
    try:
        rows = infer_and_parse_data({"dataframe_split": request}, schema)
        answers.append(model.predict(rows).tolist())
    except mlflow.MlflowException as error:
        answers.append(str(error))
code = sys.modules["penguin_features"].__file__
print(json.dumps([folder, code, model.get_raw_model().classes_.tolist(), answers]))
"""


def read():
    """The file's rows as floats and text; the year isn't a feature."""
    return pd.read_csv(CSV).astype({name: float for name in [*NUMBERS, "year"]})


def split():
    """The rows of the training and of the test, and the species of both."""
    rows = read()
    y = rows["species"]
    return train_test_split(rows[FEATURES], y, stratify=y, test_size=0.2, random_state=42)


def request(rows):
    """ROWS as the JSON of a request, in which a missing value is null."""
    return json.loads(rows.to_json(orient="split", index=False))


def changed(rows, **values):
    """The first row alone, with these values."""
    return request(rows.head(1).astype(object).assign(**values))


@pytest.fixture(scope="module")
def far(store, tmp_path_factory):
    """The model's folder, its code, its classes and its answers, by a program elsewhere."""
    lesson, _ = store.lesson("pipeline_run")
    (output,) = lesson.outputs.model_outputs
    _, X_test, *_ = split()
    requests = {
        "test": request(X_test),
        "new island": changed(X_test, island="Heard"),
        "no sex, no mass": changed(X_test, sex=None, body_mass_g=None),
        "no sex": changed(X_test, sex=None),
        "no sex, with others": request(X_test.assign(sex=[None, *X_test["sex"][1:]])),
        "nothing": changed(X_test, **dict.fromkeys(FEATURES)),
        "no column sex": request(X_test.head(1).drop(columns="sex")),
        "a text for a number": changed(X_test, body_mass_g="heavy"),
    }
    call = [PYTHON, "-c", FAR, f"models:/{output.model_id}"]
    folder = tmp_path_factory.mktemp("far")
    env = store.env | {"MLFLOW_ALLOW_FILE_STORE": "true"}
    done = run(call, folder, input=json.dumps(list(requests.values())), **env)
    assert (done.returncode, done.stderr) == (0, "")
    model, code, classes, answers = json.loads(done.stdout)
    return Path(model), Path(code), classes, dict(zip(requests, answers, strict=True))


def test_run_holds_what_was_chosen_and_what_came_out(store, far):
    lesson, output = store.lesson("pipeline_run")
    assert lesson.info.status == "FINISHED"
    chosen = {
        "test_size": "0.2",
        "random_state": "42",
        "model": "LogisticRegression(max_iter=1000)",
    }
    assert lesson.data.params == chosen
    probabilities = np.array(far[-1]["test"])
    *_, y_test = split()
    assert probabilities.shape == (69, 3)
    assert (np.array(SPECIES)[probabilities.argmax(axis=1)] == y_test).all()
    assert lesson.data.metrics == {
        "test_accuracy": 1,
        "test_log_loss": pytest.approx(log_loss(y_test, probabilities)),
    }
    assert "test_accuracy: 1.0000\ntest_log_loss: 0.0282\n" in output
    assert output.endswith("Next: python src/custom_model.py\n")


def test_run_knows_the_file_and_the_prepared_table(store):
    lesson, _ = store.lesson("pipeline_run")
    inputs = {i.dataset.name: i for i in lesson.inputs.dataset_inputs}
    assert set(inputs) == {"penguins", "penguins-preprocessed"}
    found = {}
    for name, given in inputs.items():
        rows = json.loads(given.dataset.profile)["num_rows"]
        types = [each["type"] for each in json.loads(given.dataset.schema)["mlflow_colspec"]]
        context = [(tag.key, tag.value) for tag in given.tags]
        found[name] = rows, types, context
    context = "mlflow.data.context"
    texts = ["string", "string", *["double"] * 4, "string", "double"]
    assert found == {
        "penguins": (344, texts, [(context, "raw")]),
        "penguins-preprocessed": (275, ["double"] * 11, [(context, "preprocessed")]),
    }
    assert inputs["penguins"].dataset.digest == DIGEST
    url = "https://github.com/allisonhorst/palmerpenguins/raw/v0.1.0/inst/extdata/penguins.csv"
    assert get_source(inputs["penguins"]).url == url
    made_by = get_source(inputs["penguins-preprocessed"]).to_dict()["tags"]
    assert made_by["mlflow.source.name"].endswith("src/pipeline_run.py")


def test_the_prepared_table_is_a_file(store, tmp_path):
    lesson, _ = store.lesson("pipeline_run")
    assert store.files(lesson.info.run_id) == ["pipeline_run.py", "preprocessed.json"]
    path = store.client.download_artifacts(lesson.info.run_id, "preprocessed.json", tmp_path)
    table = pd.DataFrame(**json.loads(Path(path).read_text()))
    X_train, *_ = split()
    islands = [f"island_{name}" for name in ("Biscoe", "Dream", "Torgersen")]
    sexes = [f"sex_{name}" for name in ("female", "male", "nan")]
    assert list(table) == [*NUMBERS, "bill_ratio", *islands, *sexes]
    assert table.shape == (275, 11)
    assert not table.isna().any(axis=None)
    assert (table[islands].sum(axis=1) == 1).all()
    assert table["sex_nan"].sum() == X_train["sex"].isna().sum() == 11
    known = X_train["bill_length_mm"].notna().to_numpy()
    ratio = (X_train["bill_length_mm"] / X_train["bill_depth_mm"])[known]
    assert np.corrcoef(table["bill_ratio"][known], ratio)[0, 1] == pytest.approx(1)
    assert table[NUMBERS].mean().abs().max() < 1e-6


def test_the_model_holds_its_schema_its_types_and_its_code(store, far):
    lesson, output = store.lesson("pipeline_run")
    folder, code, classes, _ = far
    model, files = store.model_files(lesson)
    assert model.name == "pipeline"
    assert {"MLmodel", "model.skops", "code", "requirements.txt"} <= set(files)
    assert code == folder / "code" / "penguin_features.py"
    assert code.read_bytes() == (ROOT / "src" / code.name).read_bytes()
    loaded = Model.load(folder)
    trusted = ["numpy.dtype", "penguin_features.PenguinFeatures"]
    assert loaded.flavors["sklearn"]["skops_trusted_types"] == trusted
    assert loaded.flavors["python_function"]["predict_fn"] == "predict_proba"
    assert f"skops asks you to trust: {', '.join(trusted)}\n" in output
    columns = loaded.signature.inputs
    assert [(each.name, each.type.name) for each in columns] == [
        *((name, "double") for name in NUMBERS),
        *((name, "string") for name in ("island", "sex")),
    ]
    assert all(each.required for each in columns)
    assert [each.name for each in loaded.signature.outputs] == SPECIES == classes
    needs = (folder / "requirements.txt").read_text()
    for package in "mlflow==", "scikit-learn==", "skops==":
        assert package in needs


def test_elsewhere_the_model_answers_the_same_and_copes_with_what_it_never_saw(store, far):
    _, output = store.lesson("pipeline_run")
    *_, answers = far
    (known, *_) = answers["test"]
    shown = {"as measured": known}
    shown |= {name: answers[name][0] for name in ("new island", "no sex, no mass")}
    for name, row in shown.items():
        numbers = output.split(f"{name} ")[1].splitlines()[0].split()
        assert [float(number) for number in numbers] == pytest.approx(row, abs=0.00051)
        assert sum(row) == pytest.approx(1)
        assert row != known or name == "as measured"
        assert np.argmax(row) == 0
    # Alone its missing text comes as None, among other rows as NaN.
    assert answers["no sex"][0] == pytest.approx(answers["no sex, with others"][0], abs=1e-12)
    assert answers["no sex"][0] != pytest.approx(known, abs=1e-3)
    assert sum(answers["nothing"][0]) == pytest.approx(1)
    assert "Model is missing inputs ['sex']" in answers["no column sex"]
    assert "body_mass_g" in answers["a text for a number"]


def test_data_is_the_file_of_its_readme():
    assert hashlib.sha256(CSV.read_bytes()).hexdigest().startswith(DIGEST)
    rows = read()
    assert rows.shape == (344, 8)
    assert rows.isna().sum().sum() == 19
    assert "data/*.csv -text\n" in (ROOT / ".gitattributes").read_text()


@pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0")
def test_mlflows_own_digest_leaves_out_a_text_column_with_missing_values():
    def digest(column):
        rows = read()
        rows.loc[0, column] = "other"
        return mlflow.data.from_pandas(rows).digest

    same = mlflow.data.from_pandas(read()).digest
    assert digest("sex") == same
    assert digest("island") != same


def test_a_column_with_a_missing_value_would_count_as_optional():
    X_train, *_ = split()
    optional = [
        each.name for each in mlflow.models.infer_signature(X_train).inputs if not each.required
    ]
    assert optional == [*NUMBERS, "sex"]


def test_a_schema_of_integers_warns_and_refuses_a_missing_value():
    whole = pd.DataFrame({"body_mass_g": [3750, 3800]})
    with pytest.warns(UserWarning, match="integer column"):
        schema = mlflow.models.infer_signature(whole).inputs
    missing = pd.DataFrame({"body_mass_g": [3750, None]})
    with pytest.raises(mlflow.MlflowException, match="Incompatible input types"):
        mlflow.models.validate_schema(missing, schema)


def test_a_text_column_of_floats_is_refused_and_of_none_is_not():
    schema = mlflow.models.infer_signature(pd.DataFrame({"sex": ["male", "female"]})).inputs
    mlflow.models.validate_schema(pd.DataFrame({"sex": [None]}, dtype=object), schema)
    with pytest.raises(mlflow.MlflowException, match="Incompatible input types for column sex"):
        mlflow.models.validate_schema(pd.read_csv(io.StringIO("sex\nNA\n")), schema)


def test_an_encoder_without_the_option_refuses_a_new_category():
    encoder = OneHotEncoder(sparse_output=False).fit([["Dream"], ["Biscoe"]])
    with pytest.raises(ValueError, match="Found unknown categories"):
        encoder.transform([["Heard"]])
    ignores = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit([["Dream"]])
    assert ignores.transform([["Heard"]]).tolist() == [[0]]


@pytest.mark.ci
def test_a_copy_says_that_its_data_is_missing_and_works_with_it(folder):
    own = folder / "own"
    own.mkdir()
    script = own / "pipeline_run.py"
    script.write_text(without_connect((ROOT / "src" / script.name).read_text()))
    shutil.copy(ROOT / "src" / "penguin_features.py", own)
    call = [PYTHON, script], folder
    copy = folder / "data" / CSV.name
    assert_one_sentence(
        run(*call), f"{copy} is missing: copy the tutorial's data/penguins.csv there"
    )
    copy.parent.mkdir()
    shutil.copy(CSV, copy)
    result = run(*call, MLFLOW_TRACKING_URI=uri(folder))
    assert result.returncode == 0, result.stderr
    (done,) = runs_of(uri(folder), "pipeline-run")
    assert (done.info.status, done.data.metrics["test_accuracy"]) == ("FINISHED", 1)


@pytest.mark.ci
@pytest.mark.parametrize("order", ["12", "21"])
def test_of_two_models_with_one_module_name_the_second_gets_the_code_of_the_first(order, tmp_path):
    """mlflow#4061, mlflow#12377."""
    step = """
from sklearn.base import BaseEstimator
class Always(BaseEstimator):
    def predict(self, X):
        return [{}]
"""
    save = """
import mlflow, own_step
mlflow.sklearn.save_model(own_step.Always(), "model-{}", code_paths=[own_step.__file__],
    skops_trusted_types=["own_step.Always"], pip_requirements=[])
"""
    load = """
import mlflow
for number in {!r}:
    print(mlflow.pyfunc.load_model("model-" + number).predict([[0]])[0])
"""
    for number in "12":
        code = tmp_path / number / "own_step.py"
        code.parent.mkdir()
        code.write_text(step.format(number))
        call = [PYTHON, "-c", save.format(number)]
        assert run(call, tmp_path, PYTHONPATH=str(code.parent)).returncode == 0
    found = run([PYTHON, "-c", load.format(order)], tmp_path)
    assert found.stdout.split() == [order[0]] * 2
    alone = run([PYTHON, "-c", load.format(order[1])], tmp_path)
    assert alone.stdout.split() == [order[1]]
