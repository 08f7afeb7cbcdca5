"""LSTM and GRU step by step: a twin with exact sums forward, one of lp.matmul calls backward."""

import dataclasses

import accumulation_oracle
import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import assert_same_bits
from compat import native
from layer_cases import images

import tf_lowprec as lp
from tf_lowprec._keras import KERAS_3
from tf_lowprec.layers.seed_state import make_seed_state, next_seed
from tf_lowprec.ops.seeds import nth
from tf_lowprec.ops.streams import Stream

FP8 = lp.Policy.fp8((5, 6, 9), chunk=(4, None, 3))
FP8_ERRORS = dataclasses.replace(FP8, errors=lp.BF16)
A = lp.FixedPointFormat(6, 10)
FIXED = lp.Policy.fixed_point(lp.FixedPointFormat(2, 14), "nearest_even", activations=A)
STOCHASTIC = lp.Policy.fixed_point(lp.FixedPointFormat(2, 14), activations=A)
each_policy = pytest.mark.parametrize("policy", [FP8, FIXED], ids=["fp8", "fixed point"])
KINDS = {
    "lstm": (lp.layers.LSTM, {}),
    "gru": (lp.layers.GRU, {}),
    "gru before": (lp.layers.GRU, {"reset_after": False}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
BATCH, STEPS, INPUTS, UNITS = 3, 5, 4, 6


def make(kind, policy, **arguments):
    """A built layer with weights off their initial zeros."""
    layer, own = KINDS[kind]
    layer = layer(UNITS, precision=policy, **own, **arguments)
    if arguments.get("stateful"):
        layer(np.zeros((BATCH, STEPS, INPUTS), np.float32))
        layer.reset_states()
    else:
        layer.build((BATCH, STEPS, INPUTS))
    weights = [images(w.shape, i) / 2 for i, w in enumerate(layer.get_weights()[:3])]
    layer.set_weights(weights + layer.get_weights()[3:])
    return layer


class Exact:
    """The arithmetic of a policy by the oracles: no op of ours."""

    def __init__(self, policy):
        self.policy = policy

    def round(self, x):
        format = self.policy.activations
        return x if format is None else oracle.round_array(x, format, "nearest_even")

    def affine(self, x, kernel, bias=None):
        y = accumulation_oracle.Passes(x, kernel, self.policy, Stream).forward()[1]
        if bias is None:
            return y
        if self.policy.weights is not None:
            bias = oracle.round_array(bias, self.policy.weights, "nearest_even")
        return self.add(y, np.broadcast_to(bias, y.shape))

    def _wide(self, x):
        return x if self.policy.activations is None else np.asarray(x, np.float64)

    def add(self, a, b):
        return self.round(self._wide(a) + self._wide(b))

    def multiply(self, a, b):
        return self.round(self._wide(a) * self._wide(b))

    def sigmoid(self, x):
        return self.round(tf.sigmoid(x).numpy())

    def tanh(self, x):
        return self.round(tf.tanh(x).numpy())

    split = staticmethod(lambda x, n: np.split(x, n, -1))
    one = np.float32(1)


class Differentiable:
    """The same by lp.matmul and lp.quantize, for TensorFlow to differentiate.

    Args:
        policy: the policy.
        draw: () -> the seed of the next call of the cell; each rounding in it has one of its own.
    """

    def __init__(self, policy, draw=lambda: tf.constant([0, 0])):
        self.policy, self.draw = policy, draw
        self.seed, self.count = None, 0

    def begin(self):
        self.seed, self.count = self.draw(), 0

    def _next(self):
        self.count += 1
        return nth(self.seed, self.count)

    def _quantize(self, x, format, seed, stream):
        if format is None:
            return x
        return lp.quantize(x, format, self.policy.rounding, seed, stream=stream)

    def affine(self, x, kernel, bias=None):
        policy, seed = self.policy, self._next()
        y = lp.matmul(x, kernel, policy, seed=seed)
        if bias is not None:

            @tf.custom_gradient
            def add(y, bias):
                def gradient(dy):
                    total = tf.reduce_sum(tf.cast(dy, tf.float64), range(dy.shape.rank - 1))
                    if policy.gradients is None:
                        return dy, tf.cast(total, tf.float32)
                    return dy, self._quantize(total, policy.gradients, seed, Stream.BIAS_GRADIENT)

                return y + bias, gradient

            if policy.weights is not None:
                bias = lp.quantize(bias, policy.weights)
            y = self._quantize(add(y, bias), policy.activations, seed, Stream.BIAS)

        @tf.custom_gradient
        def round_error(y):
            return tf.identity(y), lambda dy: self._quantize(dy, policy.errors, seed, Stream.ERROR)

        return round_error(y)

    def round(self, x):
        return self._quantize(x, self.policy.activations, self._next(), Stream.ACTIVATION)

    def _wide(self, x):
        return x if self.policy.activations is None else tf.cast(x, tf.float64)

    def add(self, a, b):
        return self.round(self._wide(a) + self._wide(b))

    def multiply(self, a, b):
        return self.round(self._wide(a) * self._wide(b))

    def sigmoid(self, x):
        return self.round(tf.sigmoid(x))

    def tanh(self, x):
        return self.round(tf.tanh(x))

    split = staticmethod(lambda x, n: tf.split(x, n, -1))
    one = tf.constant(1.0)


def lstm_step(q, x, states, recurrent, bias):
    h, c = states
    z = q.add(x, q.affine(h, recurrent))
    i, f, g, o = q.split(z, 4)
    i, f, o = q.sigmoid(i), q.sigmoid(f), q.sigmoid(o)
    g = q.tanh(g)
    c = q.add(q.multiply(f, c), q.multiply(i, g))
    h = q.multiply(o, q.tanh(c))
    return h, [h, c]


def gru_step(q, x, states, recurrent, bias):
    (h,) = states
    x_z, x_r, x_h = q.split(x, 3)
    u_z, u_r, u_h = q.split(q.affine(h, recurrent, bias), 3)
    z, r = q.sigmoid(q.add(x_z, u_z)), q.sigmoid(q.add(x_r, u_r))
    n = q.tanh(q.add(x_h, q.multiply(r, u_h)))
    h = q.add(q.multiply(z, h), q.multiply(q.add(q.one, -z), n))
    return h, [h]


def gru_before_step(q, x, states, recurrent, bias):
    (h,) = states
    x_z, x_r, x_h = q.split(x, 3)
    u_z, u_r = q.split(q.affine(h, recurrent[:, : 2 * UNITS]), 2)
    z, r = q.sigmoid(q.add(x_z, u_z)), q.sigmoid(q.add(x_r, u_r))
    n = q.tanh(q.add(x_h, q.affine(q.multiply(r, h), recurrent[:, 2 * UNITS :])))
    h = q.add(q.multiply(z, h), q.multiply(q.add(q.one, -z), n))
    return h, [h]


STATES = {"lstm": (lstm_step, 2), "gru": (gru_step, 1), "gru before": (gru_before_step, 1)}


def project(kind, q, x, kernel, bias):
    """(projected inputs [B, T, n], the recurrent bias or None)."""
    if kind == "gru":
        return q.affine(x, kernel, bias[0]), bias[1]
    return q.affine(x, kernel, bias), None


def twin(kind, policy, x, weights, mask=None, states=None, backwards=False):
    """(outputs of all steps in the order they are taken, last states), by NumPy."""
    q = Exact(policy)
    step, count = STATES[kind]
    kernel, recurrent, bias = weights
    rows, bias = project(kind, q, x.reshape(-1, x.shape[-1]), kernel, bias)
    projected = rows.reshape(*x.shape[:2], -1)
    zero = np.zeros((len(x), UNITS), np.float32)
    states, output, outputs = list(states or [zero] * count), zero, []
    times = range(x.shape[1])
    for t in reversed(times) if backwards else times:
        new, new_states = step(q, projected[:, t], states, recurrent, bias)
        here = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        output = np.where(here, new, output)
        states = [np.where(here, a, b) for a, b in zip(new_states, states)]
        outputs.append(output)
    return np.stack(outputs, 1), states


def sequences(steps=STEPS):
    return images((BATCH, steps, INPUTS), 7)


MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
INITIAL = [images((BATCH, UNITS), 20 + i) / 2 for i in range(2)]


@each_policy
@each_kind
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask": MASK},
        {"states": INITIAL},
        {"backwards": True},
        {"mask": MASK, "backwards": True},
    ],
    ids=["plain", "mask", "states", "backwards", "mask backwards"],
)
def test_steps_are_the_twins(kind, policy, options):
    count = STATES[kind][1]
    options = dict(options)
    if "states" in options:
        options["states"] = options["states"][:count]
    layer = make(
        kind,
        policy,
        return_sequences=True,
        return_state=True,
        go_backwards=options.get("backwards", False),
    )
    x = sequences()
    states = options.get("states")
    y, *last = layer(
        x,
        initial_state=None if states is None else [tf.constant(s) for s in states],
        mask=options.get("mask"),
    )
    want, want_last = twin(kind, policy, x, layer.get_weights(), **options)
    assert_same_bits(y, want)
    for got, state in zip(last, want_last, strict=True):
        assert_same_bits(got, state)


