"""Plans of every kind of Keras model, and what a plan can do."""

import dataclasses
import io
import json
import time

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from compat import needs_keras_3
from rich.console import Console

import tf_lowprec as lp
from tf_lowprec import analysis
from tf_lowprec._keras import deserialize_keras_object, serialize_keras_object

L = tf.keras.layers


def mlp():
    return tf.keras.Sequential(
        [
            tf.keras.Input((20,)),
            L.Dense(300, name="a"),
            L.Dense(400, name="b"),
            L.Dense(3, name="c"),
        ]
    )


def lengths(plan):
    return {(s.layer, s.which): s.n for s in plan.sums}


MLP = {
    ("a", "FWD"): 20,
    ("a", "GRAD"): 128,
    ("b", "FWD"): 300,
    ("b", "BWD"): 400,
    ("b", "GRAD"): 128,
    ("c", "FWD"): 400,
    ("c", "BWD"): 3,
    ("c", "GRAD"): 128,
}


class Subclassed(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [L.Dense(300, name="a"), L.Dense(400, name="b"), L.Dense(3, name="c")]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def functional():
    x = tf.keras.Input((20,))
    y = x
    for layer in mlp().layers:
        y = layer(y)
    return tf.keras.Model(x, y)


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 20), np.float32))
    return model


@pytest.mark.parametrize("make", [mlp, functional, subclassed])
def test_sequential_functional_and_subclassed_models_plan_alike(make):
    plan = analysis.plan(make(), 128)
    assert lengths(plan) == MLP
    assert plan.unknown == ()
    assert {s.layer for s in plan.sums if s.is_last} == {"c"}


def test_a_plan_leaves_the_model_as_it_was():
    model = mlp()
    before = vars(model.layers[0]).keys() - {"call"}
    analysis.plan(model, 8)
    assert "call" not in vars(model.layers[0])
    assert vars(model.layers[0]).keys() == before
    assert model(np.zeros((2, 20), np.float32)).shape == (2, 3)


def test_layers_of_nested_models_have_paths():
    inner = tf.keras.Sequential([tf.keras.Input((20,)), L.Dense(5, name="a")], name="inner")
    model = tf.keras.Sequential([tf.keras.Input((20,)), inner, L.Dense(3, name="a")])
    assert analysis.plan(model, 4).layers == ("inner/a", "a")


def test_layers_in_wrappers_have_paths():
    model = tf.keras.Sequential(
        [
            tf.keras.Input((6, 3)),
            L.Bidirectional(L.LSTM(4, return_sequences=True, name="lstm"), name="both"),
            L.TimeDistributed(L.Dense(5, name="dense"), name="steps"),
            L.Flatten(),
            L.Dense(2, name="last"),
        ]
    )
    plan = analysis.plan(model, 4)
    assert plan.layers == ("both/forward_lstm", "both/backward_lstm", "steps/dense", "last")


def test_only_layers_behind_trainable_weights_have_backward():
    x = tf.keras.Input((20,))
    y = L.BatchNormalization(name="bn", scale=False, center=False)(x)
    y = L.Dense(4, name="frozen", trainable=False)(y)
    y = L.Dense(4, name="first")(y)
    y = L.Dense(4, name="second")(y)
    plan = analysis.plan(tf.keras.Model(x, L.Dense(2)(y)), 8)
    passes = {p: {s.which for s in plan.sums if s.layer == p} for p in plan.layers[:3]}
    assert passes == {
        "frozen": {"FWD"},
        "first": {"FWD", "GRAD"},
        "second": {"FWD", "BWD", "GRAD"},
    }


def test_stopped_gradients_end_backward():
    class Stop(L.Layer):
        def call(self, x):
            return tf.stop_gradient(x)

    x = tf.keras.Input((20,))
    y = L.Dense(4, name="after")(Stop()(L.Dense(4)(x)))
    plan = analysis.plan(tf.keras.Model(x, L.Dense(2)(y)), 8)
    assert ("after", "BWD") not in lengths(plan)


def test_every_output_has_a_last_layer():
    x = tf.keras.Input((20,))
    y = L.Dense(4, name="trunk")(x)
    model = tf.keras.Model(x, [L.Dense(2, name="left")(y), L.Dense(3, name="right")(y)])
    last = {s.layer for s in analysis.plan(model, 8).sums if s.is_last}
    assert last == {"left", "right"}


