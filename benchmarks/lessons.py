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
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SRC, folder / "src", ignore=hidden, dirs_exist_ok=True)
    script = folder / "src" / f"{name}.py"
    script.write_text(with_grid((SRC / script.name).read_text(), grid, model))
    return script
