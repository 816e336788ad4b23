"""Ctrl-C and SIGTERM for scripts that run long: the run ends as FAILED, whatever moment they hit.

Python's own Ctrl-C breaks into a call of MLflow. That can leave SQLite locked, so that the run's
end can't be written. Python's own SIGTERM ends the script at once, and the run stays RUNNING.
This file needs nothing of this repo. Copy it to your project.
"""

import atexit
import os
import signal
import sys
import traceback
from functools import partial

import mlflow


def exit_on_interrupt() -> None:
    """Let Ctrl-C and SIGTERM raise SystemExit as soon as MLflow's present call has returned.

    `with mlflow.start_run()` then ends the run as FAILED. The exit code is 130 for Ctrl-C and 143
    for SIGTERM. If MLflow waits for a server, or at a second signal, the call isn't awaited. If it
    is a run's end, it is made again at exit. Raises ValueError outside of the main thread.
    """
    for number in signal.SIGINT, signal.SIGTERM:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, partial(_interrupt, os.getpid()))


def _interrupt(owner, number, frame):
    if os.getpid() != owner:  # a forked worker ends as it would without this file
        signal.signal(number, signal.SIG_DFL)
        return os.kill(os.getpid(), number)
    print("Interrupted: what was logged is kept", file=sys.stderr, flush=True)
    atexit.register(_fail_open_runs)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # for the run's end, if the server is gone
    stack = [(each, each.f_globals.get("__name__", "")) for each, _ in traceback.walk_stack(frame)]
    calls = [each for each, name in stack if name.startswith("mlflow.tracking")]
    waits = any(name.startswith("urllib3") for _, name in stack)
    if calls and not waits and not sys.getprofile():
        return sys.setprofile(partial(_exit_after, calls[-1], 128 + number))
    sys.setprofile(None)
    for call in calls:
        if call.f_code is mlflow.MlflowClient.set_terminated.__code__:
            again = call.f_locals  # what was to end which run, and how
            atexit.register(again["self"].set_terminated, again["run_id"], again["status"])
    sys.exit(128 + number)


def _exit_after(call, code, frame, event, value):
    """Exit when CALL returns."""
    if frame is call and event == "return":
        sys.setprofile(None)
        sys.exit(code)


def _fail_open_runs():
    """End what `with` can't: a run whose start_run() had just returned."""
    while mlflow.active_run():
        mlflow.end_run("FAILED")