def test_a_shared_layer_gets_what_its_longest_sums_need():
    shared = L.Dense(6, name="shared")
    x = tf.keras.Input((5, 6))
    y = L.Flatten()(shared(shared(x)))
    plan = analysis.plan(tf.keras.Model(x, L.Dense(2)(y)), 8)
    assert [(s.which, s.n) for s in plan.sums if s.layer == "shared"] == [
        ("FWD", 6),
        ("BWD", 6),
        ("GRAD", 40),
    ]


class Bilinear(L.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 4))

    def call(self, x):
        return tf.matmul(x, self.kernel)


class Weighted(L.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1],))

    def call(self, x):
        return tf.reduce_sum(x * self.kernel, -1, keepdims=True)


class Loop(L.Layer):
    def call(self, x):
        return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y @ tf.eye(4)), (0, x))[1]


@pytest.mark.parametrize(
    "layer, reason",
    [
        (Bilinear, "1 BatchMatMul"),
        (Loop, "1 BatchMatMul"),
        (Weighted, "own weights, used in a way"),
        (lambda name: L.SimpleRNN(3, name=name), "MatMul"),
        (lambda name: L.SeparableConv1D(3, 1, name=name), "Conv2D"),
    ],
)
def test_layers_that_are_not_known_are_listed(layer, reason):
    layer = layer(name="odd")
    x = tf.keras.Input((4, 4))
    plan = analysis.plan(tf.keras.Model(x, L.Dense(2, name="known")(layer(x))), 8)
    ((path, kind, why),) = plan.unknown
    assert (path, kind) == ("odd", type(layer).__name__)
    assert reason in why
    assert f"not planned: odd ({kind})" in str(plan).replace("\n", " ")
    assert plan.layers == ("known",)


def test_products_outside_layers_and_layers_never_called_are_listed():
    class Odd(Subclassed):
        def __init__(self):
            super().__init__()
            self.unused = L.Dense(2, name="unused")

        def call(self, x):
            return super().call(x) @ tf.eye(3)

    model = Odd()
    model(np.zeros((2, 20), np.float32))
    model.unused.build((2, 3))
    assert [(path, kind) for path, kind, _ in analysis.plan(model, 8).unknown] == [
        ("(model)", ""),
        ("unused", "Dense"),
    ]


def test_rules_and_chunks():
    vrr = analysis.plan(mlp(), 128, chunk=None)
    noise = analysis.plan(mlp(), 128, chunk=None, rule="noise", noise_to_signal=1e-3)
    best = analysis.plan(mlp(), 128, chunk="best", rule="noise", noise_to_signal=1e-3)
    bits = [
        [(s.mantissa_bits, s.chunk) for s in plan.sums if s.layer == "b"]
        for plan in (vrr, noise, best)
    ]
    assert bits[0] == [(analysis.minimum_mantissa(5, n), None) for n in (300, 400, 128)]
    assert bits[1] == [
        (analysis.minimum_mantissa(5, n, method="noise", noise_to_signal=1e-3), None)
        for n in (300, 400, 128)
    ]
    assert bits[2] == [
        (analysis.minimum_mantissa(5, n, c, method="noise", noise_to_signal=1e-3), c)
        for n, c in ((300, 18), (400, 20), (128, 12))
    ]


def test_the_plan_knows_both_widths():
    plan = analysis.plan(mlp(), 128, chunk=16)
    (s,) = (s for s in plan.sums if (s.layer, s.which) == ("b", "BWD"))
    assert (s.normal, s.chunked, s.mantissa_bits) == (
        analysis.minimum_mantissa(5, 400),
        analysis.minimum_mantissa(5, 400, 16),
        analysis.minimum_mantissa(5, 400, 16),
    )


def test_operands_set_the_products_bits():
    plan = analysis.plan(mlp(), 128, operand=lp.FP8_E4M3FN, chunk=None)
    (s,) = (s for s in plan.sums if (s.layer, s.which) == ("b", "BWD"))
    assert s.mantissa_bits == analysis.minimum_mantissa(7, 400)


def test_the_last_layer_may_be_planned_too():
    given = analysis.plan(mlp(), 128)
    planned = analysis.plan(mlp(), 128, last_layer=None)
    assert [s.mantissa_bits for s in given.sums if s.layer == "c"] == [9, 9, 9]
    want = [analysis.minimum_mantissa(5, 400, 64), 2, analysis.minimum_mantissa(5, 128, 64)]
    assert [s.mantissa_bits for s in planned.sums if s.layer == "c"] == want


