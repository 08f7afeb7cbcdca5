"""lp.conv2d with narrow accumulators: all three passes bit for bit what exact integers give."""

import convolution_oracle
import gemm_cases
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits, float_formats
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

SEED = (-3, 2**31 + 5)
PASSES = ("y", "dx", "dfilters")
ROUNDINGS = st.sampled_from(list(lp.Rounding))
FORMATS = st.sampled_from([lp.FP8_E5M2, lp.FP8_E4M3FN, lp.FP16, None])
MINUS_ZERO = 0x80000000
slow = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def policy_of(*gemms):
    """A Policy of one Gemm, or of one for each pass."""
    return lp.Policy(*(gemms * 3 if len(gemms) == 1 else gemms))


def convolve(x, w, dy, policy, seed=SEED, **options):
    """(y, dx, dfilters) by lp.conv2d, of tensors."""
    with tf.GradientTape() as tape:
        tape.watch([x, w])
        y = lp.conv2d(x, w, policy, seed=seed, **options)
    return y, *tape.gradient(y, [x, w], output_gradients=dy)


def expected(x, w, dy, policy, seed=SEED, **options):
    passes = convolution_oracle.Passes(x, w, policy, Stream, seed=seed, **options)
    return passes.forward()[1], *passes.gradients(dy)


def check(x, w, dy, policy, seed=SEED, **options):
    """lp.conv2d against the oracle, bit for bit; dy may be a function of y's shape."""
    if callable(dy):
        dy = dy(convolution_oracle.Passes(x, w, policy, Stream, **options).y_shape)
    got = convolve(*(tf.constant(v) for v in (x, w, dy)), policy, seed, **options)
    for name, g, want in zip(PASSES, got, expected(x, w, dy, policy, seed, **options)):
        try:
            assert_same_bits(g, want)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    return got


