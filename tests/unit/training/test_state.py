"""Tests of the names, values and restores of variables."""

import numpy as np
import pytest
import tensorflow as tf

from job.model import vgg
from job.training.state import TrainState, load_evaluated


def create_state(**options):
    network = vgg.vgg16(width=0.125)
    return TrainState(
        network, **{"averaging": True, "loss_scaling": True, **options}
    )


def test_restoring_other_tensors_names_them_and_sets_nothing():
    state = create_state()
    tensors = state.snapshot()
    changed = {k: v + 1 for k, v in tensors.items()}
    name = "model/logits/bias"
    for broken, said in (
        ({k: v for k, v in changed.items() if k != name}, "bias is missing"),
        ({**changed, "model/extra": changed[name]}, "model/extra is unknown"),
        ({**changed, name: changed[name][:5]}, r"bias is float32 \[5\], not"),
        ({**changed, name: changed[name].astype("f8")}, "bias is float64"),
    ):
        with pytest.raises(ValueError, match=said):
            state.restore(broken)
    np.testing.assert_array_equal(state.snapshot()[name], tensors[name])
    state.restore(changed)
    np.testing.assert_array_equal(state.snapshot()[name], changed[name])


def test_every_variable_is_named_once():
    state = create_state(adam=True)
    named = state.variables()
    assert len({id(v) for v in named.values()}) == len(named)
    count = len(state.model.trainable_variables)
    moving = len(state.model.non_trainable_variables)
    # Weights, two moments, averages, window, loss scale and three counters.
    assert len(named) == (count + moving) + 2 * count + (count + moving) + 8


def test_a_replica_has_every_variable_but_the_step():
    state = create_state(adam=True)
    copies = tf.nest.flatten(state.replica_variables())
    found = {id(variable) for variable in copies}
    wanted = {id(v) for k, v in state.variables().items() if k != "step"}
    assert found == wanted


def test_an_evaluation_uses_the_averages_if_there_are_any():
    state = create_state()
    tensors = state.snapshot()
    name = "logits/bias"
    tensors[f"ema/{name}"] += 1
    network = vgg.vgg16(width=0.125, seed=1)
    load_evaluated(network, tensors)
    bias = network.get_layer("logits").bias.numpy()
    np.testing.assert_array_equal(bias, tensors[f"ema/{name}"])
    del tensors[f"ema/{name}"]
    load_evaluated(network, tensors)
    bias = network.get_layer("logits").bias.numpy()
    np.testing.assert_array_equal(bias, tensors[f"model/{name}"])
    del tensors[f"model/{name}"]
    with pytest.raises(KeyError, match="model/logits/bias"):
        load_evaluated(network, tensors)


def test_first_weights_reach_the_averages_too():
    state = create_state()
    name = "block1_conv1/kernel"
    kernel = np.ones((3, 3, 3, 8), np.float32)
    state.load_weights({name: kernel})
    for group in ("model", "ema"):
        saved = state.snapshot()[f"{group}/{name}"]
        np.testing.assert_array_equal(saved, kernel)
    with pytest.raises(ValueError, match="block9/kernel is unknown"):
        state.load_weights({"block9/kernel": kernel})
    with pytest.raises(ValueError, match=r"kernel is \[3, 3, 3, 4\], not"):
        state.load_weights({name: kernel[..., :4]})
