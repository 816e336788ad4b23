"""The lessons as cells in a real Jupyter kernel: as in VS Code and Jupyter."""

import re
from pathlib import Path

import pytest
from cells import cells_of, printed, run_cells
from documents import normalised
from filled import BEFORE, copy_repo
from running import LESSONS, ROOT, run_script, uri
from sentences import REPORTS, assert_success
from stores import contents

# dagshub_run isn't among them: it needs a stand-in of the site, see its own test.
NAMES = [path.stem for path in LESSONS if path.stem != "dagshub_run"]
# A kernel has arguments of its own in sys.argv.
ARGV = {"promote_model": "import sys; sys.argv[1:] = []"}


@pytest.mark.parametrize("script", LESSONS, ids=lambda script: script.stem)
def test_cells_begin_in_the_first_column(script):
    """VS Code and jupytext split at an indented one too, in the middle of a `with` block."""
    assert not re.findall(r"^[ \t]+# ?%%.*", script.read_text(), re.MULTILINE)


def stored(folder):
    """What the store of the repo in FOLDER holds, without what MLflow says of the program."""
    found = contents(uri(folder)) if (folder / "mlflow.db").exists() else {}
    for name, (*_, runs) in found.items():
        for run in runs if not name.startswith("model ") else []:
            run["tags"] = {k: v for k, v in run["tags"].items() if "mlflow.source." not in k}
    return found


@pytest.mark.ci
@pytest.mark.parametrize("name", NAMES)
def test_cells_print_and_store_what_the_script_does(name, tmp_path):
    script = tmp_path / "script"
    copy_repo(script, *BEFORE.get(name, []))
    printed_there = assert_success(run_script(name, script / "src", root=script))
    path = Path("src", f"{name}.py")
    for file in [False, True] if "__file__" in (ROOT / path).read_text() else [False]:
        folder = tmp_path / f"cells-{file}"
        copy_repo(folder, *BEFORE.get(name, []))
        first = [f"__file__ = {str(folder / path)!r}"] if file else []  # as VS Code does
        first += [ARGV[name]] if name in ARGV else []
        notebook = run_cells([*first, *cells_of(folder / path)], folder / "src", tmp=tmp_path)
        assert not REPORTS.sub("", printed(notebook, "stderr"))
        texts = printed_there.replace(str(script), ""), printed(notebook).replace(str(folder), "")
        assert normalised(texts[1]) == normalised(texts[0])
        assert stored(folder) == stored(script)
