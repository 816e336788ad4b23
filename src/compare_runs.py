"""Compare the runs of a search: a table, a heatmap, parallel coordinates, and a CSV file.

What you learn: mlflow.search_runs gives runs as a DataFrame, filtered and sorted by the store;
params come back as text; a finished run can be given files without being opened again.

    python src/compare_runs.py          (after src/hypertune2.py)

In the UI: Model training > Experiments > hypertune2 > the newest "grid search" > Artifacts >
compare.
"""

# %% Settings
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import seaborn as sns

from tracking import connect

SEARCH = "attributes.status = 'FINISHED' AND tags.search = 'breast-cancer-forest'"
PARAMS = ["max_depth", "n_estimators"]
SCORE = "mean_test_score"
LINES = 400  # of more children, the best so many

connect()
client = mlflow.MlflowClient()

# %% All finished searches, newest first, in whichever experiment they are
searches = mlflow.search_runs(
    search_all_experiments=True, filter_string=SEARCH, order_by=["attributes.start_time DESC"]
)
if searches.empty:
    raise SystemExit("No finished search is in this store: run python src/hypertune2.py first")
parent = client.get_run(searches["run_id"][0]).info

# %% The newest one's children, best first; a condition on a metric leaves out runs without it
child = f"tags.mlflow.parentRunId = '{parent.run_id}'"
# This fetches page after page, 10,000 runs each, up to max_results, which is 100,000 by itself.
children = mlflow.search_runs(
    [parent.experiment_id],
    f"{child} AND attributes.status = 'FINISHED' AND metrics.{SCORE} >= 0",
    order_by=[f"metrics.{SCORE} DESC"],
)
if children.empty:
    raise SystemExit(f"No child of the search {parent.run_id} has a {SCORE} of 0 or more")

# %% Those that didn't finish, only counted; the client gives one page, of 1,000, without a word
query = [parent.experiment_id], f"{child} AND attributes.status != 'FINISHED'"
page = client.search_runs(*query)
unfinished = len(page)
while page.token:
    page = client.search_runs(*query, page_token=page.token)
    unfinished += len(page)

# %% As numbers: every param comes as text, where "16" > "128", and None as "None": no limit here
table = children.reindex(columns=[f"params.{name}" for name in PARAMS]).replace("None", "inf")
table = table.apply(pd.to_numeric, errors="coerce").set_axis(PARAMS, axis="columns")
table = table.assign(**{SCORE: children[f"metrics.{SCORE}"]}).dropna()
if table.empty:
    raise SystemExit(f"No child of the search {parent.run_id} has numbers for {PARAMS}")


def label(value):
    return "unlimited" if value == np.inf else f"{value:g}"


print(f"{len(table):,} children to compare, {unfinished:,} didn't finish; the best:")
print(table.head().to_string(index=False, formatters=dict.fromkeys(PARAMS, label)))
effects = {name: np.ptp(table.groupby(name)[SCORE].mean()) for name in PARAMS}
finding = " and ".join(f"{name} moves it by {effects[name]:.4f}" for name in PARAMS)
print(f"{SCORE}, averaged over the other param: {finding}")

# %% A heatmap: a cell is the mean of its children
grid = table.pivot_table(SCORE, *PARAMS).rename(index=label, columns=label)
heatmap, axes = plt.subplots(figsize=(8, 5), layout="constrained")
sns.heatmap(grid, annot=grid.size <= 50, fmt=".4f", cmap="cividis", ax=axes)
best = ", ".join(f"{name} {label(table[name].iloc[0])}" for name in PARAMS)
axes.tick_params(axis="y", rotation=0)
axes.set_title(f"Best of {len(table):,}: {best} ({table[SCORE].max():.4f})")

# %% Parallel coordinates: each child a line from its params to its score
heights = (table.rank(method="dense") - 1).assign(**{SCORE: table[SCORE] - table[SCORE].min()})
heights /= heights.max().replace(0, 1)
parallel, axes = plt.subplots(figsize=(8, 5), layout="constrained")
for line in heights.head(LINES).to_numpy()[::-1]:
    axes.plot(line, color=plt.cm.cividis(line[-1]))
box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
for x, name in enumerate(table):
    values = sorted(table[name].unique())
    values = values[:: len(values) // 12 + 1] if name in PARAMS else [values[0], values[-1]]
    for value in values:
        y = heights[name][table[name] == value].iloc[0]
        axes.text(x, y, label(round(value, 4)), ha="center", va="center", bbox=box)
axes.set(xticks=range(len(PARAMS) + 1), xticklabels=table, yticks=[], title=f"{SCORE}: {finding}")
sns.despine(ax=axes, left=True, bottom=True)

# %% Beside the search's own files. start_run(run_id=...) would set it RUNNING, then a new end time
client.log_figure(parent.run_id, heatmap, "compare/heatmap.png")
client.log_figure(parent.run_id, parallel, "compare/parallel.png")
order = sorted(children, key=lambda name: (not name.startswith(("metrics.", "params.")), name))
csv = children[order].to_csv(index=False, lineterminator="\n")
client.log_text(parent.run_id, csv, "compare/children.csv")

# %% The best run of every search, as hypertune2 wrote it on the parents
best = [*sorted(searches.filter(like="params.best_")), "metrics.best_cv_score"]
columns = ["start_time", *best, "metrics.test_accuracy"]
print(f"Searches in this store: {len(searches)}")
print(searches.reindex(columns=columns).to_string(index=False))
print(f'Run "{searches["tags.mlflow.runName"][0]}", ID {parent.run_id}')
print("Next: python src/register_model.py")
