"""What every low-precision layer does around its product, on Dense and Conv2D."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from compat import native, needs_keras_3

import tf_lowprec as lp

Q16 = lp.FixedPointFormat(2, 14)
ACTIVATIONS = lp.FixedPointFormat(6, 10)
POLICY = lp.Policy.fixed_point(Q16, activations=ACTIVATIONS)
NEAREST = lp.Policy.fixed_point(Q16, "nearest_even", activations=ACTIVATIONS)

# layer class, its stock parent, arguments, input shape
LAYERS = [
    (lp.layers.Dense, tf.keras.layers.Dense, {"units": 5}, (4, 7)),
    (lp.layers.Dense, tf.keras.layers.Dense, {"units": 5, "use_bias": False}, (2, 3, 7)),
    (
        lp.layers.Conv2D,
        tf.keras.layers.Conv2D,
        {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"},
        (2, 8, 8, 3),
    ),
    (
        lp.layers.Conv2D,
        tf.keras.layers.Conv2D,
        {"filters": 4, "kernel_size": 3, "groups": 2, "dilation_rate": 2},
        (2, 8, 8, 2),
    ),
]
each_layer = pytest.mark.parametrize(
    "layer, parent, arguments, shape", LAYERS, ids=["dense", "dense3d", "conv", "grouped"]
)


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def is_on_grid(x, format):
    x = np.asarray(x)
    return np.array_equal(x, lp.quantize(x, format))


@each_layer
def test_float32_policy_is_the_stock_layer_with_its_weights(layer, parent, arguments, shape):
    x = images(shape)
    stock, ours = parent(**arguments, activation="relu"), layer(**arguments, activation="relu")
    want = stock(x)
    ours.build(shape)
    ours.set_weights(stock.get_weights())
    np.testing.assert_array_equal(ours(x), want)


@each_layer
def test_fixed_point_layer_takes_its_parents_weights(layer, parent, arguments, shape):
    stock, ours = parent(**arguments), layer(**arguments, precision=POLICY)
    stock.build(shape)
    ours.build(shape)
    assert [w.shape for w in ours.weights] == [w.shape for w in stock.weights]
    ours.set_weights(stock.get_weights())


@each_layer
def test_initial_weights_and_outputs_lie_on_their_grids(layer, parent, arguments, shape):
    ours = layer(**arguments, precision=POLICY)
    y = ours(images(shape), training=True)
    assert all(is_on_grid(w, Q16) for w in ours.get_weights())
    assert is_on_grid(y, ACTIVATIONS)


@each_layer
def test_gradients_lie_on_their_grids(run, layer, parent, arguments, shape):
    ours = layer(**arguments, precision=NEAREST, activation="relu")
    ours.build(shape)

    @run
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(ours(x, training=True)))
        variables = [native(v) for v in ours.trainable_variables]
        return tape.gradient(loss, [x, *variables])

    for gradient in gradients(tf.constant(images(shape) / 4)):
        assert is_on_grid(gradient, Q16)
        assert np.any(gradient)


def test_dense_rounds_after_gemm_bias_and_activation():
    layer = lp.layers.Dense(1, activation="sigmoid", precision=NEAREST)
    layer.build((1, 2))
    kernel = np.array([[0.3], [0.7]], np.float32)
    bias = np.array([0.11], np.float32)
    layer.set_weights([kernel, bias])
    x = np.array([[0.9, -0.4]], np.float32)
    q = lambda v, f: lp.quantize(v, f).numpy()  # noqa: E731
    gemm = q(q(x, ACTIVATIONS).astype(np.float64) @ q(kernel, Q16), ACTIVATIONS)
    total = q(gemm.astype(np.float64) + q(bias, Q16), ACTIVATIONS)
    np.testing.assert_array_equal(layer(x), q(tf.sigmoid(total), ACTIVATIONS))


def test_softmax_stays_in_float32():
    layer = lp.layers.Dense(5, activation="softmax", precision=NEAREST)
    assert not is_on_grid(layer(images((3, 4))), ACTIVATIONS)


def test_bias_gradient_is_the_exact_sum_rounded_once():
    coarse = lp.FixedPointFormat(8, 8)
    policy = lp.Policy.fixed_point(Q16, "nearest_even", activations=ACTIVATIONS, gradients=coarse)
    layer = lp.layers.Dense(1, precision=policy)
    x = tf.zeros((3, 2))
    layer.build(x.shape)
    # 2^-9 is a tie of <8,8> that the two 2^-14 decide; rounding each error first would give 0.
    dy = tf.constant([[2.0**-9], [2.0**-14], [2.0**-14]])
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
    assert tape.gradient(y, layer.trainable_variables[1], dy).numpy().item() == 2.0**-8


def test_training_rounds_afresh_each_call_and_inference_does_not():
    layer = lp.layers.Dense(8, precision=POLICY, seed=1)
    x = images((4, 16))
    assert np.any(layer(x, training=True) != layer(x, training=True))
    np.testing.assert_array_equal(layer(x), layer(x, training=False))


def test_set_random_seed_makes_rounding_repeatable():
    def outputs():
        tf.keras.utils.set_random_seed(5)
        layer = lp.layers.Dense(8, precision=POLICY)
        return layer(images((4, 16)), training=True)

    np.testing.assert_array_equal(outputs(), outputs())


def test_replicas_round_their_activations_differently(two_replicas):
    with two_replicas.scope():
        layer = lp.layers.Dense(64, precision=POLICY, seed=1)
        layer.build((4, 16))
    x = tf.constant(images((4, 16)))
    step = tf.function(lambda: two_replicas.run(lambda: layer(x, training=True)))
    first, second = two_replicas.experimental_local_results(step())
    assert np.any(first != second)


def test_mixed_precision_computes_in_float32_and_casts_back():
    layer = lp.layers.Dense(3, precision=NEAREST, dtype="mixed_float16")
    reference = lp.layers.Dense(3, precision=NEAREST)
    x = images((2, 4)).astype(np.float16)
    y = layer(x)
    reference.build(x.shape)
    reference.set_weights(layer.get_weights())
    assert y.dtype == tf.float16
    np.testing.assert_array_equal(y, tf.cast(reference(x.astype(np.float32)), tf.float16))


@each_layer
def test_config_round_trip(layer, parent, arguments, shape):
    ours = layer(**arguments, precision=POLICY, seed=3)
    again = layer.from_config(ours.get_config())
    assert (again.precision, again.seed) == (POLICY, 3)
    loaded = tf.keras.layers.deserialize(tf.keras.layers.serialize(ours))
    assert type(loaded) is layer and loaded.precision == POLICY


def small_model():
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 1)),
            lp.layers.Conv2D(3, 3, activation="relu", precision=NEAREST),
            tf.keras.layers.Flatten(),
            lp.layers.Dense(4, precision=NEAREST),
        ]
    )


def test_keras_file_round_trip(tmp_path):
    model = small_model()
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    x = images((2, 8, 8, 1))
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[0].precision == NEAREST


def test_saved_model_gives_the_same_bits_and_gradients_in_a_new_process(tmp_path):
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = small_model()
            self.weights = [native(v) for v in self.model.trainable_variables]

        @tf.function(input_signature=[tf.TensorSpec((2, 8, 8, 1))])
        def __call__(self, x):
            return self.model(x, training=True)

    module = Module()
    x = images((2, 8, 8, 1))
    with tf.GradientTape() as tape:
        y = module(x)
        loss = tf.reduce_sum(y**2)
    gradients = tape.gradient(loss, module.weights)
    tf.saved_model.save(module, str(tmp_path / "saved"))
    np.savez(tmp_path / "want.npz", x, y, *gradients)
    script = """
