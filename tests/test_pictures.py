"""The UI as the pages show it: each test goes there by the clicks that they name, asserts
what is to be seen, and takes the picture where it is asked for.

    python -m pytest tests/test_pictures.py --pictures -n0     makes all of docs/images anew
"""

import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import expect
from running import ENV, ROOT, make_repo, run_script
from services import WITHOUT_JOBS, Server
from sklearn.datasets import load_breast_cancer

pytestmark = [pytest.mark.facts, pytest.mark.ci]
IMAGES = ROOT / "docs" / "images"
# What a reader has run when the last lesson begins.
LESSONS = ["basic_run", "autolog", "select_experiment"]
LESSONS += ["hypertune2", "register_model", "promote_model"] * 2 + ["log_dataset", "compare_runs"]
LESSONS += ["training_loop", "pipeline_run", "custom_model"]
OWNER = {"LOGNAME": "ada", "MLFLOW_TRACKING_URI": ""}  # nobody's name in the pictures
WIDTH = 1300
SIDE = 200  # of which the sidebar takes
SHORTEN = """folder => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode())
        texts.currentNode.nodeValue = texts.currentNode.nodeValue.replace(folder, "/...")
}"""


class Shown:
    """The README's store, all lessons run in a copy of the repo, and `mlflow ui` in it."""

    def __init__(self, folder):
        self.folder = folder
        for part in "src", "data":
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        make_repo(folder)
        self.printed = {}
        for name in LESSONS:
            result = run_script(name, folder, root=folder, **OWNER)
            assert result.returncode == 0, result.stderr
            self.printed[name] = result.stdout
        self.server = Server(folder, "ui", MLFLOW_WORKERS="1", **WITHOUT_JOBS)
        self.client = MlflowClient(self.server.uri)

    def runs(self, experiment, condition=""):
        """The experiment's runs, newest first."""
        found = self.client.get_experiment_by_name(experiment)
        order = ["attributes.start_time DESC"]
        return self.client.search_runs([found.experiment_id], condition, order_by=order)

    def search(self, experiment="hypertune2"):
        """The newest search and its children."""
        parent = self.runs(experiment, "tags.search LIKE '%'")[0]
        return parent, self.runs(experiment, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    shown = Shown(tmp_path_factory.mktemp("repo"))
    yield shown
    shown.server.stop()


@pytest.fixture
def resumed(shown):
    """hypertune3 in the middle of a search that was killed and taken up again; it stands still."""
    process = start(shown, "hypertune3")
    try:
        halt(shown, process, FINISHED=4, RUNNING=1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process = start(shown, "hypertune3", "--resume")
        halt(shown, process, FINISHED=7, KILLED=1, RUNNING=1)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(shown, name, *args):
    command = [sys.executable, shown.folder / "src" / f"{name}.py", *args]
    with (shown.folder / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            command, env=ENV | OWNER, stdout=log, stderr=log, start_new_session=True
        )


def statuses(shown):
    """How many children of the resumed search have which status."""
    if not shown.client.get_experiment_by_name("hypertune3") or not shown.runs("hypertune3"):
        return Counter()
    return Counter(child.info.status for child in shown.search("hypertune3")[1])


def is_locked(database):
    """Whether somebody writes into the SQLite file; then the UI couldn't read either."""
    with closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.rollback()
        return False


def halt(shown, process, **least):
    """Stop all its processes when so many children are there, and none of them is writing."""
    deadline = time.monotonic() + 240
    while True:
        if statuses(shown) >= Counter(least):
            os.killpg(process.pid, signal.SIGSTOP)
            if not is_locked(shown.folder / "mlflow.db") and statuses(shown) >= Counter(least):
                return
            os.killpg(process.pid, signal.SIGCONT)
        assert time.monotonic() < deadline, (shown.folder / "hypertune3.log").read_text()
        time.sleep(0.2)


@pytest.fixture
def page(browser, shown):
    """The UI's first page in a new window, as the README leaves it."""
    page = window(browser)
    enter(page, shown.server.uri)
    yield page
    page.close()


def enter(page, address):
    page.goto(address)
    page.get_by_role("button", name="Close", exact=True).click()  # the assistant
    page.get_by_text("Model training", exact=True).click()


def window(browser, **login):
    size = {"width": WIDTH, "height": 1000}
    page = browser.new_page(viewport=size, device_scale_factor=1.5, color_scheme="light", **login)
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    return page


@pytest.fixture
def picture(request, shown):
    """Keep what the page shows, down to a height, as the picture of this name."""

    def keep(page, name, height, left=SIDE):
        # Where the files are: in a reader's copy elsewhere.
        page.evaluate(SHORTEN, str(shown.folder))
        assert str(shown.folder) not in page.inner_text("body")
        clip = {"x": left, "y": 0, "width": WIDTH - left, "height": height}
        page.mouse.move(SIDE, 0)
        png = page.screenshot(clip=clip, animations="disabled")
        if request.config.getoption("--pictures"):
            save(Image.open(io.BytesIO(png)), name)

    return keep


def save(image, name):
    """The image as docs/images/NAME.png, small."""
    IMAGES.mkdir(exist_ok=True)
    image.convert("RGB").quantize(128).save(IMAGES / f"{name}.png", optimize=True)


def open_experiment(page, name):
    page.get_by_role("link", name="Experiments", exact=True).first.click()
    page.get_by_role("link", name=name, exact=True).click()
    page.get_by_text("matching run").wait_for()


def open_run(page, experiment, name):
    open_experiment(page, experiment)
    page.get_by_role("link", name=name).first.click()
    page.get_by_role("tab", name="Artifacts").wait_for()
    expect(page.get_by_text("Registered prompts").locator("xpath=..")).to_contain_text("—")


def open_file(page, *path):
    page.get_by_role("tab", name="Artifacts").click()
    for name in path:
        page.get_by_text(name, exact=True).last.click()


def open_children(page):
    """Open the children of the newest search."""
    page.locator(".ag-cell:has(a[href*='/runs/']) button").first.click()
    page.get_by_text("matching runs").wait_for()


def columns(page, *names):
    """Add these columns of the table, or take them away."""
    page.get_by_role("button", name="Columns", exact=True).click()
    for name in names:
        page.get_by_placeholder("Search columns").fill(name)
        whole = re.compile(f"^{name}$")
        page.get_by_role("dialog").locator("span", has_text=whole).last.click()
    page.keyboard.press("Escape")


def widen(page, *names):
    """A double click on the right edge of a heading makes its column as wide as it needs."""
    for name in names:
        heading = page.locator(f".ag-header-cell:has-text('{name}')")
        heading.locator(".ag-header-cell-resize").dblclick()


def row_of(page, run):
    """The run's row in the table: the parts of it, from left to right."""
    return page.locator(f".ag-row[row-id='{run.info.run_id}']")


def open_model(page):
    page.get_by_role("link", name="Model registry").click()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()  # of the new UI
    page.get_by_role("link", name="breast-cancer-forest").click()


def test_experiments(shown, page, picture):
    page.get_by_role("link", name="Experiments", exact=True).click()
    for experiment in shown.client.search_experiments():
        expect(page.get_by_role("link", name=experiment.name, exact=True)).to_be_visible()
    expect(page.get_by_text("Where the lesson on experiments logs its runs.")).to_be_visible()
    expect(page.get_by_text("team: tutorial")).to_be_visible()
    picture(page, "experiments", 490, left=0)


def test_run(shown, page, picture):
    (run,) = shown.runs("basic-run")
    open_run(page, "basic-run", "forest of 50")
    has_rows(page, run.data.params)
    has_rows(page, {name: str(value)[:10] for name, value in run.data.metrics.items()})
    for text in "dataset: wine", "purpose: first run", "Finished", "ada", run.info.run_id:
        expect(page.get_by_text(text)).to_be_visible()
    has_model(page)
    picture(page, "run", 760)


def has_rows(page, values):
    """Names and values stand side by side in a table of the page."""
    for name, value in values.items():
        row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
        expect(row).to_contain_text(value)


def has_model(page):
    """The run's model stands in the table of metrics and below both tables, where it comes late."""
    expect(page.get_by_text("Logged models (1)")).to_be_attached()
    model = page.get_by_role("link", name="forest", exact=True)
    expect(page.get_by_role("row").filter(has=model).first).to_be_visible()


def test_confusion_matrix(shown, page, picture):
    open_run(page, "basic-run", "forest of 50")
    open_file(page, "confusion_matrix.png")
    is_shown(page, "confusion_matrix.png")
    picture(page, "confusion-matrix", 700)


def is_shown(page, file):
    """The picture has been loaded."""
    image = page.get_by_role("img", name=file, exact=True)
    image.wait_for()
    assert image.evaluate("image => image.complete && image.naturalWidth > 300")


def test_autolog(shown, page, picture):
    (run,) = shown.runs("autolog")
    open_run(page, "autolog", "autologged forest")
    page.set_viewport_size({"width": WIDTH, "height": 1250})
    for title in f"Metrics ({len(run.data.metrics)})", f"Parameters ({len(run.data.params)})":
        expect(page.get_by_text(title)).to_be_visible()
    has_rows(page, {"test_errors": "1", "training_accuracy_score": "1"})
    has_model(page)
    picture(page, "autolog", 1073)


def test_search(shown, page, picture):
    _, children = shown.search()
    open_experiment(page, "hypertune2")
    open_children(page)
    columns(page, "Dataset", "Source", "Models")
    columns(page, "mean_test_score", "max_depth", "n_estimators")
    widen(page, "Run Name", "mean_test_score")
    assert len(children) == 16
    for child in children:
        row = row_of(page, child)
        score = child.data.metrics["mean_test_score"]
        for value in child.info.run_name, *child.data.params.values(), score:
            expect(row.get_by_text(str(value), exact=True)).to_be_visible()
    picture(page, "search", 830)


def test_heatmap(shown, request):
    """The search's own picture, as it stored it."""
    parent, _ = shown.search()
    heatmap = mlflow.artifacts.load_image(f"{parent.info.artifact_uri}/heatmap.png")
    if request.config.getoption("--pictures"):
        save(heatmap, "heatmap")


def test_compare(shown, page, picture):
    """At the address that the search has printed stand its children alone, best first."""
    parent, children = shown.search()
    address = re.search(
        r"^http://127.0.0.1:5000(/#/\S+)$", shown.printed["hypertune2"], re.MULTILINE
    )
    page.goto(shown.server.uri + address[1])
    expect(page.get_by_text("16 matching runs")).to_be_visible()
    scores = {
        int(row_of(page, child).first.get_attribute("row-index")): child.data.metrics[
            "mean_test_score"
        ]
        for child in children
    }
    assert [scores[n] for n in range(16)] == sorted(scores.values(), reverse=True)
    page.locator(".ag-header input[type=checkbox]").first.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Comparing 16 Runs from 1 Experiment")).to_be_visible()
    plot = page.get_by_role("tabpanel", name="Parallel Coordinates Plot")
    for name in "max_depth", "n_estimators", "mean_test_score":
        expect(plot.locator("svg").get_by_text(name, exact=True)).to_be_visible()
    picture(page, "compare", 605)
    # The filter stays until the × is clicked, also on the way back.
    page.get_by_role("link", name="hypertune2", exact=True).last.click()
    expect(page.get_by_text("16 matching runs")).to_be_visible()
    page.get_by_test_id("clear-button").click()
    expect(row_of(page, parent).first).to_be_visible()


def test_dataset(shown, page, picture):
    (run,) = shown.runs("log-dataset", "attributes.run_name = 'wine, two splits'")
    open_run(page, "log-dataset", "wine, two splits")
    page.get_by_text("wine-train").click()
    for given in run.inputs.dataset_inputs:
        name = f"{given.dataset.name} ({given.dataset.digest})"
        expect(page.get_by_role("dialog").get_by_text(name)).to_be_visible()
    picture(page, "datasets", 600)


def test_compare_runs(shown, page, picture):
    open_run(page, "hypertune2", "grid search")
    open_file(page, "compare", "parallel.png")
    is_shown(page, "compare/parallel.png")
    expect(page.get_by_text("children.csv")).to_be_visible()
    picture(page, "parallel", 700)


def open_artifacts(page, experiment, model, *names):
    """Open the artifacts NAMES of the experiment's logged model, one after the other."""
    open_experiment(page, experiment)
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name=model, exact=True).first.click()
    page.get_by_text("About this logged model").wait_for()
    for name in "Artifacts", *names:  # here Artifacts is no tab
        page.get_by_text(name, exact=True).last.click()


def test_custom_model(shown, page, picture):
    open_artifacts(page, "custom-model", "centroids", "artifacts", "centroid_model.py")
    expect(page.get_by_text("centroids.npy", exact=True)).to_be_visible()
    expect(page.get_by_text("set_model(NearestCentroid())")).to_be_visible()
    picture(page, "custom-model", 620)


def test_pipeline(shown, page, picture):
    open_artifacts(page, "pipeline-run", "pipeline", "code", "penguin_features.py")
    expect(page.get_by_text("class PenguinFeatures(TransformerMixin")).to_be_visible()
    picture(page, "pipeline", 560)


def test_curves(shown, page, picture):
    (run,) = shown.runs("training-loop")
    open_run(page, "training-loop", "digits")
    page.set_viewport_size({"width": WIDTH, "height": 1100})
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_role("button", name="Add chart").click()
    page.get_by_text("Line chart").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("train_loss", exact=True)).to_be_visible()
    dialog.get_by_role("combobox").last.click()
    page.keyboard.type("val_loss")
    page.keyboard.press("Enter")
    dialog.get_by_text("digits (val_loss)").wait_for(state="attached")  # it may be below the edge
    dialog.get_by_role("button", name="Add chart").click()
    own = [name for name in run.data.metrics if "system/" not in name]
    for title in *own, "train_loss vs val_loss":
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    for name in "train_loss", "val_loss":  # in its own chart and in the new one
        expect(page.get_by_text(f"digits ({name})")).to_have_count(2)
    picture(page, "curves", 985)


