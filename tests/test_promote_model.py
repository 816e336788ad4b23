"""The life of a model, from search to retirement, and what may come in between."""

import re
import shlex
import subprocess

import pytest
from patched import before, run_patched, without_connect
from registry import NAME, small_repo
from running import PYTHON, ROOT, run, run_script
from sentences import assert_one_sentence, assert_success


def test_life_of_a_model(store, tmp_path):
    """In one test, on every kind of store: the commands of lessons 5 and 12 to 14, in order."""
    for registered in store.client.search_registered_models(f"name = '{NAME}'"):
        store.client.delete_registered_model(registered.name)  # of another test on the same server
    # The best of the whole grid reaches the same.
    small_repo(tmp_path, {"n_estimators": [8, 16], "max_depth": [4]})

    def script(name, *args):
        return assert_success(run_script(name, store.folder, *args, root=tmp_path, **store.env))

    def aliases():
        registered = store.client.get_registered_model(NAME)
        return {alias: int(number) for alias, number in registered.aliases.items()}

    def version(number):
        return store.client.get_model_version(NAME, str(number))

    def newest_run(experiment):
        experiment_id = store.client.get_experiment_by_name(experiment).experiment_id
        newest_first = ["attributes.start_time DESC"]
        return store.client.search_runs([experiment_id], max_results=1, order_by=newest_first)[0]

    search_id = re.search(r'^Run "grid search", ID (\w+)', script("hypertune2"), re.MULTILINE)[1]
    printed = script("register_model")
    first = store.client.get_run(search_id)
    (model,) = first.outputs.model_outputs
    gate = newest_run("register-model")
    assert gate.info.run_name == "candidate"
    assert gate.data.tags["model"] == version(1).source == f"models:/{model.model_id}"
    assert aliases() == {"staging": 1}
    assert version(1).tags == {
        "status": "validated",
        "gate_against": "none",
        "gate_run": gate.info.run_id,
        "accuracy_score": "0.9649",
        "recall_score": "0.9302",
    }
    assert version(1).description == (
        f"Best of the search {search_id}. "
        "Passed the gate against no other with accuracy_score 0.9649, recall_score 0.9302."
    )

    # The chain of where it comes from, each link compared with the store.
    children = store.client.search_runs(
        [first.info.experiment_id], f"tags.mlflow.parentRunId = '{search_id}'"
    )
    (best,) = [each for each in children if each.data.metrics["rank_test_score"] == 1]
    data = {each.dataset.name: each.dataset.digest for each in first.inputs.dataset_inputs}
    commit = first.data.tags["mlflow.source.git.commit"]
    assert store.client.get_logged_model(model.model_id).source_run_id == search_id
    ui = store.uri if store.uri.startswith("http") else "http://127.0.0.1:5000"
    assert printed.endswith(
        f"Candidate: models:/{model.model_id}, of a search by {first.data.tags['mlflow.user']}\n"
        f"  search  grid search, {search_id}\n"
        f"  child   max_depth 4, n_estimators 16, {best.info.run_id}\n"
        f"  code    git commit {commit[:12]}\n"
        f"  data    breast-cancer-testing, digest {data['breast-cancer-testing']}\n"
        f"  data    breast-cancer-training, digest {data['breast-cancer-training']}\n"
        f"models:/{NAME}@staging is version 1, accuracy_score 0.9649, recall_score 0.9302\n"
        f"{ui}/#/models/{NAME}/versions/1\n"
        "Next: python src/promote_model.py\n"
    )
    git = ["git", "rev-parse", "HEAD"]
    assert subprocess.check_output(git, cwd=tmp_path, text=True).strip() == commit

    assert "@production is version 1, it was none\n" in script("promote_model")
    assert aliases() == {"production": 1, "staging": 1}
    assert f"Version 1 of {NAME} is right on 110 of 114\n" in script("score_model")

    script("hypertune2")
    script("register_model")
    assert aliases() == {"production": 1, "staging": 2}
    assert version(2).tags["gate_against"] == "1"
    assert version(2).tags["gate_run"] == newest_run("register-model").info.run_id
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


@pytest.mark.ci
def test_promoting_twice_changes_nothing(promoted):
    promoted.add_others()
    state = promoted.state()
    assert promoted.done("promote_model") == "Version 2 is in production already\n"
    assert promoted.state() == state


