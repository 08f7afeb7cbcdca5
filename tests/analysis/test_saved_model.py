"""Plans of SavedModels, from the graph alone."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec import analysis

L = tf.keras.layers


def widths(plan):
    return [(s.which, s.n, s.normal, s.mantissa_bits, s.is_last) for s in plan.sums]


@pytest.mark.parametrize("precision", [None, lp.Policy.fp8(9)], ids=["stock", "low precision"])
def test_a_network_plans_as_its_layers_do(tmp_path, precision):
    model = lp.models.resnet8(precision)
    model.export(tmp_path / "saved")
    options = {"chunk": "best", "rule": "noise", "rounding": "stochastic"}
    got = analysis.plan_saved_model(tmp_path / "saved", 32, **options)
    want = analysis.plan(model, 32, **options)
    assert widths(got) == widths(want)
    assert got.unknown == ()
    assert (got.batch_size, got.chunk, got.rounding) == (32, "best", "stochastic")


def test_dense_over_time_and_depthwise(tmp_path):
    x = tf.keras.Input((6, 6, 3))
    y = L.DepthwiseConv2D(3, depth_multiplier=2)(x)
    y = L.Dense(5)(y)
    model = tf.keras.Model(x, L.Dense(2)(L.Flatten()(y)))
    model.export(tmp_path / "saved")
    got = analysis.plan_saved_model(tmp_path / "saved", 8)
    assert widths(got) == widths(analysis.plan(model, 8))


def test_loops_and_einsums_are_listed(tmp_path):
    x = tf.keras.Input((6, 3))
    y = L.Conv1D(4, 2)(x)
    y = L.LSTM(4, unroll=False)(L.Add()([y, L.MultiHeadAttention(2, 2)(y, y)]))
    tf.keras.Model(x, L.Dense(2)(y)).export(tmp_path / "saved")
    plan = analysis.plan_saved_model(tmp_path / "saved", 8)
    reasons = {reason for _, _, reason in plan.unknown}
    assert "products in a function that it calls" in reasons
    assert any("Einsum" in kind for _, kind, _ in plan.unknown)
    assert ("FWD", 6) in [(s.which, s.n) for s in plan.sums]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "saved"
    tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3)]).export(path)
    return path


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": None}, "batch_size = None must be a positive integer"),
        ({"signature": "train"}, "signature = 'train' is not in .*'serving_default'"),
        ({"rule": "guess"}, "rule = 'guess'"),
    ],
)
def test_wrong_arguments_are_named(saved, options, message):
    with pytest.raises(ValueError, match=message):
        analysis.plan_saved_model(saved, **{"batch_size": 4, **options})


def test_a_folder_that_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="without saved_model.pb"):
        analysis.plan_saved_model(tmp_path, 4)


def test_a_graph_without_products_is_refused(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec((None, 3))
    module.f = tf.function(lambda x: {"y": x + 1}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "saved"), module.f)
    with pytest.raises(ValueError, match="has no matrix product"):
        analysis.plan_saved_model(tmp_path / "saved", 4)


def test_the_private_name_is_there():
    from tf_lowprec.analysis import _tf_private

    weight = tf.Variable(np.eye(2, dtype=np.float32))
    function = tf.function(lambda x: x @ weight).get_concrete_function(tf.TensorSpec((None, 2)))
    frozen = _tf_private.convert_variables_to_constants_v2(function)
    assert not frozen.variables, "TensorFlow's freezing changed: SavedModels cannot be planned"


def test_a_weight_before_a_product_gives_it_a_backward_pass(tmp_path):
    layers = [L.Embedding(7, 5), L.Flatten(), L.Dense(6, name="a"), L.Dense(3, name="b")]
    model = tf.keras.Sequential([tf.keras.Input((10,), dtype="int32"), *layers])
    model.export(tmp_path / "saved")
    got = analysis.plan_saved_model(tmp_path / "saved", 4)
    assert widths(got) == widths(analysis.plan(model, 4))


@pytest.mark.parametrize(
    "shape, layer",
    [
        ((16, 16, 3), lambda: L.Conv2D(4, 3, dilation_rate=5, padding="same")),
        ((5, 3), lambda: L.Conv1D(4, 3, dilation_rate=2, padding="causal")),
    ],
    ids=["2D", "causal"],
)
def test_dilated_convolutions(tmp_path, shape, layer):
    model = tf.keras.Sequential([tf.keras.Input(shape), layer()])
    model.export(tmp_path / "saved")
    got = analysis.plan_saved_model(tmp_path / "saved", np.int64(4))
    want = analysis.plan(model, 4)
    assert [(s.n, s.macs) for s in got.sums] == [(s.n, s.macs) for s in want.sums]