def test_the_page_of_a_checkpoint_shows_the_scores_of_its_step(shown, page):
    open_experiment(page, "training-loop")
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="epoch-21").first.click()
    (run,) = shown.runs("training-loop")
    losses = shown.client.get_metric_history(run.info.run_id, "val_loss")
    has_rows(page, {"val_loss": str(losses[20].value)[:10], "best_epoch": "21", "epoch": "21"})


def test_version(shown, page, picture):
    version = shown.client.get_model_version("breast-cancer-forest", "1")
    open_model(page)
    page.get_by_role("link", name="Version 1").click()
    has_rows(page, version.tags)
    expect(page.get_by_text(version.description)).to_be_visible()
    expect(page.get_by_role("link", name="grid search")).to_be_visible()
    picture(page, "version", 735)


def test_aliases(shown, page, picture):
    aliases = shown.client.get_registered_model("breast-cancer-forest").aliases
    assert aliases == {"production": "2", "staging": "2", "previous": "1"}
    open_model(page)
    for alias, number in aliases.items():
        row = page.get_by_role("row").filter(has=page.get_by_text(f"Version {number}"))
        expect(row).to_contain_text(f"@ {alias}")
    picture(page, "aliases", 620)


def test_schema(shown, page, picture):
    inputs = load_breast_cancer().feature_names
    open_model(page)
    page.get_by_role("link", name="Version 1").click()
    for title in "Description", "Tags":
        page.get_by_role("button", name=title).click()
    page.get_by_text("Outputs (1)").click()
    page.get_by_text(f"Inputs ({len(inputs)})").click()
    for name in inputs:
        expect(page.get_by_role("row").filter(has_text=name).first).to_contain_text("double")
    picture(page, "schema", 862)


