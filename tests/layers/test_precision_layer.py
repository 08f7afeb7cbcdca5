"""What every low-precision layer does around its products."""

import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from compat import native, needs_keras_3
from layer_cases import CASES, each_case, images

import tf_lowprec as lp
from tf_lowprec._keras import KERAS_3

Q16 = lp.FixedPointFormat(2, 14)
ACTIVATIONS = lp.FixedPointFormat(6, 10)
POLICY = lp.Policy.fixed_point(Q16, activations=ACTIVATIONS)
NEAREST = lp.Policy.fixed_point(Q16, "nearest_even", activations=ACTIVATIONS)
FP8 = lp.Policy.fp8((5, 6, 9), chunk=(4, None, 3))


def is_on_grid(x, format):
    x = np.asarray(x)
    return np.array_equal(x, lp.quantize(x, format))


@each_case
def test_float32_policy_is_the_stock_layer_with_its_weights(case):
    x = images(case.shape)
    stock, ours = case.make(stock=True), case.built()
    want = case.call(stock, x)
    ours.set_weights(stock.get_weights())
    np.testing.assert_array_equal(case.call(ours, x), want)


@each_case
def test_fixed_point_layer_takes_its_parents_weights(case):
    stock, ours = case.make(stock=True), case.built(precision=POLICY)
    case.call(stock, tf.zeros(case.shape))
    assert [w.shape for w in ours.weights if w.trainable] == [w.shape for w in stock.weights]
    ours.set_weights(stock.get_weights())
    for got, want in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


@each_case
def test_initial_weights_and_outputs_lie_on_their_grids(case):
    ours = case.make(precision=POLICY)
    y = case.call(ours, images(case.shape), training=True)
    assert all(is_on_grid(w, Q16) for w in ours.get_weights())
    assert is_on_grid(y, ACTIVATIONS)


def check_gradients(mode, case):
    tf.keras.utils.set_random_seed(1)  # any gradient but a zero, which a key's bias may have
    ours = case.built(precision=NEAREST)

    @mode
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(case.call(ours, x, training=True)))
        variables = [native(v) for v in ours.trainable_variables]
        return tape.gradient(loss, [x, *variables])

    for gradient in gradients(tf.constant(images(case.shape) / 4)):
        assert is_on_grid(gradient, Q16)
        assert np.any(gradient)


@each_case
def test_gradients_lie_on_their_grids(case):
    check_gradients(tf.function, case)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("conv", "lstm")], ids=str)
def test_gradients_lie_on_their_grids_everywhere(run, case):
    check_gradients(run, case)


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


@each_case
def test_training_rounds_afresh_each_call_and_inference_does_not(case):
    layer, x = case.built(precision=POLICY, seed=1), images(case.shape)
    first, second = (case.call(layer, x, training=True) for _ in range(2))
    assert np.any(first != second)
    np.testing.assert_array_equal(case.call(layer, x), case.call(layer, x, training=False))


@each_case
def test_set_random_seed_makes_rounding_repeatable(case):
    def outputs():
        tf.keras.utils.set_random_seed(5)
        return case.call(case.make(precision=POLICY), images(case.shape), training=True)

    np.testing.assert_array_equal(outputs(), outputs())


@each_case
def test_replicas_round_their_activations_differently(two_replicas, case):
    with two_replicas.scope():
        layer = case.built(precision=POLICY, seed=1)
    x = tf.constant(images(case.shape))
    step = tf.function(lambda: two_replicas.run(lambda: case.call(layer, x, training=True)))
    first, second = two_replicas.experimental_local_results(step())
    assert np.any(first != second)


@each_case
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_computes_in_float32_and_casts_back(case, dtype):
    layer, reference = case.built(precision=FP8, dtype=f"mixed_{dtype}"), case.built(precision=FP8)
    reference.set_weights(layer.get_weights())
    assert {w.dtype for w in layer.get_weights()} == {np.dtype("float32")}
    x = tf.cast(images(case.shape), dtype)
    y = case.call(layer, x)
    assert y.dtype == dtype
    want = tf.cast(case.call(reference, tf.cast(x, tf.float32)), dtype)
    assert_same_bits(tf.cast(y, tf.float32), tf.cast(want, tf.float32).numpy())


@each_case
def test_config_round_trip(case):
    ours = case.make(precision=POLICY, seed=3)
    again = case.layer.from_config(ours.get_config())
    assert (again.precision, again.seed) == (POLICY, 3)
    loaded = tf.keras.layers.deserialize(tf.keras.layers.serialize(ours))
    assert type(loaded) is case.layer and loaded.precision == POLICY


COARSE = lp.Policy.fixed_point(lp.FixedPointFormat(12, 12))  # sums of up to 128 terms


