"""BWD and GRAD of lp.matmul with narrow accumulators: bit for bit what exact integers give."""

import accumulation_oracle
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from gemm_cases import OPERANDS, SPECIAL
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.gemm import Operand
from tf_lowprec.ops.streams import Stream

SEED = (11, -12)
Q8 = lp.FixedPointFormat(2, 6)
E5M2, E4M3 = lp.FP8_E5M2, lp.FP8_E4M3FN


def narrow(mantissa_bits, chunk=None, rounding="nearest_even", exponent_bits=6):
    return lp.Accumulator(lp.FloatFormat(exponent_bits, mantissa_bits), chunk, rounding)


# A format, chunk and rounding of its own for each pass, so that none is taken for another.
DIFFERENT = lp.Policy(
    forward=lp.Gemm(E4M3, E5M2, narrow(7, 3), lp.FloatFormat(5, 6)),
    backward=lp.Gemm(E5M2, lp.FP4_E2M1FN, narrow(5, 4, "toward_zero"), lp.FloatFormat(4, 3)),
    gradient=lp.Gemm(lp.FP6_E3M2FN, E4M3, narrow(4, None, "nearest_up", 5), lp.BF16),
)
STOCHASTIC = lp.Policy(
    forward=lp.Gemm(E4M3, E5M2, narrow(7, 3, "stochastic"), lp.FP16, "stochastic"),
    backward=lp.Gemm(E5M2, lp.FP4_E2M1FN, narrow(5, 4, "stochastic"), E4M3, "stochastic"),
    gradient=lp.Gemm(lp.FP6_E3M2FN, E4M3, narrow(4, None, "stochastic"), lp.BF16, "stochastic"),
)
FP8 = lp.Policy.fp8((5, 6, 9), chunk=(None, 2, 4))


def values(rng, shape, scale=1.0):
    return (rng.normal(size=shape) * scale).astype(np.float32)


def coarse(rng, shape):
    return np.round(values(rng, shape) * 64) / np.float32(64)


def tape(policy, transposes=(False, False), seed=SEED):
    """A function (a, b, dy) -> (y, da, db)."""

    def passes(a, b, dy):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            y = lp.matmul(
                a, b, policy, transpose_a=transposes[0], transpose_b=transposes[1], seed=seed
            )
        return [y, *tape.gradient(y, [a, b], output_gradients=dy)]

    return passes


def check(a, b, dy, policy, transposes=(False, False), seed=SEED, run=lambda f: f):
    function = run(tape(policy, transposes, seed))
    got = function(tf.constant(a), tf.constant(b), tf.constant(dy))
    want = accumulation_oracle.Passes(
        a, b, policy, Stream, transposes, seed, lambda a, b: tf.matmul(a, b).numpy()
    )
    for x, y in zip(got, [want.forward()[1], *want.gradients(dy)]):
        assert_same_bits(x, y)


def shapes_of(batches, m, k, n, transposes):
    a = batches[0] + ((k, m) if transposes[0] else (m, k))
    b = batches[1] + ((n, k) if transposes[1] else (k, n))
    return a, b, (*np.broadcast_shapes(*batches), m, n)


BATCHES = [
    ((), ()),
    ((3,), ()),
    ((), (2,)),
    ((2, 2), ()),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((1, 2), (2,)),
    ((1,), (1,)),
    ((2, 1, 3), (3, 1)),
]
each_transpose = pytest.mark.parametrize(
    "transposes", [(False, False), (True, False), (False, True), (True, True)], ids=str
)


@pytest.mark.parametrize("policy", [DIFFERENT, STOCHASTIC, FP8], ids=["each", "stochastic", "fp8"])
@each_transpose
@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_gradients(batches, transposes, policy):
    rng = np.random.default_rng(1)
    check(*(values(rng, s) for s in shapes_of(batches, 5, 7, 6, transposes)), policy, transposes)


