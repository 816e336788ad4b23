"""The life of a model, from search to retirement, and what may come in between."""

import subprocess
import sys

import pytest
from registry import NAME
from running import ENV, ROOT, at_once, run_script


def test_life_of_a_model(store):
    """In one test, on every kind of store: the commands of the README, in their order."""

    def script(name, *args):
        result = run_script(name, store.folder, *args, **store.env)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def aliases():
        registered = store.client.get_registered_model(NAME)
        return {alias: int(number) for alias, number in registered.aliases.items()}

    def version(number):
        return store.client.get_model_version(NAME, str(number))

    first, _ = store.lesson("hypertune2")
    printed = store.run("register_model")
    (model,) = first.outputs.model_outputs
    assert version(1).source == f"models:/{model.model_id}"
    assert aliases() == {"staging": 1}
    assert version(1).tags == {
        "status": "validated",
        "gate_against": "none",
        "gate_run": version(1).tags["gate_run"],
        "accuracy_score": "0.9649",
        "false_positives": "3",
    }
    assert first.info.run_id in version(1).description

    # The chain of where it comes from, each link compared with the store.
    children = store.client.search_runs(
        [first.info.experiment_id], f"tags.mlflow.parentRunId = '{first.info.run_id}'"
    )
    (best,) = [each for each in children if each.data.metrics["rank_test_score"] == 1]
    data = {each.dataset.name: each.dataset.digest for each in first.inputs.dataset_inputs}
    commit = first.data.tags["mlflow.source.git.commit"]
    assert printed.endswith(
        f"models:/{NAME}@staging is version 1, accuracy_score 0.9649, false_positives 3, from\n"
        f"  model   best-forest, {model.model_id}\n"
        f"  search  grid search, {first.info.run_id}\n"
        f"  child   128 trees, depth 8, {best.info.run_id}\n"
        f"  data    breast-cancer-testing, digest {data['breast-cancer-testing']}\n"
        f"  data    breast-cancer-training, digest {data['breast-cancer-training']}\n"
        f"  code    git commit {commit[:12]}\n"
        "Next: python src/promote_model.py\n"
    )
    git = ["git", "rev-parse", "HEAD"]
    assert subprocess.check_output(git, cwd=ROOT, text=True).strip() == commit

    assert "@production is version 1, it was none\n" in script("promote_model")
    assert aliases() == {"production": 1, "staging": 1}
    assert f"Version 1 of {NAME} is right on 110 of 114\n" in script("score_model")

    script("hypertune2")
    script("register_model")
    assert aliases() == {"production": 1, "staging": 2}
    assert version(2).tags["gate_against"] == "1"
    assert "@production is version 2, it was 1\n" in script("promote_model")
    assert aliases() == {"production": 2, "staging": 2, "previous": 1}
    assert f"Version 2 of {NAME} is right on 110 of 114\n" in script("score_model")

    assert "@production is version 1, it was 2\n" in script("promote_model", "rollback")
    assert aliases() == {"production": 1}
    assert version(2).tags["status"] == "rolled back"

    script("promote_model", "retire", "2")
    assert aliases() == {"production": 1}
    assert version(2).tags["status"] == "retired"
    assert version(1).tags["status"] == "validated"


def test_promoting_twice_changes_nothing(staged):
    staged.done("promote_model")
    before = staged.state()
    assert staged.done("promote_model") == "Version 2 is in production already\n"
    assert staged.state() == before


def test_rolling_back_twice_is_refused_and_so_is_promoting_what_was_rolled_back(staged):
    staged.done("promote_model")
    staged.done("promote_model", "rollback")
    assert staged.refused("promote_model", "rollback") == (
        "The alias previous points to no other version: nothing to go back to\n"
    )
    assert "No version is in staging" in staged.refused("promote_model")
    # Nor does the gate let it through again, though it would pass; a newer search's model it does.
    assert staged.refused("register_model") == (
        "Version 2 has this model and is rolled back: search again first\n"
    )
    staged.client.set_registered_model_alias(NAME, "staging", "2")
    assert "hasn't passed the gate" in staged.refused("promote_model")
    staged.search(64)
    staged.done("register_model")
    staged.done("promote_model")
    assert staged.aliases() == {"production": 3, "staging": 3, "previous": 1}


@pytest.mark.ci
def test_a_candidate_in_staging_survives_a_rollback(staged):
    staged.done("promote_model")
    staged.search(128)
    staged.done("register_model")
    staged.done("promote_model", "rollback")
    assert staged.aliases() == {"production": 1, "staging": 3}


def test_a_retired_version_loses_its_aliases_and_still_loads(staged):
    staged.done("promote_model")
    printed = staged.done("promote_model", "retire", "1")
    assert printed == f"Version 1 is retired; models:/{NAME}/1 still loads\n"
    assert staged.aliases() == {"production": 2, "staging": 2}
    assert staged.tags(1)["status"] == "retired"
    load = f"import mlflow; mlflow.pyfunc.load_model('models:/{NAME}/1')"
    env = ENV | {"MLFLOW_TRACKING_URI": staged.uri}
    subprocess.run([sys.executable, "-c", load], env=env, cwd=staged.folder, check=True)


def test_production_is_not_retired(staged):
    assert staged.refused("promote_model", "retire", "1") == (
        "Version 1 is in production: promote another, or roll back, first\n"
    )


def test_only_versions_that_exist_are_retired(staged):
    for number in "7", "one":
        assert staged.refused("promote_model", "retire", number) == (
            f"There is no version {number}; there are 1, 2\n"
        )


@pytest.mark.parametrize("args", [["rolback"], ["retire"], ["retire", "1", "2"], ["rollback", "1"]])
def test_a_wrong_word_gets_the_right_ones(staged, args):
    assert staged.refused("promote_model", *args) == (
        "After the script's name write nothing, rollback, or retire and a version\n"
    )


