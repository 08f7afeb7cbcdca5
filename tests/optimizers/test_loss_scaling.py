"""lp.optimizers.loss_scaling: on FP8 layers, with and without LowPrecision."""

import re

import numpy as np
import pytest
import tensorflow as tf
from compat import needs_keras_3

import tf_lowprec as lp

FP8 = lp.Policy.fp8(9)
Q16 = lp.FixedPointFormat(2, 14)


def sgd():
    return tf.keras.optimizers.SGD(0.05)


def low_precision():
    return lp.optimizers.LowPrecision(sgd(), Q16, seed=1)


def trained(optimizer, loss_factor=1.0):
    tf.keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype(np.float32)
    model = tf.keras.Sequential(
        [tf.keras.Input((5,)), lp.layers.Dense(4, precision=FP8), lp.layers.Dense(1, precision=FP8)]
    )
    model.compile(optimizer, lambda y, p: loss_factor * tf.reduce_mean((y - p) ** 2, -1))
    model.fit(x, x[:, :1], batch_size=8, epochs=1, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("make", [sgd, low_precision])
@pytest.mark.parametrize("scale", [1024.0, "dynamic"])
def test_a_power_of_two_changes_nothing_where_nothing_is_lost(make, scale):
    want = trained(make())
    for got, expected in zip(trained(lp.optimizers.loss_scaling(make(), scale)), want):
        np.testing.assert_array_equal(got, expected)


def test_it_saves_errors_that_fp8_would_lose():
    start = trained(sgd(), 0.0)
    tiny = 2.0**-24  # the errors are below E5M2's smallest value

    def moved(optimizer):
        after = trained(optimizer, tiny)
        # Biases take float32 errors.
        return any(np.any(a != b) for a, b in zip(after, start) if a.ndim == 2)

    rate = 0.05 / tiny
    assert not moved(tf.keras.optimizers.SGD(rate))
    assert moved(lp.optimizers.loss_scaling(tf.keras.optimizers.SGD(rate), 2.0**20))


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "static", True, None])
def test_a_wrong_scale_is_named(scale):
    message = re.escape(f"scale = {scale!r} must be a positive number or 'dynamic'")
    with pytest.raises(ValueError, match=message):
        lp.optimizers.loss_scaling(sgd(), scale)


def test_no_optimizer_is_named():
    with pytest.raises(ValueError, match="optimizer = None must be a Keras optimizer"):
        lp.optimizers.loss_scaling(None)


def test_scaling_twice_is_refused():
    once = lp.optimizers.loss_scaling(sgd(), "dynamic")
    with pytest.raises(ValueError, match="scales its loss already"):
        lp.optimizers.loss_scaling(once, 8)


@needs_keras_3
def test_scaling_twice_by_a_factor_is_refused():
    with pytest.raises(ValueError, match="scales its loss already"):
        lp.optimizers.loss_scaling(lp.optimizers.loss_scaling(low_precision(), 8), 8)


@pytest.fixture
def mixed_float16():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


@needs_keras_3
@pytest.mark.parametrize("make", [sgd, low_precision])
def test_under_mixed_float16_keras_s_scale_takes_the_place_of_a_number(mixed_float16, make):
    want = trained(lp.optimizers.loss_scaling(make(), "dynamic"))
    got = trained(lp.optimizers.loss_scaling(make(), 1024.0))
    for g, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, expected)


@needs_keras_3
def test_without_auto_scale_loss_the_number_stays(mixed_float16):
    optimizer = lp.optimizers.loss_scaling(low_precision(), 8)
    tf.keras.Sequential().compile(optimizer, "mse", auto_scale_loss=False)
    assert optimizer.scale_loss(1.0) == 8


def test_low_precision_goes_inside():
    with pytest.raises(ValueError, match="must be outside"):
        lp.optimizers.LowPrecision(lp.optimizers.loss_scaling(sgd(), "dynamic"), Q16)