@pytest.mark.parametrize("policy", [DIFFERENT, STOCHASTIC], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("batches", [((), ()), ((2,), ()), ((2, 1), (3,))], ids=str)
def test_gradients_everywhere(run, batches, policy):
    rng = np.random.default_rng(2)
    operands = [values(rng, s) for s in shapes_of(batches, 4, 5, 3, (False, False))]
    check(*operands, policy, run=run)


@settings(max_examples=120, deadline=None)
@given(
    extents=st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 18)),
    formats=st.lists(st.sampled_from(OPERANDS), min_size=9, max_size=9),
    roundings=st.lists(st.sampled_from(list(lp.Rounding)), min_size=6, max_size=6),
    bits=st.lists(st.tuples(st.integers(3, 8), st.integers(0, 23)), min_size=3, max_size=3),
    lengths=st.lists(st.sampled_from([None, 1, 2, 5, 64]), min_size=3, max_size=3),
    transposes=st.tuples(st.booleans(), st.booleans()),
    speckled=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_policy(extents, formats, roundings, bits, lengths, transposes, speckled, seed):
    gemms = [
        lp.Gemm(
            *formats[3 * i : 3 * i + 2],
            lp.Accumulator(lp.FloatFormat(*bits[i]), lengths[i], roundings[i]),
            formats[3 * i + 2],
            roundings[3 + i],
        )
        for i in range(3)
    ]
    rng = np.random.default_rng(seed)
    operands = [values(rng, s) for s in shapes_of(((), ()), *extents, transposes)]
    if speckled:
        operands = [
            np.where(rng.random(x.shape) < 1 / 12, rng.choice(SPECIAL, x.shape), x)
            for x in operands
        ]
    check(*operands, lp.Policy(*gemms), transposes)


def test_broadcast_operand_is_one_dot_product_batch_major():
    # Sums of 2^12, then 1s that m = 11 loses next to it, in the order (batch, row).
    policy = lp.Policy.fp8(11, chunk=None, operand=lp.FP16)
    a = np.ones((2, 3, 1), np.float32)
    a[1, 0] = 2.0**12
    dy = np.ones((2, 3, 1), np.float32)
    b = np.ones((1, 1), np.float32)
    for rank in (2, 3):
        _, _, db = tape(policy)(*map(tf.constant, (a, b.reshape((1,) * rank), dy)))
        # 3 + 2^12 is a tie that goes up; then two 1s are lost.
        assert db.numpy().item() == 2**12 + 4