def test_policies_hold_the_widths():
    plan = analysis.plan(mlp(), 128, chunk=32, rounding="toward_zero", accumulator_exponent_bits=7)
    for path, policy in plan.policies().items():
        own = {s.which: s for s in plan.sums if s.layer == path}
        for which, gemm in (
            ("FWD", policy.forward),
            ("BWD", policy.backward),
            ("GRAD", policy.gradient),
        ):
            s = own.get(which, own["FWD"])
            format = lp.FloatFormat(7, s.mantissa_bits)
            assert gemm.accumulator == lp.Accumulator(format, 32, "toward_zero")
            assert gemm.lhs == gemm.rhs == (lp.FloatFormat(6, 9) if path == "c" else lp.FP8_E5M2)


def test_policy_map_goes_by_names():
    plan = analysis.plan(mlp(), 128)
    policies = plan.policy_map()
    assert {name: policies.for_layer(name) for name in "abc"} == plan.policies()
    assert policies.for_layer("another") == lp.Policy.float32()


def test_policy_map_takes_names_literally():
    plan = analysis.plan(mlp(), 128)
    odd = dataclasses.replace(
        plan, sums=[dataclasses.replace(s, layer="a*[b]") for s in plan.sums if s.layer == "a"]
    )
    assert odd.policy_map().for_layer("a*[b]") == odd.policies()["a*[b]"]
    assert odd.policy_map().for_layer("axb") == lp.Policy.float32()


def test_policy_map_refuses_one_name_for_two_widths():
    inner = tf.keras.Sequential([tf.keras.Input((2000,)), L.Dense(5, name="a")], name="inner")
    model = tf.keras.Sequential(
        [tf.keras.Input((2000,)), inner, L.Dense(2000, name="a"), L.Dense(3)]
    )
    with pytest.raises(ValueError, match="layers called 'a'"):
        analysis.plan(model, 4, chunk=None).policy_map()


def test_perturb_moves_all_but_the_last_layer():
    plan = analysis.plan(mlp(), 128)
    moved = plan.perturb(-1).perturb(-1)
    assert moved.perturbation == -2
    for before, after in zip(plan.sums, moved.sums, strict=True):
        assert after.mantissa_bits == before.mantissa_bits - (0 if before.is_last else 2)
    assert plan.perturb(3).perturb(-3) == plan
    assert plan.perturb(0) is plan  # with what was measured


@pytest.mark.parametrize("bits, message", [(-30, "'?a'? would have|a would have"), (1.0, "1.0")])
def test_perturb_refuses(bits, message):
    with pytest.raises(ValueError, match=message):
        analysis.plan(mlp(), 128).perturb(bits)


@pytest.mark.parametrize("chunk", [None, 64, "best"])
def test_json_round_trip(tmp_path, chunk):
    plan = analysis.plan(mlp(), 128, chunk=chunk).perturb(-1)
    text = plan.to_json(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text() == text
    assert analysis.Plan.from_json(text) == plan
    assert analysis.Plan.from_json(tmp_path / "plan.json") == plan
    assert json.loads(text)["sums"][0]["layer"] == "a"
    assert hash(analysis.Plan.from_json(text)) == hash(plan)


def test_keras_serializes_a_plan():
    plan = analysis.plan(mlp(), 128)
    assert deserialize_keras_object(serialize_keras_object(plan)) == plan


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "no plan of tf_lowprec"),
        ("{}", "no plan of tf_lowprec"),
        ('{"tf_lowprec_plan": 99}', "version 99"),
        ('{"tf_lowprec_plan": 1, "sums": []}', "damaged"),
    ],
)
def test_json_that_is_no_plan_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        analysis.Plan.from_json(text)


def test_json_with_a_wrong_width_is_refused():
    text = analysis.plan(mlp(), 128).to_json().replace('"mantissa_bits": 9', '"mantissa_bits": 99')
    with pytest.raises(ValueError, match="mantissa_bits = 99 must be in 0..23"):
        analysis.Plan.from_json(text)


def test_two_terms_take_their_own_bits():
    for method in ("formula", "noise", "measured"):
        assert analysis.minimum_mantissa(30, 2, method=method) == 23


def test_table_shows_lengths_and_bits():
    console = Console(width=120, record=True, file=io.StringIO())
    plan = analysis.plan(mlp(), 128)
    console.print(plan.table())
    text = console.export_text()
    (row,) = (line for line in text.splitlines() if line.startswith("│ b "))
    assert row.replace(" ", "") == "│b│300│5(6/5)│400│5(7/5)│128│5(5/5)│"