@pytest.mark.parametrize(
    "make, shape, length",
    [
        (lambda: lp.layers.Dense(3, precision=COARSE), (129,), 129),
        (lambda: lp.layers.Conv1D(3, 5, precision=COARSE), (8, 26), 130),
        (lambda: lp.layers.Conv2D(4, 3, groups=2, precision=COARSE), (5, 5, 30), 135),
        (lambda: lp.layers.Conv2DTranspose(3, 3, precision=COARSE), (5, 5, 15), 135),
        (lambda: lp.layers.DepthwiseConv2D((10, 13), precision=COARSE), (13, 13, 2), 130),
        (lambda: lp.layers.EinsumDense("abc,bcd->ad", 3, precision=COARSE), (10, 13), 130),
        (lambda: lp.layers.LSTM(3, precision=COARSE), (2, 129), 129),
        (lambda: lp.layers.GRU(129, precision=COARSE), (2, 3), 129),
    ],
    ids=["Dense", "Conv1D", "Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "EinsumDense", "LSTM"]
    + ["GRU"],
)
def test_sums_too_long_are_refused_when_the_layer_is_built(make, shape, length):
    with pytest.raises(ValueError, match=f"length = {length}: .* longer than 128"):
        tf.keras.Sequential([tf.keras.Input(shape), make()])


@pytest.mark.parametrize("channels, key_dim, length", [(129, 3, 129), (3, 130, 130)])
def test_attentions_sums_too_long_are_refused_when_it_is_built(channels, key_dim, length):
    x = tf.keras.Input((4, channels))
    with pytest.raises(ValueError, match=f"length = {length}: .* longer than 128"):
        lp.layers.MultiHeadAttention(2, key_dim, precision=COARSE)(x, x)


def test_sums_of_training_do_not_keep_a_layer_from_inference():
    model = tf.keras.Sequential(
        [tf.keras.Input((128,)), lp.layers.Dense(129, precision=COARSE)]  # BWD sums over 129
    )
    assert model.predict(np.zeros((1, 128), np.float32), verbose=0).shape == (1, 129)


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="precision = 'fp8'"):
        lp.layers.Dense(3, precision="fp8")


@needs_keras_3
def test_lora_is_refused():
    with pytest.raises(ValueError, match="lora_rank"):
        lp.layers.Dense(3, precision=POLICY, lora_rank=2)
    layer = lp.layers.Dense(3, precision=POLICY)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"enable_lora: .* Policy.float32"):
        layer.enable_lora(2)
    stock = lp.layers.Dense(3)
    stock.build((None, 4))
    stock.enable_lora(2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("precision", [POLICY, lp.Policy.fp8(9)], ids=["POLICY", "fp8"])
def test_float32_inside_whatever_keras_s_dtype(dtype, precision):
    layer = lp.layers.Dense(3, precision=precision, dtype=dtype)
    y = layer(tf.ones((2, 4), dtype))
    assert y.dtype == dtype
    assert {tf.as_dtype(w.dtype) for w in layer.weights} == {tf.float32}
    np.testing.assert_array_equal(
        y, tf.cast(layer_of_float32(layer, precision)(tf.ones((2, 4))), dtype)
    )


def layer_of_float32(layer, precision):
    other = lp.layers.Dense(3, precision=precision)
    other.build((None, 4))
    other.set_weights(layer.get_weights())
    return other


@pytest.mark.parametrize("seed", [True, 1.5, 2**63, "1"])
def test_a_seed_that_is_none_is_named(seed):
    layer = lp.layers.Dense(
        3, precision=lp.Policy.fixed_point(lp.FixedPointFormat(2, 6)), seed=seed
    )
    with pytest.raises(ValueError, match="seed = "):
        layer.build((None, 4))


def test_channels_first_is_refused():
    with pytest.raises(ValueError, match="data_format"):
        lp.layers.Conv2D(3, 3, precision=POLICY, data_format="channels_first")


@needs_keras_3
@each_case
def test_jit_compile_is_turned_off_with_a_warning(case):
    model = case.model(NEAREST)
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile("sgd", "mse", jit_compile=True)
    assert not model.jit_compile


@pytest.mark.skipif(KERAS_3, reason="about Keras 2, which asks no layer")
@each_case
@pytest.mark.parametrize("policy", [NEAREST, FP8], ids=["fixed point", "fp8"])
def test_jit_compile_is_refused_by_name(case, policy):
    model = case.model(policy)
    model.compile("sgd", "mse", jit_compile=True)
    x = images(case.shape)
    with pytest.raises(ValueError, match="jit_compile = True must be False"):
        model.fit(x, np.zeros(model(x).shape, np.float32), verbose=0)