@pytest.fixture(scope="session")
def rolled_back_once(promoted_once, tmp_path_factory):
    registry = promoted_once.copy(tmp_path_factory.mktemp("rolled-back"))
    registry.done("promote_model", "rollback")
    return registry


@pytest.fixture
def rolled_back(rolled_back_once, tmp_path):
    """A registry with version 1 in production, after a rollback from version 2."""
    return rolled_back_once.copy(tmp_path)


def test_rolling_back_twice_is_refused_and_so_is_promoting_what_was_rolled_back(rolled_back):
    assert rolled_back.refused("promote_model", "rollback") == (
        "The alias previous points to no other version: nothing to go back to\n"
    )
    assert "No version is in staging" in rolled_back.refused("promote_model")
    # Nor does the gate let it through again, though it would pass.
    assert rolled_back.refused("register_model") == (
        "This model is version 2, rolled back: search again first\n"
    )
    rolled_back.client.set_registered_model_alias(NAME, "staging", "2")
    assert "hasn't passed the gate" in rolled_back.refused("promote_model")


@pytest.mark.ci
def test_after_a_rollback_the_model_of_a_newer_search_is_promoted(rolled_back):
    rolled_back.client.set_registered_model_alias(NAME, "staging", "2")
    rolled_back.search(64)
    rolled_back.done("register_model")
    rolled_back.done("promote_model")
    assert rolled_back.aliases() == {"production": 3, "staging": 3, "previous": 1}


@pytest.mark.ci
def test_a_candidate_in_staging_survives_a_rollback(promoted):
    promoted.search(128)
    promoted.done("register_model")
    promoted.done("promote_model", "rollback")
    assert promoted.aliases() == {"production": 1, "staging": 3}


def test_a_retired_version_loses_its_aliases_and_still_loads(promoted):
    printed = promoted.done("promote_model", "retire", "1")
    assert printed == f"Version 1 is retired; models:/{NAME}/1 still loads\n"
    assert promoted.aliases() == {"production": 2, "staging": 2}
    assert promoted.tags(1)["status"] == "retired"
    load = f"import mlflow; mlflow.pyfunc.load_model('models:/{NAME}/1')"
    assert_success(run([PYTHON, "-c", load], promoted.folder, MLFLOW_TRACKING_URI=promoted.uri))


def test_production_is_not_retired(staged):
    assert staged.refused("promote_model", "retire", "1") == (
        "Version 1 is in production: promote another, or roll back, first\n"
    )


@pytest.mark.ci
def test_only_versions_that_exist_are_retired(staged):
    staged.add_others()
    for number in "7", "one":
        assert staged.refused("promote_model", "retire", number) == (
            f"There is no version {number}; there are 1, 2\n"
        )


@pytest.mark.ci
def test_a_wrong_word_gets_the_right_ones(staged):
    for args in ["rolback"], ["retire"], ["retire", "1", "2"], ["rollback", "1"]:
        assert staged.refused("promote_model", *args) == (
            "After the script's name write nothing, rollback, or retire and a version\n"
        )


@pytest.mark.ci
def test_a_notebook_promotes_though_its_kernel_has_arguments(staged):
    launcher = "/venv/lib/python3.11/site-packages/ipykernel_launcher.py"
    patch = f"import sys; sys.argv[:] = [{launcher!r}, '-f', 'kernel-1.json']"
    result = run_patched("promote_model", patch, staged.folder)
    assert "@production is version 2, it was 1\n" in assert_success(result)
    assert staged.aliases() == {"production": 2, "staging": 2, "previous": 1}


@pytest.mark.ci
def test_copies_without_the_lines_of_connect_do_the_same(empty_registry):
    empty_registry.search(16)
    for name in "register_model", "promote_model", "score_model":
        text = (ROOT / "src" / f"{name}.py").read_text()
        kept = without_connect(text)
        # Its import, its call, and the address that register_model prints.
        removed = text.count("\n") - kept.count("\n")
        assert removed == {"register_model": 3}.get(name, 2)
        copy = empty_registry.folder / f"{name}.py"
        copy.write_text(kept)
        done = run([PYTHON, copy], empty_registry.folder, MLFLOW_TRACKING_URI=empty_registry.uri)
        assert done.returncode == 0, done.stderr
    assert empty_registry.aliases() == {"production": 1, "staging": 1}
    assert f"Version 1 of {NAME} is right on 110 of 114\n" in done.stdout


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


