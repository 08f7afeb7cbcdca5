"""lp.einsum: a contraction of two tensors as one lp.matmul."""

import re

import tensorflow as tf

from tf_lowprec.ops.matmul import matmul
from tf_lowprec.ops.quantize import as_float

_EQUATION = re.compile(r"([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*),([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*)->(.*)")


def einsum(equation, a, b, precision, seed=None):
    """A contraction of two tensors, as tf.einsum, in low precision.

    The axes are put in order, and the product is lp.matmul's of ``[batch, M, K]`` and
    ``[batch, K, N]``: batch, K, M and N are the indices, in the order in which `equation` writes
    them in `a` (N: in `b`), that both operands and the result have, that both operands have, that
    only `a`, and that only `b` has. FWD sums over K, BWD (the gradient of a) over N, GRAD (that of
    b) over M, and in each the last index runs fastest.

    Args:
        equation: of two operands and a result, such as "abc,cde->abde"; "..." stands for axes of
            one operand, or for the same axes of both.
        a: float32, the activations.
        b: float32, the weights.
        precision: a Gemm, for all three passes, or a Policy.
        seed: two integers, for stochastic rounding. None draws one in eager mode.

    Returns:
        float32, of the shape that `equation` says.

    Raises:
        ValueError: an equation of another form, such as one with a repeated index, or an index
            that is summed over in one operand only; shapes that do not match it.
        tf.errors.InvalidArgumentError: such shapes, where they show at run time only.
    """
    a, b = as_float(a, "a"), as_float(b, "b")
    of_a, of_b, result = parse_equation(equation, a.shape.rank, b.shape.rank)
    batch = [i for i in of_a if i in of_b and i in result]
    terms = [i for i in of_a if i in of_b and i not in result]
    rows = [i for i in of_a if i not in of_b]
    columns = [i for i in of_b if i not in of_a]
    sizes, checks = {}, []
    for tensor, indices in ((a, of_a), (b, of_b)):
        dynamic = tf.shape(tensor)
        for axis, index in enumerate(indices):
            size = tensor.shape[axis]
            size = dynamic[axis] if size is None else size
            known = sizes.setdefault(index, size)
            if isinstance(known, int) and isinstance(size, int):
                if known != size:
                    raise ValueError(
                        f"equation = {equation!r}: index {index!r} is {known} in a of shape "
                        f"{a.shape} and {size} in b of shape {b.shape}"
                    )
            elif known is not size:
                what = f"equation = {equation}: index {index} is not the same in a and b:"
                data = [what, tf.shape(a), tf.shape(b)]
                checks.append(tf.raw_ops.Assert(condition=tf.equal(known, size), data=data))
                sizes[index] = size if isinstance(size, int) else known
    if checks:
        with tf.control_dependencies(checks):
            a, b = tf.identity(a), tf.identity(b)
    lhs = _reshape(_permute(a, of_a, batch + rows + terms), sizes, batch, rows, terms)
    rhs = _reshape(_permute(b, of_b, batch + terms + columns), sizes, batch, terms, columns)
    y = matmul(lhs, rhs, precision, seed=seed)
    order = batch + rows + columns
    y = tf.reshape(y, [sizes[i] for i in order])
    return _permute(y, order, result)


def parse_equation(equation, rank_a, rank_b):
    """The indices of a, b and the result, as lists; those of "..." are integers."""
    match = _EQUATION.fullmatch(equation.replace(" ", "")) if isinstance(equation, str) else None
    if match is None:
        raise ValueError(f"equation = {equation!r} must have the form 'ab,bc->ac'")
    of_a, of_b = (_expand(p, r, equation) for p, r in zip(match.groups(), (rank_a, rank_b)))
    spread = max((i for i in of_a + of_b if isinstance(i, int)), default=-1) + 1
    result = _expand(match.group(3), len(match.group(3).replace("...", "")) + spread, equation)
    only = [i for i in result if i not in of_a + of_b]
    alone = [i for i in of_a + of_b if i not in result and not (i in of_a and i in of_b)]
    repeated = [i for p in (of_a, of_b, result) for i in set(p) if p.count(i) > 1]
    for wrong, why in (
        (only, "is in the result only"),
        (alone, "is summed over in one operand only: sum over it first"),
        (repeated, "is repeated: take the diagonal first"),
    ):
        if wrong:
            raise ValueError(f"equation = {equation!r}: index {wrong[0]!r} {why}")
    return of_a, of_b, result


def _expand(part, rank, equation):
    if rank is None:
        raise ValueError(f"equation = {equation!r} needs operands of known rank")
    names = part.replace("...", "")
    spread = rank - len(names)
    if spread < 0 or (spread and "..." not in part):
        raise ValueError(f"equation = {equation!r}: {part!r} does not fit {rank} axes")
    before = part.split("...")[0] if "..." in part else part
    # Numbered from the last, so that operands of different ranks share the last ones.
    return [*before, *range(spread - 1, -1, -1), *names[len(before) :]]


def _permute(x, indices, order):
    axes = [indices.index(i) for i in order]
    return x if axes == sorted(axes) else tf.transpose(x, axes)


def _reshape(x, sizes, batch, *groups):
    """x with each group of indices made one axis."""

    def product(indices):
        total = 1
        for index in indices:
            total = total * sizes[index]
        return total

    return tf.reshape(x, [sizes[i] for i in batch] + [product(group) for group in groups])
