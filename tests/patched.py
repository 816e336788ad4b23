"""Changed scripts: with code before them, as for a bug or a kill, or as a reader copies them."""

from running import PYTHON, ROOT, run, uri


def run_patched(name, patch, folder, *args, root=ROOT, **env):
    """Run src/NAME.py in FOLDER, on its database, after the code PATCH; return the process.

    The script's worker processes run the patch too.
    """
    source = root / "src" / f"{name}.py"
    script = folder / "patched" / source.name
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"exec({patch!r}, {{}})\n{source.read_text()}")
    env = {"MLFLOW_TRACKING_URI": uri(folder), "PYTHONPATH": str(source.parent)} | env
    return run([PYTHON, script, *args], folder, **env)


def before(call, deed):
    """A patch that does DEED before each call of MLflow's function CALL.

    The deed is one line of code. It may use the call's `number`, which begins with 1, and `args`.
    """
    return f"""
import itertools, os
import mlflow, mlflow.pyfunc
from mlflow import MlflowClient
real, numbers = {call}, itertools.count(1)
def patched(*args, **kwargs):
    number = next(numbers)
    {deed}
    return real(*args, **kwargs)
{call} = patched
"""


def without_connect(text):
    """TEXT of a script without the lines with `connect`, as where-runs-go.md makes it."""
    return "".join(line for line in text.splitlines(keepends=True) if "connect" not in line)
