"""What a script says that can't go on."""


def assert_one_sentence(result, *words):
    """RESULT failed, and its stderr is one short line with all WORDS."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 250, result.stderr
    for word in words:
        assert word in result.stderr
