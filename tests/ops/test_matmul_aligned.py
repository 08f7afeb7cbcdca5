"""lp.matmul under aligned accumulators: bit for bit what exact fractions give, and a real chip."""

import pathlib

import aligned_oracle
import numpy as np
import oracle
import pytest
import tensorflow as tf
from cases import assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp

DATA = pathlib.Path(__file__).parent.parent / "data" / "tensor_core.npz"
FORMATS = st.sampled_from(
    [lp.FP8_E4M3FN, lp.FP8_E5M2, lp.FP4_E2M1FN, lp.FP16, lp.BF16, lp.FloatFormat(6, 9)]
)


@st.composite
def accumulators(draw):
    if draw(st.booleans()):
        return lp.Accumulator.hopper(
            draw(st.sampled_from([None, 128])),
            draw(st.sampled_from([8, 16])),
            draw(st.sampled_from(["float32", "float16"])),
        )
    group = draw(st.integers(1, 9))
    return lp.Accumulator.aligned(
        group,
        draw(st.integers(1, 30)),
        lp.FloatFormat(draw(st.integers(4, 8)), draw(st.integers(1, 23))),
        draw(st.sampled_from(["toward_zero", "nearest_even"])),
        draw(st.sampled_from([None, group, 3 * group])),
    )


def operand(rng, shape, format, spread, specials):
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-spread, spread + 1, shape)
    x[rng.random(shape) < 0.1] = 0
    x[rng.random(shape) < 0.1] = oracle.smallest(format)
    if specials:
        x[rng.random(shape) < 0.03] = rng.choice([np.inf, -np.inf, np.nan])
    return oracle.round_array(x.astype(np.float32), format, "nearest_even", None)


@settings(max_examples=150, deadline=None)
@given(
    accumulator=accumulators(),
    formats=st.tuples(FORMATS, FORMATS),
    m=st.integers(1, 3),
    k=st.integers(0, 80),
    n=st.sampled_from([1, 2, 33]),
    spread=st.sampled_from([0, 3, 12, 60]),
    specials=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_matrices(accumulator, formats, m, k, n, spread, specials, seed):
    rng = np.random.default_rng(seed)
    a = operand(rng, (m, k), formats[0], spread, specials)
    b = operand(rng, (k, n), formats[1], spread, specials)
    y = lp.matmul(a, b, lp.Gemm(*formats, accumulator)).numpy()
    expected = oracle.canonical(aligned_oracle.product(a, b, accumulator, formats))
    assert_same_bits(y, expected)


def test_a_zero_operand_has_no_exponent():
    """0 * 448 does not set the exponent by which small products are cut."""
    a = np.float32([[0, 2**-6, 2**-6, 2**-9]])
    b = np.float32([[448], [2**-6], [2**-6], [2**-9]])
    gemm = lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E4M3FN, lp.Accumulator.hopper())
    assert lp.matmul(a, b, gemm).numpy().item() == 2**-11 + 2**-18


def test_products_are_not_normalized():
    """1.75 * 1.75 has the exponent 0: cut at 2^-13 in units of it, 2^-13 remains."""
    a, b = np.float32([[1.75, 2**-6, 0]]), np.float32([[1.75], [2**-7], [0]])
    gemm = lp.Gemm(
        lp.FP8_E4M3FN, lp.FP8_E4M3FN, lp.Accumulator.aligned(32, 13, lp.FloatFormat(8, 23))
    )
    assert lp.matmul(a, b, gemm).numpy().item() == 1.75**2 + 2**-13


