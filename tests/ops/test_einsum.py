"""lp.einsum: the one lp.matmul that each equation stands for, and the order of its sums."""

import string

import accumulation_oracle
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_same_bits
from gemm_cases import DIFFERENT, STOCHASTIC
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.streams import Stream

SEED = (5, -6)
EXACT = lp.Gemm(lp.BF16, lp.BF16)  # small integers stay what they are, in any order


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def permuted(x, axes, shape):
    """x with its axes in another order, then reshaped, and the way back."""
    return x.transpose(axes).reshape(shape)


# Each by hand: shapes of a and b; their axes in the order of [batch, M, K] and [batch, K, N], and
# the shapes of these; the product's axes as (unfolded shape, order of the result).
EQUATIONS = {
    "ab,bc->ac": ((3, 5), (5, 4), ((0, 1), (3, 5)), ((0, 1), (5, 4)), ((3, 4), (0, 1))),
    "ab,cb->ca": ((3, 5), (4, 5), ((0, 1), (3, 5)), ((1, 0), (5, 4)), ((3, 4), (1, 0))),
    # EinsumDense, and attention's projections
    "abc,cde->abde": (
        (2, 3, 5),
        (5, 2, 3),
        ((0, 1, 2), (6, 5)),
        ((0, 1, 2), (5, 6)),
        ((2, 3, 2, 3), (0, 1, 2, 3)),
    ),
    "abcd,cde->abe": (
        (2, 3, 2, 3),
        (2, 3, 4),
        ((0, 1, 2, 3), (6, 6)),
        ((0, 1, 2), (6, 4)),
        ((2, 3, 4), (0, 1, 2)),
    ),
    # K runs in the order of a
    "abc,cbd->da": (
        (3, 2, 4),
        (4, 2, 5),
        ((0, 1, 2), (3, 8)),
        ((1, 0, 2), (8, 5)),
        ((3, 5), (1, 0)),
    ),
    # scores and their product with value: batch b n
    "btnh,bsnh->bnts": (
        (2, 3, 2, 4),
        (2, 5, 2, 4),
        ((0, 2, 1, 3), (4, 3, 4)),
        ((0, 2, 3, 1), (4, 4, 5)),
        ((2, 2, 3, 5), (0, 1, 2, 3)),
    ),
    "bnts,bsnh->btnh": (
        (2, 2, 3, 5),
        (2, 5, 2, 4),
        ((0, 1, 2, 3), (4, 3, 5)),
        ((0, 2, 1, 3), (4, 5, 4)),
        ((2, 2, 3, 4), (0, 2, 1, 3)),
    ),
    # batch in the order of a: k, then g
    "kgb,gkc->gckb": (
        (2, 3, 4),
        (3, 2, 5),
        ((0, 1, 2), (6, 4, 1)),
        ((1, 0, 2), (6, 1, 5)),
        ((2, 3, 4, 5), (1, 3, 0, 2)),
    ),
    "a...,bc->...abc": (
        (2, 3, 4),
        (2, 3),
        ((0, 1, 2), (24, 1)),
        ((0, 1), (1, 6)),
        ((2, 3, 4, 2, 3), (1, 2, 0, 3, 4)),
    ),
    "...x,xy->...y": (
        (2, 3, 4),
        (4, 5),
        ((0, 1, 2), (6, 4)),
        ((0, 1), (4, 5)),
        ((2, 3, 5), (0, 1, 2)),
    ),
}


def passes_of(equation, policy, seed=SEED):
    def passes(a, b, dy):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            y = lp.einsum(equation, a, b, policy, seed=seed)
        return [y, *tape.gradient(y, [a, b], output_gradients=dy)]

    return passes


def expected(case, a, b, dy, policy):
    """(y, da, db) by the matrix product, unfolded by hand."""
    _, _, (of_a, rows), (of_b, columns), (unfolded, order) = case
    left, right = permuted(a, of_a, rows), permuted(b, of_b, columns)
    twin = accumulation_oracle.Passes(left, right, policy, Stream, seed=SEED)
    y = twin.forward()[1]
    errors = dy.transpose(np.argsort(order)).reshape(y.shape)
    da, db = twin.gradients(errors)
    da = da.reshape([a.shape[i] for i in of_a]).transpose(np.argsort(of_a))
    db = db.reshape([b.shape[i] for i in of_b]).transpose(np.argsort(of_b))
    return y.reshape(unfolded).transpose(order), da, db


def check(equation, policy, run=lambda f: f):
    case = EQUATIONS[equation]
    unfolded, order = case[4]
    a, b, dy = normal(1, case[0]), normal(2, case[1]), normal(3, [unfolded[i] for i in order])
    got = run(passes_of(equation, policy))(*(tf.constant(v) for v in (a, b, dy)))
    for g, want in zip(got, expected(case, a, b, dy, policy), strict=True):
        assert_same_bits(g, want)


