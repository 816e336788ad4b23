"""The file of a model's code: what it does by itself, and the page's traps with such files."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowException
from mlflow.models import Model, infer_signature
from mlflow.pyfunc import load_model, save_model
from running import PYTHON, ROOT, run
from sentences import assert_success

CODE = ROOT / "src" / "centroid_model.py"
PAGE = " ".join((ROOT / "docs/guides/how-do-i.md").read_text().split())
DOUBLE = """
import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
FACTOR = 2.0
class Double(PythonModel):
    def predict(self, model_input: list[float], params=None):
        return (FACTOR * np.array(model_input)).tolist()
set_model(Double())
"""
HINT = "list[float]"


def changed(old, new):
    """DOUBLE with NEW in place of OLD."""
    assert DOUBLE.count(old) == 1
    return DOUBLE.replace(old, new)


def test_the_nearest_centroid_answers_unless_it_is_too_far(tmp_path):
    np.save(tmp_path / "c.npy", [[0.0, 0.0], [4.0, 0.0]])
    namespace = {}
    exec(CODE.read_text(), namespace)
    model = namespace["NearestCentroid"]()
    artifacts, config = {"centroids": tmp_path / "c.npy"}, {"classes": ["left", "right"]}
    model.load_context(SimpleNamespace(artifacts=artifacts, model_config=config))
    rows = np.array([[1.0, 0.0], [3.0, 0.0], [4.0, 2.0], [0.0, 2.1]])
    answers = model.predict(rows, params={"farthest": 2.0})
    assert answers.tolist() == ["left", "right", "right", "unknown"]


def saved(folder, *codes, **options):
    """Save models of these CODES, one after the other, in one process in FOLDER; the process."""
    program = "import sys, mlflow; sys.path.insert(0, '.')\n"
    for number, code in enumerate(codes):
        (folder / f"code{number}.py").write_text(code)
        program += f"mlflow.pyfunc.save_model('model{number}', python_model='code{number}.py', "
        program += f"pip_requirements=[], **{options})\n"
    return run([PYTHON, "-c", program], folder)


def loaded(folder, number=0):
    """Load the model in a process of another folder, and let it predict; the process."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    path = str(folder / f"model{number}")
    program = f"import mlflow; print(mlflow.pyfunc.load_model({path!r}).predict([1.0]))"
    return run([PYTHON, "-c", program], elsewhere)


def assert_fails(done, message):
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


def trap(test):
    """A test of what the page says of the pinned MLflow."""
    return pytest.mark.ci(pytest.mark.facts(test))


@trap
def test_a_class_of_another_kind_gives_the_error_of_the_page(tmp_path):
    done = saved(tmp_path, changed("(PythonModel)", ""))
    (words,) = re.findall("It says `(Model should .*?)`", PAGE)
    assert_fails(done, words)
    assert "PythonModel" not in done.stderr.splitlines()[-1]


@trap
def test_a_path_of_this_machine_is_accepted_and_then_missed(tmp_path):
    factor = tmp_path / "factor.txt"
    factor.write_text("2")
    assert_success(saved(tmp_path, changed("= 2.0", f"= float(open({str(factor)!r}).read())")))
    assert loaded(tmp_path).stdout == "[2.0]\n"
    factor.unlink()
    assert_fails(loaded(tmp_path), f"No such file or directory: '{factor}'")


@trap
def test_without_set_model_the_last_model_of_the_process_is_taken(tmp_path):
    assert_success(saved(tmp_path, DOUBLE, changed("set_model(Double())", "")))
    assert loaded(tmp_path).stdout == "[2.0]\n"
    assert_fails(loaded(tmp_path, 1), "ensure the model is set using mlflow.models.set_model()")


@trap
@pytest.mark.parametrize("options", [{}, {"code_paths": ["other.py"]}])
def test_another_file_of_ones_own_is_found_elsewhere_by_code_paths(options, tmp_path):
    (tmp_path / "other.py").write_text("FACTOR = 2.0")
    code = changed("FACTOR = 2.0", "from other import FACTOR")
    assert_success(saved(tmp_path, code, **options))
    if options:
        assert loaded(tmp_path).stdout == "[2.0]\n"
    else:
        assert_fails(loaded(tmp_path), "No module named 'other'")


def signature_of(folder, code, **options):
    """The signature of a model of this code."""
    folder.mkdir()
    (folder / "code.py").write_text(code)
    save_model(folder / "model", python_model=folder / "code.py", pip_requirements=[], **options)
    return Model.load(folder / "model").signature


ROWS = np.array([[1.0, 2.0], [3.0, 4.0]])
TABLE = pd.DataFrame(ROWS, columns=["a", "b"])


@trap
@pytest.mark.filterwarnings("ignore")  # what MLflow advises instead
@pytest.mark.parametrize("hint", ["", ": np.ndarray", ": pd.DataFrame"])
def test_these_hints_give_no_signature_but_an_example_or_a_signature_does(hint, tmp_path):
    code = changed(f": {HINT}", hint)
    assert signature_of(tmp_path / "a", code) is None
    frame = "DataFrame" in hint
    example = TABLE if frame else ROWS
    of_example = signature_of(tmp_path / "b", code, input_example=example)
    given = infer_signature(example, [1.0], params={"share": 0.5})
    for found in of_example, signature_of(tmp_path / "c", code, signature=given):
        assert found.inputs == given.inputs
    assert found.params == given.params


@trap
@pytest.mark.parametrize(
    ("hint", "kind"), [(HINT, "double"), ("list[list[float]]", "Array(double)")]
)
def test_these_hints_give_the_signature_and_drop_another_with_its_params(
    hint, kind, tmp_path, capsys
):
    assert f"`{hint}`" in PAGE
    code = changed(HINT, hint)
    rows = ROWS.tolist() if "Array" in kind else [1.0]
    given = infer_signature(rows, [1.0], params={"share": 0.5})
    found = signature_of(tmp_path / "a", code, signature=given)
    assert f"{found.inputs}" == f"[{kind} (required)]"
    assert found.params is None
    assert "Provided signature does not match" in capsys.readouterr().err
    found = signature_of(tmp_path / "b", code, input_example=(rows, {"share": 0.5}))
    assert found.params == given.params


@trap
@pytest.mark.filterwarnings("ignore")
def test_what_signatures_from_a_dataframe_and_from_an_array_refuse(tmp_path):
    code = changed(HINT, "np.ndarray").replace(
        "(FACTOR * np.array(model_input))", "np.array(model_input)[:, 0]"
    )
    models = []
    for name, example in ("frame", TABLE), ("array", ROWS):
        signature_of(tmp_path / name, code, signature=infer_signature(example, ROWS[:, 0]))
        models.append(load_model(str(tmp_path / name / "model")))
    of_frame, of_array = models
    with pytest.raises(MlflowException, match=r"Model is missing inputs \['a', 'b'\]"):
        of_frame.predict(ROWS)
    assert of_frame.predict(TABLE[["b", "a"]]) == [1.0, 3.0]
    for rows, first in (ROWS, [1.0, 3.0]), (TABLE, [1.0, 3.0]), (TABLE[["b", "a"]], [2.0, 4.0]):
        assert of_array.predict(rows) == first
    for rows in ROWS.tolist(), ROWS.astype(int), ROWS.astype("float32"):
        with pytest.raises(MlflowException, match="Failed to enforce schema"):
            of_array.predict(rows)
