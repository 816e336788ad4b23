"""Where the runs go: the one helper that the lessons share.

MLflow reads MLFLOW_TRACKING_URI by itself, so a lesson that you copy into a project works without
its two lines with `connect`. What `connect()` adds: this repo's database as the default, and a
clear answer within seconds when the place that you named can't be used.
"""

import contextlib
import gc
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from unittest.mock import patch

import mlflow
import sqlalchemy
from mlflow.exceptions import MlflowException

ROOT = Path(__file__).resolve().parent.parent
# How long a server may take to answer; MLflow's own retries take minutes.
QUICKLY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
# What is wrong with a URI, by what it looks like.
MALFORMED = {
    r"[\w.-]+:\d+(/|$)": "it lacks a scheme, write http:// before it",
    r"[A-Za-z]:[\\/]": "a Windows path needs a scheme, write sqlite:///C:/folder/mlflow.db",
    r"sqlite:(?!///.)": "SQLite needs three slashes, write sqlite:///mlflow.db",
    r"(?!(https?|file|sqlite|postgresql|mysql|mssql)\b)[\w+]+:": "unknown scheme, write "
    "sqlite:///mlflow.db or http://127.0.0.1:5000",
}
# What to do, by a word in what MLflow or the database says.
CURES = {
    "is locked": "end the program that writes to it, or use an MLflow server",
    "already exists|duplicate column": "it is half made, delete it if it holds no runs",
    "out-of-date": "a newer MLflow has upgraded it, install that one here",
}
# What is wrong and what to do, by a sign in what MLflow says of a call to a server.
SERVER = {
    "error code 401": "the user or password is wrong, set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD",
    "error code 403": "this user or host name isn't allowed, ask whoever runs the server",
    "error code 404|valid JSON": "what answers isn't MLflow, or an old one: correct the address "
    "(those of DagsHub end in .mlflow)",
    "ProxyError": "the proxy doesn't answer, correct HTTP_PROXY or name this host in NO_PROXY",
    "CERTIFICATE_VERIFY_FAILED": "its certificate isn't trusted here, name that of its CA in "
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "WRONG_VERSION_NUMBER": "it doesn't speak https, write http://",
    r"too many (\d+)": r"the server fails with HTTP \1, look at its log",
    "Read timed out": "it accepts calls and doesn't answer, look at its log",
    "Max retries exceeded": "no server answers there, start it or correct the address",
}


def connect(oldest: int = 3) -> str:
    """Point MLflow at MLFLOW_TRACKING_URI and prove that it answers.

    Unset or empty means mlflow.db and mlruns/ in this repo, whatever the current folder is: what
    `mlflow ui` shows when it is started in the repo.

    Args:
        oldest: The oldest major version of MLflow on a server that the script works with.

    Returns:
        The tracking URI in use.

    Raises:
        SystemExit: exit code 1 and one sentence on stderr where the URI is malformed, the folder
            or database can't be opened, or the server is dead, silent, not MLflow, too old, has
            a certificate that isn't trusted, or refuses the user.
    """
    sys.excepthook = _explain
    if threading.current_thread() is threading.main_thread():
        for number in signal.SIGINT, signal.SIGTERM:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _interrupt)
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    if os.environ.pop("MLFLOW_RUN_ID", None):
        print("MLFLOW_RUN_ID is ignored: it would send what this script logs into that old run")
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # no INFO line for every table created
    for name in "mlflow.store.db", "sqlalchemy.pool":  # nor a traceback, see _explain
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # nor two lines for every run
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    uri = named or f"sqlite:///{(ROOT / 'mlflow.db').as_posix()}"
    shown = _hidden(uri)
    print(f"Runs go to {shown}", flush=True)
    mlflow.set_tracking_uri(uri)
    try:
        # MLflow resolves its default artifact folder, ./mlruns, where it opens the store.
        with contextlib.chdir("." if named else ROOT):
            _open(uri, oldest)
    except Exception as error:  # each store, driver and migration tool raises its own
        reason = _reason(error)
        advice = "unset it to use this repo's mlflow.db" if named else "make its folder writable"
        advice = next((CURES[sign] for sign in CURES if re.search(sign, reason)), advice)
        sys.exit(f"Can't use MLFLOW_TRACKING_URI={shown}: {reason}; {advice}")
    print(f"See them: {_where_to_look(uri, shown, named)}", flush=True)
    gc.freeze()  # what the imports made stays: not collecting it again, at exit too, saves 1 s
    return uri


def _open(uri, oldest):
    """Open the store by one cheap call, without MLflow's long retries."""
    for pattern, advice in MALFORMED.items():
        if re.match(pattern, uri):
            raise OSError(advice)
    if re.match("https?:", uri):
        return _ask_server(oldest)
    if _is_folder(uri):
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        print("A folder store gets no new features: docs/older-tutorials.md has the way to SQLite")
    else:
        url = sqlalchemy.make_url(uri)
        if uri.startswith("sqlite") and not Path(url.database).exists():
            _create(Path(url.database))
        sqlalchemy.create_engine(url).connect().close()
    mlflow.MlflowClient().search_experiments(max_results=1)