@pytest.mark.parametrize("policy", [DIFFERENT, STOCHASTIC], ids=["each", "stochastic"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_three_passes_are_the_oracles(equation, policy):
    check(equation, policy)


@pytest.mark.parametrize("equation", ["abc,cde->abde", "btnh,bsnh->bnts"])
def test_runs_everywhere(run, equation):
    check(equation, STOCHASTIC, run)


@st.composite
def equations(draw):
    """(equation, shape of a, shape of b) with letters of all four kinds in any order."""
    counts = [draw(st.integers(0, 2)) for _ in range(4)]
    letters = iter(draw(st.permutations(string.ascii_letters[:8])))
    batch, terms, rows, columns = ([next(letters) for _ in range(n)] for n in counts)
    size = {i: draw(st.integers(0, 3)) for i in batch + terms + rows + columns}
    of_a, of_b = (
        draw(st.permutations(batch + terms + rows)),
        draw(st.permutations(batch + terms + columns)),
    )
    result = draw(st.permutations(batch + rows + columns))
    equation = f"{''.join(of_a)},{''.join(of_b)}->{''.join(result)}"
    return equation, [size[i] for i in of_a], [size[i] for i in of_b]


@settings(max_examples=80, deadline=None)
@given(case=equations(), seed=st.integers(0, 2**31))
def test_any_equation_is_numpys(case, seed):
    equation, *shapes = case
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes)
    want = np.einsum(equation, a, b)
    dy = rng.integers(-4, 5, want.shape).astype(np.float32)
    got = passes_of(equation, EXACT)(tf.constant(a), tf.constant(b), tf.constant(dy))
    operands, result = equation.split("->")
    of_a, of_b = operands.split(",")
    gradients = [
        np.einsum(f"{result},{of_b}->{of_a}", dy, b),
        np.einsum(f"{of_a},{result}->{of_b}", a, dy),
    ]
    for g, w in zip(got, [want, *gradients]):
        np.testing.assert_array_equal(g, w)


def test_shapes_that_show_at_run_time_only():
    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 2, None]), tf.TensorSpec([None, None, 2, 4])]
    )
    def scores(a, b):
        y = lp.einsum("btnh,bsnh->bnts", a, b, DIFFERENT)
        assert y.shape.as_list() == [None, 2, None, None]
        return y

    for batch in (1, 3):
        a, b = normal(0, (batch, 3, 2, 4)), normal(1, (batch, 5, 2, 4))
        assert_same_bits(scores(a, b), lp.einsum("btnh,bsnh->bnts", a, b, DIFFERENT).numpy())


@pytest.mark.parametrize(
    "equation, a, b, message",
    [
        ("ab,bc", (2, 3), (3, 4), "must have the form 'ab,bc->ac'"),
        ("ab->ba", (2, 3), (3, 4), "must have the form"),
        (7, (2, 3), (3, 4), "equation = 7"),
        ("ab,bc->ad", (2, 3), (3, 4), "index 'd' is in the result only"),
        ("ab,bc->c", (2, 3), (3, 4), "index 'a' is summed over in one operand only"),
        ("aa,ac->c", (2, 2), (2, 4), "index 'a' is repeated"),
        ("ab,bc->aac", (2, 3), (3, 4), "index 'a' is repeated"),
        ("abc,bc->a", (2, 3), (3, 4), "'abc' does not fit 2 axes"),
        ("ab,bc->ac", (2, 3), (4, 4), "index 'b' is 3 in a .* and 4 in b"),
        ("...a,...ab->...b", (2, 3, 4), (5, 4, 6), "is 3 in a|is 5 in b|is 2 in a"),
    ],
)
def test_wrong_equation_is_named(equation, a, b, message):
    with pytest.raises(ValueError, match=message):
        lp.einsum(equation, np.zeros(a, np.float32), np.zeros(b, np.float32), EXACT)


@pytest.mark.parametrize("a, b", [((2, 6, 6), (4, 3, 6)), ((2, 3, 6), (2, 4, 6))])
def test_shapes_that_differ_at_run_time_are_named(a, b):
    any_shape = tf.TensorSpec([None] * 3)

    @tf.function(input_signature=[any_shape, any_shape])
    def product(a, b):
        return lp.einsum("zab,zbc->zac", a, b, EXACT)

    assert product(tf.ones((2, 3, 4)), tf.ones((2, 4, 5))).shape == (2, 3, 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="zab,zbc->zac: index [zb] is not"):
        product(tf.ones(a), tf.ones(b))


def test_operands_of_unknown_rank_are_refused():
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def product(a):
        return lp.einsum("ab,bc->ac", a, tf.ones((3, 2)), EXACT)

    with pytest.raises(ValueError, match="known rank"):
        product(tf.ones((2, 3)))
