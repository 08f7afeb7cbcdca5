"""LowPrecision: w <- Q(w + Q(step)), on every replica alike."""

import numpy as np
import oracle
import pytest
import tensorflow as tf
from compat import native, needs_keras_3, variable
from compat import slots as all_slots

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

Q8 = lp.FixedPointFormat(2, 6)
Q16 = lp.FixedPointFormat(2, 14)


def apply(optimizer, weights, gradients, steps=1):
    """The weights after some steps of `optimizer` with constant gradients."""
    weights = variable(weights)
    for _ in range(steps):
        optimizer.apply_gradients([(tf.constant(gradients), weights)])
    return weights.numpy()


def rounded(values, format, rounding="nearest_even", bits=None):
    bits = [None] * len(values) if bits is None else bits
    rounds = [oracle.round_value(float(v), format, rounding, b) for v, b in zip(values, bits)]
    return np.array(rounds, np.float32)


def test_step_is_rounded_and_then_the_sum():
    w = np.array([0.5, -1.984375, 1.96875, 0.0], np.float32)
    g = np.array([0.3, 0.5, -0.7, 0.07], np.float32)
    optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), Q8, "nearest_even")
    step = rounded(-(g * np.float32(0.1)), Q8)
    np.testing.assert_array_equal(apply(optimizer, w, g), rounded(w + step, Q8))


def test_first_weights_may_lie_beside_the_grid_and_beyond_it():
    # The last one's sum is a tie in float32.
    w = np.array([3.0, -2.5, 0.3, 2.0**-15 * (1 + 2.0**-20)], np.float32)
    g = np.array([1.5, -1.0, 0.125, -1.0], np.float32)
    optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(1.0), Q16, "nearest_even")
    want = rounded(np.float64(w) - g, Q16)
    assert want[3] == 1 + Q16.epsilon
    np.testing.assert_array_equal(apply(optimizer, w, g), want)


def test_stochastic_step_follows_philox_keyed_by_seed_and_iteration():
    w, g = np.zeros(64, np.float32), np.full(64, 0.01, np.float32)
    optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), Q8, seed=7)
    want = w
    for iteration in range(3):
        bits = [oracle.random_bits(i, Stream.STEP.of(0), (7, iteration)) for i in range(64)]
        want = want + rounded(-(g * np.float32(0.1)), Q8, "stochastic", bits)
    np.testing.assert_array_equal(apply(optimizer, w, g, steps=3), want)


def test_stochastic_updates_are_unbiased():
    # Each step is 0.064 of a quantum: to nearest, no weight would ever move.
    n, steps = 20000, 10
    optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), Q8, seed=1)
    moved = apply(optimizer, np.zeros(n, np.float32), np.full(n, -0.01, np.float32), steps)
    p = 0.001 / Q8.epsilon
    mean, sigma = steps * p, (steps * p * (1 - p) / n) ** 0.5
    assert abs(moved.mean() / Q8.epsilon - mean) < 5 * sigma


@needs_keras_3  # Keras 2's step is what is left of it in float32
def test_float_format_takes_the_sum_in_float64():
    # 1 + 2^-21 is a tie, which the step's 2^-30 decides; a float32 sum would lose it.
    format = lp.FloatFormat(8, 20)
    w = np.array([1.0], np.float32)
    optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(1.0), format, "nearest_even")
    step = np.float32(2.0**-21 + 2.0**-30)
    got = apply(optimizer, w, np.array([-step], np.float32))
    assert got.item() == 1.0 + 2.0**-20


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.keras.optimizers.SGD(0.05, momentum=0.9),
        lambda: tf.keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
        lambda: tf.keras.optimizers.Adam(0.02),
        lambda: tf.keras.optimizers.AdamW(0.02, weight_decay=0.1),
        lambda: tf.keras.optimizers.RMSprop(0.02, momentum=0.5),
        lambda: tf.keras.optimizers.Adagrad(0.1),
        lambda: tf.keras.optimizers.Adadelta(1.0),
        lambda: tf.keras.optimizers.Adamax(0.02),
        lambda: tf.keras.optimizers.Nadam(0.02),
        lambda: tf.keras.optimizers.Ftrl(0.1),
        lambda: tf.keras.optimizers.Lion(0.01),
        lambda: tf.keras.optimizers.Adafactor(0.05),
    ],
    ids=[
        "sgd",
        "nesterov",
        "adam",
        "adamw",
        "rmsprop",
        "adagrad",
        "adadelta",
        "adamax",
        "nadam",
        "ftrl",
        "lion",
        "adafactor",
    ],
)
def test_any_keras_optimizer_learns_on_the_grid(make):
    optimizer = lp.optimizers.LowPrecision(make(), Q16, seed=1)
    target = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    weights = variable(np.full((3, 4), 0.25, np.float32))
    start = np.mean((weights.numpy() - target) ** 2)
    for _ in range(60):
        gradient = tf.convert_to_tensor(weights) - target
        optimizer.apply_gradients([(gradient, weights)])
    w = weights.numpy()
    np.testing.assert_array_equal(w, lp.quantize(w, Q16))
    assert np.mean((w - target) ** 2) < start


