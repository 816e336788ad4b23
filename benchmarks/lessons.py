"""The scripts of src/ with another grid, for what needs a search of another size."""

import re
import shutil
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"


def with_grid(text, grid):
    """TEXT of a script with another GRID."""
    changed, count = re.subn(r"^GRID = .*", f"GRID = {grid}", text, flags=re.MULTILINE)
    assert count == 1, "the script has no line that begins with GRID"
    return changed


def copy_with_grid(folder, name, grid):
    """Copy src/ to FOLDER/src, NAME.py with another GRID; return its path. Again the same bytes."""
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SRC, folder / "src", ignore=hidden, dirs_exist_ok=True)
    script = folder / "src" / f"{name}.py"
    script.write_text(with_grid((SRC / script.name).read_text(), grid))
    return script
