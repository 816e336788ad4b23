import re

import numpy as np
import pytest
import requests
from mlflow.models import convert_input_example_to_serving_input
from registry import NAME
from services import Service, free_port
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

DATA = load_breast_cancer(as_frame=True)
_, TEST = train_test_split(DATA.frame.astype(float), test_size=0.2, random_state=42)
ROWS = TEST.drop(columns="target")


def test_it_predicts_with_the_version_in_production(staged):
    staged.add_others()
    predicted = staged.load(1).predict(ROWS)
    printed = staged.done("score_model")
    assert f"Version 1 of {NAME} is right on {sum(predicted == TEST['target'])} of 114\n" in printed
    assert "The gate chose it by these rows: expect less on others. " in printed
    (table,) = re.findall(r"^ +actual +predicted\n((?: *\d+ .*\n)+)", printed, re.MULTILINE)
    names = DATA.target_names
    wrong = TEST.assign(predicted=predicted.astype(int))[predicted != TEST["target"]]
    assert len(wrong) == 4
    assert [tuple(line.split()) for line in table.splitlines()] == [
        (str(row), names[DATA.target[row]], names[given])
        for row, given in wrong["predicted"].items()
    ]
    assert printed.count("Refused: ") == 2
    assert "Refused: Model is missing inputs ['mean radius'].\n" in printed
    # pandas 2 and 3 say it in other words.
    said = r"^Refused: (Incompatible input types for|Failed to convert) column mean radius"
    assert re.search(said, printed, re.MULTILINE)


NOTHING_THERE = (
    "No version is in production: run python src/promote_model.py, "
    "or with rollback after it if there was one before\n"
)


@pytest.mark.ci
def test_without_a_version_in_production_it_says_what_to_do(staged):
    staged.client.delete_registered_model_alias(NAME, "production")
    assert staged.refused("score_model") == NOTHING_THERE


def test_in_an_empty_registry_too(empty_registry):
    assert empty_registry.refused("score_model") == NOTHING_THERE


@pytest.mark.ci
def test_a_model_in_production_that_fails_to_load_can_be_rolled_back(promoted):
    assert "doesn't load" not in promoted.server_fails("score_model")
    promoted.lose_files(2)
    error = promoted.refused("score_model")
    assert error.startswith("Version 2, in production, doesn't load: MlflowException(")
    assert error.endswith("at fault, go back by python src/promote_model.py rollback\n")
    promoted.done("promote_model", "rollback")
    assert "Version 1 of" in promoted.done("score_model")


@pytest.mark.ci
def test_http_answers_are_the_predictions_and_only_a_start_follows_the_alias(promoted):
    """`mlflow models serve` as its page starts it."""
    rows = DATA.data  # on the test rows alone both say the same
    old, new = promoted.load(1).predict(rows), promoted.load(2).predict(rows)
    assert not np.array_equal(old, new)
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", f"models:/{NAME}@production"]
    command += ["--env-manager", "local", "--port", str(port)]
    service = Service(
        command, promoted.folder, port, path="/ping", MLFLOW_TRACKING_URI=promoted.uri
    )

    def ask(rows):
        return requests.post(
            f"{service.uri}/invocations",
            data=convert_input_example_to_serving_input(rows),
            headers={"Content-Type": "application/json"},
            timeout=60,
        )

    def predictions():
        answer = ask(rows)
        assert answer.status_code == 200
        return np.array(answer.json()["predictions"]).tobytes()

    try:
        # Version 1 was in production before: a start follows the alias.
        assert predictions() == new.tobytes()

        wrong = ask(rows.drop(columns="mean radius"))
        assert wrong.status_code == 400
        assert "Model is missing inputs ['mean radius']" in wrong.json()["message"]

        promoted.done("promote_model", "rollback")
        assert predictions() == new.tobytes()
    finally:
        service.stop()
