"""Tests of features, with every image once and in order."""

import numpy as np
import pytest

from job.model import features, vgg
from job.model import resize as resize_lib


class StopError(Exception):
    """Error that ends an extraction."""


def test_extraction_keeps_order_and_the_last_short_batch(split):
    network = vgg.vgg16(width=0.125, batch_norm=False)
    base, _ = vgg.split_base_and_head(network)
    resize = resize_lib.make_resize(32, method="nearest")
    found = features.extract(base, resize, split, batch_size=33)
    assert found.images.shape == (100, 64)
    np.testing.assert_allclose(found.images, base(split.images), atol=1e-5)
    np.testing.assert_array_equal(found.labels, split.labels)

    def stop():
        raise StopError

    with pytest.raises(StopError):
        features.extract(base, resize, split, batch_size=33, poll=stop)
