"""What the benchmarks share: medians with their spread, tables of Markdown, and pictures."""

import logging
import os
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def quiet():
    """Nothing of MLflow's on the terminal, here and in the processes that this one starts."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for name in "mlflow", "alembic":
        logging.getLogger(name).setLevel(logging.WARNING)


def spread(values, digits=2, unit=""):
    """Median and range of VALUES as text: 1.52 [1.50, 1.57]."""
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} [{least:.{digits}f}, {most:.{digits}f}]{unit}"


def ratios(values, base):
    """Of each round, what was measured to what the BASE was in the same round."""
    return [one / other for one, other in zip(values, base, strict=True)]


def table(heads, rows):
    """A table of Markdown."""
    first, *others = ["| " + " | ".join(map(str, line)) + " |" for line in [heads, *rows]]
    return "\n".join([first, "|---" * len(heads) + "|", *others])


def save(figure, name):
    """Write FIGURE to docs/images/NAME.png, small."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png", dpi=100, pil_kwargs={"optimize": True})
    plt.close(figure)
