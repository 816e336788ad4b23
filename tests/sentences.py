"""What a script says on stderr: one sentence if it can't go on, nothing if it can."""

import re

# MLflow's register_model() reports there what it did.
REPORTS = re.compile("(Successfully registered model|Registered model|Created version) '.*\n")


def assert_one_sentence(result, *words, longest=250):
    """RESULT failed, and its stderr is one short line with all WORDS; return the line."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < longest, result.stderr
    for word in words:
        assert word in result.stderr
    return result.stderr


def assert_success(result):
    """RESULT succeeded, and said nothing on stderr; return what it printed."""
    assert result.returncode == 0, result.stdout + result.stderr
    assert not REPORTS.sub("", result.stderr), result.stderr
    return result.stdout
