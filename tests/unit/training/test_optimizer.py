"""Tests of learning rates and updates against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from job.training import optimizer


def rates(schedule, train_steps=100, warmup_steps=20):
    learning_rate = optimizer.create_learning_rate_fn(
        peak=0.4,
        schedule=schedule,
        train_steps=train_steps,
        warmup_steps=warmup_steps,
    )
    steps = range(train_steps + 1)
    return np.array([learning_rate(tf.constant(s, tf.int64)) for s in steps])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_reach_the_peak_and_the_final_learning_rate(schedule):
    got = rates(schedule)
    np.testing.assert_allclose(got[:20], 0.4 * np.arange(1, 21) / 20, rtol=1e-5)
    assert got.max() == pytest.approx(0.4)
    left = np.linspace(1, 0, 81)
    wanted = {
        "linear": left,
        "cosine": 0.5 - 0.5 * np.cos(np.pi * left),
        "constant": np.ones(81),
    }[schedule]
    np.testing.assert_allclose(got[20:], 0.4 * wanted, atol=1e-6)


def test_no_warmup_starts_at_the_peak():
    assert rates("linear", warmup_steps=0)[0] == pytest.approx(0.4)


def test_learning_rate_only_increases_in_a_warmup_longer_than_the_run():
    got = rates("cosine", train_steps=10, warmup_steps=50)
    assert (np.diff(got[:10]) > 0).all()


def test_sgd_is_nesterov_with_coupled_decay():
    rng = np.random.default_rng(0)
    w, buffer = rng.normal(size=(2, 3, 4)).astype(np.float32)
    weight, momentum_buffer = tf.Variable(w), tf.Variable(buffer)
    for _ in range(3):
        g = rng.normal(size=(3, 4)).astype(np.float32)
        optimizer.sgd_update(
            weight,
            momentum_buffer,
            tf.constant(g),
            learning_rate=tf.constant(0.1),
            momentum=0.9,
            weight_decay=0.01,
        )
        # torch.optim.SGD(lr=.1, momentum=.9, weight_decay=.01, nesterov=True)
        g = g + 0.01 * w
        buffer = 0.9 * buffer + g
        w = w - 0.1 * (g + 0.9 * buffer)
    np.testing.assert_allclose(weight.numpy(), w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        momentum_buffer.numpy(), buffer, rtol=1e-5, atol=1e-6
    )


def svd(matrix):
    return np.linalg.svd(matrix, compute_uv=False)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
def test_orthogonalization_keeps_directions_and_makes_lengths_equal(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    assert s.min() / np.linalg.norm(s) > 0.02
    made = optimizer.orthogonalize(tf.constant(matrix)).numpy()
    lengths = np.diag(u.T @ made @ v.T)
    assert lengths.min() > 0.65
    assert lengths.max() < 1.25
    np.testing.assert_allclose(made, u * lengths @ v, atol=1e-5)


def test_muon_keeps_the_norm_and_moves_by_the_learning_rate():
    rng = np.random.default_rng(0)
    k, g = rng.normal(size=(2, 3, 3, 8, 16)).astype(np.float32)
    kernel, buffer = tf.Variable(k), tf.Variable(tf.zeros(k.shape))
    for times in (1, 2):
        before = kernel.numpy()
        optimizer.muon_update(
            kernel,
            buffer,
            tf.constant(g),
            optimizer.muon_direction(buffer, tf.constant(g), momentum=0.9),
            learning_rate=tf.constant(0.1),
            momentum=0.9,
        )
        kept = before * 4 / np.linalg.norm(before)
        moved = (kept - kernel.numpy()).reshape(-1, 16) / 0.1
        # The direction is that of the gradient, whatever its scale.
        assert svd(moved).min() > 0.65
        assert svd(moved).max() < 1.25
        assert (moved * g.reshape(-1, 16)).sum() > 0
        np.testing.assert_allclose(
            buffer.numpy(), g * (1 if times == 1 else 1.9), rtol=1e-5
        )


def test_the_average_starts_fast_and_ends_at_its_decay():
    average, kept = tf.Variable(0.0), []
    for step in (0, 1, 10_000):
        average.assign(0.0)
        optimizer.ema_update(
            average,
            tf.constant(1.0),
            decay=optimizer.ema_decay(tf.constant(step), decay=0.99),
        )
        kept.append(1 - float(average.numpy()))
    np.testing.assert_allclose(kept, [0.1, 2 / 11, 0.99], rtol=1e-5)
