"""The lessons' own tests as guests of a server: what it lets them do, and what they must remove."""

import os
import re
import time

import pytest
from filled import BEFORE
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from running import run_script

ROWS = ["experiments", "runs", "log_batch", "searches", "nested runs", "dataset inputs"]
ROWS += ["files up", "files down", "logged models", "delete", "restore"]
ROWS += ["registry", "versions", "aliases", "tags", "removed again"]
# What a lesson or its test makes, beside an experiment that has the lesson's name.
ALSO = {"custom_model": {"iris-centroid"}, "register_model": {"breast-cancer-forest"}}
ALSO |= {"promote_model": {"small-search"}, "reproduce_run": {"own"}}


def made_by(lessons):
    """The names of the experiments and registered models that these lessons and tests make."""
    own = {lesson.replace("_", "-") for lesson in lessons}
    return own.union(*(ALSO.get(lesson, set()) for lesson in lessons))


def answers(output):
    """The answers that check_server prints: by question, and by lesson."""
    words = "|".join(["version", *ROWS])
    asked = dict(re.findall(rf"^({words}) +(.+)$", output, re.MULTILINE))
    lessons = {}
    for names, answer in re.findall(r"^([\w, ]+): (yes|no, without .*)$", output, re.MULTILINE):
        lessons |= dict.fromkeys(names.split(", "), answer)
    return asked, lessons


class Host:
    """A server that has let check_server in; pytest.UsageError says why if it can't be used."""

    def __init__(self, uri, folder):
        own = re.compile("MLFLOW_(TRACKING|S3)_|AWS_")  # the reader's own login
        self.login = {name: text for name, text in os.environ.items() if own.match(name)}
        result = run_script("check_server", folder, **self.login | {"MLFLOW_TRACKING_URI": uri})
        if result.returncode:
            raise pytest.UsageError(result.stderr.strip().splitlines()[-1])
        self.asked, self.lessons = answers(result.stdout)
        if self.asked["removed again"] != "yes":
            told = f"{uri} would keep what the tests make: {self.asked['removed again']}"
            raise pytest.UsageError(told)
        self.uri, self.client = uri, MlflowClient(uri, registry_uri=uri)
        self.before = {each.name for each in [*self.experiments(), *self.models()]}

    def experiments(self):
        """The lessons' experiments that are there, also deleted ones."""
        named = map(self.client.get_experiment_by_name, made_by(self.lessons))
        return [each for each in named if each]

    def models(self):
        """The lessons' registered models that are there."""
        search = self.client.search_registered_models
        return [each for name in made_by(self.lessons) for each in search(f"name = '{name}'")]

    def refuses(self, lesson):
        """Why the tests of this LESSON can't run there, in the server's words; or None."""
        if self.lessons[lesson] != "yes":
            lacking = self.lessons[lesson].removeprefix("no, without ").split(", ")
            return "; ".join(f"{row}: {self.asked[row]}" for row in lacking)
        taken = sorted(made_by([*BEFORE.get(lesson, []), lesson]) & self.before)
        return f"{' and '.join(taken)} on this server would get other runs" if taken else None

    def clean(self):
        """Remove what is new, with its files. A deleted experiment keeps a name nobody needs."""
        for model in self.models():
            if model.name not in self.before:
                self.client.delete_registered_model(model.name)
        for each in self.experiments():
            if each.name not in self.before:
                new = f"tested-{time.time_ns()}-{each.name}"
                self.client.rename_experiment(each.experiment_id, new)
                self.client.delete_experiment(each.experiment_id)
                get_artifact_repository(each.artifact_location, self.uri).delete_artifacts()
