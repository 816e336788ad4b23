"""The scripts of src/ with another grid, for what needs a search of another size."""

import re
import shutil
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"


def with_grid(text, grid, model=None):
    """TEXT of a script with another GRID, and with the lines MODEL instead of its own."""
    for constant, lines in ("GRID", f"GRID = {grid}"), ("MODEL", model):
        if lines:
            text, count = re.subn(
                rf"^{constant} = .*", lambda line, lines=lines: lines, text, flags=re.MULTILINE
            )
            assert count == 1, f"the script has no line that begins with {constant}"
    return text


def copy_with_grid(folder, name, grid, model=None):
    """Copy src/ to FOLDER/src, NAME.py with another GRID; return its path. Again the same bytes."""
    return copy_with(folder, name, with_grid((SRC / f"{name}.py").read_text(), grid, model))


def copy_with_trials(folder, trials):
    """Copy src/ to FOLDER/src, hypertune_optuna.py with so many TRIALS of small forests."""
    text = (SRC / "hypertune_optuna.py").read_text()
    settings = {", TRIALS = 42, 5, 0.2, 24": f", TRIALS = 42, 5, 0.2, {trials}"}
    settings |= {'"n_estimators", 16, 128': '"n_estimators", 1, 8'}
    for old, new in settings.items():
        assert text.count(old) == 1, f"the script has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return copy_with(folder, "hypertune_optuna", text)


def copy_with(folder, name, text):
    """Copy src/ to FOLDER/src, with TEXT as NAME.py; return its path."""
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SRC, folder / "src", ignore=hidden, dirs_exist_ok=True)
    script = folder / "src" / f"{name}.py"
    script.write_text(text)
    return script