import sys
import numpy as np
import tensorflow as tf
import tf_lowprec
module = tf.saved_model.load(sys.argv[1] + "/saved")
x, y, *gradients = np.load(sys.argv[1] + "/want.npz").values()
with tf.GradientTape() as tape:
    got = module(x)
    loss = tf.reduce_sum(got ** 2)
np.testing.assert_array_equal(got, y)
for g, want in zip(tape.gradient(loss, module.weights), gradients, strict=True):
    np.testing.assert_array_equal(g, want)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=environment,
        cwd=tmp_path,  # not the source tree, where another leg's library may lie
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="precision = 'fp8'"):
        lp.layers.Dense(3, precision="fp8")


@needs_keras_3
def test_lora_is_refused():
    with pytest.raises(ValueError, match="lora_rank"):
        lp.layers.Dense(3, precision=POLICY, lora_rank=2)


def test_channels_first_is_refused():
    with pytest.raises(ValueError, match="data_format"):
        lp.layers.Conv2D(3, 3, precision=POLICY, data_format="channels_first")


@needs_keras_3
def test_jit_compile_is_turned_off_with_a_warning():
    model = tf.keras.Sequential([tf.keras.Input((4,)), lp.layers.Dense(2, precision=NEAREST)])
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)
    model.fit(images((4, 4)), images((4, 2)), verbose=0)
