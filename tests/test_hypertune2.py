import ast
import itertools
import json
import re
import shutil

import pytest
import requests
from lessons import copy_with_grid
from mlflow import MlflowClient
from running import PYTHON, ROOT, run, run_script, uri
from searches import finished, name_of, searches_in
from sentences import assert_success
from services import WITHOUT_JOBS, Server
from stores import assert_loads_elsewhere, children_of

GRID = itertools.product([16, 32, 64, 128], [2, 4, 8, None])
CANDIDATES = sorted((str(trees), str(depth)) for trees, depth in GRID)
SPLITS = [f"split{fold}_test_score" for fold in range(5)]
SCORES = ["mean_test_score", "std_test_score", "rank_test_score", "mean_fit_time", *SPLITS]


def test_every_candidate_is_a_finished_child(store):
    parent, _ = store.lesson("hypertune2")
    children = children_of(store.client, parent)
    assert len(children) == 16
    assert (
        sorted((c.data.params["n_estimators"], c.data.params["max_depth"]) for c in children)
        == CANDIDATES
    )
    # On the team's server other searches were before.
    since = f"attributes.start_time >= {parent.info.start_time}"
    assert len(store.client.search_runs([parent.info.experiment_id], since)) == 17
    assert len({child.info.run_name for child in children}) == 16
    for child in children:
        metrics = child.data.metrics
        assert child.info.status == "FINISHED"
        assert set(child.data.params) == {"n_estimators", "max_depth"}
        assert set(metrics) == set(SCORES)
        folds = [metrics[split] for split in SPLITS]
        assert metrics["mean_test_score"] == pytest.approx(sum(folds) / 5)
        assert metrics["mean_fit_time"] > 0
        assert child.info.run_name == name_of(child.data.params)
    ranks = [child.data.metrics["rank_test_score"] for child in children]
    means = [child.data.metrics["mean_test_score"] for child in children]
    assert ranks[0] == 1
    assert means == sorted(means, reverse=True)
    # What its page reads from the parallel coordinates.
    assert {child.data.params["max_depth"] for child in children[-4:]} == {"2"}
    assert means[-4] < 0.945 < means[-5]
    assert {child.data.params["n_estimators"] for child in children[:4]} == {"64", "128"}
    assert (means[0] - means[3]) * 455 == pytest.approx(1)
    newest_first = sorted(children, key=lambda child: -child.info.start_time)
    assert newest_first[0].info.run_id == children[0].info.run_id


def test_parent_holds_the_best(store):
    parent, _ = store.lesson("hypertune2")
    best = children_of(store.client, parent)[0]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["search"] == "breast-cancer-forest"
    fixed = {"cv": "5", "random_state": "42", "test_size": "0.2"}
    best_params = {f"best_{name}": value for name, value in best.data.params.items()}
    assert parent.data.params == fixed | best_params
    assert parent.data.metrics == {
        "best_cv_score": best.data.metrics["mean_test_score"],
        "test_accuracy": 110 / 114,
    }
    files = store.files(parent.info.run_id)
    assert [file for file in files if file != "compare"] == ["heatmap.png", "hypertune2.py"]


def test_parent_knows_its_data(store):
    parent, _ = store.lesson("hypertune2")
    inputs = {
        i.dataset.name: (
            {tag.key: tag.value for tag in i.tags}["mlflow.data.context"],
            json.loads(i.dataset.profile)["num_rows"],
            json.loads(i.dataset.source)["url"],
        )
        for i in parent.inputs.dataset_inputs
    }
    source = "https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic"
    assert inputs == {
        "breast-cancer-training": ("training", 455, source),
        "breast-cancer-testing": ("testing", 114, source),
    }


def test_one_model_on_the_parent_only(store, track_in):
    parent, _ = store.lesson("hypertune2")
    model, files = store.model_files(parent)
    assert model.name == "best-forest"
    assert "model.skops" in files
    since = f"creation_timestamp >= {parent.info.start_time}"
    models = store.client.search_logged_models([parent.info.experiment_id], since)
    assert [m.model_id for m in models] == [model.model_id]
    track_in(store.uri)
    assert_loads_elsewhere(model.model_uri)


def test_agrees_with_the_untracked_search(store):
    """README.md shows what hypertune1 prints, and is run."""
    text = (ROOT / "README.md").read_text()
    untracked = re.search(r"^best parameters: .*?(?=^Next: )", text, re.DOTALL | re.MULTILINE)[0]
    parent, tracked = store.lesson("hypertune2")
    assert untracked in tracked
    best = ast.literal_eval(re.search(r"best parameters: (.*)", untracked)[1])
    assert {
        f"best_{name}": str(v) for name, v in best.items()
    }.items() <= parent.data.params.items()
    assert f"accuracy: {parent.data.metrics['best_cv_score']:.4f}" in untracked
    assert f"test accuracy: {parent.data.metrics['test_accuracy']:.4f}" in untracked


def test_prints_the_top_five(store):
    _, output = store.lesson("hypertune2")
    table = output.split("std_test_score  rank_test_score\n")[1].splitlines()[:5]
    assert [row.split()[:3] for row in table][0] == ["8", "128", "0.962637"]
    assert [row.split()[4] for row in table] == ["1", "2", "2", "2", "5"]
    assert "See them: " in output


def search(folder, grid):
    """Run the lesson with this GRID; return the process, the parent and its children."""
    script = copy_with_grid(folder, "hypertune2", grid)
    result = run([PYTHON, script], folder, MLFLOW_TRACKING_URI=uri(folder))
    ((parent, children),) = searches_in(uri(folder), "hypertune2")
    return result, parent, children