@pytest.mark.ci
@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("MlflowClient.search_registered_models", "Version 2 is in production already\n"),
        ("mlflow.pyfunc.load_model", "Production has just become 2: look at it, and try again\n"),
        ("MlflowClient.set_registered_model_alias", "@production is version 2, it was 1\n"),
    ],
)
def test_two_promotions_at_once_end_as_one(staged, call, said):
    """The other one is whole before a call of this one: its first look, its check, its move."""
    other = shlex.join(map(str, [PYTHON, ROOT / "src" / "promote_model.py"]))
    patch = before(call, f"number == 1 and os.system({other!r})")
    result = run_patched("promote_model", patch, staged.folder)
    if said.startswith("Production"):
        assert assert_one_sentence(result) == said
    else:
        assert said in assert_success(result)
    assert "@production is version 2, it was 1\n" in result.stdout  # by the other one
    assert staged.aliases() == {"production": 2, "staging": 2, "previous": 1}


@pytest.mark.ci
def test_a_promotion_that_another_one_overtakes_gives_way(staged):
    staged.register_by_hand(1)
    deed = f"MlflowClient().set_registered_model_alias({NAME!r}, 'production', '3')"
    patch = before("mlflow.pyfunc.load_model", deed)
    assert assert_one_sentence(run_patched("promote_model", patch, staged.folder)) == (
        "Production has just become 3: look at it, and try again\n"
    )
    assert staged.aliases() == {"production": 3, "staging": 2}


@pytest.mark.ci
@pytest.mark.parametrize(
    "call", ["set_model_version_tag", "delete_registered_model_alias", "set_registered_model_alias"]
)
def test_a_rollback_that_is_killed_can_be_repeated(promoted, call):
    patch = before(f"MlflowClient.{call}", "os._exit(9)")
    assert run_patched("promote_model", patch, promoted.folder, "rollback").returncode == 9
    assert promoted.aliases()["production"] == 2
    promoted.done("promote_model", "rollback")
    assert promoted.aliases() == {"production": 1}
    assert promoted.tags(2)["status"] == "rolled back"


@pytest.mark.ci
@pytest.mark.parametrize("alias", ["previous", "production"])
def test_a_promotion_that_is_killed_leaves_production_and_can_be_repeated(staged, alias):
    patch = before("MlflowClient.set_registered_model_alias", f"{alias!r} in args and os._exit(9)")
    assert run_patched("promote_model", patch, staged.folder).returncode == 9
    assert staged.aliases()["production"] == 1
    assert "nothing to go back to" in staged.refused("promote_model", "rollback")
    staged.done("promote_model")
    assert staged.aliases() == {"production": 2, "staging": 2, "previous": 1}


@pytest.mark.ci
def test_a_version_deleted_in_production_is_replaced_by_a_rollback(promoted):
    promoted.delete(2)  # MLflow takes its aliases away, without a word
    assert promoted.aliases() == {"previous": 1}
    assert "No version is in production" in promoted.refused("score_model")
    printed = promoted.done("promote_model", "rollback")
    assert printed == f"models:/{NAME}@production is version 1, it was none\n"
    assert promoted.aliases() == {"production": 1}


@pytest.mark.ci
def test_a_version_deleted_in_staging_is_not_promoted(staged):
    staged.delete(2)
    assert staged.refused("promote_model") == (
        "No version is in staging: run python src/register_model.py first\n"
    )


@pytest.mark.ci
def test_a_version_deleted_where_rollback_would_go_is_not_gone_back_to(promoted):
    promoted.delete(1)
    assert "nothing to go back to" in promoted.refused("promote_model", "rollback")


@pytest.mark.ci
def test_what_fails_to_load_is_not_promoted(staged):
    assert "doesn't load" not in staged.server_fails("promote_model")
    staged.lose_files(2)
    error = staged.refused("promote_model")
    assert error.startswith("Version 2 doesn't load, nothing is changed: MlflowException(")


@pytest.mark.ci
def test_what_fails_to_load_is_not_gone_back_to(promoted):
    promoted.lose_files(1)
    error = promoted.refused("promote_model", "rollback")
    assert error.startswith("Version 1 doesn't load, nothing is changed: ")


def test_an_empty_registry_has_nothing_to_promote(empty_registry):
    assert "register_model.py first" in empty_registry.refused("promote_model")
    assert "nothing to go back to" in empty_registry.refused("promote_model", "rollback")
    assert empty_registry.refused("promote_model", "retire", "1") == (
        "There is no version 1; there are none\n"
    )
