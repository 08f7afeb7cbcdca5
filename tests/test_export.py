"""lp.export: SavedModels for serving, with our ops and without; TF Lite."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tf_lowprec as lp

L = lp.layers
FP8 = lp.Policy.fp8(7, chunk=8)
FIXED = lp.Policy.fixed_point(
    lp.FixedPointFormat(2, 14), activations=lp.FixedPointFormat(6, 10), rounding="stochastic"
)
# Each rounding of a layer in a format, so that the bias is added in float64.
NARROW = lp.Policy(
    *[lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E4M3FN, lp.Accumulator(lp.FloatFormat(6, 12)), output=lp.FP16)]
    * 3,
    weights=lp.FP16,
    activations=lp.FP8_E4M3FN,
)


def images(policy):
    return [
        tf.keras.Input((7, 6, 2)),
        L.Conv2D(4, 3, strides=2, padding="same", activation="relu", precision=policy),
        L.DepthwiseConv2D(3, padding="same", precision=policy),
        L.Conv2DTranspose(3, 3, strides=2, precision=policy),
        tf.keras.layers.Flatten(),
        L.Dense(5, activation="sigmoid", precision=policy),
    ]


def sequences(policy):
    return [
        tf.keras.Input((4, 3)),
        L.Conv1D(3, 3, padding="causal", precision=policy),
        L.GRU(2, return_sequences=True, precision=policy),
    ]


def dense(policy):
    return [tf.keras.Input((3, 20)), L.Dense(4, activation="tanh", precision=policy)]


# (layers, policy, whether exported with our ops, too)
MODELS = {
    "images": (images, FP8, True),
    "images-fixed": (images, FIXED, True),
    "sequences": (sequences, FP8, True),
    "formats": (dense, NARROW, False),
    "scaled": (dense, lp.Policy.fp8(7, scaling="amax"), False),
}
CASES = [(name, False) for name in MODELS if MODELS[name][2]] + [(name, True) for name in MODELS]


def make(name):
    layers, policy, _ = MODELS[name]
    tf.keras.utils.set_random_seed(3)
    model = tf.keras.Sequential(layers(policy), name="net")
    for layer in model.layers:  # biases that are not zero
        for weight in layer.weights:
            if "bias" in weight.name:
                value = np.random.default_rng(0).normal(size=weight.shape)
                weight.assign(lp.quantize(value, lp.FP8_E4M3FN))
    return model


def inputs(model, batch=3):
    x = np.random.default_rng(1).normal(size=(batch, *model.inputs[0].shape[1:]))
    return x.astype(np.float32)


def ops_of(path):
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((path / "saved_model.pb").read_bytes())
    graph = message.meta_graphs[0].graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return {node.op for node in nodes}


def call(path, x):
    (y,) = tf.saved_model.load(str(path)).signatures["serving_default"](inputs=x).values()
    return y


@pytest.mark.parametrize("name, portable", CASES)
def test_it_gives_the_model_s_bits(name, portable, tmp_path):
    model = make(name)
    path = lp.export(model, tmp_path / "model", portable)
    x = inputs(model)
    np.testing.assert_array_equal(call(path, tf.constant(x)), model(x, training=False))
    own = {op for op in ops_of(path) if op.startswith("Lowprec>")}
    assert bool(own) != portable


def test_it_loads_where_the_library_is_not(tmp_path):
    model = make("formats")
    lp.export(model, tmp_path / "model", portable=True)
    x = inputs(model)
    np.save(tmp_path / "x.npy", x)
    script = """
import sys, numpy as np, tensorflow as tf
model = tf.saved_model.load("model").signatures["serving_default"]
np.save("y.npy", model(inputs=tf.constant(np.load("x.npy")))["outputs"])
assert "tf_lowprec" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x))


def lite(path, ops):
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
    converter.target_spec.supported_ops = ops
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    return interpreter.get_signature_runner("serving_default")


def test_lite_takes_narrow_accumulators_in_its_own_ops(tmp_path):
    tf.keras.utils.set_random_seed(3)
    model = tf.keras.Sequential(
        [
            tf.keras.Input((7, 6, 2), batch_size=2),
            L.Conv2D(4, 3, padding="same", activation="relu", precision=FP8),
            tf.keras.layers.Flatten(),
            L.Dense(5, precision=FP8),
        ]
    )
    path = lp.export(model, tmp_path / "model", portable=True)
    x = inputs(model, 2)
    run = lite(path, [tf.lite.OpsSet.TFLITE_BUILTINS])
    np.testing.assert_array_equal(run(inputs=x)["outputs"], model(x))


def test_names_of_inputs_and_outputs(tmp_path):
    x = {"left": tf.keras.Input((2,), name="left"), "right": tf.keras.Input((2,), name="right")}
    sums = L.Dense(3, precision=FP8)(x["right"]) + x["left"][:, :1]
    model = tf.keras.Model(x, {"sum": sums, "same": x["left"] * 2.0})
    path = lp.export(model, tmp_path / "model")
    run = tf.saved_model.load(str(path)).signatures["serving_default"]
    left, right = (np.full((4, 2), v, np.float32) for v in (1, 2))
    got = run(left=tf.constant(left), right=tf.constant(right))
    want = model({"left": left, "right": right})
    assert set(got) == {"sum", "same"}
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)


def test_weights_are_those_of_the_model_and_not_constants(tmp_path):
    model = make("scaled")
    path = lp.export(model, tmp_path / "model", portable=True)
    assert len(tf.saved_model.load(str(path)).variables) == len(model.weights)


def test_long_sums_are_said_to_be_slow(tmp_path, caplog):
    model = tf.keras.Sequential([tf.keras.Input((300,)), L.Dense(2, precision=FP8)], name="net")
    with caplog.at_level(logging.WARNING, "tf_lowprec"):
        lp.export(model, tmp_path / "model", portable=True)
    assert "net: portable=True adds up 1 narrow sums of up to 300 terms" in caplog.text


def test_stochastic_inference_has_no_portable_form(tmp_path):
    x = tf.keras.Input((4,))

    class Noise(tf.keras.layers.Layer):
        def call(self, x):
            return lp.quantize(x, lp.FP8_E5M2, "stochastic", seed=(1, 2))

    model = tf.keras.Model(x, Noise()(x))
    with pytest.raises(ValueError, match="'stochastic' has no form in TensorFlow's own ops"):
        lp.export(model, tmp_path / "model", portable=True)


@pytest.mark.parametrize(
    "model, message",
    [
        (lambda: tf.keras.layers.Dense(2), "must be a tf.keras.Model"),
        (lambda: tf.keras.Sequential([L.Dense(2)]), "has no known inputs"),
    ],
)
def test_wrong_models_are_named(model, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        lp.export(model(), tmp_path / "model")
