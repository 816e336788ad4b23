"""Move the alias `production`: to the version in staging, back again, or retire a version.

What you learn: promotion and rollback are one moved alias; programs that load
`models:/breast-cancer-forest@production` follow at their next start.

    python src/promote_model.py             staging becomes production
    python src/promote_model.py rollback    the version before becomes production again
    python src/promote_model.py retire 1    version 1 loses its aliases, and stays loadable

In the UI: Model training > Model registry > breast-cancer-forest: the alias on another version.
"""

# %% Settings
import sys

import mlflow

from tracking import connect

NAME = "breast-cancer-forest"

action, *number = sys.argv[1:] or ["promote"]  # in a notebook, write the right side yourself
if (action, len(number)) not in [("promote", 0), ("rollback", 0), ("retire", 1)]:
    raise SystemExit("After the script's name write nothing, rollback, or retire and a version")

connect()
client = mlflow.MlflowClient()


# %% Two steps that promotion and rollback share
def read_aliases():
    """Which version each alias points to, as text; MLflow gives numbers or text, by store."""
    registered = client.search_registered_models(f"name = '{NAME}'")
    return {k: str(v) for each in registered for k, v in each.aliases.items()}


def take_over(number):
    """Let `production` point to version NUMBER if it loads, and if nobody else was quicker."""
    try:
        mlflow.pyfunc.load_model(f"models:/{NAME}/{number}")
    except Exception as error:  # each kind of model and of store raises its own
        raise SystemExit(f"Version {number} doesn't load, nothing is changed: {error}") from None
    now = read_aliases().get("production")
    if now != production:
        raise SystemExit(f"Production has just become {now or 'none'}: look at it, and try again")
    if action == "promote" and production:
        client.set_registered_model_alias(NAME, "previous", production)
    client.set_registered_model_alias(NAME, "production", number)
    print(f"models:/{NAME}@production is version {number}, it was {production or 'none'}")


aliases = read_aliases()
production, staging, previous = map(aliases.get, ["production", "staging", "previous"])

# %% Promote what passed the gate; `previous` remembers the version that it replaces
if action == "promote":
    if not staging:
        raise SystemExit("No version is in staging: run python src/register_model.py first")
    if staging == production:
        print(f"Version {staging} is in production already")
        sys.exit()
    tags = client.get_model_version(NAME, staging).tags
    if tags.get("gate_against") != (production or "none"):
        raise SystemExit(
            f"Version {staging} hasn't passed the gate against what is in production now, "
            f"{production or 'none'}: run python src/register_model.py"
        )
    take_over(staging)
    print("Next: python src/score_model.py")

# %% Roll back; also where the version in production was deleted, and its alias with it
if action == "rollback":
    if not previous or previous == production:
        raise SystemExit("No version was replaced: there is nothing to go back to")
    take_over(previous)
    client.delete_registered_model_alias(NAME, "previous")
    if production:
        client.set_model_version_tag(NAME, production, "status", "rolled back")
        if staging == production:
            client.delete_registered_model_alias(NAME, "staging")

# %% Retire: no alias, a tag, and loadable by number for whoever must explain an old prediction
if action == "retire":
    (number,) = number
    if number == production:
        raise SystemExit(f"Version {number} is in production: promote another, or roll back, first")
    found = client.search_model_versions(f"name = '{NAME}'")
    existing = sorted(str(version.version) for version in found)
    if number not in existing:
        there = ", ".join(existing) or "none"
        raise SystemExit(f"There is no version {number}; there are {there}")
    for alias in [alias for alias, version in aliases.items() if version == number]:
        client.delete_registered_model_alias(NAME, alias)
    client.set_model_version_tag(NAME, number, "status", "retired")
    print(f"Version {number} is retired; models:/{NAME}/{number} still loads")
