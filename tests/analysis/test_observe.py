"""analysis.observe: counts of saturation, underflow and swamping against counts made by hand."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.analysis.sampled_sums import matrices, swamped

E5M2, F = lp.FP8_E5M2, lp.FloatFormat


def data(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def dense(policy, x, kernel):
    model = tf.keras.Sequential(
        [
            tf.keras.Input((x.shape[1],)),
            lp.layers.Dense(kernel.shape[1], use_bias=False, precision=policy, name="dense"),
        ]
    )
    model.set_weights([kernel])
    return model


def rows_of(model, x, **kwargs):
    y = np.zeros((len(x), model.output_shape[-1]), np.float32)
    return {row.which: row for row in lp.analysis.observe(model, (x, y), loss="mse", **kwargs)}


def test_saturation_and_underflow_are_counted():
    x = data((8, 50))
    x[:2] = 1e6  # beyond E5M2's 57344: 100 of 400
    x[2:4] = 1e-9  # below half of its smallest, 2^-16: 100 of 300 that do not saturate
    kernel = np.ones((50, 4), np.float32)  # 200 that do neither
    rows = rows_of(dense(lp.Policy.fp8(9), x, kernel), x)
    assert rows["FWD"].saturated == pytest.approx(100 / 600)
    assert rows["FWD"].underflow == pytest.approx(100 / 600)


def test_errors_are_scaled_as_the_optimizer_scales_the_loss():
    x, kernel = data((8, 5)), 1e-4 * data((5, 3))
    model = dense(lp.Policy.fp8(9), x, kernel)
    assert rows_of(model, x, loss_scale=1e-3)["GRAD"].underflow > 0.3
    assert rows_of(model, x, loss_scale=1000.0)["GRAD"].underflow == 0
    model.compile(lp.optimizers.loss_scaling(tf.keras.optimizers.SGD(), 1000.0), "mse")
    assert rows_of(model, x)["GRAD"] == rows_of(model, x, loss_scale=1000.0)["GRAD"]


@pytest.mark.parametrize("chunk", [None, 16])
def test_swamped_terms_are_counted(chunk):
    terms = np.abs(data((6, 48))).astype(np.float32)
    terms[:, ::5] = 0
    format = F(6, 3)
    count = 0
    for row in terms:
        s = np.float32(0)
        for k, term in enumerate(row):
            s = np.float32(0) if chunk and k % chunk == 0 else s
            new = lp.quantize(np.float64(s) + np.float64(term), format).numpy()
            count += term != 0 and new == s
            s = new
    got = swamped(tf.constant(terms), lp.Accumulator(format, chunk))
    assert got == pytest.approx(count / np.count_nonzero(terms))
    assert 0.1 < got < 1


def test_retention_falls_with_the_width():
    x, kernel = np.abs(data((32, 400))), np.abs(data((400, 20)))
    noise = [
        rows_of(dense(lp.Policy.fp8(m, chunk=None), x, kernel), x)["FWD"].noise for m in (3, 7, 11)
    ]
    assert noise[0] > 10 * noise[1] > 100 * noise[2]


def test_fixed_point_s_output_is_asked():
    policy = lp.Policy.fixed_point(lp.FixedPointFormat(2, 14))
    x, kernel = np.ones((4, 30), np.float32), np.full((30, 2), 0.5, np.float32)
    row = rows_of(dense(policy, x, kernel), x)["FWD"]
    assert row.output_saturated == 1 and row.output_underflow == 0
    assert row.swamped is None and row.vrr is None


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lp.layers.Conv2D(5, 3, strides=2, padding="same", use_bias=False), (9, 8, 4)),
        (lp.layers.Conv2D(4, (2, 3), dilation_rate=2, use_bias=False), (9, 8, 3)),
        (lp.layers.Conv1D(4, 3, padding="same", use_bias=False), (9, 3)),
        (lp.layers.Conv2D(6, 3, groups=2, use_bias=False), (9, 8, 4)),
        (lp.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False), (7, 8, 3)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_matrices_are_the_layer_s_products(layer, shape):
    x = tf.constant(data((2, *shape)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    kernel = tf.convert_to_tensor(layer.weights[0])
    dy = tf.constant(data(y.shape, 1))
    dx = tape.gradient(y, x, dy)
    groups = shape[-1] if "depthwise" in layer.name else getattr(layer, "groups", 1)
    for which, want in (("FWD", y), ("BWD", dx)):
        lhs, rhs = matrices(layer, x, kernel, dy, which)
        want = tf.reshape(want, [-1, want.shape[-1]])[:, : want.shape[-1] // groups]
        np.testing.assert_allclose(lhs @ rhs, want, rtol=1e-4, atol=1e-5)
    lhs, rhs = matrices(layer, x, kernel, dy, "GRAD")
    assert lhs.shape[1] == rhs.shape[0] == 2 * np.prod(y.shape[1:-1])


def test_what_is_not_observed_is_listed():
    inputs = tf.keras.Input((4, 3))
    y = lp.layers.GRU(3, precision=lp.Policy.fp8(9), name="gru")(inputs)
    y = lp.layers.Dense(2, precision=lp.Policy.fp8(9), name="dense")(y)
    model = tf.keras.Model(inputs, y)
    seen = lp.analysis.observe(model, (data((4, 4, 3)), data((4, 2))), loss="mse")
    assert [row.layer for row in seen] == ["dense"] * 3
    assert seen.unknown == (("gru", "GRU"),)
    assert "not observed: gru (GRU)" in str(seen)


def test_sums_are_rounded_at_random_where_training_does():
    policy = lp.Policy.fp8(4, chunk=None, accumulator_rounding="stochastic")
    x, kernel = data((32, 2000)), data((2000, 20), 1)
    row = rows_of(dense(policy, x, kernel), x)["FWD"]
    noise = lp.analysis.rounding_noise(4, 2000, rounding="stochastic")
    assert row.vrr > 1 and row.noise == pytest.approx(noise, rel=0.4)


@pytest.mark.parametrize(
    "argument",
    [{"samples": 0}, {"samples": 2.5}, {"seed": -1}, {"loss_scale": 0}, {"batch_size": 0}],
)
def test_wrong_arguments_are_named(argument):
    x = data((4, 8))
    model = dense(lp.Policy.fp8(9), x, data((8, 2)))
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        rows_of(model, x, **argument)
