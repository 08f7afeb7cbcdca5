"""Dense under Policy.fp8: its sums are narrow in all three passes, and stay so once saved."""

import os
import subprocess
import sys

import accumulation_oracle
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from compat import native

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

POLICY = lp.Policy.fp8((5, 6, 9), chunk=(4, None, 3))
DICE = lp.Policy.fp8((5, 6, 9), chunk=(4, None, 3), accumulator_rounding="stochastic")


def batch(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mlp(policy, seed=None):
    return tf.keras.Sequential(
        [
            tf.keras.Input((11,)),
            lp.layers.Dense(13, activation="relu", precision=policy, seed=seed),
            lp.layers.Dense(3, precision=policy, seed=seed),
        ]
    )


@pytest.mark.parametrize("shape", [(6, 11), (2, 3, 11)])
def test_three_passes_are_the_oracles(run, shape):
    layer = lp.layers.Dense(5, use_bias=False, precision=POLICY)
    layer.build(shape)
    (kernel,) = layer.get_weights()

    @run
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        variables = [native(v) for v in layer.trainable_variables]
        return [y, *tape.gradient(y, [x, *variables], output_gradients=dy)]

    x, dy = batch(*shape), batch(*shape[:-1], 5, seed=1)
    passes = accumulation_oracle.Passes(x, kernel, POLICY, Stream)
    want = [passes.forward()[1], *passes.gradients(dy)]
    for got, expected in zip(step(tf.constant(x), tf.constant(dy)), want, strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("policy", [POLICY, DICE], ids=["nearest", "stochastic"])
def test_training_is_repeatable_and_survives_a_keras_file(tmp_path, policy):
    x, y = batch(32, 11), batch(32, 3, seed=1)

    def trained():
        tf.keras.utils.set_random_seed(3)
        model = mlp(policy, seed=4)
        model.compile(tf.keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
        return model

    model, again = trained(), trained()
    for got, want in zip(again.get_weights(), model.get_weights()):
        assert_same_bits(got, want)
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert [layer.precision for layer in loaded.layers] == [policy, policy]
    assert_same_bits(loaded(x), model(x).numpy())
    if policy.is_stochastic:
        return  # like Dropout's, a seed's state is not in a .keras file
    for m in (model, loaded):
        m.fit(x, y, batch_size=32, epochs=1, verbose=0)
    for got, want in zip(loaded.get_weights(), model.get_weights()):
        assert_same_bits(got, want)


def test_training_draws_afresh_and_inference_rounds_to_nearest():
    layer = lp.layers.Dense(64, precision=DICE, seed=1)
    x = batch(8, 32)
    assert np.any(layer(x, training=True) != layer(x, training=True))
    nearest = lp.layers.Dense(64, precision=POLICY)
    nearest.build(x.shape)
    nearest.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), nearest(x))


def test_saved_model_gives_the_same_bits_and_gradients_in_a_new_process(tmp_path):
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.model = mlp(POLICY)
            self.weights = [native(v) for v in self.model.trainable_variables]

        @tf.function(input_signature=[tf.TensorSpec((None, 11))])
        def __call__(self, x):
            return self.model(x, training=True)

    module, x = Module(), batch(7, 11)
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


def test_exported_model_gives_the_same_bits(tmp_path):
    model, x = mlp(DICE), batch(5, 11)
    if not hasattr(model, "export"):
        pytest.skip("this Keras has no Model.export")
    model.export(str(tmp_path / "exported"))
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    assert_same_bits(loaded.serve(tf.constant(x)), model(x).numpy())
