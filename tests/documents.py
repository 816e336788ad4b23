"""Run what the pages show: every block in reading order, in one copy of the repo for each page.

    python -m pytest README.md docs              run, and compare what is printed with what is shown
    python -m pytest README.md docs --refresh    run, and write what is printed into the pages

```bash     is run; it must succeed, or end as `<!-- exits: 1 -->` before it says. `mlflow ui`,
            `mlflow server`, `mlflow models serve`, `server/s3.sh` and `dask` without that run in
            the background until the page ends, or starts another one on the same port.
```python   must stand in a script of src/ word for word, or run alone in a new process.
```text     is all that the block before it printed; a line `...` stands for lines left out.
```diff     changes a script in the page's copy of the repo: that of the page's name, or another one
            if the block begins with `--- src/NAME.py`. Lines with `-` or a space must stand there
            once, one after the other.
```powershell  isn't run.

`<!-- after: hypertune2 register_model -->` on the first line names the lessons that were run in the
page's copy of the repo before its first block.

The heading `## Exercise` begins a new copy, in which nothing of the page was run. Such a comment
below it names the lessons. Only .ci/run runs the exercises: they have the marker `ci`.

An `<!-- invisible-code-block: bash` is run in the same way; after `<!-- skip: next "reason" -->` a
block isn't. The ports are others while the tests run, and `runuser -u postgres` acts on a
PostgreSQL of the page's own.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from filled import copy_repo
from running import ENV, ROOT
from services import WITHOUT_JOBS, Postgres, Service, free_port
from sybil import Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from team import missing, need_postgresql

PORTS = ["5000", "5001", "5002", "5003", "5432", "8786", "8790", "9000"]
SERVER = re.compile(
    r".*\b(?:mlflow (?:--env-file \S+ )?(?:ui|server|models serve)|server/s3\.sh|dask \w+)\b"
    r".* --(?:port|addr|worker-port) (?:[\d.]+:)?(\d+)\b.*\n$"
)
VARIES = [  # what differs from run to run, and what stands for it
    (r"(\b|(?<=%27))[0-9a-f]{32}(\b|(?=%27))", "<ID>"),
    (r"\b\d{18}\b", "<experiment ID>"),
    (r"\b[0-9a-f]{12}\b", "<revision>"),
    (r"\S*/tmp\w{8}/", "<folder>/"),
    (r"\[Errno \d+\]", "[Errno]"),
    (r"less than \d+ ms\b", "less than <time>"),
    (r"\d{4}[/-]\d\d[/-]\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?", "<time>"),
    (r"\b\d:\d\d:\d\d\b", "<duration>"),
]
EXERCISE = re.compile("^## Exercise$", re.MULTILINE)
refresh = False  # set by the option --refresh


class Page:
    """The folder, servers and last output of one page while it is run."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="page-"))
        self.ports = {port: str(free_port()) for port in PORTS}
        self.env = ENV
        self.postgres = None
        self.servers = {}
        self.printed = None
        self.exits = None
        self.lacks_tmux = False
        self.edits = []

    def fill(self, *names):
        """Make the page's folder a new copy of the repo, in which the lessons NAMES were run."""
        self.leave()
        self.printed = None
        copy_repo(self.folder, *names)
        settings = self.folder / "server" / ".env.example"
        settings.write_text(self.here(settings.read_text()))
        # It isn't a change of the reader's.
        unchanged = ["git", "update-index", "--assume-unchanged", "server/.env.example"]
        subprocess.run(unchanged, cwd=self.folder, check=True)

    def leave(self):
        """Stop the servers, and remove the folder."""
        while self.servers:
            self.servers.popitem()[1].stop()
        shutil.rmtree(self.folder)
        Path(f"{self.folder}.exports").unlink(missing_ok=True)

    def here(self, text):
        """TEXT with the ports that the page has while it is run."""
        for shown, port in self.ports.items():
            text = re.sub(rf"\b{shown}\b", port, text)
        return text

    def run(self, command):
        """Run the command to its end, keep what it prints; return what is wrong with it, if so."""
        # What a block exports stays for the next ones, as in the reader's terminal.
        exports = shlex.quote(f"{self.folder}.exports")
        keep = f"touch {exports}; . {exports}; trap 'export -p > {exports}' EXIT\n"
        result = subprocess.run(
            ["bash", "-ec", keep + command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        printed = result.stdout.replace(str(self.folder), "/...").replace(sys.prefix, "/.../.venv")
        for shown, port in self.ports.items():
            printed = re.sub(rf"\b{port}\b", shown, printed)
        self.printed = printed if printed.endswith("\n") else printed + "\n"
        expected, self.exits = self.exits or 0, None
        code = result.returncode if result.returncode >= 0 else 128 - result.returncode
        if code != expected:
            return f"exit code {code}:\n{self.printed}"

    def bash(self, example):
        """Run a bash block; start it in the background if its last line starts a server."""
        command = self.here(example.parsed)
        self.lacks_tmux = "tmux " in command and not shutil.which("tmux")
        if self.lacks_tmux:
            missing("tmux", "tmux")
        if "runuser -u postgres" in command and not self.postgres:
            need_postgresql()
            self.postgres = Postgres(self.ports["5432"])
            self.env = ENV | self.postgres.env
        server = SERVER.search(command)
        if not server or self.exits is not None:
            return self.run(command)
        port = server[1]
        self.printed = None
        if port in self.servers:
            self.servers.pop(port).stop()
        path = "/health" if "mlflow" in server[0] else ""
        path = "/ping" if "mlflow models" in server[0] else path
        bash = ["bash", "-ec", command]
        env = self.env | WITHOUT_JOBS | {"MLFLOW_WORKERS": "1"}
        self.servers[port] = Service(bash, self.folder, port, path=path, **env)

    def python(self, example):
        """Find a Python block in a script, or run it."""
        forms = [textwrap.indent(example.parsed, " " * depth) for depth in (0, 4, 8)]
        scripts = [path.read_text() for path in (ROOT / "src").glob("*.py")]
        if not any(form in script for form in forms for script in scripts):
            return self.run(shlex.join(["python", "-c", example.parsed]))

    def diff(self, example):
        """Change a script in the page's folder."""
        name, hunk = re.fullmatch(r"(?:--- (\S+)\n)?(.*)", example.parsed, re.DOTALL).groups()
        script = self.folder / (name or f"src/{Path(example.path).stem}.py")
        lines = hunk.splitlines(keepends=True)
        # An empty line may lack its space.
        old, new = (
            "\n" + "".join(line[1:] or line for line in lines if line[0] != mark) for mark in "+-"
        )
        text = "\n" + script.read_text()
        if text.count(old) != 1:
            return f"{script.name} has these lines {text.count(old)} times:{old}"
        script.write_text(text.replace(old, new)[1:])

    def text(self, example):
        """Compare a text block with what was printed, or remember to write that into the page."""
        if self.lacks_tmux:
            missing("tmux", "tmux")
        source = example.parsed
        lines = normalised(source).splitlines(keepends=True)
        pattern = "".join("(?:.*\n)*?" if line == "...\n" else re.escape(line) for line in lines)
        if self.printed is None:
            return "no block before it printed anything"
        if re.fullmatch(pattern, normalised(self.printed)):
            return None
        if not refresh:
            return f"the command printed:\n{self.printed}"
        printed = self.printed
        if lines[:1] == ["...\n"]:  # keep as many last lines as are shown
            printed = "".join(["...\n", *printed.splitlines(keepends=True)[1 - len(lines) :]])
        start = example.region.start + source.offset
        self.edits.append((Path(example.path), start, source, printed))


def normalised(text):
    """TEXT without what differs from run to run, and without spaces at the ends of lines."""
    for pattern, name in VARIES:
        text = re.sub(pattern, name, text)
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def begin(namespace):
    namespace["page"] = Page()


def end(namespace):
    page = namespace["page"]
    page.leave()
    if page.postgres:
        page.postgres.remove()
    for path, start, source, printed in reversed(page.edits):
        text = path.read_text()
        assert text.startswith(source, start), f"{path.name} was changed while it was run"
        path.write_text(text[:start] + printed + text[start + len(source) :])


def evaluator(kind):
    """The method of the page that evaluates its blocks of this kind."""

    return lambda example: getattr(example.namespace["page"], kind)(example)


def after(document):
    """`<!-- after: NAME NAME -->`, above the page or its exercise: the lessons that were run."""

    def evaluate(example):
        example.namespace["page"].fill(*example.parsed)

    form = rf"(?:\A|{EXERCISE.pattern}\n+)(?:<!-- after: ([\w ]+) -->$)?"
    for found in re.finditer(form, document.text, re.MULTILINE):
        yield Region(found.start(), found.end(), (found[1] or "").split(), evaluate)


def of_exercise(example):
    """Whether the block belongs to the page's exercise."""
    heading = EXERCISE.search(example.document.text)
    return heading and heading.start() <= example.start


def exits(document):
    """`<!-- exits: N -->`: the next command is to end with this exit code."""

    def evaluate(example):
        example.namespace["page"].exits = example.parsed

    for found in re.finditer(r"^<!-- exits: (\d+) -->$", document.text, re.MULTILINE):
        yield Region(found.start(), found.end(), int(found[1]), evaluate)


pages = Sybil(
    parsers=[
        *(CodeBlockParser(kind, evaluator(kind)) for kind in ("bash", "python", "text", "diff")),
        SkipParser(),
        after,
        exits,
    ],
    path=str(ROOT),
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/*/*.md"],
    excludes=["mlruns/*"],
    setup=begin,
    teardown=end,
)