def test_plot_is_a_picture(tmp_path):
    plan = analysis.plan(mlp(), 128).perturb(-1)
    plan.plot(tmp_path / "plan.png")
    pixels = matplotlib.image.imread(tmp_path / "plan.png")[..., :3]
    # Bars of both kinds: the colour of each is there.
    for color in ("#1f77b4", "#ff7f0e"):
        rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert np.any(np.all(np.abs(pixels - rgb) < 0.01, -1))


def test_resnet18_takes_less_than_a_second():
    model = lp.models.resnet18()
    start = time.process_time()
    plan = analysis.plan(model, 256)
    assert time.process_time() - start < 3  # 0.4 s on a free machine
    first = {s.which: (s.n, s.normal, s.chunked) for s in plan.sums if s.layer == "conv1"}
    assert first == {"FWD": (147, 6, 5), "GRAD": (3211264, 15, 11)}


@needs_keras_3
def test_a_batch_size_of_the_model_is_used():
    model = tf.keras.Sequential([tf.keras.Input((20,), batch_size=7), L.Dense(3), L.Dense(2)])
    assert analysis.plan(model).batch_size == 7


def test_open_shapes_can_be_given():
    model = tf.keras.Sequential([tf.keras.Input((None, 3)), L.LSTM(4, name="lstm"), L.Dense(2)])
    with pytest.raises(ValueError, match="give input_shape"):
        analysis.plan(model, 4)
    plan = analysis.plan(model, 4, input_shape=(9, 3))
    assert {s.which: s.n for s in plan.sums if s.product == "kernel" and s.layer == "lstm"} == {
        "FWD": 3,
        "GRAD": 36,
    }


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: analysis.plan(Subclassed(), 4), "is not built"),
        (lambda: analysis.plan(mlp()), "batch_size is unknown"),
        (lambda: analysis.plan(mlp(), 0), "batch_size = 0"),
        (lambda: analysis.plan("resnet18", 4), "model = 'resnet18' must be"),
        (
            lambda: analysis.plan(tf.keras.Sequential([tf.keras.Input((3,)), L.ReLU()]), 4),
            "has no matrix product",
        ),
        (lambda: analysis.plan(mlp(), 4, operand=lp.FixedPointFormat(2, 14)), "operand = "),
        (lambda: analysis.plan(mlp(), 4, chunk=0), "chunk = 0"),
        (lambda: analysis.plan(mlp(), 4, chunk="all"), "chunk = 'all'"),
        (lambda: analysis.plan(mlp(), 4, rule="guess"), "rule = 'guess' must be 'vrr' or 'noise'"),
        (lambda: analysis.plan(mlp(), 4, cutoff=0.5), "cutoff = 0.5"),
        (lambda: analysis.plan(mlp(), 4, noise_to_signal=2), "noise_to_signal = 2"),
        (lambda: analysis.plan(mlp(), 4, last_layer=16), "last_layer = 16"),
        (lambda: analysis.plan(mlp(), 4, rounding="up"), "rounding = 'up'"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert len(str(error.value).splitlines()) == 1


def test_str_is_the_table_in_a_notebook_too(monkeypatch):
    # There rich shows tables by itself, unless it is told not to.
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert "GRAD n" in str(analysis.plan(lp.models.mnist_dnn(), batch_size=128))


def test_best_chunk_is_one_for_all_products_of_a_layer():
    layers = [L.LSTM(1024, name="lstm"), L.Dense(10)]
    plan = analysis.plan(tf.keras.Sequential([tf.keras.Input((30, 1)), *layers]), 32, chunk="best")
    forward = {s.product: s for s in plan.sums if (s.layer, s.which) == ("lstm", "FWD")}
    assert {s.chunk for s in forward.values()} == {32}
    accumulator = plan.policies()["lstm"].forward.accumulator
    assert accumulator.chunk == 32
    for s in forward.values():
        needed = analysis.minimum_mantissa(5, s.n, 32)
        assert accumulator.format.mantissa_bits >= needed


def test_numbers_of_numpy():
    options = {"chunk": np.int64(64), "cutoff": np.float32(50), "noise_to_signal": np.float32(0.5)}
    plan = analysis.plan(mlp(), np.int64(8), accumulator_exponent_bits=np.int64(6), **options)
    assert analysis.Plan.from_json(plan.to_json()) == plan
