"""lp.matmul in fixed point against integers, in all three passes."""

import re

import numpy as np
import oracle
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

Q16 = lp.FixedPointFormat(2, 14)
Q24 = lp.FixedPointFormat(1, 23)
NEAREST = lp.Policy.fixed_point(Q16, rounding="nearest_even")


def on_grid(rng, shape, format):
    """Random values of the format, as integers k of k * 2^-FL."""
    half = 2 ** (format.bits - 1)
    return rng.integers(-half, half, shape)


def as_float(integers, format):
    return (integers * format.epsilon).astype(np.float32)


def convert(sums, fl, output):
    """Integer sums, in units of 2^-fl, rounded to nearest even in `output`."""
    flat = [oracle.round_value(float(v) * 2.0**-fl, output, "nearest_even") for v in np.ravel(sums)]
    return np.array(flat, np.float32).reshape(np.shape(sums))


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 7),
    k=st.integers(0, 40),
    n=st.integers(1, 7),
    lhs=st.tuples(st.integers(1, 8), st.integers(0, 14)),
    rhs=st.tuples(st.integers(1, 8), st.integers(0, 14)),
    output=st.tuples(st.integers(1, 8), st.integers(0, 14)),
    transpose=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**31),
)
def test_forward_is_the_exact_sum_rounded_once(m, k, n, lhs, rhs, output, transpose, seed):
    lhs, rhs, output = (lp.FixedPointFormat(*f) for f in (lhs, rhs, output))
    rng = np.random.default_rng(seed)
    a, b = on_grid(rng, (m, k), lhs), on_grid(rng, (k, n), rhs)
    gemm = lp.Gemm(lhs, rhs, lp.Accumulator.wide(), output)
    y = lp.matmul(
        as_float(a.T if transpose[0] else a, lhs),
        as_float(b.T if transpose[1] else b, rhs),
        gemm,
        transpose_a=transpose[0],
        transpose_b=transpose[1],
    )
    want = convert(a @ b, lhs.fractional_bits + rhs.fractional_bits, output)
    np.testing.assert_array_equal(y, want)


def test_sum_beyond_float32_is_rounded_once():
    # -15.5 + 2^-17 is a tie of the output's 2^-16, which the last product, 2^-46, decides.
    gemm = lp.Gemm(Q24, Q24, lp.Accumulator.wide(), lp.FixedPointFormat(8, 16))
    a = np.full((1, 64), -1.0, np.float32)
    b = np.full((64, 1), 2.0**-2, np.float32)
    a[0, 0], b[0, 0] = 2.0**-23, 2.0**-23
    a[0, 1], b[1, 0] = 2.0**-16, 0.5
    assert lp.matmul(a, b, gemm).numpy().item() == -15.5 + 2.0**-16


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_gradients_are_exact_sums_rounded_once(run, transpose_a, transpose_b, batch):
    rng = np.random.default_rng(0)
    a, b = on_grid(rng, (*batch, 4, 5), Q16), on_grid(rng, (*batch, 5, 6), Q16)
    dy = on_grid(rng, (*batch, 4, 6), Q16)
    swap = lambda x, yes: np.swapaxes(x, -1, -2) if yes else x  # noqa: E731

    @run
    def gradients(a, b, dy):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            # Beyond the range nothing flows back: the output format must not saturate here.
            gemm = lp.Gemm(Q16, Q16, lp.Accumulator.wide(), lp.FixedPointFormat(10, 14))
            y = lp.matmul(
                a,
                b,
                lp.Policy(forward=gemm, backward=NEAREST.backward, gradient=NEAREST.gradient),
                transpose_a=transpose_a,
                transpose_b=transpose_b,
            )
        return tape.gradient(y, [a, b], output_gradients=dy)

    da, db = gradients(
        tf.constant(as_float(swap(a, transpose_a), Q16)),
        tf.constant(as_float(swap(b, transpose_b), Q16)),
        tf.constant(as_float(dy, Q16)),
    )
    want_a = convert(dy @ np.swapaxes(b, -1, -2), 28, Q16)
    want_b = convert(np.swapaxes(a, -1, -2) @ dy, 28, Q16)
    np.testing.assert_array_equal(da, swap(want_a, transpose_a))
    np.testing.assert_array_equal(db, swap(want_b, transpose_b))


