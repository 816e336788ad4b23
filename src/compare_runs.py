"""Compare the runs of a search: a table, a heatmap, parallel coordinates, and a CSV file.

What you learn: mlflow.search_runs gives runs as a DataFrame, filtered and sorted by the store;
params come back as text; a finished run can be given files without being opened again.

    python src/compare_runs.py          (after src/hypertune2.py)
"""

# %% Settings
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import seaborn as sns

from tracking import connect

SEARCH = "attributes.status = 'FINISHED' AND tags.search = 'breast-cancer-forest'"
SCORE = "mean_test_score"
LINES = 400  # of more children, the best so many

connected = connect()
client = mlflow.MlflowClient()

# %% All finished searches, newest first, in whichever experiment they are
searches = mlflow.search_runs(
    search_all_experiments=True, filter_string=SEARCH, order_by=["attributes.start_time DESC"]
)
if searches.empty:
    raise SystemExit("No finished search is in this store: run python src/hypertune2.py first")
parent = client.get_run(searches["run_id"][0]).info

# %% The newest one's children, best first; a condition on a metric leaves out runs without it
child = f"tags.mlflow.parentRunId = '{parent.run_id}' AND attributes.status"
scored = f"{child} = 'FINISHED' AND metrics.{SCORE} >= 0"
children = mlflow.search_runs([parent.experiment_id], scored, order_by=[f"metrics.{SCORE} DESC"])
if children.empty:
    raise SystemExit(f"No child of the search {parent.run_id} has a {SCORE} of 0 or more")
unfinished = len(mlflow.search_runs([parent.experiment_id], f"{child} != 'FINISHED'"))

# %% The params that vary. Each comes as text, where "16" > "128": numbers by size, then words
table = children.filter(regex=r"^params\.").fillna("not set").rename(columns=lambda key: key[7:])
varying = [name for name in sorted(table) if table[name].nunique() > 1]
names, values = varying or sorted(table), {}
for name in names:
    found = table[name].sort_values().drop_duplicates()
    sizes = pd.to_numeric(found, errors="coerce").fillna(np.inf)
    values[name] = list(found[sizes.sort_values(kind="stable").index])
table = table[names].assign(**{SCORE: children[f"metrics.{SCORE}"]})
print(f"{len(table):,} children to compare, {unfinished:,} didn't finish; the best:")
print(table.head().to_string(index=False))
effects = {name: np.ptp(table.groupby(name)[SCORE].mean()) for name in names}
finding = " and ".join(f"{name} moves it by {effects[name]:.4f}" for name in names) or "none"
print(f"{SCORE}, averaged over the other params: {finding}")

# %% A heatmap of the two that move the score most: a cell is the mean of its children
if len(varying) > 1:
    rows, columns = sorted(sorted(varying, key=effects.get)[-2:])
    grid = table.pivot_table(SCORE, rows, columns).reindex(values[rows])[values[columns]]
    heatmap, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    label = {"label": f"{SCORE}, averaged over the other params"}
    sns.heatmap(grid, annot=grid.size <= 50, fmt=".4f", cmap="cividis", cbar_kws=label, ax=axes)
    axes.tick_params(axis="y", rotation=0)
    best = ", ".join(f"{name} {table[name][0]}" for name in (rows, columns))
    axes.set_title(f"Best of {len(table):,}: {best} ({table[SCORE][0]:.4f})")
    # To a run that has ended. start_run(run_id=...) would set it RUNNING, then a new end time.
    client.log_figure(parent.run_id, heatmap, "compare/heatmap.png")

# %% Parallel coordinates: each child a line from its params to its score
heights = pd.DataFrame({name: table[name].map(values[name].index) for name in names})
heights[SCORE] = table[SCORE] - table[SCORE].min()
heights /= heights.max().replace(0, 1)
parallel, axes = plt.subplots(figsize=(8, 5), layout="constrained")
for line in heights.head(LINES).to_numpy()[::-1]:
    axes.plot(line, color=plt.cm.cividis(line[-1]))
style = {"ha": "center", "va": "center", "bbox": {"fc": "white", "ec": "none", "alpha": 0.8}}
for x, name in enumerate(table):
    ticks = values[name] if name in names else [table[name].min(), table[name].max()]
    for value in ticks[:: len(ticks) // 12 + 1]:
        y = heights[name][table[name] == value].iloc[0]
        axes.text(x, y, value if name in names else f"{value:.4f}", **style)
axes.set(xticks=range(len(table.columns)), xticklabels=table, yticks=[])
axes.set_title(f"{SCORE}: {finding}", wrap=True)
sns.despine(ax=axes, left=True, bottom=True)
client.log_figure(parent.run_id, parallel, "compare/parallel.png")

# %% A table of all children as a file
order = sorted(children, key=lambda name: (not name.startswith(("metrics.", "params.")), name))
csv = children[order].to_csv(index=False, lineterminator="\n")
client.log_text(parent.run_id, csv, "compare/children.csv")

# %% The best run of every search, as hypertune2 wrote it on the parents
best = sorted(searches.filter(like="params.best_"))
searches[best] = searches[best].fillna("not set")
columns = ["start_time", *best, "metrics.best_cv_score", "metrics.test_accuracy"]
print(f"Finished searches in this store: {len(searches)}")
print(searches.reindex(columns=columns).to_string(index=False))
print(f'Run "{searches["tags.mlflow.runName"][0]}", ID {parent.run_id}')
print(f"{connected}/#/experiments/{parent.experiment_id}/runs/{parent.run_id}")
print("Next: python src/training_loop.py")
