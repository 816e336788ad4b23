import ast
import json
import re
import subprocess

import pytest
from running import LESSONS, ROOT


def tracked_files():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.splitlines()]


def which_tests_run(name, text):
    """The tests in TEXT that name the script outside a docstring, by themselves or by a helper."""
    names = {}
    running = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            defined = ast.unparse(node.targets[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined = node.name
        else:
            continue
        parts = list(ast.walk(node))
        names[defined] = {getattr(part, "id", getattr(part, "arg", None)) for part in parts}
        docstrings = {part.value for part in parts if isinstance(part, ast.Expr)}
        texts = [
            part.value
            for part in parts
            if isinstance(part, ast.Constant) and part not in docstrings
        ]
        if any(re.search(rf"^{name}(\.py)?$|\bfrom {name} import ", str(each)) for each in texts):
            running.add(defined)
    while more := {defined for defined in names if names[defined] & running} - running:
        running |= more
    return [defined for defined in names if defined in running and defined.startswith("test_")]


@pytest.mark.parametrize("script", [*LESSONS, ROOT / "src/tracking.py"], ids=lambda p: p.stem)
def test_script_has_tests_that_run_it(script):
    assert which_tests_run(script.stem, (ROOT / "tests" / f"test_{script.stem}.py").read_text())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('def test_a(store):\n store.lesson("basic_run")', ["test_a"]),
        ('PATH = SRC / "basic_run.py"\ndef go():\n run(PATH)\ndef test_a():\n go()', ["test_a"]),
        ('def done():\n run_script("basic_run")\ndef test_a(done):\n pass', ["test_a"]),
        ('def done():\n run_script("basic_run")\ndef test_a():\n pass', []),
        ('def test_a(store):\n "basic_run"\n store.lesson("autolog")', []),
        ('def test_a(store):\n store.lesson("basic_runs")', []),
    ],
)
def test_tests_that_run_a_script_are_found(text, found):
    assert which_tests_run("basic_run", text) == found


@pytest.mark.parametrize("script", LESSONS, ids=lambda p: p.stem)
def test_lesson_is_a_lesson(script):
    text = script.read_text()
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    assert f"python src/{script.name}" in docstring
    assert "What you learn: " in docstring
    assert "\n# %% " in text
    others = {path.stem for path in LESSONS}
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE))
    assert not imported & others


def test_no_run_data_in_git():
    names = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
    assert [name for name in names if name.startswith("mlruns/")] == ["mlruns/README.md"]
    assert not [name for name in names if re.search(r"\.(db|pkl|skops|pyc)$", name)]


def test_every_picture_is_shown_and_made():
    shown = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for path in re.findall(r"!\[[^]]{40,}\]\(([\w./-]+)\)", page.read_text()):
            shown.add((page.parent / path).resolve())
    makers = [ROOT / "tests/test_pictures.py", *ROOT.glob("benchmarks/*.py")]
    made = "".join(path.read_text() for path in makers)
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert {path for path in tracked_files() if path.parent.name == "images"} == set(pictures)
    for picture in pictures:
        assert picture in shown, picture.name
        assert picture.suffix == ".png" and f'"{picture.stem}"' in made, picture.name
        assert picture.stat().st_size < 200_000, picture.name


def test_constraints_pin_every_direct_dependency():
    pins = (ROOT / "constraints.txt").read_text()
    for file in [*ROOT.glob("requirements*.txt"), *ROOT.glob("*/requirements.txt")]:
        for line in file.read_text().splitlines():
            if not line.startswith(("-", "#")):
                name = re.match(r"[\w-]+", line)[0]
                assert re.search(rf"^{name}==", pins, re.MULTILINE), name


def test_lowest_versions_are_the_same_everywhere():
    lowest = dict(
        re.findall(r"^([\w-]+)>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    )
    sentence = "from MLflow {mlflow}, scikit-learn {scikit-learn} and pandas {pandas} up to"
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert sentence.format(**lowest) in readme
    pythons = re.search(r"at both ends, on Python (\S+) and (\S+), four runs", readme).groups()
    assert f"\n  for python in {' '.join(pythons)}; do" in (ROOT / ".ci/versions").read_text()
    weekly = (ROOT / ".github/workflows/ci.yml").read_text().split("\n  versions:\n")[1]
    assert f"python: {json.dumps(pythons)}\n        versions: [lowest, newest]\n" in weekly
