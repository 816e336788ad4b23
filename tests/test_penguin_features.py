import sys

import numpy as np
import pandas as pd
import pytest
from running import ROOT


@pytest.fixture
def step(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "src")
    from penguin_features import PenguinFeatures

    yield PenguinFeatures()
    sys.modules.pop("penguin_features")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_it_adds_the_ratio_and_makes_every_missing_value_nan(step, missing):
    given = pd.DataFrame(
        {
            "bill_length_mm": [40.0, 40.0, np.nan],
            "bill_depth_mm": [20.0, np.nan, 20.0],
            "sex": pd.Series(["male", missing, missing], dtype=object),
        }
    )
    before = given.copy()
    found = step.fit(given).transform(given)
    assert list(found) == [*given, "bill_ratio"]
    assert found["bill_ratio"].tolist() == pytest.approx([2, np.nan, np.nan], nan_ok=True)
    assert found["sex"][0] == "male"
    assert [type(each) for each in found["sex"][1:]] == [float, float]
    pd.testing.assert_frame_equal(given, before)