@pytest.mark.parametrize("accumulator", [narrow(9), narrow(9, 2, "stochastic")], ids=["ne", "sr"])
def test_gradient_stops_where_operands_saturated(run, accumulator):
    gemm = lp.Gemm(E4M3, Q8, accumulator)
    # 450 rounds to 448, yet lies beyond it; -2 is the least of <2,6>, 1.99 above its largest.
    a = tf.constant([[448, 450, -1e9, 1], [1, np.inf, np.nan, 1]], tf.float32)
    b = tf.constant([[1.0], [-2], [1.99], [-2.01]])
    _, da, db = run(tape(lp.Policy(gemm, gemm, gemm)))(a, b, tf.ones((2, 1)))
    np.testing.assert_array_equal(np.equal(da, 0), [[0, 1, 1, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(np.equal(db, 0), [[0], [0], [1], [1]])


def test_backward_takes_the_very_sample_that_forward_took():
    # Each product has one term: BWD and GRAD show the other operand as it was rounded.
    accumulator = narrow(23, exponent_bits=8)
    gemm = lp.Gemm(E5M2, E5M2, accumulator, rounding="stochastic")
    bare = lp.Gemm(accumulator=accumulator)
    policy = lp.Policy(gemm, bare, bare)
    rng = np.random.default_rng(4)
    a, b = values(rng, (1, 500)), values(rng, (500, 1))
    qa = lp.quantize(a, E5M2, "stochastic", SEED, stream=Stream.FORWARD_LHS)
    qb = lp.quantize(b, E5M2, "stochastic", SEED, stream=Stream.FORWARD_RHS)
    _, da, db = tape(policy)(tf.constant(a), tf.constant(b), tf.ones((1, 1)))
    np.testing.assert_array_equal(da, tf.transpose(qb))
    np.testing.assert_array_equal(db, tf.transpose(qa))


def test_passes_draw_from_streams_of_their_own():
    accumulator = narrow(2, rounding="stochastic")
    gemm = lp.Gemm(accumulator=accumulator)
    a = np.full((8, 8), 0.7, np.float32)
    y, da, db = tape(gemm)(tf.constant(a), tf.constant(a), tf.constant(a))
    streams = ("FORWARD", "BACKWARD", "GRADIENT")
    for got, name in zip((y, da, db), streams):
        stream = Stream[f"{name}_ACCUMULATOR"]
        assert_same_bits(got, accumulation_oracle.product(a, a, accumulator, SEED, stream))
    assert np.any(y != da) and np.any(da != db) and np.any(y != db)


def test_random_bits_are_of_the_forward_pass_alone():
    gemm = lp.Gemm(accumulator=narrow(3, 2, "stochastic"))
    rng = np.random.default_rng(5)
    a, b, dy = (tf.constant(values(rng, s)) for s in ((3, 4), (4, 5), (3, 5)))
    bits = tf.constant(rng.integers(0, 2**16, (3, 5, 6)), tf.int32)
    with tf.GradientTape() as tape_:
        tape_.watch([a, b])
        y = lp.matmul(a, b, gemm, seed=SEED, random_bits=bits)
    got = tape_.gradient(y, [a, b], output_gradients=dy)
    for x, want in zip(got, tape(gemm)(a, b, dy)[1:]):
        assert_same_bits(x, want.numpy())


# Policies whose passes accumulate in different ways. Operands are few multiples of 2^-6, so that
# what float32 adds up is exact.

EXACT = lp.Gemm(Q8, Q8, lp.Accumulator.wide(), lp.FixedPointFormat(6, 10))
ROUGH = lp.Gemm(E5M2, E4M3, narrow(6, 3), lp.FloatFormat(5, 5))
DICE = lp.Gemm(E5M2, E4M3, narrow(6, 3, "stochastic"), lp.FloatFormat(5, 5), "stochastic")
BARE = lp.Gemm(accumulator=narrow(6, 3))
NATIVE = lp.Gemm(E5M2, E5M2, output=E4M3)
MIXED = {
    "narrow, native": lp.Policy(ROUGH, lp.Gemm(), lp.Gemm()),
    "narrow, rounded native": lp.Policy(DICE, NATIVE, NATIVE),
    "narrow, wide": lp.Policy(ROUGH, EXACT, EXACT),
    "narrow, wide, native": lp.Policy(DICE, EXACT, lp.Gemm()),
    "native, narrow": lp.Policy(lp.Gemm(), ROUGH, DICE),
    "rounded native, narrow": lp.Policy(NATIVE, DICE, BARE),
    "wide, narrow": lp.Policy(EXACT, ROUGH, BARE),
    "wide without output, narrow": lp.Policy(lp.Gemm(Q8, Q8, EXACT.accumulator), DICE, DICE),
}


@pytest.mark.parametrize("policy", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("transposes", [(False, False), (True, True)], ids=str)
@pytest.mark.parametrize("batches", [((), ()), ((3,), ()), ((3, 1), (1, 2))], ids=str)
def test_mixed_policies(batches, transposes, policy):
    rng = np.random.default_rng(6)
    operands = [coarse(rng, s) for s in shapes_of(batches, 4, 5, 3, transposes)]
    check(*operands, policy, transposes)


@pytest.mark.parametrize("policy", MIXED.values(), ids=MIXED)
def test_mixed_policies_everywhere(run, policy):
    rng = np.random.default_rng(7)
    operands = [coarse(rng, s) for s in shapes_of(((2,), ()), 4, 5, 3, (False, False))]
    check(*operands, policy, run=run)


def formats_of_products(batches, policy):
    """(a_formats, b_formats) of each Lowprec>MatMul in the graph of a product and its gradients."""
    arrays = [np.zeros(s, np.float32) for s in shapes_of(batches, 4, 5, 3, (False, False))]
    graph = tf.function(tape(policy)).get_concrete_function(*map(tf.constant, arrays)).graph
    ops = [op for op in graph.get_operations() if op.type == "Lowprec>MatMul"]
    names = ("a_formats", "b_formats")
    return [tuple([f.decode() for f in op.get_attr(n)] for n in names) for op in ops]


# The op takes operands whose format it knows on a faster path than any float32.


@pytest.mark.parametrize("policy", [lp.Policy(NATIVE, BARE, BARE), lp.Policy(EXACT, BARE, BARE)])
def test_a_grid_of_the_forward_pass_is_known_to_the_gradients(policy):
    grid = policy.forward.lhs.spec
    assert sorted(formats_of_products(((), ()), policy)) == [([], [grid]), ([grid], [])]


def test_a_folded_operand_keeps_its_format():
    policy = lp.Policy(lp.Gemm(), lp.Gemm(), ROUGH)
    formats = formats_of_products(((2, 3), (1, 3)), policy)
    assert formats == [([E5M2.spec], [E4M3.spec])]


@pytest.mark.parametrize("policy", [lp.Policy(NATIVE, BARE, BARE), lp.Policy(EXACT, BARE, BARE)])
def test_naming_a_grid_changes_nothing(policy, monkeypatch):
    # Zeros of both signs, infinities and NaN too.
    rng = np.random.default_rng(9)
    a, b, dy = (coarse(rng, s) for s in shapes_of(((2,), ()), 4, 5, 3, (False, False)))
    a.flat[: len(SPECIAL)] = SPECIAL
    operands = [tf.constant(x) for x in (a, b, dy)]
    named = tape(policy)(*operands)
    attributes = Operand.attributes
    monkeypatch.setattr(
        Operand,
        "attributes",
        lambda x, name: attributes(Operand(x.tensor, x.roundings), name),
    )
    for x, y in zip(named, tape(policy)(*operands)):
        assert_same_bits(x, y.numpy())


@pytest.mark.parametrize(
    "policy",
    [
        FP8,
        lp.Policy(EXACT, EXACT, EXACT),
        lp.Policy(*(lp.Gemm(lp.FP8_E4M3FN, lp.FP8_E4M3FN, lp.Accumulator.wide()),) * 3),
        lp.Policy.hopper(),
        lp.Policy.mx(lp.MXFP8_E4M3),
        lp.Policy.mx(lp.MXFP8_E4M3, accumulator=lp.Accumulator(lp.FloatFormat(8, 23))),
    ],
    ids=["narrow", "wide", "wide by float64", "aligned", "mx", "mx narrow"],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_second_derivatives_are_refused_by_name(policy, compiled):
    a, b = tf.ones((2, 3)), tf.ones((3, 4))

    def second():
        with tf.GradientTape() as outer:
            outer.watch(a)
            with tf.GradientTape() as inner:
                inner.watch(b)
                y = tf.reduce_sum(lp.matmul(a, b, policy, seed=SEED) ** 2)
            db = inner.gradient(y, b)
        return outer.gradient(db, a)

    message = r"Lowprec>(|Aligned)MatMul(|Passes) has no gradient.*differentiated once"
    with pytest.raises(NotImplementedError, match=message):
        (tf.function(second) if compiled else second)()


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((2, 0), (0, 3)), ((2, 3), (3, 0))])
@pytest.mark.parametrize("policy", [FP8, STOCHASTIC], ids=["fp8", "stochastic"])
def test_gradients_of_zero_size(run, shapes, policy):
    a, b = (np.ones(s, np.float32) for s in shapes)
    check(a, b, np.ones((a.shape[0], b.shape[1]), np.float32), policy, run=run)


@pytest.mark.parametrize(
    "shapes",
    [
        ((0, 2, 3), (3, 4)),
        ((2, 0, 3), (3, 4)),
        ((2, 3, 0), (0, 4)),
        ((2, 3, 4), (4, 0)),
        ((0, 2, 3), (1, 3, 4)),
        ((1, 2, 3), (0, 3, 4)),
        ((2, 3, 0), (1, 0, 4)),
        ((2, 3, 4), (1, 4, 0)),
    ],
)
@pytest.mark.parametrize("policy", [FP8, STOCHASTIC], ids=["fp8", "stochastic"])
def test_gradients_of_zero_size_with_batches(shapes, policy):
    a, b = (np.ones(s, np.float32) for s in shapes)
    dy = np.ones((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))
    check(a, b, dy.astype(np.float32), policy)


@pytest.mark.parametrize("shapes", [((3, 5), (5, 4)), ((2, 3, 5), (5, 4)), ((1, 3, 5), (2, 5, 4))])
@pytest.mark.parametrize("unknown", ["extents", "batch", "rank"])
def test_gradients_of_shapes_that_show_at_run_time_only(shapes, unknown):
    def spec(x):
        if unknown == "rank":
            return tf.TensorSpec(None)
        batch, matrix = list(x.shape[:-2]), list(x.shape[-2:])
        if unknown == "batch":
            return tf.TensorSpec([None] * len(batch) + matrix)
        return tf.TensorSpec(batch + [None, None])

    rng = np.random.default_rng(8)
    a, b = (values(rng, s) for s in shapes)
    dy = values(rng, (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), 3, 4))
    signature = [spec(x) for x in (a, b, dy)]
    check(a, b, dy, STOCHASTIC, run=lambda f: tf.function(f, input_signature=signature))


def test_sums_over_all_batches_beyond_int32():
    a, b = tf.zeros((3, 2**30, 0)), tf.zeros((1, 0, 0))
    with tf.GradientTape() as tape:
        tape.watch(b)
        y = lp.matmul(a, b, FP8)
    assert tape.gradient(y, b).shape == (1, 0, 0)
