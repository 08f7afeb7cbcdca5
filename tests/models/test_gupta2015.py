"""One training step of the paper's networks: what the paper keeps in fixed point is on its grid."""

import numpy as np
import pytest
import tensorflow as tf
from compat import native, path, slots

import tf_lowprec as lp
from tf_lowprec.layers.precision_layer import PrecisionLayer

WEIGHTS = lp.FixedPointFormat(2, 14)
OUTPUTS = lp.FixedPointFormat(6, 10)
POLICY = lp.Policy.fixed_point(WEIGHTS, activations=OUTPUTS)

MODELS = {
    "mnist_dnn": (lp.models.mnist_dnn, (28, 28)),
    "mnist_cnn": (lp.models.mnist_cnn, (28, 28, 1)),
    "cifar10_cnn": (lp.models.cifar10_cnn, (32, 32, 3)),
}
each_model = pytest.mark.parametrize("build, shape", MODELS.values(), ids=MODELS.keys())


def assert_on_grid(name, x, format):
    x = np.asarray(x)
    assert np.any(x), f"{name} is all zero: the test would prove nothing"
    np.testing.assert_array_equal(x, lp.quantize(x, format), err_msg=name)


@each_model
def test_every_tensor_of_a_training_step_is_on_its_grid(build, shape):
    tf.keras.utils.set_random_seed(0)
    model = build(POLICY, initial_std=0.1, seed=1)
    inner = tf.keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = lp.optimizers.LowPrecision(inner, WEIGHTS, slot_format=WEIGHTS, seed=1)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.random((8, *shape), np.float32))
    labels = rng.integers(0, 10, 8)

    kernels = [v for v in model.trainable_variables if "kernel" in path(v)]
    for variable in kernels:
        assert_on_grid(f"initial {path(variable)}", variable, WEIGHTS)

    # Runs the model layer by layer, so that every output is at hand with its gradient.
    outputs = []
    with tf.GradientTape() as tape:
        y = x
        for layer in model.layers:
            y = layer(y, training=True)
            tape.watch(y)
            outputs.append((layer, y))
        loss = tf.keras.losses.sparse_categorical_crossentropy(labels, y, from_logits=True)
        loss = tf.reduce_mean(loss)
    errors, gradients = tape.gradient(
        loss, ([y for _, y in outputs], [native(v) for v in model.trainable_variables])
    )
    followers = [layer for layer, _ in outputs[1:]] + [None]
    for (layer, y), error, follower in zip(outputs, errors, followers):
        if isinstance(layer, PrecisionLayer):
            assert_on_grid(f"output of {layer.name}", y, OUTPUTS)
        if isinstance(follower, PrecisionLayer):
            assert_on_grid(f"error before {follower.name}", error, WEIGHTS)
    for variable, gradient in zip(model.trainable_variables, gradients):
        assert_on_grid(f"gradient of {path(variable)}", gradient, WEIGHTS)

    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    for variable in model.trainable_variables:
        assert_on_grid(f"updated {path(variable)}", variable, WEIGHTS)
    for slot in slots(optimizer):
        assert_on_grid(f"slot {path(slot)}", slot, WEIGHTS)


@each_model
def test_float32_model_has_stock_numbers(build, shape):
    model = build(seed=1)
    stock = tf.keras.Sequential.from_config(_as_stock(model.get_config()))
    stock.set_weights(model.get_weights())
    x = np.random.default_rng(0).random((4, *shape), np.float32)
    np.testing.assert_array_equal(model(x), stock(x))


def _as_stock(config):
    """The same configuration with keras.layers in place of ours."""
    layers = []
    for layer in config["layers"]:
        if (layer.get("registered_name") or "").startswith("tf_lowprec>"):
            kept = {k: v for k, v in layer["config"].items() if k not in ("precision", "seed")}
            layer = {"class_name": layer["class_name"], "module": "keras.layers", "config": kept}
            layer["registered_name"] = None
        layers.append(layer)
    return {**config, "layers": layers}


@pytest.mark.parametrize(
    "build, parameters",
    [
        (lp.models.mnist_dnn, 784 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 10 + 10),
        (lp.models.mnist_cnn, 208 + 3216 + 784 * 128 + 128 + 1290),
        (lp.models.cifar10_cnn, 4864 + 2 * 102464 + 4 * 4 * 64 * 10 + 10),
    ],
    ids=MODELS.keys(),
)
def test_parameter_counts(build, parameters):
    assert build().count_params() == parameters


def test_seed_fixes_initial_weights_of_all_layers():
    first, second = (lp.models.mnist_dnn(seed=3, units=(20, 20)).get_weights() for _ in "ab")
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[2][:, :10], first[4][:, :10])