@each_kind
def test_runs_everywhere(run, kind):
    layer = make(kind, FP8, return_sequences=True)
    want, _ = twin(kind, FP8, sequences(), layer.get_weights(), mask=MASK)
    function = run(lambda x, mask: layer(x, mask=mask))
    assert_same_bits(function(tf.constant(sequences()), tf.constant(MASK)), want)


def differentiate(kind, policy, layer, x, dy, draw=lambda: tf.constant([0, 0])):
    """(y, dx, dkernel, drecurrent, dbias) of all steps' outputs, by lp.matmul step by step."""
    step, count = STATES[kind]
    kernel, recurrent, bias = (tf.constant(w) for w in layer.get_weights()[:3])
    steps = [tf.identity(recurrent) for _ in range(x.shape[1])]  # each step's gradient by itself
    q = Differentiable(policy, draw)
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel, bias, *steps])
        q.begin()
        projected, recurrent_bias = project(kind, q, x, kernel, bias)
        draw()  # Keras takes the first step once more, to see the shape of its output
        states, outputs = [tf.zeros((len(x), UNITS))] * count, []
        for t, weights in enumerate(steps):
            q.begin()
            h, states = step(q, projected[:, t], states, weights, recurrent_bias)
            outputs.append(h)
        y = tf.stack(outputs, 1)
    dx, dkernel, dbias, *parts = tape.gradient(y, [x, kernel, bias, *steps], output_gradients=dy)
    total = np.zeros(recurrent.shape, np.float32)
    for part in reversed(parts):  # the order in which they are found
        total += part.numpy()
    return [y, dx, dkernel, total, dbias]


