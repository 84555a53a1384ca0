"""Tests of the predictions of a run and their file."""

import numpy as np
import pytest

from job.data import dataset
from job.output import predictions
from job.storage.workdir import PREDICTIONS
from tests.support.finished_run import make_predictions


def test_figures_equal_their_definitions():
    found, split = make_predictions()
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-6)
    assert found.accuracy == 0.75
    table = found.confusion()
    wrong = np.arange(0, 200, 4)
    expected = np.zeros((10, 10), int)
    for row in range(200):
        label = split.labels[row]
        expected[label, (label + (row % 4 == 0)) % 10] += 1
    np.testing.assert_array_equal(table, expected)
    # All are in one bin at 0.9, in which 0.75 are correct.
    (used,) = [b for b in found.calibration() if b.count]
    assert (used.count, used.accuracy) == (200, 0.75)
    assert used.low < 0.9 <= used.high
    assert found.calibration_error() == pytest.approx(0.15, abs=1e-6)
    np.testing.assert_array_equal(found.mistakes, wrong[:25])
    np.testing.assert_array_equal(found.pictures, split.images[wrong[:25]])


def test_the_worst_mistakes_come_first():
    labels = np.zeros(4, np.int32)
    logits = np.zeros((4, 10), np.float32)
    logits[[0, 1, 2, 3], [1, 0, 2, 3]] = [1.0, 9.0, 3.0, 2.0]
    split = dataset.Split(np.zeros((4, 32, 32, 3), np.uint8), labels)
    found = predictions.predict(logits, split, dataset.CLASS_NAMES)
    assert found.mistakes.tolist() == [2, 3, 0]
    with pytest.raises(ValueError, match="4 predictions do not match 3"):
        predictions.predict(logits, split.take(np.arange(3)), ())


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_every_image_is_in_one_bin(bins):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(500, 10), scale=3)
    logits[0] = [100, *[0] * 9]  # The highest confidence is 1.
    logits[1] = 0  # The confidence is 0.1, the bound of a bin.
    images = np.zeros((500, 32, 32, 3), np.uint8)
    split = dataset.Split(images, np.zeros(500, np.int32))
    found = predictions.predict(logits, split, dataset.CLASS_NAMES)
    assert sum(b.count for b in found.calibration(bins)) == 500


def test_predictions_are_read_back_or_none_if_damaged(tmp_path):
    path = tmp_path / PREDICTIONS
    assert predictions.load(path) is None
    found, _ = make_predictions()
    found.save(path)
    again = predictions.load(path)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    np.testing.assert_array_equal(again.pictures, found.pictures)
    assert again.class_names == found.class_names
    content = path.read_bytes()
    for damaged in (content[:-100], content[:50], b"", b"x"):
        path.write_bytes(damaged)
        assert predictions.load(path) is None
    np.savez(path, probabilities=found.probabilities, labels=found.labels)
    assert predictions.load(path) is None
