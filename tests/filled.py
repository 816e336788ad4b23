"""A copy of this repo after its lessons: each sequence of lessons is run once for all tests."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from filelock import FileLock
from lessons import copy_with_grid, copy_with_trials
from running import PYTHON, ROOT, SHARED, make_repo, run, uri
from sentences import assert_success
from stores import runs_of

PARTS = ["src", "data", "benchmarks", "server", "requirements.txt"]
# The lessons that a reader has run before one.
BEFORE = {"compare_runs": ["hypertune2"], "register_model": ["hypertune2"]}
BEFORE["reproduce_run"] = ["basic_run"]  # a search takes longer to repeat
BEFORE["promote_model"] = ["hypertune2", "register_model"]
BEFORE["score_model"] = ["hypertune2", "register_model", "promote_model"]


def copy_repo(folder, *names):
    """Make FOLDER a copy of the repo, with the store that the lessons NAMES leave in this order."""
    copy(repo_after(names), folder)


def copy_before(folder, name):
    """Make FOLDER the repo before the lesson NAME; a search has few candidates."""
    copy_repo(folder, *BEFORE.get(name, []))
    if name == "hypertune_optuna":
        copy_with_trials(folder, 4)
    elif name.startswith("hypertune"):
        copy_with_grid(folder, name, {"n_estimators": [16, 32], "max_depth": [2, None]})
    if name.startswith("hypertune"):
        make_repo(folder)


def copy_after(folder, name):
    """Make FOLDER the repo of `copy_before` after the lesson."""
    copy(repo_with(name)[0], folder)


def run_lesson(folder, name, python):
    """Run the lesson NAME of the repo in FOLDER as a notebook runs it, in src/."""
    return run([python, f"{name}.py", *words_for(name, folder)], folder / "src")


def repo_with(name):
    """The folder of `copy_before` in which the lesson was run, and its stdout and stderr.

    It is run as a new process, which has imported nothing that the lesson forgets.
    """
    folder, printed = SHARED / f"with-{name}", SHARED / f"printed-by-{name}"

    def make(new):
        copy_before(new, name)
        done = run_lesson(new, name, sys.executable)
        assert_success(done)
        texts = [text.replace(str(new), str(folder)) for text in (done.stdout, done.stderr)]
        printed.write_text(json.dumps(texts))

    made_once(folder, make)
    return folder, *json.loads(printed.read_text())


def words_for(name, folder):
    """The words after the lesson's name, if nobody is there to answer a question."""
    if name != "reproduce_run":
        return []
    (run,) = runs_of(uri(folder), "basic-run")
    return [run.info.run_id, "--yes"]


def repo_after(names):
    """The folder of the repo in which the lessons NAMES were run."""

    def make(new):
        if names:
            copy_repo(new, *names[:-1])
            done = run([PYTHON, f"src/{names[-1]}.py", *words_for(names[-1], new)], new)
            assert done.returncode == 0, done.stderr
        else:
            new.mkdir()
            # Python writes a cache anew if its script has changed: then git would see a change.
            hidden = shutil.ignore_patterns("__pycache__")
            for part in PARTS:
                if (ROOT / part).is_dir():
                    shutil.copytree(ROOT / part, new / part, ignore=hidden)
                else:
                    shutil.copy(ROOT / part, new / part)
            make_repo(new)
            (new / ".venv").symlink_to(sys.prefix)

    return made_once(SHARED / "-".join(["repo", *names]), make)


def made_once(folder, make):
    """FOLDER, as MAKE fills it for all processes of the tests; nobody writes into it again."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            new = Path(f"{folder}.new")
            make(new)
            move_store(new / "mlflow.db", new, folder)
            new.rename(folder)
    return folder


def copy(old, new):
    """Copy the repo in OLD to NEW, with its store."""
    shutil.copytree(old, new, symlinks=True, dirs_exist_ok=True)
    move_store(new / "mlflow.db", old, new)


def move_store(database, old, new):
    """Let the DATABASE, if it is there, say of its files that they are in NEW, no longer in OLD."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    connection.execute(
                        f"UPDATE {table} SET {column} = replace({column}, ?, ?) "
                        f"WHERE instr({column}, ?)",
                        (f"{old}/", f"{new}/", f"{old}/"),
                    )