@pytest.mark.ci
def test_a_candidate_that_fails_is_a_failed_child_with_its_reason(folder):
    result, parent, children = search(folder, {"n_estimators": [-1, 16], "max_depth": [2, -3]})
    assert result.returncode == 0
    assert "15 fits failed out of a total of 20" in result.stderr  # scikit-learn's own warning
    assert parent.info.status == "FINISHED"
    assert parent.data.params["best_n_estimators"] == "16"
    assert list(finished(children)) == ["max_depth 2, n_estimators 16"]
    failed = {child.info.run_name: child for child in children if child.info.status == "FAILED"}
    # scikit-learn looks at max_depth first.
    reasons = {
        "max_depth -3, n_estimators -1": ("max_depth", -3),
        "max_depth -3, n_estimators 16": ("max_depth", -3),
        "max_depth 2, n_estimators -1": ("n_estimators", -1),
    }
    assert sorted(failed) == sorted(reasons) and len(children) == 4
    for name, (param, value) in reasons.items():
        assert failed[name].data.metrics == {}
        error = failed[name].data.tags["error"]
        assert error.startswith(f"InvalidParameterError: The '{param}' parameter of Random")
        assert error.endswith(f"Got {value} instead.")
    # What draws a search takes it.
    compared = run_script("compare_runs", folder, MLFLOW_TRACKING_URI=uri(folder))
    assert "1 children to compare, 3 didn't finish" in assert_success(compared)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ({"n_estimators": [-1], "max_depth": [2, 4]}, "range [1, inf). Got -1 instead."),
        ({"depth": [2, 4]}, "Invalid parameter 'depth' for estimator RandomForestClassifier"),
    ],
)
def test_if_nothing_can_be_fitted_scikit_learn_says_why(folder, grid, reason):
    result, parent, children = search(folder, grid)
    assert result.returncode == 1
    assert reason in result.stderr
    assert (parent.info.status, children) == ("FAILED", [])


@pytest.fixture(scope="module")
def ui_of_the_main_job(tmp_path_factory):
    """The main job: no variable set, run elsewhere; then `mlflow ui` in the repo, no option.

    Yields the server and the parent run that it shows.
    """
    repo, elsewhere = tmp_path_factory.mktemp("repo"), tmp_path_factory.mktemp("elsewhere")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", repo / "src", ignore=ignore)
    result = run_script("hypertune2", elsewhere, root=repo, MLFLOW_TRACKING_URI="")
    assert (result.returncode, result.stderr) == (0, "")
    assert not list(elsewhere.iterdir())
    lines = result.stdout.splitlines()
    assert lines[0] == f"Runs go to sqlite:///{repo}/mlflow.db"
    assert lines[1].startswith("Creating this database")
    command = f"mlflow ui --port 5000 --backend-store-uri sqlite:///{repo}/mlflow.db"
    assert lines[2] == f"See them: {command}, then open http://127.0.0.1:5000"

    server = Server(repo, "ui", MLFLOW_WORKERS="1", **WITHOUT_JOBS)
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("hypertune2")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "search" in run.data.tags]
    yield server, parent
    server.stop()


@pytest.mark.ci
def test_default_store_is_what_mlflow_ui_shows(ui_of_the_main_job):
    server, parent = ui_of_the_main_job
    assert len(children_of(MlflowClient(server.uri), parent)) == 16
    # The UI reads files through the server: the picture must be where the server looks.
    picture = requests.get(
        f"{server.uri}/get-artifact",
        {"path": "heatmap.png", "run_id": parent.info.run_id},
        timeout=30,
    )
    assert picture.content.startswith(b"\x89PNG")
    # The UI's pages of experiments and runs ask this; it fails where graphene is too old.
    query = {
        "query": "query($in: MlflowGetRunInput!){mlflowGetRun(input: $in){run{info{runName}}}}",
        "variables": {"in": {"runId": parent.info.run_id}},
    }
    answer = requests.post(f"{server.uri}/graphql", json=query, timeout=30).json()
    assert answer["data"]["mlflowGetRun"]["run"]["info"]["runName"] == "grid search"


@pytest.fixture(scope="module")
def page(browser):
    """A window of the browser."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(60_000)
    return page


@pytest.mark.ci
def test_ui_opens_on_genai_where_the_runs_are_missing(ui_of_the_main_job, page):
    page.goto(ui_of_the_main_job[0].uri)
    page.get_by_text("Experiments", exact=True).first.click()
    page.get_by_text("hypertune2", exact=True).first.click()
    page.get_by_text("No data available").first.wait_for()
    assert not page.get_by_text("grid search").count()


@pytest.mark.ci
def test_ui_nests_the_children_while_sorted_by_created(ui_of_the_main_job, page):
    from playwright.sync_api import expect

    page.goto("about:blank")
    page.goto(ui_of_the_main_job[0].uri)
    page.get_by_text("Model training", exact=True).first.click()
    page.get_by_text("Experiments", exact=True).first.click()
    page.get_by_text("hypertune2", exact=True).first.click()
    rows = page.locator(".ag-center-cols-container .ag-row")
    opener = page.locator(".ag-cell:has(a[href*='/runs/']) button")
    opener.wait_for()
    assert rows.count() == 1
    opener.click()
    page.get_by_text("17 matching runs").wait_for()
    expect(rows).to_have_count(17)
    page.get_by_role("button", name="Sort").first.click()
    page.get_by_text("mean_test_score", exact=True).last.click()
    expect(opener).to_have_count(0)
    page.locator(".ag-header-cell:has-text('Created')").first.click()
    expect(opener).to_have_count(1)
