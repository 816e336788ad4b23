"""Every row of docs/reference/runs.md against real runs: its last cell is measured anew."""

import pytest
from doc_tables import ROOT, results, tables

pytestmark = [pytest.mark.facts, pytest.mark.ci]
TABLES = tables("runs.md")
CLAIMS = {row[0]: row[1] for table in TABLES.values() for row in table if len(row) == 2}
INTERRUPTIONS = {f"interruption {i}": row for i, row in enumerate(TABLES["Interruptions"])}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return results("runs_cases.py", tmp_path_factory.mktemp("runs"), MPLBACKEND="agg")


def test_every_row_is_measured(measured):
    assert not measured["errors"], "\n".join(measured["errors"])
    assert measured.keys() == {*CLAIMS, *INTERRUPTIONS, "all the calls", "closed", "errors"}
    ends = {(text.startswith("`with"), ended_by) for text, ended_by, _ in INTERRUPTIONS.values()}
    assert len(INTERRUPTIONS) == 13 and len(ends) == 7


@pytest.mark.parametrize("first", CLAIMS)
def test_row(first, measured):
    assert measured.get(first) == CLAIMS[first]


@pytest.mark.parametrize("name", INTERRUPTIONS)
def test_interruption(name, measured):
    assert measured.get(name) == INTERRUPTIONS[name][-1]


def test_runs_that_look_alive_are_closed(measured):
    assert measured["closed"] == ["KILLED", "KILLED", "FINISHED"]


def test_the_calls_leave_what_their_comments_say(measured):
    folder = ROOT / "benchmarks"
    code = [f"code/{path.relative_to(folder)}" for path in folder.rglob("*.py")]
    others = ["classes.json", "loss.png", "setup/requirements.txt", "summary.txt"]
    params = {"depth": "3", "trees": "50", "seed": "42"}
    metrics = {"loss": 0.4, "accuracy": 0.94, "f1": 0.93}
    assert measured["all the calls"] == {
        "run": ["FINISHED", "all the calls", params, metrics],
        "loss": [[0.9, 0], [0.5, 1], [0.4, 2]],
        "tags": {"dataset": "wine", "purpose": "example", "reviewed": "no"},
        "files": sorted(code + others),
        "classes": {"classes": [0, 1, 2]},
        "picture": "PNG",
    }
