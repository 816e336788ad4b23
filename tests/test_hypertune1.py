from conftest import run_script


def test_prints_the_best_and_leaves_nothing_behind(tmp_path):
    result = run_script("hypertune1", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "best parameters: {'max_depth': 8, 'n_estimators': 128}",
        "cross-validation accuracy: 0.9626",
        "test accuracy: 0.9649",
        "Next: python src/hypertune2.py",
    ]
    assert not list(tmp_path.iterdir())
