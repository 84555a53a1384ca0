"""Tests of the layers of a model and their outputs."""

import keras
import numpy as np

from configs import smoke
from job import build
from job.diagnose import layers
from tests.support import keras_models


def test_dead_units_are_counted_in_the_jobs_network():
    network = build.create_model(smoke.get_config(), "float32", num_classes=10)
    relus = layers.relu_layers(network)
    assert len(relus) == 13
    images = np.random.default_rng(0).integers(
        0, 256, (8, 32, 32, 3), dtype=np.uint8
    )

    def dead_fractions():
        return dict(
            layers.dead_fractions(
                lambda batch: network(batch, training=True), relus, images
            )
        )

    assert max(dead_fractions().values()) < 0.5
    layer = network.get_layer("block3_conv2_bn")
    layer.beta.assign(np.full(layer.beta.shape, -99.0))
    assert dead_fractions()["block3_conv2_relu"] == 1.0


def test_layers_of_nested_models_are_found():
    model = keras_models.inner_base(trainable=False)
    found = layers.flat_layers(model)
    assert [type(layer) for layer in found] == [
        keras.layers.Rescaling,
        keras.layers.Conv2D,
        keras.layers.MaxPooling2D,
        keras.layers.Flatten,
        keras.layers.Dense,
    ]
    assert layers.has_frozen_base(model)


def test_recording_does_not_change_layers():
    model = keras_models.plain()
    images = np.zeros((1, 32, 32, 3), np.float32)
    convolution = model.layers[1]
    with layers.outputs_of([convolution]) as outputs:
        model(images)
        assert outputs[convolution].shape == (1, 8, 8, 4)
        outputs.clear()
    model(images)
    assert not outputs


def test_layers_with_the_same_name_are_counted_apart():
    def inner(bias):
        inputs = keras.Input((4,))
        x = keras.layers.Dense(2, "relu", bias_initializer=bias, name="same")(
            inputs
        )
        return keras.Model(inputs, keras.layers.Concatenate()([x, x]))

    inputs = keras.Input((4,))
    dead, alive = (keras.initializers.Constant(v) for v in (-9.0, 9.0))
    model = keras.Model(inputs, inner(alive)(inner(dead)(inputs)))
    images = np.zeros((1, 4), np.float32)
    found = layers.dead_fractions(model, layers.relu_layers(model), images)
    assert sorted(found) == [("same", 0.0), ("same", 1.0)]


def test_multiplications_are_those_of_convolutions_and_dense_layers():
    # The sum is 8 x 8 pixels times 3 x 3 x 3 x 4 weights, plus 256 x 10.
    assert layers.multiply_adds(keras_models.plain()) == 64 * 108 + 2560
