import ast
import json
import re

import pytest
from running import HELPERS, LESSONS, ROOT, tracked_files


@pytest.mark.parametrize("script", [*LESSONS, *HELPERS], ids=lambda p: p.stem)
def test_script_has_a_test_file_of_its_name(script):
    tree = ast.parse((ROOT / "tests" / f"test_{script.stem}.py").read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [name for name in functions if name.startswith("test_")]


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


@pytest.mark.parametrize(("helper", "longest"), list(zip(HELPERS, (30, 60, 20, 90), strict=True)))
def test_helper_stays_small(helper, longest):
    assert len(helper.read_text().splitlines()) <= longest


@pytest.mark.parametrize("script", LESSONS, ids=lambda p: p.stem)
def test_lesson_stays_short(script):
    longest = 194 if script.stem == "hypertune3" else 100
    assert len(script.read_text().splitlines()) <= longest


@pytest.mark.parametrize("script", LESSONS, ids=lambda p: p.stem)
def test_a_lessons_page_stays_short(script):
    text = (ROOT / "docs" / "lessons" / f"{script.stem}.md").read_text()
    shown = re.sub(r"<details>\n.*?</details>\n", "", text, flags=re.DOTALL)
    assert len(shown.splitlines()) <= 121


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