def test_slots_lie_on_their_own_grid():
    slots = lp.FixedPointFormat(4, 8)
    inner = tf.keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = lp.optimizers.LowPrecision(inner, Q16, slot_format=slots, seed=1)
    apply(optimizer, np.zeros(100, np.float32), np.linspace(-1, 1, 100, dtype=np.float32), 3)
    (momentum,) = (v.numpy() for v in all_slots(optimizer))
    assert np.any(momentum)
    np.testing.assert_array_equal(momentum, lp.quantize(momentum, slots))


@needs_keras_3  # Keras 2's step includes the weight decay
def test_weight_decay_is_a_rounded_step():
    inner = tf.keras.optimizers.SGD(0.5, weight_decay=0.1)
    optimizer = lp.optimizers.LowPrecision(inner, Q8, "nearest_even")
    w = np.array([1.0, -0.5], np.float32)
    want = rounded(w + rounded(-w * 0.05, Q8), Q8)
    np.testing.assert_array_equal(apply(optimizer, w, np.zeros(2, np.float32)), want)


@needs_keras_3
def test_weight_decay_and_step_are_rounded_apart():
    # Half a quantum each: -1 quantum in half of all cases, -2 and 0 in a quarter each.
    quantum = 2.0**-6
    inner = tf.keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer = lp.optimizers.LowPrecision(inner, Q8, "stochastic", seed=1)
    n = 4000
    w = np.full(n, quantum, np.float32)
    moved = (apply(optimizer, w, np.full(n, quantum / 2, np.float32)) - w) / quantum
    assert set(np.unique(moved)) == {-2, -1, 0}
    assert np.var(moved) == pytest.approx(0.5, abs=0.05)


def test_sparse_gradients_move_only_their_rows():
    table = variable(np.zeros((5, 2), np.float32))
    optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(1.0), Q8, "nearest_even")
    gradient = tf.IndexedSlices(tf.constant([[-0.5, -0.25]]), tf.constant([3]), (5, 2))
    optimizer.apply_gradients([(gradient, table)])
    want = np.zeros((5, 2))
    want[3] = [0.5, 0.25]
    np.testing.assert_array_equal(table, want)


def test_replicas_stay_equal_for_100_steps(two_replicas):
    policy = lp.Policy.fixed_point(Q16)
    with two_replicas.scope():
        model = tf.keras.Sequential(
            [
                tf.keras.Input((8,)),
                lp.layers.Dense(16, activation="relu", precision=policy, seed=1),
                lp.layers.Dense(3, precision=policy, seed=2),
            ]
        )
        inner = tf.keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(lp.optimizers.LowPrecision(inner, Q16, slot_format=Q16, seed=3), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 8)).astype(np.float32)
    before = [w.copy() for w in model.get_weights()]
    model.fit(x, x[:, :3], batch_size=8, epochs=1, verbose=0)  # 100 steps
    for weight, old in zip(model.trainable_variables, before):
        copies = [v.numpy() for v in two_replicas.experimental_local_results(native(weight))]
        assert len(copies) == 2
        np.testing.assert_array_equal(copies[0], copies[1])
        assert np.any(copies[0] != old)
    assert int(model.optimizer.iterations.numpy()) == 100


