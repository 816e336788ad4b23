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
from pathlib import Path

import mlflow
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 5  # how long a server may take to answer; MLflow's own retries take minutes
# What is wrong with a URI, by what it looks like.
MALFORMED = {
    r"[\w.-]+:\d+(/|$)": "it lacks a scheme, write http:// before it",
    r"[A-Za-z]:[\\/]": "a Windows path needs a scheme, write sqlite:///C:/folder/mlflow.db",
    r"sqlite:(?!///.)": "SQLite needs three slashes, write sqlite:///mlflow.db",
    r"(?!(https?|file|sqlite|postgresql|mysql|mssql)\b)[\w+]+:": "unknown scheme, write "
    "sqlite:///mlflow.db or http://127.0.0.1:5000",
}
# What to do, by a word in what MLflow, the database or the server says.
CURES = {
    "is locked": "end the program that writes to it, or use an MLflow server",
    "already exists|duplicate column": "it is half made, delete it if it holds no runs",
    "out-of-date": "a newer MLflow has upgraded it, install that one here",
    "UNAUTHENTICATED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to valid ones",
    "PERMISSION_DENIED": "this user or host name isn't allowed, ask whoever runs the server",
}


def connect() -> str:
    """Point MLflow at MLFLOW_TRACKING_URI and prove that it answers.

    Unset or empty means mlflow.db and mlruns/ in this repo, whatever the current folder is: what
    `mlflow ui` shows when it is started in the repo.

    Returns:
        The tracking URI in use.

    Raises:
        SystemExit: exit code 1 and one sentence on stderr where the URI is malformed, the folder
            or database can't be opened, or the server is dead, silent, not MLflow, older than
            MLflow 3, or refuses the user.
    """
    sys.excepthook = _explain
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the run ends as FAILED
    if os.environ.pop("MLFLOW_RUN_ID", None):
        print("MLFLOW_RUN_ID is ignored: it would send what this script logs into that old run")
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # no INFO line for every table created
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # nor a traceback, see _explain
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # nor two lines for every run
    named = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    uri = named or f"sqlite:///{(ROOT / 'mlflow.db').as_posix()}"
    shown = re.sub(r"//[^/]*@", "//", uri)  # without user and password
    print(f"Runs go to {shown}", flush=True)
    mlflow.set_tracking_uri(uri)
    try:
        # MLflow resolves its default artifact folder, ./mlruns, where it opens the store.
        with contextlib.chdir("." if named else ROOT):
            _open(uri)
    except Exception as error:  # each store, driver and migration tool raises its own
        reason = str(error).strip().splitlines()[0]
        advice = "unset it to use this repo's mlflow.db" if named else "make its folder writable"
        advice = next((CURES[sign] for sign in CURES if re.search(sign, reason)), advice)
        sys.exit(f"Can't use MLFLOW_TRACKING_URI={shown}: {reason}; {advice}")
    print(f"See them: {_where_to_look(uri, shown, named)}", flush=True)
    gc.freeze()  # what the imports made stays: not collecting it again, at exit too, saves 1 s
    return uri


def _open(uri):
    """Open the store by one cheap call, without MLflow's long retries."""
    for pattern, advice in MALFORMED.items():
        if re.match(pattern, uri):
            raise OSError(advice)
    if re.match("https?:", uri):
        return _ask_server(uri)
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


def _ask_server(uri):
    """Prove that MLflow 3 or newer answers there and lets us in."""
    try:
        status = requests.get(uri.rstrip("/") + "/version", timeout=SECONDS).status_code
    except requests.RequestException:
        raise OSError("no server answers there, start it or correct the address") from None
    if status >= 500:
        raise OSError(f"the server fails with HTTP {status}, look at its log")
    client = mlflow.MlflowClient()
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        known = error.error_code in CURES
        raise OSError(error.error_code if known else "what answers isn't MLflow") from None
    try:
        client.search_logged_models(["0"], max_results=1)
    except MlflowException:
        raise OSError("the server is older than MLflow 3, upgrade it") from None


def _explain(kind, error, trace):
    """Print what a reader can act on in one sentence, a bug with its traceback."""
    if issubclass(kind, KeyboardInterrupt):
        reason = "Interrupted"
    elif issubclass(kind, MlflowException):
        reason = f"MLflow refused: {str(error).strip().splitlines()[0]}"
    elif issubclass(kind, OSError):
        reason = f"The system refused: {error}"
    else:
        return sys.__excepthook__(kind, error, trace)
    print(f"{reason}; an open run is marked FAILED, what it logged is kept", file=sys.stderr)
