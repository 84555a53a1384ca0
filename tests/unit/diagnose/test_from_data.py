"""Checks of images and labels: each finds its mistake, and only that."""

import numpy as np
import pytest
import tensorflow as tf

from job.augment import create_operations, make_augment
from job.data import dataset, pipeline
from job.diagnose import from_data
from tests.support.findings import assert_finding

LABELS = np.arange(2000, dtype=np.int32) % 10


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(LABELS + 1, id="from_1_to_10"),
        pytest.param(LABELS[LABELS > 0], id="from_1_to_9"),
        pytest.param(LABELS[:, None], id="column"),
        pytest.param(LABELS.astype(np.float32), id="float"),
    ],
)
def test_labels_that_the_loss_does_not_take_are_found(labels):
    assert_finding(from_data.check_labels(labels, num_classes=10), "labels")


def test_label_of_an_absent_class_is_found():
    labels = LABELS[LABELS < 4]
    found = from_data.check_labels(labels, num_classes=3)
    assert_finding(found, "labels")
    assert "0 to 3, not 0 to 2" in found.evidence


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_labels_from_0_to_9_pass(dtype):
    assert from_data.check_labels(LABELS.astype(dtype), num_classes=10) is None


def test_imbalance_is_found_and_a_random_sample_passes():
    assert_finding(
        from_data.check_balance(LABELS[:200] * 0, num_classes=10), "balance"
    )
    sample = np.random.default_rng(0).integers(0, 10, 200)
    assert from_data.check_balance(sample, num_classes=10) is None


def test_copies_are_found_within_train_and_between_the_splits():
    train = dataset.Split(images(200), LABELS[:200])
    test = dataset.Split(images(100, seed=1), LABELS[:100])
    assert from_data.check_copies(train, test) is None
    copied = np.concatenate([train.images[:190], train.images[:10]])
    found = from_data.check_copies(dataset.Split(copied, train.labels), test)
    assert_finding(found, "copies")
    assert "10 of 200 training images" in found.evidence
    leaked = np.concatenate([train.images[:5], test.images[5:]])
    found = from_data.check_copies(train, dataset.Split(leaked, test.labels))
    assert_finding(found, "copies")
    assert "5 of 100 test images" in found.evidence
    assert found.cost.points == 5.0


def test_one_image_with_two_labels_is_found():
    test = dataset.Split(images(100, seed=1), LABELS[:100])
    train = dataset.Split(images(200), LABELS[:200])
    train.images[1] = train.images[0]
    found = from_data.check_copies(train, test)
    assert_finding(found, "copies")
    assert "another label's" in found.evidence


def batches_of(labels):
    return [labels[i : i + 32] for i in range(0, 320, 32)]


def test_sorted_images_are_found_and_shuffled_ones_pass():
    found = from_data.check_shuffling(
        batches_of(np.sort(LABELS)), all_labels=LABELS, num_classes=10
    )
    assert_finding(found, "shuffling")
    shuffled = np.random.default_rng(0).permutation(LABELS)
    assert not from_data.check_shuffling(
        batches_of(shuffled), all_labels=LABELS, num_classes=10
    )


def test_order_of_the_pipeline_passes_on_sorted_images():
    labels = np.sort(LABELS[:320])
    batches = pipeline.train_batches(
        dataset.Split(images(320), labels),
        seed=0,
        global_batch_size=32,
        first_step=0,
    )
    order = [batch.label.numpy() for batch in batches.take(10)]
    assert not from_data.check_shuffling(
        order, all_labels=labels, num_classes=10
    )


def test_wrong_preprocessing_is_found_for_pretrained_weights():
    def check(name, pretrained=True):
        return from_data.check_preprocessing(
            images(10), preprocessing=name, pretrained=pretrained
        )

    assert_finding(check("unit"), "preprocessing")
    assert check("caffe") is None
    assert check("unit", pretrained=False) is None


def test_augmentation_that_ignores_the_replica_is_found():
    augment = make_augment(
        create_operations({"translate": 4.0}),
        seed=0,
        num_images=64,
        global_batch_size=64,
        num_replicas=2,
    )

    def same_on_all(batch, step, replica):
        return augment(batch, step, tf.constant(0))

    def check(function, by_image_only=False):
        return from_data.check_replica_augmentation(
            function, images(32), by_image_only=by_image_only
        )

    assert_finding(check(same_on_all), "replica_augmentation")
    assert check(augment) is None
    assert check(same_on_all, by_image_only=True) is None
