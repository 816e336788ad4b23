"""No secret in the repo, in what a run stores, or in what a script prints."""

import re
from contextlib import closing
from sqlite3 import connect

import pytest
from running import ROOT, clone_with_remote, run_script, tracked_files

SECRET = "s3cret-0f-ada"
LOOKS_SECRET = {
    "a key of Amazon": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\b(gh[pousr]_|github_pat_)\w{20,}",
    "a token of PyPI, Slack, GitLab or an AI service": r"\b(pypi-|xox[abp]-|glpat-|sk-)[\w-]{20,}",
    "a web token": r"\beyJ[\w-]{10,}\.eyJ",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "40 hexadecimal digits, as tokens of DagsHub have": r"(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])",
    # Of examples: the tests' own words, variables, and placeholders.
    "a password in an address": r"\w+://[^\s/:@'\"{}$]+:(?!TOKEN|bench@|copy@|maria@|s3cret)[^\s/@'\"{}$]+@\w",
    "a value for a secret": r"^(export )?(?!MLFLOW_TRACKING)\w*(PASSWORD|SECRET|TOKEN|_KEY)\w*="
    r"(?![$\"'(]|\.\.\.|mlflow$)\S",
}


@pytest.mark.parametrize("kind", LOOKS_SECRET)
def test_no_file_holds(kind):
    found = []
    for path in tracked_files():
        if path.suffix not in (".png", ".ico") and path.exists():
            for match in re.finditer(LOOKS_SECRET[kind], path.read_text(), re.MULTILINE):
                found.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert not found


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("a key of Amazon", "AKIA" + "A" * 16),
        ("a token of GitHub", "ghp_" + "a" * 36),
        ("a token of PyPI, Slack, GitLab or an AI service", "glpat-" + "a" * 20),
        ("a web token", "eyJ" + "a" * 10 + ".eyJ"),
        ("a private key", "-----BEGIN " + "PRIVATE KEY"),
        ("40 hexadecimal digits, as tokens of DagsHub have", "0123456789" * 4),
        ("a password in an address", "https://ada:" + "pass@host"),
        ("a value for a secret", "PGPASSWORD=" + "pass"),
    ],
)
def test_the_search_finds(kind, text):
    assert re.search(LOOKS_SECRET[kind], text, re.MULTILINE)


def test_a_token_in_the_git_remote_is_not_stored(tmp_path):
    """Where `git clone https://ada:TOKEN@host/repo` leaves it; MLflow tags runs with the remote."""
    clone_with_remote(tmp_path, f"https://ada:{SECRET}@example.com/repo.git")
    for name in "basic_run", "autolog", "log_dataset":
        result = run_script(name, tmp_path, root=tmp_path, MLFLOW_TRACKING_URI="")
        assert result.returncode == 0, result.stderr
        assert SECRET not in result.stdout + result.stderr
    with closing(connect(tmp_path / "mlflow.db")) as database:
        everything = "\n".join(database.iterdump())
    assert "https://example.com/repo.git" in everything
    assert SECRET not in everything
    stored = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert stored
    assert not [path for path in stored if SECRET.encode() in path.read_bytes()]


@pytest.mark.ci
def test_the_password_of_a_database_is_neither_stored_nor_shown(team, tmp_path):
    """Runs that go to PostgreSQL without a server, and one that can't."""
    uri = team.postgres.make_database("direct", SECRET)
    result = run_script("basic_run", tmp_path, MLFLOW_TRACKING_URI=uri)
    assert result.returncode == 0, result.stderr
    refused = run_script("basic_run", tmp_path, MLFLOW_TRACKING_URI=f"{uri}-missing")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    for text in result.stdout, result.stderr, refused.stdout, refused.stderr:
        assert SECRET not in text
    dump = team.postgres.dump("direct")
    assert "test_accuracy" in dump and SECRET not in dump
    stored = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    assert stored
    assert not [path for path in stored if SECRET.encode() in path.read_bytes()]