def test_team(browser, team, picture):
    answer = requests.get(team.uri, timeout=30)  # the browser shows its own window for this
    assert (answer.status_code, answer.headers["WWW-Authenticate"][:5]) == (401, "Basic")
    assert run_script("basic_run", team.folder, **team.client("ada")).returncode == 0
    number = MlflowClient(team.uri).get_experiment_by_name("basic-run").experiment_id
    login = {"username": "ada", "password": team.users["ada"]}
    page = window(browser, http_credentials=login)
    enter(page, team.uri)
    page.get_by_text("ada", exact=True).click()
    page.get_by_text("Account", exact=True).click()
    page.get_by_role("tab", name="Permissions").click()
    has_rows(page, {f"experiment:{number}": "MANAGE"})
    expect(page.get_by_text("Logged in as ada")).to_be_visible()
    page.set_viewport_size({"width": WIDTH, "height": 420})
    picture(page, "team", 420, left=0)
    page.close()


def test_reproduced_search(shown, page, picture):
    """The newest search once more; before a newer one of hypertune3."""
    result = run_script("reproduce_run", shown.folder, "--yes", root=shown.folder, **OWNER)
    assert result.returncode == 0, result.stderr
    (run,) = shown.runs("reproduce-run")
    open_run(page, "reproduce-run", "hypertune2")
    has_rows(page, {"all": "130", "off": "0", "worst": "0", "script": "hypertune2.py"})
    expect(page.get_by_text("equal: yes")).to_be_visible()
    picture(page, "reproduced", 480)
    open_file(page, "metrics.csv")
    children = {child.info.run_name: child.data.metrics for child in shown.search()[1]}
    name = max(children)
    score = children[name]["mean_test_score"]
    row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
    expect(row.filter(has_text="mean_test_score")).to_contain_text(str(score))


def test_resumed_search(shown, resumed, page, picture):
    parent, children = shown.search("hypertune3")
    open_experiment(page, "hypertune3")
    open_children(page)
    columns(page, "Dataset", "Source", "Models", "mean_test_score")
    widen(page, "Run Name", "mean_test_score")
    marks = {}
    for child in [parent, *children]:
        row = row_of(page, child)
        expect(row.get_by_text(child.info.run_name, exact=True)).to_be_visible()
        mark = row.locator("[col-id='runDateAndNestInfo'] svg")
        marks.setdefault(child.info.status, set()).add(mark.inner_html())
    assert {len(marks[status]) for status in ("FINISHED", "KILLED", "RUNNING")} == {1}
    assert len(set.union(*marks.values())) == 3
    picture(page, "resumed", 253 + 32 * len([parent, *children]))
