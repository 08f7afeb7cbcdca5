"""lp.convert: the same model, in low precision; what it leaves is listed."""

import logging

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.analysis.trace import layer_paths
from tf_lowprec.convert import REPLACEMENTS

L = tf.keras.layers
POLICY = lp.Policy.fp8(7, chunk=16)


def batch(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sequential():
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, activation="relu", name="a"),
            L.BatchNormalization(name="bn"),
            L.Flatten(),
            L.Dense(5, name="b"),
        ],
        name="net",
    )


def nested():
    inner = tf.keras.Sequential([tf.keras.Input((6,)), L.Dense(6, name="a")], name="inner")
    x = tf.keras.Input((6,), name="x")
    shared = L.Dense(6, name="shared")
    y = L.Add()([shared(x), inner(shared(x))])
    return tf.keras.Model(x, [L.Dense(2, name="left")(y), L.Dense(3, name="right")(y)])


def wrapped():
    return tf.keras.Sequential(
        [
            tf.keras.Input((5, 3)),
            L.Bidirectional(L.GRU(4, return_sequences=True, name="gru"), name="both"),
            L.TimeDistributed(L.Dense(6, name="dense"), name="steps"),
            L.LSTM(4, name="lstm"),
            L.Dense(2, name="last"),
        ]
    )


MODELS = {"sequential": sequential, "nested": nested, "wrapped": wrapped}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def inputs_of(model):
    return batch(4, *model.inputs[0].shape[1:])


def layers_of(model):
    return dict(layer_paths(model))


@each_model
def test_in_float32_it_is_the_same_model(make):
    model = make()
    converted = lp.convert(model, lp.Policy.float32())
    x = inputs_of(model)
    for mine, stock in zip(tf.nest.flatten(converted(x)), tf.nest.flatten(model(x)), strict=True):
        np.testing.assert_array_equal(mine, stock)
    assert converted.name == model.name
    assert [w.name for w in converted.weights] == [w.name for w in model.weights]


@each_model
def test_names_weights_and_classes(make):
    model = make()
    converted = lp.convert(model, POLICY)
    before, after = layers_of(model), layers_of(converted)
    assert [path for path in before if "input" not in path] == [
        path for path in after if "input" not in path
    ]
    for path, layer in after.items():
        if path in before and type(before[path]) in REPLACEMENTS:
            assert type(layer) is REPLACEMENTS[type(before[path])]
            assert layer.precision == POLICY
    for mine, stock in zip(converted.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, stock)
    assert lp.unconverted(converted) == ()


def test_it_computes_in_low_precision():
    model = tf.keras.Sequential([tf.keras.Input((300,)), L.Dense(5)])
    converted = lp.convert(model, POLICY)
    x = batch(4, 300)
    want = lp.matmul(x, model.get_weights()[0], POLICY.forward)
    np.testing.assert_array_equal(converted(x), want)


def test_the_models_share_no_weights():
    model = sequential()
    converted = lp.convert(model, POLICY)
    before = [w.copy() for w in model.get_weights()]
    converted.set_weights([w + 1 for w in converted.get_weights()])
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, was)


def test_policies_by_name():
    policies = lp.PolicyMap({"a": lp.Policy.fp8(5), "b": lp.Policy.fp8(9)})
    converted = lp.convert(sequential(), policies)
    assert converted.get_layer("a").precision == lp.Policy.fp8(5)
    assert converted.get_layer("b").precision == lp.Policy.fp8(9)


def test_a_gemm_is_for_all_passes():
    gemm = POLICY.forward
    converted = lp.convert(sequential(), gemm)
    assert converted.get_layer("a").precision == lp.Policy(gemm, gemm, gemm)


@each_model
def test_a_plan_is_followed_and_trains(make):
    tf.keras.utils.set_random_seed(0)
    model = make()
    plan = lp.analysis.plan(model, 4, chunk=8).perturb(1)
    converted = lp.convert(model, plan)
    policies = plan.policies()
    layers = layers_of(converted)
    ours = {p for p, layer in layers.items() if type(layer) in REPLACEMENTS.values()}
    assert {path: layers[path].precision for path in ours} == policies
    losses = ["mse"] * len(model.outputs)
    converted.compile("sgd", losses if len(losses) > 1 else losses[0], run_eagerly=True)
    x = inputs_of(model)
    targets = [np.zeros(y.shape, np.float32) for y in tf.nest.flatten(model(x))]
    before = [w.copy() for w in converted.get_weights()]
    converted.fit(x, targets if len(targets) > 1 else targets[0], verbose=0)
    changed = [np.any(was != now) for was, now in zip(before, converted.get_weights())]
    assert all(changed)


def test_converting_again_replaces_the_precision():
    once = lp.convert(sequential(), POLICY)
    again = lp.convert(once, lp.Policy.fp8(3))
    assert again.get_layer("a").precision == lp.Policy.fp8(3)


def test_a_converted_model_survives_a_file(tmp_path):
    converted = lp.convert(sequential(), POLICY)
    converted.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    x = batch(2, 8, 8, 3)
    np.testing.assert_array_equal(loaded(x), converted(x))
    assert loaded.get_layer("a").precision == POLICY


class Twice(L.Dense):
    def call(self, x):
        return 2 * super().call(x)


def test_what_is_not_converted_is_listed(caplog):
    x = tf.keras.Input((5, 4))
    y = Twice(4, name="twice")(x)
    y = L.SimpleRNN(4, name="simple")(y)
    model = tf.keras.Model(x, L.Dense(2, name="dense")(y), name="net")
    with caplog.at_level(logging.WARNING, "tf_lowprec"):
        converted = lp.convert(model, POLICY)
    assert [entry[:2] for entry in lp.unconverted(converted)][:2] == [
        ("twice", "Twice"),
        ("simple", "SimpleRNN"),
    ]
    assert "net: not converted" in caplog.text
    assert "twice (Twice): a class of its own" in caplog.text
    x = batch(2, 5, 4)
    assert converted(x).shape == (2, 2)


def test_layers_that_a_plan_has_not_keep_their_class():
    model = sequential()
    plan = lp.analysis.plan(model, 4)
    partial = lp.analysis.Plan(plan.model, 4, [s for s in plan.sums if s.layer == "b"])
    converted = lp.convert(model, partial)
    assert type(converted.get_layer("a")) is L.Conv2D
    assert type(converted.get_layer("b")) is lp.layers.Dense


class Subclassed(tf.keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


def subclassed():
    model = Subclassed()
    model(batch(2, 3))
    return model


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: lp.convert(subclassed(), POLICY), "'own' of class Subclassed is subclassed"),
        (lambda: lp.convert(tf.keras.Sequential([L.Dense(2)]), POLICY), "is not built"),
        (lambda: lp.convert(L.Dense(2), POLICY), "must be a tf.keras.Model"),
        (lambda: lp.convert(sequential(), "fp8"), "precision = 'fp8' must be"),
        (
            lambda: lp.convert(nested(), lp.analysis.plan(sequential(), 4)),
            "the plan of 'net' has layers that .* lacks: a, b",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