def _create(database):
    """Make a new database aside and put it in place whole.

    MLflow makes it in place: two first runs at once, or a kill, leave one that never opens again.
    """
    print("Creating this database, once: some seconds", flush=True)
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent, ignore_cleanup_errors=True) as folder:
        new = Path(folder, database.name)
        mlflow.MlflowClient(f"sqlite:///{new.as_posix()}").search_experiments(max_results=1)
        try:
            os.link(new, database)
        except FileExistsError:
            pass  # another first run was quicker
        except OSError:
            new.rename(database)  # FAT and some shared folders have no links


def _is_folder(uri):
    return "://" not in uri or uri.startswith("file:")


def _where_to_look(uri, shown, named):
    """What to do to see the runs; `mlflow ui` doesn't read MLFLOW_TRACKING_URI."""
    if re.match("https?:", uri):
        return f"open {shown}"
    command = "mlflow ui --port 5000" + (f" --backend-store-uri {shown}" if named else "")
    if _is_folder(uri):
        command = f"MLFLOW_ALLOW_FILE_STORE=true {command}"
    if not named and Path.cwd() != ROOT:
        command = f"cd {ROOT} && {command}"
    return f"{command}, then open http://127.0.0.1:5000"


def _ask_server(oldest):
    """Prove that MLflow answers there, lets us in and is new enough; say later if it goes away."""
    client = mlflow.MlflowClient()
    with patch.dict(os.environ, QUICKLY):
        client.search_experiments(max_results=1)
        if oldest >= 3:
            try:
                client.search_logged_models(["0"], max_results=1)
            except MlflowException:
                raise OSError("the server is older than MLflow 3, upgrade it") from None
    requests_log = logging.getLogger("urllib3.connectionpool")
    requests_log.setLevel(logging.DEBUG)
    requests_log.addFilter(WAITING)


class _Waiting(logging.Filter):
    """Says once a minute that a server went away; MLflow tries for minutes without a word."""

    said = -60

    def filter(self, record):
        again = re.match("Retry.*/mlflow", record.getMessage())
        if again and time.monotonic() - self.said >= 60:
            self.said = time.monotonic()
            print(
                "The server doesn't answer, or fails. MLflow goes on trying for some minutes: "
                "start it again and this script goes on, or end it by Ctrl-C",
                file=sys.stderr,
            )
        return record.levelno > logging.DEBUG  # the rest is for whoever logs it


WAITING = _Waiting()


def _interrupt(number, frame):
    """End the run as FAILED on SIGTERM too, and without long retries where the server is gone.

    A call of MLflow ends first, unless it waits for a server or this is the second time: one that
    is left in the middle can keep SQLite locked, so that the run's own end fails.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    stack = [(each, each.f_globals.get("__name__", "")) for each, _ in traceback.walk_stack(frame)]
    calls = [each for each, name in stack if name.startswith("mlflow.tracking")]
    waits = any(name.startswith("urllib3") for _, name in stack)
    if calls and not waits and not sys.getprofile():
        return sys.setprofile(partial(_interrupt_after, calls[-1]))
    sys.setprofile(None)
    raise KeyboardInterrupt


def _interrupt_after(call, frame, event, value):
    """Raise it where CALL returns."""
    if frame is call and event == "return":
        sys.setprofile(None)
        raise KeyboardInterrupt


def _hidden(text):
    """TEXT without user and password in an address."""
    text = re.sub(r"((?<=\w://)(?!/)|^(?![\w+]+:/))\S+@", "", text)
    return re.sub(r"(?<=password=)[^&\s]+", "***", text)


def _reason(error):
    """What is wrong, in one line."""
    text = str(error).strip()
    for sign, reason in SERVER.items():
        if text.startswith("API request") and (found := re.search(sign, text)):
            return found.expand(reason)
    return _hidden(text.splitlines()[0])


def _explain(kind, error, trace):
    """Print what a reader can act on in one sentence, a bug with its traceback."""
    kept = "an open run is marked FAILED, what it logged is kept"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    if mlflow.active_run():  # begun without `with`: MLflow would end it as FINISHED
        with contextlib.suppress(MlflowException):
            mlflow.end_run("FAILED")
    if issubclass(kind, KeyboardInterrupt):
        reason = "Interrupted"
    elif issubclass(kind, MlflowException):
        reason = f"MLflow refused: {_reason(error)}"
        if "Max retries exceeded" in str(error):
            kept = "an open run stays RUNNING, what it logged is kept"
    elif kind.__module__.startswith("botocore"):  # where clients write to S3 themselves
        reason = f"The artifact store refused: {error}"
    elif issubclass(kind, OSError):
        reason = f"The system refused: {error}"
    else:
        return sys.__excepthook__(kind, error, trace)
    print(f"{reason}; {kept}", file=sys.stderr)