@pytest.mark.parametrize("a_batch, b_batch", [((3,), ()), ((2, 3), (3,)), ((2, 1), (1, 3))])
def test_broadcast_gradient_is_one_sum(a_batch, b_batch):
    rng = np.random.default_rng(1)
    small = lp.FixedPointFormat(1, 7)
    a, b = on_grid(rng, (*a_batch, 4, 5), small), on_grid(rng, (*b_batch, 5, 6), small)
    gemm = lp.Gemm(small, small, lp.Accumulator.wide(), lp.FixedPointFormat(8, 4))
    x, w = tf.constant(as_float(a, small)), tf.constant(as_float(b, small))
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = lp.matmul(x, w, gemm)
    dy = on_grid(rng, y.shape, small)
    da, db = tape.gradient(y, [x, w], output_gradients=as_float(dy, small))
    full_a = dy @ np.swapaxes(np.broadcast_to(b, (*y.shape[:-2], 5, 6)), -1, -2)
    full_b = np.swapaxes(np.broadcast_to(a, (*y.shape[:-2], 4, 5)), -1, -2) @ dy
    for got, full, like in ((da, full_a, a), (db, full_b, b)):
        padded = (1,) * (full.ndim - like.ndim) + like.shape
        axes = tuple(i for i, extent in enumerate(padded) if extent != full.shape[i])
        want = convert(full.sum(axes, keepdims=True).reshape(like.shape), 14, gemm.output)
        np.testing.assert_array_equal(got, want)


def test_saturated_outputs_pass_no_error_back():
    a = tf.constant([[1.5, 1.5], [0.5, 0.0]])
    b = tf.constant([[1.5], [1.5]])
    with tf.GradientTape() as tape:
        tape.watch(a)
        y = lp.matmul(a, b, NEAREST)  # 4.5 saturates <2,14>, 0.75 does not
    np.testing.assert_array_equal(tape.gradient(y, a), [[0, 0], [1.5, 1.5]])


def test_backward_passes_take_the_operands_that_forward_rounded():
    coarse = lp.FixedPointFormat(4, 1)
    gemm = lp.Gemm(coarse, coarse, lp.Accumulator.wide())
    a, b = tf.constant([[0.7]]), tf.constant([[1.3]])
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        y = lp.matmul(a, b, gemm)
    da, db = tape.gradient(y, [a, b])
    assert (y.numpy().item(), da.numpy().item(), db.numpy().item()) == (0.75, 1.5, 0.5)


def test_stochastic_output_follows_philox():
    policy = lp.Policy.fixed_point(lp.FixedPointFormat(4, 4), rounding="stochastic")
    rng = np.random.default_rng(2)
    a, b = (as_float(on_grid(rng, (5, 5), policy.weights), policy.weights) for _ in "ab")
    y = lp.matmul(a, b, policy, seed=(3, 4))
    exact = a.astype(np.float64) @ b
    want = [
        oracle.round_value(
            v, policy.weights, "stochastic", oracle.random_bits(i, Stream.FORWARD_OUTPUT, (3, 4))
        )
        for i, v in enumerate(exact.ravel())
    ]
    np.testing.assert_array_equal(np.ravel(y), np.array(want, np.float32))


def test_stochastic_rounding_in_graph_needs_a_seed():
    with pytest.raises(ValueError, match="seed"):
        tf.function(lambda x: lp.matmul(x, x, lp.Policy.fixed_point(Q16)))(tf.zeros((2, 2)))


def test_native_policy_is_tf_matmul():
    a, b = tf.random.normal((8, 9)), tf.random.normal((9, 7))
    np.testing.assert_array_equal(lp.matmul(a, b, lp.Policy.float32()), tf.matmul(a, b))


def test_native_accumulator_with_formats_rounds_operands_and_output():
    a, b = tf.random.normal((8, 9)), tf.random.normal((9, 7))
    gemm = lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E5M2, output=lp.BF16)
    qa, qb = lp.quantize(a, lp.FP8_E4M3FN), lp.quantize(b, lp.FP8_E5M2)
    want = lp.quantize(tf.matmul(qa, qb), lp.BF16)
    np.testing.assert_array_equal(lp.matmul(a, b, gemm), want)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_zero_size_gives_empty_or_zero(shape):
    m, k, n = shape
    y = lp.matmul(np.zeros((m, k), np.float32), np.zeros((k, n), np.float32), NEAREST)
    np.testing.assert_array_equal(y, np.zeros((m, n)))


def test_nan_reaches_every_sum_it_is_part_of():
    a = np.ones((2, 3), np.float32)
    a[0, 1] = np.nan
    y = lp.matmul(a, np.full((3, 2), 0.25, np.float32), NEAREST).numpy()
    assert np.isnan(y[0]).all() and not np.isnan(y[1]).any()


def test_sum_beyond_the_exact_bound_is_refused_when_traced():
    gemm = lp.Gemm(Q24, Q24, lp.Accumulator.wide())
    with pytest.raises(ValueError, match="length = 129"):
        lp.matmul(np.zeros((1, 129), np.float32), np.zeros((129, 1), np.float32), gemm)


