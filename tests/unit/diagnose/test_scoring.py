"""Tests of the scores of a Keras model's outputs."""

import keras
import numpy as np

from job.diagnose import scoring
from job.diagnose.pixels import Reading
from tests.support import keras_models

LABELS = np.array([0, 1])


def model_of(input_shape):
    """Returns a model of images of this shape."""
    pooling = keras.layers.GlobalAveragePooling2D()
    return keras_models.sequential(pooling, input_shape=input_shape)


def test_top_1_is_a_percentage():
    outputs = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)
    assert scoring.top_1(outputs, LABELS) == 50.0


def test_one_output_is_the_number_of_the_class():
    outputs = np.array([[0.4], [0.6]], np.float32)
    assert scoring.top_1(outputs, LABELS) == 100.0


def test_order_of_the_classes_is_found():
    labels = np.arange(100) % 10
    order = np.random.default_rng(0).permutation(10)
    found = scoring.best_order(np.argsort(order)[labels], labels, 10)
    assert found.tolist() == order.tolist()


def test_images_are_resized_to_the_input_of_the_model():
    model = model_of((64, 64, 3))
    images = np.full((2, 32, 32, 3), 255, np.uint8)
    prepared = scoring.prepare(model, images, Reading("unit"))
    assert prepared.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(prepared, 1.0, rtol=1e-6)


def test_model_of_any_size_takes_unchanged_images():
    model = model_of((None, None, 3))
    assert scoring.input_size(model) == (32, 32)