@st.composite
def geometries(draw):
    """(x shape, filters shape, options) with small sums, so that the oracle is quick."""
    image = draw(st.tuples(*[st.integers(1, 7)] * 2))
    kernel = draw(st.tuples(*[st.integers(1, 4)] * 2))
    strides = draw(st.tuples(*[st.integers(1, 3)] * 2))
    dilations = draw(st.tuples(*[st.integers(1, 2)] * 2))
    explicit = st.tuples(*[st.tuples(*[st.integers(0, 3)] * 2)] * 2)
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), explicit))
    out, index = convolution_oracle.taps(image, kernel, strides, dilations, padding)
    assume(index.size > 0)
    groups = draw(st.integers(1, 4))
    cin, cout = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3, 9]))
    # As many images as the oracle can sum up.
    batch = max(min(draw(st.integers(1, 3)), 4000 // (index.size * cin * cout * groups)), 1)
    assume(batch * index.size * cin * cout * groups <= 8000)
    options = {"strides": strides, "dilations": dilations, "padding": padding, "groups": groups}
    return (batch, *image, cin * groups), (*kernel, cin, cout * groups), options


@st.composite
def accumulators(draw):
    format = draw(
        st.one_of(st.builds(lp.FloatFormat, st.integers(3, 8), st.integers(0, 23)), float_formats())
    )
    chunk = draw(st.sampled_from([None, None, 1, 5, 64, "K", "K + 1"]))
    return format, chunk, draw(ROUNDINGS)


def gemm_of(formats, accumulator, length, output=None, rounding="nearest_even"):
    format, chunk, accumulator_rounding = accumulator
    chunk = {"K": length, "K + 1": length + 1}.get(chunk, chunk)
    return lp.Gemm(*formats, lp.Accumulator(format, chunk, accumulator_rounding), output, rounding)


def lengths(x_shape, w_shape, options):
    """Of the sums of the three passes."""
    keys = {k: v for k, v in options.items() if k != "groups"}
    out, index = convolution_oracle.taps(x_shape[1:3], w_shape[:2], **keys)
    taps = index.shape[1]
    return taps * w_shape[2], taps * w_shape[3] // options["groups"], x_shape[0] * len(index)


@settings(max_examples=150, **slow)
@given(data=st.data(), geometry=geometries(), seed=st.integers(0, 2**31))
def test_geometries_formats_and_accumulators(data, geometry, seed):
    x_shape, w_shape, options = geometry
    formats = data.draw(st.tuples(FORMATS, FORMATS))
    policy = policy_of(
        *(gemm_of(formats, data.draw(accumulators()), k) for k in lengths(*geometry))
    )
    kinds = [data.draw(st.sampled_from(gemm_cases.KINDS)) for _ in "xwd"]
    rng = np.random.default_rng(seed)
    accumulator = policy.forward.accumulator.format
    where = data.draw(st.sampled_from(["middle", "low", "low", "high"]))
    powers = gemm_cases.exponents(accumulator, where, rng)

    def values(shape, kind, power):
        m = accumulator.mantissa_bits
        return gemm_cases.operand(rng, shape, kind, formats[0], m, power)

    x, w = values(x_shape, kinds[0], powers[0]), values(w_shape, kinds[1], powers[1])
    check(x, w, lambda shape: values(shape, kinds[2], powers[0]), policy, **options)


# Operands about the size where sums vanish: skipping a term shows.
@settings(max_examples=100, **slow)
@given(
    data=st.data(),
    geometry=geometries(),
    operand=st.sampled_from([lp.FP8_E5M2, lp.FP16, None]),
    exponent_bits=st.integers(3, 6),
    mantissa_bits=st.integers(0, 22),
    seed=st.integers(0, 2**31),
)
def test_sums_that_underflow(data, geometry, operand, exponent_bits, mantissa_bits, seed):
    x_shape, w_shape, options = geometry
    format = lp.FloatFormat(exponent_bits, mantissa_bits)
    roundings = st.sampled_from(["nearest_even", "nearest_even", *lp.Rounding])
    policy = policy_of(
        *(
            gemm_of(
                (operand, operand),
                (format, data.draw(st.sampled_from([None, 1, 5, 64])), data.draw(roundings)),
                k,
            )
            for k in lengths(*geometry)
        )
    )
    rng = np.random.default_rng(seed)
    low = (format.min_exponent - mantissa_bits) // 2

    def values(shape):
        scale = 2.0 ** rng.integers(low - 3, low + 2, shape)
        signs = rng.choice([-1, -1, -1, 0, 1], shape)
        mantissas = rng.choice([1, 1.25, 1.5], shape)
        return np.maximum(np.abs(scale * mantissas), 2.0**-16).astype(np.float32) * np.float32(
            signs
        )

    check(values(x_shape), values(w_shape), values, policy, **options)


# format of the operands, accumulator, its rounding; the path of accumulation_path.h
PATHS = {
    "kNearest": (lp.FP8_E5M2, lp.FloatFormat(4, 5), "nearest_even"),
    "kNearestDouble": (lp.FP8_E5M2, lp.FloatFormat(4, 14), "nearest_even"),
    "kNearestOdd": (None, lp.FloatFormat(4, 7), "nearest_even"),
    "kTruncate": (lp.FP8_E5M2, lp.FloatFormat(4, 6), "toward_zero"),
    "kTruncate wide": (None, lp.FloatFormat(4, 20), "toward_zero"),
    "kExact long": (lp.FP8_E5M2, lp.FloatFormat(4, 22), "nearest_even"),
    "kExact nearest_up": (lp.FP8_E5M2, lp.FloatFormat(4, 5), "nearest_up"),
    "kExact stochastic": (lp.FP8_E5M2, lp.FloatFormat(4, 5), "stochastic"),
    "kExact gap": (lp.FP8_E5M2, lp.FloatFormat(4, 5, subnormals=False), "nearest_even"),
    "kExact dlfloat": (lp.FP8_E5M2, lp.FloatFormat(4, 5, specials="dlfloat"), "nearest_even"),
}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
BORDERS = [
    {"padding": "SAME"},
    {"padding": "SAME", "strides": 2},
    {"padding": ((3, 0), (1, 2)), "strides": (1, 3), "dilations": (2, 1)},
    {"padding": ((0, 2), (4, 4)), "groups": 2},
]


@each_path
@pytest.mark.parametrize("options", BORDERS, ids=str)
@pytest.mark.parametrize("chunk", [None, 4])
def test_vanished_sums_keep_their_sign_next_to_padding(path, options, chunk):
    operand, format, rounding = path
    policy = policy_of(lp.Gemm(operand, operand, lp.Accumulator(format, chunk, rounding)))
    rng = np.random.default_rng(0)
    groups = options.get("groups", 1)
    # Products of 2^-30 vanish, those of 2^-15 may.
    choice = np.array([2.0**-15, 2.0**-15, -(2.0**-15), -1, 0.75, 0.0, -0.0], np.float32)
    x, w = rng.choice(choice, (2, 5, 4, 4)), rng.choice(choice, (3, 3, 4 // groups, 10))
    check(x, w, lambda shape: rng.choice(choice, shape), policy, **options)


@each_path
def test_sums_of_tiny_negative_terms_are_minus_zero(path):
    operand, format, rounding = path
    policy = policy_of(lp.Gemm(operand, operand, lp.Accumulator(format, None, rounding)))
    x = np.full((1, 4, 5, 2), 2.0**-15, np.float32)
    w = np.full((3, 3, 2, 9), -(2.0**-15), np.float32)
    # Strides leave pixels without a term: their dx is +0.
    got = check(x, w, lambda s: np.full(s, 2.0**-15, np.float32), policy, strides=2)
    if rounding == "stochastic":
        return
    y, dx, dfilters = (v.numpy().view(np.uint32) for v in got)
    assert (y == MINUS_ZERO).all() and (dx == MINUS_ZERO).all() and (dfilters == 0).all()
    y, dx, _ = check(
        x, w[:1, :1], lambda s: np.full(s, 2.0**-15, np.float32), policy, strides=(2, 3)
    )
    bits = dx.numpy().view(np.uint32)
    assert (bits[:, ::2, ::3] == MINUS_ZERO).all() and np.count_nonzero(bits) == 2 * 2 * 2


@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize("mantissa_bits", [3, 5, 7, 9])
def test_long_stochastic_sums(mantissa_bits, chunk):
    # 432 and 360 terms forward and backward: random bits come from those before them. Unchunked
    # sums of 3 bits might overflow.
    accumulator = lp.Accumulator(lp.FloatFormat(6, mantissa_bits), chunk, "stochastic")
    policy = policy_of(lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, accumulator))
    rng = np.random.default_rng(mantissa_bits)

    def values(shape):
        return rng.normal(size=shape).astype(np.float32)

    check(values((1, 4, 5, 48)), values((3, 3, 48, 40)), values, policy)


# All ones is the NaN that marks skipped terms.
SPECIAL = np.array([0xFFFFFFFF, 0x7F800000], np.uint32).view(np.float32)


@each_path
@pytest.mark.parametrize("options", BORDERS, ids=str)
def test_infinities_and_nans_do_not_meet_padding(path, options):
    operand, format, rounding = path
    policy = policy_of(lp.Gemm(operand, operand, lp.Accumulator(format, 5, rounding)))
    groups = options.get("groups", 1)
    for i, value in enumerate(SPECIAL):
        rng = np.random.default_rng(i)

        def values(shape, rng=rng):
            return (rng.integers(-3, 4, shape) / 4).astype(np.float32)

        x, w = values((2, 5, 4, 4)), values((3, 3, 4 // groups, 6))
        special = w.copy()
        special[0, 0] = value
        y = check(x, special, values, policy, **options)[0]
        assert np.isfinite(y).any() and not np.isfinite(y).all()
        special = x.copy()
        special[0, 0, 0], special[1, 4, 3, 0] = value, value
        y = check(special, w, values, policy, **options)[0]
        assert np.isfinite(y).any()

        def special_errors(shape, value=value, values=values):
            dy = values(shape)
            dy[0, 0, 0], dy[-1, -1, -1, 0] = value, value
            return dy

        check(x, w, special_errors, policy, **options)


def test_a_chunk_without_terms_adds_plus_zero():
    # 1 - 1.125 is -1/8, which a format without subnormals cuts to -0; then comes padding.
    format = lp.FloatFormat(2, 3, subnormals=False)
    x, w = (
        np.array([1.0, -1.125], np.float32).reshape(1, 1, 2, 1),
        np.ones((1, 4, 1, 1), np.float32),
    )
    for chunk, bits in ((None, MINUS_ZERO), (1, 0), (2, 0)):
        gemm = lp.Gemm(accumulator=lp.Accumulator(format, chunk, "toward_zero"))
        policy = policy_of(gemm)
        y = check(x, w, lambda s: np.ones(s, np.float32), policy, padding=((0, 0), (0, 2)))[0]
        assert y.numpy().view(np.uint32).item() == bits


@settings(max_examples=60, **slow)
@given(
    data=st.data(),
    geometry=geometries(),
    seed=st.tuples(st.integers(-(2**31), 2**32), st.integers(-(2**31), 2**32)),
)
def test_operands_and_outputs_are_rounded_in_each_pass(data, geometry, seed):
    x_shape, w_shape, options = geometry
    output = st.sampled_from([None, lp.BF16, lp.FP8_E4M3FN, lp.FixedPointFormat(3, 4)])
    gemms = [
        gemm_of(
            data.draw(st.tuples(FORMATS, FORMATS)),
            (data.draw(st.builds(lp.FloatFormat, st.integers(4, 8), st.integers(0, 23))),)
            + (data.draw(st.sampled_from([None, 1, 5, 64])), data.draw(ROUNDINGS)),
            k,
            data.draw(output),
            data.draw(ROUNDINGS),
        )
        for k in lengths(*geometry)
    ]
    rng = np.random.default_rng(seed[0] % 2**32)
    # Some beyond the range of FP16 and FP8, where gradients are masked.
    scale = rng.choice([1, 1, 1, 600, 1e5])
    x, w = ((rng.normal(size=s) * scale).astype(np.float32) for s in (x_shape, w_shape))
    dy = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    check(x, w, dy, policy_of(*gemms), seed, **options)


def test_gradients_are_zero_where_operands_or_outputs_saturated():
    narrow = lp.Accumulator(lp.FloatFormat(6, 9), 4)
    e4m3 = lp.FloatFormat(4, 3, "fn", saturate=True)
    forward = lp.Gemm(e4m3, e4m3, narrow, lp.FixedPointFormat(11, 2))
    policy = policy_of(forward, lp.Gemm(accumulator=narrow), lp.Gemm(accumulator=narrow))
    rng = np.random.default_rng(3)
    x, w = (rng.normal(size=s).astype(np.float32) for s in ((2, 4, 5, 3), (3, 2, 3, 4)))
    x[0, 1, 1], w[1, 0, 1, 2] = 500, -600
    dy = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    _, dx, dw = check(x, w, dy, policy)
    assert not np.any(dx[0, 1, 1]) and dw[1, 0, 1, 2] == 0
    assert np.count_nonzero(dx) > 90 and np.count_nonzero(dw) > 60


WIDE = lp.Gemm(lp.FixedPointFormat(3, 2), lp.FixedPointFormat(3, 2), lp.Accumulator.wide())
NATIVE = lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, output=lp.FixedPointFormat(9, 2))
NARROW = lp.Gemm(lp.FP8_E4M3FN, None, lp.Accumulator(lp.FloatFormat(6, 4), 7), lp.FP16)
RANDOM = lp.Gemm(
    lp.FP8_E5M2, lp.FP4_E2M1FN, lp.Accumulator(lp.FloatFormat(6, 3), 7, "stochastic"), lp.BF16
)


@pytest.mark.parametrize(
    "gemms",
    [
        (NARROW, NATIVE, WIDE),
        (RANDOM, WIDE, NATIVE),
        (NATIVE, NARROW, RANDOM),
        (WIDE, RANDOM, NARROW),
        (NATIVE, WIDE, NARROW),
    ],
    ids=["nNW", "rWN", "Nnr", "Wrn", "NWn"],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"groups": 2, "dilations": 2}, {"strides": 2, "padding": ((1, 0), (2, 2))}],
    ids=str,
)
def test_mixed_kinds_of_accumulators(gemms, options):
    # Integers: float32 sums of any order are exact.
    rng = np.random.default_rng(4)
    x, w = (
        rng.integers(-3, 4, s).astype(np.float32)
        for s in ((2, 5, 6, 4), (3, 3, 4 // options.get("groups", 1), 6))
    )
    check(x, w, lambda s: rng.integers(-3, 4, s).astype(np.float32), policy_of(*gemms), **options)


def test_grids_of_the_forward_pass_are_known_to_the_gradients():
    bare = lp.Gemm(accumulator=lp.Accumulator(lp.FloatFormat(6, 4), 7))
    policy = lp.Policy(NATIVE, bare, bare)
    passes = tf.function(lambda x, w, dy: convolve(x, w, dy, policy))
    x, w = tf.zeros((1, 4, 4, 2)), tf.zeros((3, 3, 2, 2))
    ops = passes.get_concrete_function(x, w, x).graph.get_operations()
    formats = {
        op.type: [[f.decode() for f in op.get_attr(f"{name}_formats")] for name in "ab"]
        for op in ops
        if op.type.startswith("Lowprec>Conv2DBackprop")
    }
    grid = [lp.FP8_E5M2.spec]
    assert formats == {
        "Lowprec>Conv2DBackpropInput": [[], grid],
        "Lowprec>Conv2DBackpropFilter": [grid, []],
    }
