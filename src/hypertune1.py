"""Search the best forest for the breast-cancer data, without tracking.

What you learn: what a grid search forgets when nobody writes it down.

    python src/hypertune1.py
"""

# %% Settings
import sys

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, train_test_split

SEED = 42
MODEL = RandomForestClassifier(random_state=SEED)
GRID = {"n_estimators": [16, 32, 64, 128], "max_depth": [2, 4, 8, None]}

# %% Data: 569 tumours, 30 measurements each; 80% to search on, 20% held back
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=SEED)

# %% Search: 16 candidates x 5 folds = 80 fits, and one more of the best on all training rows
search = GridSearchCV(MODEL, GRID, cv=5)
if sys.stdout.isatty():
    from sklearn.callback import ProgressBar

    search.set_callbacks(ProgressBar(max_propagation_depth=0))
search.fit(X_train, y_train)

# %% Result: all that is left when the terminal closes
print(f"best parameters: {search.best_params_}")
print(f"cross-validation accuracy: {search.best_score_:.4f}")
print(f"test accuracy: {search.score(X_test, y_test):.4f}")
print("Next: python src/hypertune2.py")
