"""A search that runs while a part of the team's server fails, and what both stores hold."""

import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import boto3
from botocore.config import Config
from lessons import copy_with_grid
from mlflow import MlflowClient
from services import ENV
from stores import children_of

NOTICE = "Retry"


def bucket(team, secret=None):
    """The names of all objects in the bucket."""
    env = team.environment("mlflow")
    s3 = boto3.client(
        "s3",
        endpoint_url=env["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secret or env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
        config=Config(retries={"max_attempts": 0}),
    )
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="mlflow")
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def statuses_in(team, experiment):
    """{run_id: status} of an experiment's runs, in the database itself."""
    sql = "SELECT run_uuid, status FROM runs JOIN experiments USING (experiment_id) "
    return dict(team.query(f"{sql} WHERE experiments.name = '{experiment}'"))


def start_search(team, folder, **env):
    """Start a search of 16 small forests as ada; return the process once it has logged six runs."""
    before = len(statuses_in(team, "hypertune2"))
    grid = {"n_estimators": [1, 2, 3, 4], "max_depth": [2, 4, 8, None]}
    process = subprocess.Popen(
        [sys.executable, copy_with_grid(folder, "hypertune2", grid)],
        cwd=folder,
        env=ENV | team.client("ada") | env,
        stdout=subprocess.PIPE,
        stderr=(folder / "errors").open("w"),
        text=True,
    )
    while len(statuses_in(team, "hypertune2")) < before + 6:
        assert process.poll() is None
        time.sleep(0.1)
    return process


@contextmanager
def paused(process):
    """The client waits for no answer meanwhile: MLflow doesn't repeat a call that is half read."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(1)  # until the call under way is answered
    yield
    process.send_signal(signal.SIGCONT)


def wait_for_notice(folder, seconds=30):
    deadline = time.monotonic() + seconds
    while NOTICE not in (folder / "errors").read_text():
        assert time.monotonic() < deadline, f"nothing said within {seconds} s"
        time.sleep(0.2)


def assert_search_is_whole(team, process):
    """Wait for the search; assert that it lost nothing. Return its run's ID."""
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    client = MlflowClient(team.uri, registry_uri=team.uri)
    parent = client.get_run(re.search(r"ID (\w{32})", output)[1])
    children = children_of(client, parent)
    finished = [child for child in children if child.info.status == "FINISHED"]
    assert parent.info.status == "FINISHED"
    assert len({child.info.run_name for child in finished}) == len(finished) == 16
    assert {len(child.data.metrics) for child in finished} == {9}
    # A call whose answer was lost is made again: the run of the first one stays empty.
    for child in children:
        assert child in finished or (child.info.status, child.data.metrics) == ("RUNNING", {})
    assert len(children) <= 17
    return parent.info.run_id
