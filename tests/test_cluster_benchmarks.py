"""The benchmarks of hypertune3 on a cluster run real searches, and the page shows their figures."""

import os
import re

import cluster
import pytest
import resume
import workers
from doc_tables import DOCS, tables
from running import uri
from sklearn.model_selection import cross_validate
from test_hypertune3 import SMALL, finished, lesson, runs_in

import hypertune3

PAGE, TEXT = tables("benchmarks.md"), (DOCS / "benchmarks.md").read_text()
WORKERS, EFFICIENCY = PAGE["A second worker"], PAGE["64 workers and one server"]
COSTS, KILLS = PAGE["What limits them"], PAGE["After a kill"]


# What they do


@pytest.fixture
def sleeps():
    yield
    hypertune3.cross_validate = cross_validate
    hypertune3.mlflow.set_tracking_uri("")


@pytest.mark.slow
def test_simulated_workers_log_what_real_ones_do(sleeps):
    """And the rows of both tables are those of the page."""
    with cluster.servers() as (started, _), cluster.workers(16) as sixteen:
        assert len(sixteen.workers) == 8
        for server in started.values():
            assert cluster.search(server.uri, 20, 2) > 4
            (parent,), children = runs_in(server.uri, "cluster")
            assert len(finished(children)) == 20
            for child in children:
                assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
                assert child.data.params["max_depth"] == "8"
                assert len(child.data.metrics) == 8
                assert child.data.metrics["mean_fit_time"] == pytest.approx(0.4)
            order = sorted(child.info.start_time for child in children)
            ends = sorted(child.info.end_time for child in children)
            assert order[15] < ends[0]  # sixteen at once
    found = cluster.efficiencies([2], 1, 0.5)
    assert set(found) == {(row[0], 2) for row in EFFICIENCY}
    assert all(0.1 < value <= 1 for (value,) in found.values())
    assert found[cluster.ALONE, 2] > found["SQLite", 2]
    made = cluster.costs(2, 1, 4)
    assert [row[0] for row in COSTS] == list(made)
    for (cost,) in made.values():
        assert all(value > 0 for part, value in cost.items() if part != "PostgreSQL")
    assert made["PostgreSQL"][0]["PostgreSQL"] > made["SQLite"][0]["PostgreSQL"]


@pytest.mark.slow
def test_one_and_two_workers_do_the_same_search(tmp_path):
    found = workers.measure(1, SMALL, tmp_path)
    made = workers.table(found).splitlines()[2:]
    assert [row.split(" | ")[:2] for row in made] == [[f"| {row[0]}", row[1]] for row in WORKERS]
    parents, children = runs_in(uri(tmp_path))
    assert [parent.info.status for parent in parents] == ["FINISHED"] * 4  # two to warm up
    for parent in parents:
        ours = [c for c in children if c.data.tags["mlflow.parentRunId"] == parent.info.run_id]
        assert len(finished(ours)) == len(ours) == 6
    assert all(0 < search < whole for ((whole, search),) in found.values())


@pytest.mark.slow
def test_a_kill_and_what_is_repeated(folder):
    script = lesson(folder, {"n_estimators": [16, 64, 256], "max_depth": [2, 8]})
    kill = resume.kill_and_resume(script / "src" / "hypertune3.py", folder, 2, 0.1)
    at_kill, under_way, repeated = kill
    assert at_kill >= 2 and repeated <= under_way <= os.cpu_count()
    (parent,), children = runs_in(uri(folder))
    assert parent.info.status == "FINISHED" and len(finished(children)) == 6
    assert len(children) == 6 + repeated
    assert resume.table([kill]).splitlines()[2] == f"| {at_kill} | {under_way} | {repeated} |"


# What the page says


def medians(row):
    """The medians in a row of a table; an empty cell has none."""
    return [float(cell.split()[0]) for cell in row if cell]


def test_what_the_page_says_of_a_second_worker():
    assert [row[:2] for row in WORKERS] == [
        [what, count] for count in "12" for what in (workers.PLAIN, workers.LOGGED)
    ]
    plain1, logged1, plain2, logged2 = (medians(row[2:]) for row in WORKERS)
    for figure in plain1[3], logged1[3], plain2[3], logged2[3]:
        assert str(figure) in re.search(r"!\[(.*)\]\(images/workers.png\)", TEXT)[1]
    assert logged2[4] == pytest.approx(2 / 3, abs=0.04) and logged2[4] < logged2[1]
    assert logged1[5] == pytest.approx(1 + 1 / 7, abs=0.02)
    assert logged2[5] == pytest.approx(1, abs=0.02)
    for logged, plain in (logged1, plain1), (logged2, plain2):
        assert 2.45 < logged[0] - plain[0] < 4.25


def test_what_the_page_says_of_64_workers():
    (*_, sqlite), (*_, postgresql), (*_, alone), (default,) = (
        medians(row[1:]) for row in EFFICIENCY
    )
    assert "64 workers reach 84 % of ideal on PostgreSQL" in TEXT and postgresql == 84
    assert "on SQLite at 80 %" in TEXT and sqlite == 80
    assert alone > 95 and default < 90


def test_what_the_page_says_of_the_limit():
    for row in COSTS:
        rate, *ms = medians(row[1:])
        assert max(ms) == ms[0] and min(ms[0], *ms[2:]) == ms[3]  # the server, and Dask
        assert 11 < rate < 13 and 0.14 < sum(ms) / 1000 < 0.18
        assert sum(ms) / 1000 / 2 == pytest.approx(1 / rate, rel=0.15)
        assert 13 < 1000 / ms[0] < 15 and 64 * ms[0] / 1000 < 5


def test_no_kill_repeats_more_than_was_under_way():
    assert len(KILLS) == 8
    for at_kill, under_way, repeated in KILLS:
        assert 0 <= int(repeated) <= int(under_way) <= 2 and int(at_kill) < 16