def gradients(layer, x, dy):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    variables = [native(v) for v in layer.trainable_variables]
    return [y, *tape.gradient(y, [x, *variables], output_gradients=dy)]


# Errors that meet are added in float32, in no promised order: their format hides the last bits.
@pytest.mark.parametrize("policy", [FP8_ERRORS, FIXED], ids=["fp8", "fixed point"])
@each_kind
@pytest.mark.parametrize(
    "mode, unroll",
    [(lambda f: f, False), (tf.function, False), (tf.function, True)],
    ids=["eager", "graph", "unrolled"],
)
def test_gradients_are_the_twins(kind, policy, mode, unroll):
    layer = make(kind, policy, return_sequences=True, unroll=unroll)
    x, dy = sequences(), images((BATCH, STEPS, UNITS), 8) / 4
    got = mode(lambda x, dy: gradients(layer, x, dy))(tf.constant(x), tf.constant(dy))
    for g, want in zip(got, differentiate(kind, policy, layer, x, dy), strict=True):
        assert_same_bits(g, np.asarray(want))


@each_kind
@pytest.mark.parametrize("mode", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_each_rounding_of_each_step_has_its_own_random_numbers(kind, mode):
    layer = make(kind, STOCHASTIC, return_sequences=True, seed=9)
    state = make_seed_state(9)
    x, dy = sequences(), images((BATCH, STEPS, UNITS), 8) / 4
    want = differentiate(kind, STOCHASTIC, layer, x, dy, lambda: next_seed(state))
    got = mode(lambda x, dy: gradients(layer, x, dy))(tf.constant(x), tf.constant(dy))
    for g, w in zip(got, want, strict=True):
        assert_same_bits(g, np.asarray(w))


@each_kind
def test_stateful_goes_on_where_it_stopped(kind):
    layer = make(kind, FP8, return_sequences=True, stateful=True)
    x = sequences(2 * STEPS)
    want, _ = twin(kind, FP8, x, layer.get_weights()[:3])
    assert_same_bits(tf.concat([layer(x[:, :STEPS]), layer(x[:, STEPS:])], 1), want)
    layer.reset_states()
    assert_same_bits(layer(x[:, :STEPS]), want[:, :STEPS])


@each_kind
def test_bidirectional(kind):
    layer, own = KINDS[kind]
    layer = tf.keras.layers.Bidirectional(layer(UNITS, precision=FP8, return_sequences=True, **own))
    x = sequences()
    y = layer(x)
    weights = layer.get_weights()
    forward, _ = twin(kind, FP8, x, weights[:3])
    backward, _ = twin(kind, FP8, x, weights[3:], backwards=True)
    assert_same_bits(y, np.concatenate([forward, backward[:, ::-1]], -1))


@each_kind
@pytest.mark.parametrize("implementation", [1, 2])
def test_dropout_drops_the_same_inputs_at_all_steps(kind, implementation):
    layer = make(
        kind, FP8, return_sequences=True, dropout=0.5, seed=3, implementation=implementation
    )
    x = sequences()
    if KERAS_3:  # the cell keeps the mask for the call that follows
        mask = layer.cell.get_dropout_mask(tf.constant(x[:, 0]))
    else:
        mask = layer.cell.get_dropout_mask_for_cell(tf.constant(x[:, 0]), True, count=1)
    assert set(np.unique(mask)) == {0.0, 2.0}
    want, _ = twin(kind, FP8, x * np.asarray(mask)[:, None], layer.get_weights()[:3])
    assert_same_bits(layer(x, training=True), want)
    assert np.any(layer(x, training=True) != want)  # a fresh mask
    plain, _ = twin(kind, FP8, x, layer.get_weights()[:3])
    assert_same_bits(layer(x, training=False), plain)


@each_kind
def test_symbolic_initial_states(kind):
    layer, count = make(kind, FP8), STATES[kind][1]
    inputs = [tf.keras.Input((STEPS, INPUTS)), *(tf.keras.Input((UNITS,)) for _ in range(count))]
    model = tf.keras.Model(inputs, layer(inputs[0], initial_state=inputs[1:]))
    _, (want, *_) = twin(kind, FP8, sequences(), layer.get_weights(), states=INITIAL[:count])
    assert_same_bits(model([sequences(), *INITIAL[:count]]), want)


@each_kind
def test_without_bias(kind):
    layer, own = KINDS[kind]
    layer = layer(UNITS, precision=FIXED, use_bias=False, return_sequences=True, **own)
    y = layer(sequences())
    assert len(layer.weights) == 2
    shape = {"lstm": (4 * UNITS,), "gru": (2, 3 * UNITS), "gru before": (3 * UNITS,)}[kind]
    zero = np.zeros(shape, np.float32)
    want, _ = twin(kind, FIXED, sequences(), [*layer.get_weights(), zero])
    assert_same_bits(y, want)


@each_kind
def test_what_has_no_low_precision_is_refused(kind):
    layer, own = KINDS[kind]
    with pytest.raises(ValueError, match="recurrent_dropout = 0.5 must be 0"):
        layer(UNITS, precision=FP8, recurrent_dropout=0.5, **own)
    layer(UNITS, recurrent_dropout=0.5, **own)  # float32 is Keras's
    ragged = tf.RaggedTensor.from_tensor(sequences(), lengths=[2, 5, 1])
    with pytest.raises(ValueError, match="sequences are ragged"):
        layer(UNITS, precision=FP8, **own)(ragged)


@pytest.mark.skipif(KERAS_3, reason="about Keras 2's time_major")
def test_time_major_is_refused():
    with pytest.raises(ValueError, match="time_major = True must be False"):
        lp.layers.LSTM(UNITS, precision=FP8, time_major=True)
