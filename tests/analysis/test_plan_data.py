"""Plans with data: ratios of zeros counted exactly, retention of the model's own sums."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec import analysis

L = tf.keras.layers
CROSS_ENTROPY = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def _seed():
    tf.keras.utils.set_random_seed(1)


def images(n, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def sums(plan):
    return {(s.layer, s.which): s for s in plan.sums}


def cnn():
    return tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="a"),
            L.Conv2D(5, 3, padding="same", activation="relu", name="b"),
            L.Flatten(),
            L.Dense(10, name="c"),
        ]
    )


def test_dense_ratios_are_counted_by_hand():
    # x has zeros in known places; the error of "a" is zero where its ReLU is off.
    x = np.ones((4, 3), np.float32)
    x[0, :2] = x[1, 0] = 0
    model = tf.keras.Sequential(
        [
            tf.keras.Input((3,)),
            L.Dense(2, activation="relu", name="a"),
            L.Dense(2, name="b"),
        ]
    )
    kernel = np.array([[1, -1], [1, -1], [1, -1]], np.float32)
    model.set_weights([kernel, np.zeros(2), np.array([[1, -1], [2, 1]]), np.zeros(2)])
    plan = analysis.plan(model, 4, data=(x, np.zeros((4, 2), np.float32)), loss="mse")
    got = {key: s.nzr for key, s in sums(plan).items()}
    nonzero = np.array([1, 2, 3, 3])  # of three, in each row
    assert got == pytest.approx(
        {
            ("a", "FWD"): 9 / 12,
            ("a", "GRAD"): (nonzero / 3 * 0.5).mean(),  # one of a's two units is off
            ("b", "FWD"): 0.5,
            ("b", "BWD"): 1.0,
            ("b", "GRAD"): 0.5,
        }
    )


def test_ratios_of_convolutions_count_padding_and_strides():
    x = np.ones((2, 8, 8, 3), np.float32)
    plan = analysis.plan(cnn(), 2, data=(x, np.array([0, 1])), loss=CROSS_ENTROPY)
    # Stride 2 in "same" padding reads rows 0..8, of which the last is padding: 3, 3, 3, 2 of 3.
    assert sums(plan)["a", "FWD"].nzr == pytest.approx((11 / 12) ** 2)


def test_ratios_shorten_the_sums():
    plan = analysis.plan(
        cnn(), 16, data=(images(16, 8, 8, 3), np.arange(16) % 10), chunk=None, loss=CROSS_ENTROPY
    )
    for s in plan.sums:
        if not s.is_last:
            assert s.normal == max(2, analysis.minimum_mantissa(5, s.n, nzr=s.nzr))
    assert min(s.nzr for s in plan.sums) < 0.7


@pytest.mark.parametrize("rounding", ["nearest_even", "toward_zero"])
def test_retention_is_that_of_the_models_own_sums(rounding):
    model = tf.keras.Sequential([tf.keras.Input((500,)), L.Dense(40, name="a"), L.Dense(3)])
    x = images(64, 500)
    plan = analysis.plan(
        model, 64, data=(x, np.arange(64) % 3), chunk=None, rounding=rounding, loss=CROSS_ENTROPY
    )
    s = sums(plan)["a", "FWD"]
    gemm = plan.policies()["a"].forward
    kernel = model.layers[0].get_weights()[0]
    narrow = lp.matmul(x, kernel, gemm).numpy()
    exact = lp.quantize(x, lp.FP8_E5M2).numpy().astype(np.float64)
    exact = exact @ lp.quantize(kernel, lp.FP8_E5M2).numpy()
    assert s.vrr == pytest.approx(np.var(narrow) / np.var(exact), rel=1e-4)
    assert s.noise == pytest.approx(np.var(narrow - exact) / np.var(exact), rel=1e-2)
    # One sum, truncated to the 7 bits that the formula asks for, loses most of its variance.
    assert s.vrr < 0.8 if rounding == "toward_zero" else s.vrr > 0.97


def test_every_measured_layer_class():
    x = tf.keras.Input((8, 8, 2))
    y = L.Conv2D(4, 3, activation="relu", name="conv2d")(x)
    y = L.DepthwiseConv2D(3, name="depthwise")(y)
    y = L.Conv2DTranspose(3, 3, name="transposed")(y)
    y = L.Reshape((36, 3))(y)
    y = L.Conv1D(4, 3, activation="tanh", name="conv1d")(y)
    y = L.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d", name="einsum")(y)
    y = L.LSTM(4, name="lstm")(y)
    model = tf.keras.Model(x, L.Dense(3, name="dense")(y))
    plan = analysis.plan(model, 4, data=(images(4, 8, 8, 2), np.arange(4) % 3), loss=CROSS_ENTROPY)
    measured = {s.layer for s in plan.sums if s.vrr is not None}
    assert measured == set(plan.layers) - {"lstm"}
    for s in plan.sums:
        if s.layer != "lstm":
            assert 0.7 < s.vrr < 1.3, s


def test_our_own_layers_are_measured_alike():
    x, y = images(8, 8, 8, 3), np.arange(8) % 10
    model = cnn()
    stock = analysis.plan(model, 8, data=(x, y), loss=CROSS_ENTROPY)
    ours = lp.convert(model, lp.Policy.float32())
    got = analysis.plan(ours, 8, data=(x, y), loss=CROSS_ENTROPY)
    for mine, parents in zip(got.sums, stock.sums, strict=True):
        assert (mine.layer, mine.which, mine.mantissa_bits) == (
            parents.layer,
            parents.which,
            parents.mantissa_bits,
        )
        assert (mine.nzr, mine.vrr) == pytest.approx((parents.nzr, parents.vrr), rel=1e-4)


def test_the_model_is_as_before():
    model = tf.keras.Sequential(
        [tf.keras.Input((6,)), L.Dense(4), L.BatchNormalization(), L.Dropout(0.5), L.Dense(2)]
    )
    before = [w.numpy() for w in model.variables]
    analysis.plan(model, 8, data=(images(8, 6), np.arange(8) % 2), loss=CROSS_ENTROPY)
    for was, now in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(now, was)


def test_data_may_be_a_dataset_and_the_loss_the_compiled_one():
    model = cnn()
    model.compile("sgd", CROSS_ENTROPY)
    x, y = images(16, 8, 8, 3), np.arange(16) % 10
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    plan = analysis.plan(model, data=dataset)
    assert plan.batch_size == 8
    assert plan == analysis.plan(model, 8, data=(x, y))


def test_several_inputs():
    a, b = tf.keras.Input((5,), name="a"), tf.keras.Input((7,), name="b")
    model = tf.keras.Model([a, b], L.Dense(2)(L.concatenate([L.Dense(3)(a), L.Dense(3)(b)])))
    data = ([images(4, 5), images(4, 7)], np.arange(4) % 2)
    plan = analysis.plan(model, 4, data=data, loss=CROSS_ENTROPY)
    assert sum(s.vrr is not None for s in plan.sums) == len(plan.sums) == 7


def test_perturbing_forgets_what_was_measured():
    plan = analysis.plan(cnn(), 8, data=(images(8, 8, 8, 3), np.arange(8)), loss=CROSS_ENTROPY)
    assert all(s.vrr is None for s in plan.perturb(-1).sums if not s.is_last)
    assert analysis.Plan.from_json(plan.to_json()) == plan


def test_a_frozen_layer_behind_a_trainable_one():
    frozen = L.Dense(6, activation="relu", trainable=False, name="frozen")
    model = tf.keras.Sequential([tf.keras.Input((5,)), L.Dense(4), frozen, L.Dense(2)])
    plan = analysis.plan(model, 4, data=(images(4, 5), np.arange(4) % 2), loss=CROSS_ENTROPY)
    assert sums(plan)["frozen", "BWD"].vrr is not None
    assert ("frozen", "GRAD") not in sums(plan)


@pytest.mark.parametrize("order", [1, -1])
def test_a_shared_layer_gets_the_most_that_a_call_has(order):
    shared = L.Dense(3, name="shared")
    a, b = tf.keras.Input((50,)), tf.keras.Input((50,))
    model = tf.keras.Model([a, b], L.Dense(2)(L.add([shared(a), shared(b)])))
    sparse = np.zeros((4, 50), np.float32)
    sparse[:, 0] = 1
    x = [sparse, np.ones((4, 50), np.float32)][::order]
    plan = analysis.plan(model, 4, data=(x, np.arange(4) % 2), loss=CROSS_ENTROPY)
    assert sums(plan)["shared", "FWD"].nzr == 1


def test_a_dict_of_losses_is_refused():
    x = tf.keras.Input((5,))
    model = tf.keras.Model(x, {"p": L.Dense(2, name="p")(x), "q": L.Dense(1, name="q")(x)})
    model.compile("sgd", {"p": CROSS_ENTROPY, "q": "mse"})
    y = np.arange(4) % 2
    with pytest.raises(ValueError, match="must be one loss of Keras, or a function of"):
        analysis.plan(model, 4, data=(images(4, 5), {"p": y, "q": y}))


X = images(8, 8, 8, 3)
Y = np.arange(8)


@pytest.mark.parametrize(
    "data, options, message",
    [
        ((X, Y), {}, "is not compiled: give loss"),
        (
            (X[:2], Y[:2]),
            {"loss": CROSS_ENTROPY},
            "data holds 2 examples, fewer than batch_size = 8",
        ),
        ((X, Y[:5]), {"loss": CROSS_ENTROPY}, "data holds 5 examples"),
        ((X[:, :4], Y), {"loss": CROSS_ENTROPY}, r"x has shape \(8, 4, 8, 3\), the model takes"),
        ((X, images(8, 3)), {"loss": "mse"}, "data does not fit model .* or its loss"),
        (X, {"loss": CROSS_ENTROPY}, r"data must be \(x, y\)"),
        ((X, Y, Y), {"loss": CROSS_ENTROPY}, r"data must be \(x, y\).*got 3 parts"),
        (
            tf.data.Dataset.from_tensor_slices((X, Y)),
            {"loss": CROSS_ENTROPY},
            "without an axis of examples: batch the Dataset",
        ),
        ((X, Y), {"loss": CROSS_ENTROPY, "loss_scale": 0}, "loss_scale = 0 must be"),
        ((X, Y), {"loss": CROSS_ENTROPY, "batch_size": -1}, "batch_size = -1 must be a positive"),
        ((X, Y), {"loss": CROSS_ENTROPY, "batch_size": 2.5}, "batch_size = 2.5 must be a positive"),
        ((X * np.nan, Y), {"loss": CROSS_ENTROPY}, "a loss of nan: its examples"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, options, message):
    options = {"batch_size": 8, "data": data, **options}
    with pytest.raises(ValueError, match=message) as error:
        analysis.plan(cnn(), **options)
    assert len(str(error.value).splitlines()) == 1