def test_promotion_keeps_what_the_sum_would_cut():
    a = np.float32([[64] * 128 + [2**-3] * 128])
    b = np.ones((256, 1), np.float32)
    one, promoted = (
        lp.matmul(a, b, lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E4M3FN, lp.Accumulator.hopper(p))).numpy()
        for p in (None, 128)
    )
    assert promoted.item() == 64 * 128 + 16
    assert one.item() == 64 * 128  # 2^13 + 32 times 2^-3 in units of 2^0: each is cut


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_batches_transposes_and_instruction_sets(isa, monkeypatch):
    monkeypatch.setenv("TF_LOWPREC_ISA", isa)  # a kernel is chosen when its op is made
    rng = np.random.default_rng(3)
    formats = (lp.FP8_E5M2, lp.FP8_E4M3FN)
    a = operand(rng, (2, 1, 70, 5), formats[0], 4, False)
    b = operand(rng, (3, 40, 70), formats[1], 4, False)
    accumulator = lp.Accumulator.hopper(64)
    gemm = lp.Gemm(*formats, accumulator)
    y = lp.matmul(a, b, gemm, transpose_a=True, transpose_b=True).numpy()
    assert y.shape == (2, 3, 5, 40)
    for i in range(2):
        for j in range(3):
            expected = aligned_oracle.product(a[i, 0].T, b[j].T, accumulator, formats)
            assert_same_bits(y[i, j], expected)


def test_gradients():
    """BWD and GRAD are such products of what FWD rounded."""
    rng = np.random.default_rng(4)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in ((6, 50), (50, 7), (6, 7)))
    policy = lp.Policy.hopper(promote=32, errors=lp.FP8_E5M2, scaling=None)
    x_t, w_t = tf.constant(x), tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch((x_t, w_t))
        y = lp.matmul(x_t, w_t, policy)
    dx, dw = tape.gradient(y, (x_t, w_t), dy)

    def rounded(v, format):
        return oracle.round_array(v, format, "nearest_even", None)

    x, w = rounded(x, lp.FP8_E4M3FN), rounded(w, lp.FP8_E4M3FN)
    dy = rounded(dy, lp.FP8_E5M2)
    for got, lhs, rhs, gemm in (
        (y, x, w, policy.forward),
        (dx, dy, w.T, policy.backward),
        (dw, x.T, dy, policy.gradient),
    ):
        formats = (lp.FP8_E4M3FN, lp.FP8_E4M3FN)
        if got is dx:
            formats = (lp.FP8_E5M2, lp.FP8_E4M3FN)
        if got is dw:
            formats = (lp.FP8_E4M3FN, lp.FP8_E5M2)
        assert (gemm.lhs, gemm.rhs) == formats
        assert_same_bits(got.numpy(), aligned_oracle.product(lhs, rhs, gemm.accumulator, formats))


def test_amax_scaling_only_shifts_exponents():
    """Operands 2^-40 times smaller give results 2^-80 times smaller, bit for bit."""
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((4, 64), (64, 5)))
    policy = lp.Policy.hopper()
    y = lp.matmul(x, w, policy).numpy()
    small = lp.matmul(x * 2.0**-40, w * 2.0**-40, policy).numpy()
    assert_same_bits(small, y * np.float32(2.0**-80))


def test_arguments():
    with pytest.raises(ValueError, match="promote = 100 must be a multiple of group = 32"):
        lp.Accumulator.hopper(promote=100)
    with pytest.raises(ValueError, match="operand_bits = 4"):
        lp.Accumulator.hopper(operand_bits=4)
    with pytest.raises(ValueError, match="needs FloatFormats"):
        lp.Gemm(None, lp.FP8_E5M2, lp.Accumulator.hopper())
    with pytest.raises(ValueError, match="fraction_bits = 31"):
        lp.Accumulator.aligned(32, 31, lp.FP32)
    with pytest.raises(ValueError, match="infinities"):
        lp.Accumulator.aligned(32, 13, lp.FP8_E4M3FN)
    with pytest.raises(ValueError, match="has no group"):
        lp.Accumulator(lp.FP16, group=32)


def test_configurations_come_back():
    for accumulator in (lp.Accumulator.hopper(128), lp.Accumulator.hopper(None, 16, "float16")):
        gemm = lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E5M2, accumulator)
        assert lp.Gemm.from_json(gemm.to_json()) == gemm