def test_learning_rate_schedule_and_iterations_are_the_inner_ones():
    schedule = tf.keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    inner = tf.keras.optimizers.SGD(schedule)
    optimizer = lp.optimizers.LowPrecision(inner, Q16)
    apply(optimizer, np.zeros(2, np.float32), np.ones(2, np.float32), steps=2)
    assert int(optimizer.iterations.numpy()) == 2
    assert float(optimizer.learning_rate) == float(inner.learning_rate) < 0.1


def test_compiled_model_saves_and_goes_on_with_the_same_bits(tmp_path):
    policy = lp.Policy.fixed_point(Q16, "nearest_even")
    model = tf.keras.Sequential([tf.keras.Input((4,)), lp.layers.Dense(2, precision=policy)])
    inner = tf.keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(lp.optimizers.LowPrecision(inner, Q16, seed=5), "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    model.fit(x, x[:, :2], batch_size=4, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for m in (model, loaded):
        m.fit(x, x[:, :2], batch_size=4, verbose=0, shuffle=False)
    for got, want in zip(loaded.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(got, want)


def test_set_random_seed_makes_updates_repeatable():
    def weights():
        tf.keras.utils.set_random_seed(5)
        optimizer = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), Q8)
        return apply(optimizer, np.zeros(50, np.float32), np.full(50, 0.05, np.float32))

    np.testing.assert_array_equal(weights(), weights())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "fixed"}, "format = 'fixed'"),
        ({"format": Q8, "rounding": "up"}, "rounding = 'up'"),
        ({"format": Q8, "slot_format": 16}, "slot_format = 16"),
        ({"format": Q8, "seed": 0.5}, "seed = 0.5"),
        ({"format": Q8, "seed": 2**63}, "seed = 9223372036854775808"),
        ({"format": Q8, "optimizer": None}, "optimizer = None"),
        ({"format": Q8, "optimizer": tf.keras.optimizers.SGD(0.1, use_ema=True)}, "use_ema"),
    ],
)
def test_bad_argument_is_named(options, message):
    options = {"optimizer": tf.keras.optimizers.SGD(0.1), **options}
    with pytest.raises(ValueError, match=message):
        lp.optimizers.LowPrecision(**options)


def test_wrapping_twice_is_refused():
    once = lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), Q8)
    with pytest.raises(ValueError, match="LowPrecision already"):
        lp.optimizers.LowPrecision(once, Q8)


def test_an_optimizer_of_two_wrappers_is_refused():
    inner = tf.keras.optimizers.SGD(0.1)
    lp.optimizers.LowPrecision(inner, Q8)
    with pytest.raises(ValueError, match="inside another LowPrecision"):
        lp.optimizers.LowPrecision(inner, Q16)


def test_constrained_weights_stay_on_the_grid():
    layer = tf.keras.layers.Dense(3, kernel_constraint=tf.keras.constraints.MaxNorm(0.5))
    model = tf.keras.Sequential([tf.keras.Input((5,)), layer])
    model.compile(lp.optimizers.LowPrecision(tf.keras.optimizers.SGD(0.1), Q8), "mse")
    model.fit(np.ones((8, 5)), np.ones((8, 3)), epochs=2, verbose=0)
    kernel = model.get_weights()[0]
    np.testing.assert_array_equal(kernel, lp.quantize(kernel, Q8))
    norms = np.linalg.norm(kernel, axis=0)  # off by the rounding of five numbers at most
    assert np.all(norms < 0.5 + np.sqrt(5) / 2 / 64) and np.all(norms > 0.3)


def test_weight_decay_leaves_out_what_is_excluded():
    inner = tf.keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer = lp.optimizers.LowPrecision(inner, Q16)
    bias = variable(np.ones(3, np.float32))
    optimizer.exclude_from_weight_decay(var_list=[bias])
    optimizer.build([bias])
    optimizer.apply_gradients([(tf.zeros(3), bias)])
    np.testing.assert_array_equal(bias, np.ones(3, np.float32))


@needs_keras_3
def test_first_apply_needs_the_variables():
    optimizer = lp.optimizers.LowPrecision("sgd", Q8)
    with pytest.raises(ValueError, match="trainable_variables = None"):
        optimizer.apply([tf.zeros(3)])
