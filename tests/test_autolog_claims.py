"""Every row of reference/autolog.md against real runs: its cell *Recorded* is measured anew."""

import pytest
from doc_tables import results, rows

pytestmark = [pytest.mark.facts, pytest.mark.ci]
CLAIMS = {what: cells[0] for what, cells in rows("autolog.md").items()}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return results("autolog_cases.py", tmp_path_factory.mktemp("autolog"), MPLBACKEND="agg")


def test_every_row_is_measured(measured):
    assert not measured["errors"], "\n".join(measured["errors"])
    assert measured.keys() == {*CLAIMS, "advice", "errors"}


@pytest.mark.parametrize("what", CLAIMS)
def test_row(what, measured):
    assert measured.get(what) == CLAIMS[what]


def test_what_you_can_do_is_recorded(measured):
    metrics, files = measured["advice"]
    assert metrics == {"test_errors": 1, "test_roc_auc": 0.9, "cv_mean": 0.75}
    assert files == ["autolog_cases.py", "confusion.json", "errors.png"]
