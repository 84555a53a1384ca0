"""Tests of the batches for the probes of a network."""

import numpy as np
import pytest

from job.data import dataset
from job.diagnose import from_network


@pytest.mark.parametrize(
    ("labels", "count", "wanted"),
    [
        pytest.param([0] * 50 + [1] * 50, 4, [2, 2], id="sorted"),
        pytest.param([0] * 3 + [1], 4, [3, 1], id="imbalanced"),
        pytest.param([0, 1], 6, [3, 3], id="repeated"),
    ],
)
def test_batch_has_as_many_images_of_each_class(labels, count, wanted):
    labels = np.array(labels, np.int32)
    images = np.zeros((len(labels), 32, 32, 3), np.uint8)
    batch = from_network.balanced_batch(dataset.Split(images, labels), count)
    assert len(batch) == count
    assert np.bincount(batch.labels).tolist() == wanted
