"""The job that all trackers log: hypertune1's search, which importing it runs.

CANDIDATES are the params and metrics of each, best last, as hypertune2 logs them; BEST those of the
search.
"""

from hypertune1 import search

results = search.cv_results_
SCORES = ["mean_test_score", "std_test_score", "rank_test_score", "mean_fit_time"]
SCORES += [f"split{fold}_test_score" for fold in range(search.n_splits_)]
CANDIDATES = [
    (results["params"][number], {score: float(results[score][number]) for score in SCORES})
    for number in results["rank_test_score"].argsort(kind="stable")[::-1]
]
BEST = search.best_params_, {"best_cv_score": float(search.best_score_)}
