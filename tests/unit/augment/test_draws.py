"""The random numbers of a step."""

import numpy as np
import pytest
import tensorflow as tf

from job.augment import draws


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    drawn = draws.Draws(
        0, tf.constant(0, tf.int64), 20000, tf.constant(0), 20000, 50000
    ).beta(7, alpha)
    drawn = drawn.numpy()
    assert np.isfinite(drawn).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.015)
    assert drawn.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.05)
