"""benchmarks/peers.py has each tracker store the same runs, and the page its table."""

import re
import shutil
import sys

import measure as tools
import peers
import pytest
from doc_tables import tables
from lessons import with_grid
from mlflow import MlflowClient
from running import ROOT, run, uri

pytestmark = pytest.mark.ci
SECTION = "Beside other trackers"
JOB = (ROOT / "src" / "hypertune1.py").read_text()
SMALL = {"n_estimators": [1, 2], "max_depth": [2, None]}
SCORES = {"mean_test_score", "std_test_score", "rank_test_score", "mean_fit_time"}
SCORES |= {f"split{fold}_test_score" for fold in range(5)}


def test_each_tracker_is_pinned_and_has_its_script():
    scripts = {
        file.stem.removeprefix("with_") for file in (ROOT / "benchmarks/peers").glob("with_*")
    }
    assert scripts == set(peers.TRACKERS)
    for name, pin in peers.TRACKERS.items():
        assert re.fullmatch(rf"{name}==[\d.]+", pin)
        text = (ROOT / "benchmarks" / "peers" / f"with_{name}.py").read_text()
        assert "\nhttps://" in text.split('"""')[1]


@pytest.fixture(scope="module")
def envs(tmp_path_factory):
    """Where the virtual environments are, once built."""
    return tmp_path_factory.mktemp("peers")


def pair(params):
    """The number of trees and the depth as text; some trackers keep floats, or "" for None."""
    values = [str(params[key]).removesuffix(".0") for key in ("n_estimators", "max_depth")]
    return values[0], values[1] or "None"


@pytest.mark.parametrize("name", peers.TRACKERS)
def test_each_tracker_holds_every_candidate(envs, name):
    built = peers.build(envs, [name], with_grid(JOB, SMALL))
    assert not isinstance(built[name], str), built[name]
    runs = built[name].stored()
    candidates = [(params, metrics) for params, metrics in runs if "best_cv_score" not in metrics]
    ((best, best_metrics),) = [each for each in runs if "best_cv_score" in each[1]]
    pairs = [pair(params) for params, _ in candidates]
    assert sorted(pairs) == [("1", "2"), ("1", "None"), ("2", "2"), ("2", "None")]
    ranks = {}
    for params, metrics in candidates:
        assert set(metrics) >= SCORES
        folds = [metrics[f"split{fold}_test_score"] for fold in range(5)]
        assert metrics["mean_test_score"] == pytest.approx(sum(folds) / 5)
        assert 0.7 < metrics["mean_test_score"] < 1
        ranks[metrics["rank_test_score"]] = pair(params), metrics["mean_test_score"]
    assert ranks[1] == (pair(best), pytest.approx(best_metrics["best_cv_score"]))


def test_what_cannot_be_installed_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(peers.TRACKERS, "aim", "aim==0.0.0")
    monkeypatch.setattr(peers, "JOB", [])
    built = peers.build(tmp_path, ["aim"], JOB)
    assert re.fullmatch("aim: .* you require aim==0.0.0, .*", built["aim"])
    assert peers.measure(built, 1) == built


FOUND = {
    "mlflow": [(4, 6, 1), (4, 8, 2)],
    "wandb": [(4, 5, 0.5), (5, 6, 0.5)],
    "aim": "aim: ERROR: none",
}


def test_the_table_has_the_least_ratio_first_and_what_went_wrong():
    assert peers.table(FOUND).splitlines()[2:] == [
        f"| {peers.TRACKERS['wandb'].replace('==', ' ')} | 1.0 [1.0, 1.0] s | 0.5 [0.5, 0.5] s "
        "| 1.23 [1.20, 1.25] |",
        f"| {peers.TRACKERS['mlflow'].replace('==', ' ')} | 3.0 [2.0, 4.0] s | 1.5 [1.0, 2.0] s "
        "| 1.75 [1.50, 2.00] |",
        f"| {peers.TRACKERS['aim'].replace('==', ' ')} | aim: ERROR: none |  |  |",
    ]


def test_the_pictures_title_is_made_of_the_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "IMAGES", tmp_path)
    peers.picture(FOUND)
    assert (tmp_path / "peers.png").stat().st_size > 5000
    assert peers.title(FOUND) == (
        "Tracked by MLflow the search takes 1.75 times as long as untracked,\n"
        "rank 2 of 2; the least is wandb with 1.23"
    )
    first = {"mlflow": FOUND["wandb"], "wandb": FOUND["mlflow"]}
    assert peers.title(first).endswith(" takes 1.23 times as long as untracked,\nthe least of 2")


def test_the_page_shows_its_rows():
    rows = tables("benchmarks.md")[SECTION]
    pins = [pin.replace("==", " ") for pin in peers.TRACKERS.values()]
    assert sorted(row[0] for row in rows) == sorted(pins)
    shown = [float(row[3].split()[0]) for row in rows if row[3]]
    assert shown == sorted(shown)


COUNTED = """
import os
import sqlalchemy

sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", lambda connection: print("commit"))
CANDIDATES = [({"a": 1, "b": 2}, {"c": 3.0, "d": 4.0})] * int(os.environ["CHILDREN"])
BEST = {"a": 1}, {"c": 3.0}
"""


@pytest.mark.facts
def test_a_child_in_mlflow_is_eight_transactions(folder):
    """As the page says."""
    (folder / "job.py").write_text(COUNTED)
    script = shutil.copy(ROOT / "benchmarks" / "peers" / "with_mlflow.py", folder)
    MlflowClient(uri(folder)).create_experiment("search")
    commits = []
    for count in "1", "3":
        result = run([sys.executable, script], folder, CHILDREN=count)
        assert result.returncode == 0, result.stderr
        commits.append(result.stdout.count("commit"))
    assert commits[1] - commits[0] == 2 * 8


@pytest.mark.facts
def test_importing_mlflow_imports_its_part_for_language_models(tmp_path):
    code = "import sys, mlflow; print('mlflow.genai.judges' in sys.modules)"
    assert run([sys.executable, "-c", code], tmp_path).stdout == "True\n"
