import pytest
from mlflow.exceptions import MlflowException
from running import run_script

NAME = "breast-cancer-forest"


def test_version_comes_from_the_newest_search(store):
    search, _ = store.lesson("hypertune2")
    output = store.run("register_model")
    version = store.client.get_model_version_by_alias(NAME, "staging")
    assert version.source == f"models:/{search.outputs.model_outputs[0].model_id}"
    assert search.info.run_id in version.description
    assert version.tags == {"status": "candidate", "test_accuracy": "0.9649"}
    assert f"models:/{NAME}@staging is version {version.version}\n" in output
    assert "predicts 110 of 114" in output


def test_registering_again_makes_no_second_version(store):
    store.run("hypertune2")
    store.run("register_model")
    result = run_script("register_model", store.folder, **store.env)
    assert result.returncode == 0, result.stderr
    assert len(store.client.search_model_versions(f"name = '{NAME}'")) == 1


def test_without_a_search_it_says_which_script_to_run(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    result = run_script("register_model", tmp_path, MLFLOW_TRACKING_URI=uri)
    assert result.returncode == 1
    assert result.stderr == (
        "No finished search is in this store: run python src/hypertune2.py first\n"
    )


@pytest.mark.parametrize("alias", ["latest", "v1"])
def test_reserved_names_are_no_aliases(store, alias):
    store.run("hypertune2")
    store.run("register_model")
    with pytest.raises(MlflowException, match="reserved"):
        store.client.set_registered_model_alias(NAME, alias, "1")