def test_sum_beyond_the_exact_bound_is_refused_when_run():
    gemm = lp.Gemm(Q24, Q24, lp.Accumulator.wide())
    spec = tf.TensorSpec([None, None])
    product = tf.function(lambda a, b: lp.matmul(a, b, gemm), input_signature=[spec, spec])
    assert product(tf.zeros((1, 128)), tf.zeros((128, 1))).shape == (1, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than 128"):
        product(tf.zeros((1, 129)), tf.zeros((129, 1)))


@pytest.mark.parametrize(
    "a, b, precision, message",
    [
        (np.zeros((2, 3)), np.zeros((3, 2), np.float32), NEAREST, "a has dtype float64"),
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), int), NEAREST, "b has dtype int64"),
        (np.zeros(3, np.float32), np.zeros((3, 2), np.float32), NEAREST, "at least two axes"),
        (np.zeros((2, 3), np.float32), np.zeros((4, 2), np.float32), NEAREST, "do not match"),
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), "fp8", "precision"),
    ],
)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_bad_input_is_named(a, b, precision, message, mode):
    call = lambda: lp.matmul(a, b, precision)  # noqa: E731
    with pytest.raises(ValueError, match=message):
        (tf.function(call) if mode == "graph" else call)()


@pytest.mark.parametrize(
    "precision",
    [NEAREST, lp.Gemm(lp.FP8_E5M2), lp.Policy.mx(lp.MXFP8_E4M3), lp.Policy.float32()],
    ids=["wide", "rounded native", "mx", "native"],
)
def test_batches_that_do_not_broadcast_are_named(precision):
    a, b = np.zeros((2, 4, 3), np.float32), np.zeros((3, 3, 3), np.float32)
    message = r"a of shape \(2, 4, 3\) and b of shape \(3, 3, 3\) do not match: .*\(2,\) and \(3,\)"
    with pytest.raises(ValueError, match=message):
        lp.matmul(a, b, precision)


def product_of(spec_a, spec_b, **options):
    """lp.matmul of tensors of which only these shapes are known before it runs."""
    return tf.function(
        lambda a, b: lp.matmul(a, b, NEAREST, **options),
        input_signature=[tf.TensorSpec(spec_a), tf.TensorSpec(spec_b)],
    )


@pytest.mark.parametrize("known", [(None, None), ([None] * 3, [3, None, 4])], ids=["rank", "sizes"])
@pytest.mark.parametrize(
    "shape_a, shape_b", [((3, 2, 3), (3, 5, 4)), ((2, 2, 3), (3, 3, 4))], ids=["k", "batch"]
)
def test_shapes_that_show_at_run_time_only(known, shape_a, shape_b):
    of_a, of_b = (str(np.array(shape)) for shape in (shape_a, shape_b))
    message = (
        f"a of shape {of_a} and b of shape {of_b} do not match (transpose_a=False, transpose_b"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(message)):
        product_of(*known)(tf.zeros(shape_a), tf.zeros(shape_b))


def test_vectors_that_show_at_run_time_only():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"two axes, got shapes \[3\]"):
        product_of(None, None)(tf.zeros(3), tf.zeros((3, 4)))


@pytest.mark.parametrize(
    "shape_a, shape_b",
    [((3, 4), (5, 4)), ((2, 1, 3, 4), (6, 5, 4)), ((0, 3, 4), (1, 5, 4))],
    ids=str,
)
def test_shapes_that_match_at_run_time(shape_a, shape_b):
    y = product_of(None, None, transpose_b=True)(tf.zeros(shape_a), tf.zeros(shape_b))
    assert y.shape == np.broadcast_shapes(shape_a[:-2], shape_b[:-2]) + (3, 5)


@pytest.mark.parametrize("shapes", [([None, 3], [3, 4]), ([2, 5, 3], [2, 3, None])], ids=str)
def test_known_shapes_are_not_checked_when_run(shapes):
    graph = product_of(*shapes).get_concrete_function().graph
    assert "Assert" not in {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("yes", [1, True, np.bool_(True), np.int64(1)], ids=repr)
def test_transposes_may_be_any_kind_of_true(yes):
    a = np.zeros((3, 2), np.float32)
    assert lp.matmul(a, a, NEAREST, transpose_a=yes).shape == (2, 2)
    assert lp.matmul(a, a, NEAREST, transpose_b=yes).shape == (3, 3)


@pytest.mark.parametrize("name", ["transpose_a", "transpose_b"])
@pytest.mark.parametrize("bad", [2, -1, 1.0, None, "yes", [True], tf.constant(True)], ids=str)
def test_transposes_that_are_no_flags_are_named(name, bad):
    a = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match=f"{name} = .* must be True or False"):
        lp.matmul(a, a, NEAREST, **{name: bad})
