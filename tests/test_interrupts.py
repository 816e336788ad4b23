import os
import signal
import subprocess
import sys
import textwrap

import pytest
from mlflow import MlflowClient
from running import ENV, ROOT, uri

WITHIN_A_RUN = """
    import time
    import mlflow
    from interrupts import exit_on_interrupt

    exit_on_interrupt()
    with mlflow.start_run():
        mlflow.log_param("depth", 1)
        print("logged", flush=True)
        time.sleep(60)
"""
BESIDE_A_POOL = """
    import multiprocessing, time
    from interrupts import exit_on_interrupt

    exit_on_interrupt()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
"""


def started(code, folder):
    """A new process that runs CODE with the database in FOLDER."""
    env = ENV | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": uri(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_run_is_failed_and_keeps_what_was_logged(number, folder):
    process = started(WITHIN_A_RUN, folder)
    assert process.stdout.readline() == "logged\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert error == "Interrupted: what was logged is kept\n"
    (run,) = MlflowClient(uri(folder)).search_runs(["0"])
    assert (run.info.status, run.data.params) == ("FAILED", {"depth": "1"})


def test_workers_of_a_forked_pool_end_as_without_it(folder):
    """A pool ends its workers by SIGTERM."""
    process = started(BESIDE_A_POOL, folder)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error) == (0, "[1, 2]\n", "")


def test_what_ignores_ctrl_c_goes_on_ignoring_it(folder):
    """As a command does that a shell has started in the background."""
    code = """
        import signal
        from interrupts import exit_on_interrupt
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        exit_on_interrupt()
        signal.raise_signal(signal.SIGINT)
        print("going on")
    """
    process = started(code, folder)
    assert process.communicate(timeout=60) == ("going on\n", "")


def test_it_works_without_the_rest_of_the_repo(folder):
    (folder / "alone.py").write_text((ROOT / "src" / "interrupts.py").read_text())
    code = "import alone; alone.exit_on_interrupt()"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)