@pytest.mark.ci
def test_what_passed_against_an_older_production_must_pass_again(staged):
    staged.search(128)
    staged.done("register_model")  # version 3, against version 1
    staged.client.set_registered_model_alias(NAME, "production", "2")
    assert staged.refused("promote_model") == (
        "Version 3 hasn't passed the gate against what is in production now, 2: "
        "run python src/register_model.py\n"
    )
    staged.done("register_model")
    staged.done("promote_model")
    assert staged.aliases() == {"production": 3, "staging": 3, "previous": 2}


@pytest.mark.ci
def test_an_alias_set_by_hand_passes_no_gate(staged):
    staged.register_by_hand(1)
    staged.client.set_registered_model_alias(NAME, "staging", "3")
    assert "Version 3 hasn't passed the gate" in staged.refused("promote_model")


def test_two_promotions_at_once_end_as_one(staged):
    results = at_once(*[lambda: staged.script("promote_model")] * 2)
    assert staged.aliases() == {"production": 2, "staging": 2, "previous": 1}
    for result in results:
        assert (result.code, result.error) == (0, "") or (
            result.code,
            result.error,
        ) == (1, "Production has just become 2: look at it, and try again\n")
    assert 0 in [result.code for result in results]


def meddling(script, before, deed):
    """Code that runs a script, and the deed before the call BEFORE of MLflow."""
    return f"""
import runpy, sys
import mlflow, mlflow.pyfunc
from mlflow import MlflowClient
sys.argv = [{script!r}]
whole = {before}
def meddled(*args, **kwargs):
    {deed}
    return whole(*args, **kwargs)
{before} = meddled
runpy.run_path({str(ROOT / "src" / script)!r})
"""


@pytest.mark.ci
def test_a_promotion_that_another_one_overtakes_gives_way(staged):
    staged.register_by_hand(1)
    deed = f"MlflowClient().set_registered_model_alias({NAME!r}, 'production', '3')"
    code = meddling("promote_model.py", "mlflow.pyfunc.load_model", deed)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=staged.folder,
        env=ENV | {"MLFLOW_TRACKING_URI": staged.uri, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == "Production has just become 3: look at it, and try again\n"
    assert staged.aliases() == {"production": 3, "staging": 2}


@pytest.mark.parametrize(
    "call", ["set_model_version_tag", "delete_registered_model_alias", "set_registered_model_alias"]
)
def test_a_rollback_that_is_killed_can_be_repeated(staged, call):
    staged.done("promote_model")
    code = meddling("promote_model.py", f"MlflowClient.{call}", "import os; os._exit(9)")
    code = code.replace("['promote_model.py']", "['promote_model.py', 'rollback']")
    env = ENV | {"MLFLOW_TRACKING_URI": staged.uri, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.run([sys.executable, "-c", code], cwd=staged.folder, env=env)
    assert process.returncode == 9
    assert staged.aliases()["production"] == 2
    staged.done("promote_model", "rollback")
    assert staged.aliases() == {"production": 1}
    assert staged.tags(2)["status"] == "rolled back"


@pytest.mark.ci
@pytest.mark.parametrize("alias", ["previous", "production"])
def test_a_promotion_that_is_killed_leaves_production_and_can_be_repeated(staged, alias):
    deed = f"if {alias!r} in args: import os; os._exit(9)"
    code = meddling("promote_model.py", "MlflowClient.set_registered_model_alias", deed)
    env = ENV | {"MLFLOW_TRACKING_URI": staged.uri, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.run([sys.executable, "-c", code], cwd=staged.folder, env=env)
    assert process.returncode == 9
    assert staged.aliases()["production"] == 1
    assert "nothing to go back to" in staged.refused("promote_model", "rollback")
    staged.done("promote_model")
    assert staged.aliases() == {"production": 2, "staging": 2, "previous": 1}


def test_a_version_deleted_in_production_is_replaced_by_a_rollback(staged):
    staged.done("promote_model")
    staged.delete(2)  # MLflow takes its aliases away, without a word
    assert staged.aliases() == {"previous": 1}
    assert "No version is in production" in staged.refused("score_model")
    printed = staged.done("promote_model", "rollback")
    assert printed == f"models:/{NAME}@production is version 1, it was none\n"
    assert staged.aliases() == {"production": 1}


@pytest.mark.ci
def test_a_version_deleted_in_staging_is_not_promoted(staged):
    staged.delete(2)
    assert staged.refused("promote_model") == (
        "No version is in staging: run python src/register_model.py first\n"
    )


@pytest.mark.ci
def test_a_version_deleted_where_rollback_would_go_is_not_gone_back_to(staged):
    staged.done("promote_model")
    staged.delete(1)
    assert "nothing to go back to" in staged.refused("promote_model", "rollback")


def test_what_fails_to_load_is_not_promoted(staged):
    staged.lose_files(2)
    error = staged.refused("promote_model")
    assert error.startswith("Version 2 doesn't load, nothing is changed: ")


@pytest.mark.ci
def test_what_fails_to_load_is_not_gone_back_to(staged):
    staged.done("promote_model")
    staged.lose_files(1)
    error = staged.refused("promote_model", "rollback")
    assert error.startswith("Version 1 doesn't load, nothing is changed: ")


def test_an_empty_registry_has_nothing_to_promote(empty_registry):
    assert "register_model.py first" in empty_registry.refused("promote_model")
    assert "nothing to go back to" in empty_registry.refused("promote_model", "rollback")
    assert empty_registry.refused("promote_model", "retire", "1") == (
        "There is no version 1; there are none\n"
    )
