"""Tests of the checks of a user's arrays."""

import os

import numpy as np
import pytest

from job import errors
from job.data import dataset
from job.diagnose import from_data
from job.diagnose.pixels import own_reading
from tests.support.findings import assert_finding

LABELS = np.arange(2000, dtype=np.int32) % 10
IMAGES = np.random.default_rng(0).integers(
    0, 256, (20, 32, 32, 3), dtype=np.uint8
)


@pytest.mark.parametrize(
    "scale", ["raw", "unit", "symmetric", "standardize", "caffe", "twice"]
)
def test_images_are_recognized_on_every_scale(scale):
    given = own_reading(scale)
    pixels, reading = from_data.to_pixels(given.apply(IMAGES))
    assert reading == given
    np.testing.assert_allclose(pixels, IMAGES, atol=1e-2)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(IMAGES[..., :1], id="gray"),
        pytest.param(IMAGES[0], id="one"),
        pytest.param(IMAGES[:0], id="none"),
        pytest.param(np.full((2, 8, 8, 3), np.nan), id="nan"),
        pytest.param(np.full((2, 8, 8, 3), "x"), id="text"),
    ],
)
def test_arrays_without_images_are_refused(images):
    with pytest.raises(ValueError, match="images"):
        from_data.to_pixels(images)


@pytest.mark.parametrize(
    ("labels", "one_hot_loss", "evidence"),
    [
        pytest.param(LABELS + 1, None, "are 1 to 10", id="from_1"),
        pytest.param(LABELS + 0.5, None, "not integers", id="halves"),
        pytest.param(np.eye(10)[LABELS], False, "sparse loss", id="one_hot"),
        pytest.param(LABELS, True, "one-hot labels", id="whole"),
        pytest.param(np.eye(10)[LABELS] / 2, None, "sum to 1", id="half"),
    ],
)
def test_labels_that_the_loss_does_not_take_are_found(
    labels, one_hot_loss, evidence
):
    found = from_data.read_labels(labels, one_hot_loss=one_hot_loss).finding
    assert_finding(found, "labels")
    assert evidence in found.evidence


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(LABELS, id="whole"),
        pytest.param(LABELS[:, None], id="column"),
        pytest.param(np.eye(10)[LABELS], id="one_hot"),
        pytest.param(LABELS.astype(np.float32), id="float"),
    ],
)
def test_usual_labels_pass(labels):
    read = from_data.read_labels(labels)
    assert read.finding is None
    assert read.num_classes == 10
    np.testing.assert_array_equal(read.labels, LABELS)


def test_a_few_images_need_not_show_all_classes():
    few = np.array([3, 8, 8, 0, 6, 6, 1, 6, 3, 1])
    without_0 = np.where(few == 0, 9, few)
    for labels in (few, without_0):
        read = from_data.read_labels(labels, num_outputs=10)
        assert read.finding is None
        assert read.num_classes == 10
        np.testing.assert_array_equal(read.labels, labels)
    # Many images would show all of them.
    many = np.tile(few, 100)
    assert from_data.read_labels(many, num_outputs=10).num_classes == 9
    assert from_data.read_labels(few, num_outputs=1000).num_classes == 9
    shifted = from_data.read_labels(LABELS + 1, num_outputs=10)
    assert_finding(shifted.finding, "labels")


def test_arrays_without_labels_are_refused():
    for labels in (IMAGES, np.array(["cat"]), LABELS[:0]):
        with pytest.raises(ValueError, match="labels"):
            from_data.read_labels(labels)


def test_names_of_classes_become_numbers():
    with pytest.raises(ValueError, match="return_inverse=True"):
        from_data.read_labels(np.array(["cat", "dog"]))


def test_pairs_fit_by_a_linear_classifier():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 10
    images = rng.integers(0, 200, (600, 32, 32, 3)).astype(np.uint8)
    images[..., 0] = 20 * labels[:, None, None]
    good = dataset.Split(images, labels)
    wrong = dataset.Split(images, rng.permutation(labels))

    check = from_data.check_pairs
    assert_finding(check(good, wrong), "shuffled_labels")
    assert_finding(check(wrong, good), "shuffled_labels")
    assert check(good, good) is None
    assert check(wrong, wrong) is None
    few = np.arange(400)
    assert check(good, wrong.take(few)) is None


def test_imbalance_is_found_and_a_random_sample_passes():
    assert_finding(
        from_data.check_balance(LABELS[:200] * 0, num_classes=10), "balance"
    )
    sample = np.random.default_rng(0).integers(0, 10, 200)
    assert from_data.check_balance(sample, num_classes=10) is None


def test_files_of_python_objects_and_damaged_files_are_refused(tmp_path):
    objects, damaged = tmp_path / "objects.npy", tmp_path / "damaged.npy"
    np.save(objects, np.array([{}], dtype=object))
    damaged.write_bytes(b"\x93NUMPY")
    archive = tmp_path / "archive.npy"
    archive.write_bytes(b"PK\x03\x04 and no more")
    fifo, absent = tmp_path / "fifo.npy", tmp_path / "absent.npy"
    os.mkfifo(fifo)  # Opening it would block.
    for path in (objects, damaged, archive, fifo, absent):
        with pytest.raises(errors.DataError, match=r"--images=.*Fix:"):
            from_data.load_array(path, "images")
    with pytest.raises(errors.DataError, match="does not exist"):
        from_data.load_array(absent, "images")
    np.savez(tmp_path / "both.npz", x=LABELS)
    with pytest.raises(errors.DataError, match=r'archive\["x"\]'):
        from_data.load_array(tmp_path / "both.npz", "images")
    np.save(damaged, LABELS)
    assert from_data.load_array(damaged, "labels").shape == (2000,)
