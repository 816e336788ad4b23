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
# In a notebook the words in sys.argv are the kernel's: write yours in the place of "promote".
words = [] if "kernel_launcher" in sys.argv[0] else sys.argv[1:]
action, *number = words or ["promote"]
if (action, len(number)) not in [("promote", 0), ("rollback", 0), ("retire", 1)]:
    raise SystemExit("After the script's name write nothing, rollback, or retire and a version")

connect()
client = mlflow.MlflowClient()


# %% Two steps that promotion and rollback share
def read_aliases():
    """Which version each alias points to, as text; MLflow gives numbers or text, by store."""
    registered = client.search_registered_models(f"name = '{NAME}'")
    return {k: str(v) for each in registered for k, v in each.aliases.items()}


def check(number):
    """Stop unless version NUMBER loads, and `production` is still where it was."""
    try:
        mlflow.pyfunc.load_model(f"models:/{NAME}/{number}")
    except Exception as error:  # each kind of model and of store raises its own
        if "API request" in str(error):
            raise  # the server's fault, not the model's
        reason = f"{error!r:.200}"
        raise SystemExit(f"Version {number} doesn't load, nothing is changed: {reason}") from None
    now = read_aliases().get("production")
    if now != production:
        raise SystemExit(f"Production has just become {now or 'none'}: look at it, and try again")


aliases = read_aliases()
production, staging, previous = map(aliases.get, ["production", "staging", "previous"])

# %% Promote what passed the gate; `previous` remembers the version that it replaces
if action == "promote" and staging and staging == production:
    print(f"Version {staging} is in production already")
elif action == "promote":
    if not staging:
        raise SystemExit("No version is in staging: run python src/register_model.py first")
    tags = client.get_model_version(NAME, staging).tags
    passed = tags.get("status") == "validated" and tags.get("gate_against")
    if passed != (production or "none"):
        raise SystemExit(
            f"Version {staging} hasn't passed the gate against what is in production now, "
            f"{production or 'none'}: run python src/register_model.py"
        )
    check(staging)
    if production:
        client.set_registered_model_alias(NAME, "previous", production)
    client.set_registered_model_alias(NAME, "production", staging)
    print(f"models:/{NAME}@production is version {staging}, it was {production or 'none'}")
    print("Next: python src/score_model.py")

# %% Roll back: first mark what failed, then move the alias, so that a half one can be repeated
if action == "rollback":
    if not previous or previous == production:
        raise SystemExit("The alias previous points to no other version: nothing to go back to")
    check(previous)
    if production:  # else that version was deleted, and its aliases with it
        client.set_model_version_tag(NAME, production, "status", "rolled back")
        if staging == production:
            client.delete_registered_model_alias(NAME, "staging")
    client.set_registered_model_alias(NAME, "production", previous)
    client.delete_registered_model_alias(NAME, "previous")
    print(f"models:/{NAME}@production is version {previous}, it was {production or 'none'}")

# %% Retire: no alias, a tag, and loadable by number for whoever must explain an old prediction
if action == "retire":
    (number,) = number
    if number == production:
        raise SystemExit(f"Version {number} is in production: promote another, or roll back, first")
    found = client.search_model_versions(f"name = '{NAME}'")
    existing = [str(each) for each in sorted(int(version.version) for version in found)]
    if number not in existing:
        raise SystemExit(f"There is no version {number}; there are {', '.join(existing) or 'none'}")
    for alias in [alias for alias, version in aliases.items() if version == number]:
        client.delete_registered_model_alias(NAME, alias)
    client.set_model_version_tag(NAME, number, "status", "retired")
    print(f"Version {number} is retired; models:/{NAME}/{number} still loads")
