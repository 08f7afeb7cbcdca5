"""Slow, obvious twin of products with narrow accumulators, from the design's contract.

Every product of two float32 values, and every value of an accumulator, is an integer multiple of
2^-298: partial sums are Python integers, rounded once. No TensorFlow.
"""

import math

import numpy as np
import oracle

RANDOM_BITS = 16  # r / 2^16 is added below the cut
_SHIFT = 298
_UNITS = 2.0**_SHIFT  # a float64 holds any product times this


def adder(format, rounding):
    """The function (s, p, r) -> s + p rounded once, of Python floats.

    s is on the format's grid, p a float32 or a product of two; r in [0, 2^16) if stochastic.
    """
    mantissa_bits = format.mantissa_bits
    least, most = (int(f(format) * _UNITS) for f in (oracle.smallest, oracle.largest))
    lowest = (0 if format.specials == "dlfloat" else 1) - oracle.bias(format) + _SHIFT
    infinity = oracle.round_value(math.inf, format, rounding, 0)
    beyond = oracle.largest(format) if rounding == "toward_zero" else infinity

    def add(s, p, r):
        approximate = s + p  # exact, sign included, where it is zero or not finite
        if approximate == 0 or approximate != approximate:
            return approximate
        if math.isinf(approximate):
            return math.copysign(infinity, approximate)
        number = abs(int(s * _UNITS) + int(p * _UNITS))
        if number < least:
            quantum = least  # also the spacing of the subnormals, where there are some
        else:
            quantum = 1 << max(number.bit_length() - 1, lowest) - mantissa_bits
        result, rest = divmod(number, quantum)
        if rounding == "stochastic":
            # floor(number / quantum + r / 2^16)
            result = ((number << RANDOM_BITS) + r * quantum) // (quantum << RANDOM_BITS)
        elif rounding != "toward_zero":
            if 2 * rest != quantum:
                result += 2 * rest > quantum
            elif rounding == "nearest_even":
                result += result % 2
            else:
                result += approximate > 0
        result *= quantum
        return math.copysign(beyond if result > most else result / _UNITS, approximate)

    return add


def xorshift(x):
    """The state after a 32-bit state of Marsaglia's generator (13, 17, 5)."""
    x ^= x << 13 & 0xFFFFFFFF
    x ^= x >> 17
    return x ^ (x << 5 & 0xFFFFFFFF)


def steps(k, chunk):
    """Roundings of an output element: one for each k and one for each chunk's sum."""
    return k + (-(-k // chunk) if chunk else 0)


def random_bits(size, count, stream, seed):
    """r of `count` roundings of output elements 0 .. size - 1, int32 [size, count]."""
    r = np.zeros((size, count), np.int32)
    for row, word in zip(r, oracle.random_words(size, stream, seed).tolist()):
        state = word or 1
        for i in range(count):
            state = xorshift(state)
            row[i] = state >> 32 - RANDOM_BITS
    return r


def dot(a, b, add, chunk, r):
    """sum_k a[k] b[k] of Python floats, with `r` for each rounding in the order they happen."""
    r = iter(r)
    if not chunk:
        total = 0.0
        for x, y in zip(a, b):
            total = add(total, x * y, next(r))
        return total
    total = 0.0
    for begin in range(0, len(a), chunk):
        part = dot(a[begin : begin + chunk], b[begin : begin + chunk], add, None, r)
        total = add(total, part, next(r))
    return total


def product(a, b, accumulator, seed=(0, 0), stream=0, r=None):
    """a . b of arrays [..., M, K] and [..., K, N], batch axes broadcast, as float32."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (m, k), n = a.shape[-2:], b.shape[-1]
    rounding = accumulator.rounding.value
    add, chunk = adder(accumulator.format, rounding), accumulator.chunk
    size, count = math.prod(batch) * m * n, steps(k, chunk)
    if r is None and rounding == "stochastic":
        r = random_bits(size, count, stream, seed)
    r = [[0] * count] * size if r is None else np.reshape(r, (size, count)).tolist()
    batches = math.prod(batch)
    rows = np.broadcast_to(a, (*batch, m, k)).reshape(batches, m, k).tolist()
    columns = np.broadcast_to(swap(b), (*batch, n, k)).reshape(batches, n, k).tolist()
    pairs = ((x, y) for i, j in zip(rows, columns) for x in i for y in j)
    sums = [dot(x, y, add, chunk, bits) for (x, y), bits in zip(pairs, r)]
    return oracle.canonical(np.array(sums, np.float32).reshape(*batch, m, n))


# One GEMM, and the three passes of lp.matmul.


def rounded(x, format, rounding, seed, stream):
    """`x` as one tensor, rounded; as it is if `format` is None."""
    if format is None:
        return x
    r = None
    if rounding == "stochastic":
        r = oracle.random_bits_array(x.size, stream, seed).reshape(x.shape)
    return oracle.round_array(x, format, rounding.value, r)


def swap(x, yes=True):
    return np.swapaxes(x, -1, -2) if yes else x


def wide(a, b):
    """a . b as float64, which must hold every partial sum: under Accumulator.wide()."""
    return np.matmul(a.astype(np.float64), b.astype(np.float64))


def accumulate(a, b, gemm, seed, stream, r=None, native=None):
    """The sums of a product before its output is rounded; `native(a, b)` is TensorFlow's."""
    kind = gemm.accumulator.kind
    if kind == "narrow":
        return product(a, b, gemm.accumulator, seed, stream, r)
    return wide(a, b) if kind == "wide" else native(a, b)


class Passes:
    """FWD, BWD and GRAD of lp.matmul(a, b) under a policy, arrays as they are stored.

    BWD and GRAD start from the operands as FWD rounded them. Batch axes along which an operand was
    broadcast belong to the dot products of its gradient, before the axis that is summed anyway.
    """

    def __init__(self, a, b, policy, streams, transposes=(False, False), seed=(0, 0), native=None):
        self.policy, self.streams, self.seed, self.native = policy, streams, seed, native
        self.a, self.b, self.transposes = a, b, transposes
        gemm = policy.forward
        self.rounded_a = self._round(a, gemm.lhs, gemm, "FORWARD_LHS")
        self.rounded_b = self._round(b, gemm.rhs, gemm, "FORWARD_RHS")

    def _round(self, x, format, gemm, stream):
        return rounded(x, format, gemm.rounding, self.seed, self.streams[stream])

    def _product(self, lhs, rhs, gemm, name, r=None):
        stream = self.streams[f"{name}_ACCUMULATOR"]
        return accumulate(lhs, rhs, gemm, self.seed, stream, r, self.native)

    def forward(self, r=None):
        """The product before its output is rounded, and after."""
        a, b = swap(self.rounded_a, self.transposes[0]), swap(self.rounded_b, self.transposes[1])
        gemm = self.policy.forward
        total = self._product(a, b, gemm, "FORWARD", r)
        y = self._round(total, gemm.output, gemm, "FORWARD_OUTPUT")
        return total, np.asarray(y, np.float32)

    def gradients(self, dy):
        """(da, db) in the shapes of a and b."""
        output = self.policy.forward.output
        if output is not None:
            dy = mask(dy, self.forward()[0], output)
        transpose_a, transpose_b = self.transposes
        backward, gradient = self.policy.backward, self.policy.gradient
        weights = self._round(self.rounded_b, backward.rhs, backward, "BACKWARD_RHS")
        errors = self._round(dy, backward.lhs, backward, "BACKWARD_LHS")
        da = self._summed(errors, swap(weights, not transpose_b), self.a, backward, "BACKWARD")
        inputs = self._round(self.rounded_a, gradient.lhs, gradient, "GRADIENT_LHS")
        errors = self._round(dy, gradient.rhs, gradient, "GRADIENT_RHS")
        db = self._summed(swap(inputs, not transpose_a), errors, self.b, gradient, "GRADIENT")
        return (
            mask(swap(da, transpose_a), self.a, self.policy.forward.lhs),
            mask(swap(db, transpose_b), self.b, self.policy.forward.rhs),
        )

    def _summed(self, lhs, rhs, target, gemm, name):
        """lhs . rhs summed over the batch axes along which `target` was broadcast."""
        batch = np.broadcast_shapes(lhs.shape[:-2], rhs.shape[:-2])
        like = (1,) * (len(batch) - target.ndim + 2) + target.shape[:-2]
        kept = [i for i, extent in enumerate(batch) if like[i] == extent]
        over = [i for i in range(len(batch)) if i not in kept]
        rank, shape = len(batch), [batch[i] for i in kept]
        terms = math.prod(batch[i] for i in over) * lhs.shape[-1]
        lhs = np.broadcast_to(lhs, (*batch, *lhs.shape[-2:]))
        rhs = np.broadcast_to(rhs, (*batch, *rhs.shape[-2:]))
        left = lhs.transpose(*kept, rank, *over, rank + 1).reshape(*shape, lhs.shape[-2], terms)
        right = rhs.transpose(*kept, *over, rank, rank + 1).reshape(*shape, terms, rhs.shape[-1])
        total = self._product(left, right, gemm, name)
        total = self._round(total, gemm.output, gemm, f"{name}_OUTPUT")
        return np.asarray(total, np.float32).reshape(*target.shape[:-2], *total.shape[-2:])


def mask(dy, x, format):
    """The straight-through gradient: 0 where x was beyond the format's range; NaN is not."""
    if format is None:
        return dy
    largest = oracle.largest(format)
    low = -(2.0 ** (format.integer_bits - 1)) if oracle.is_fixed(format) else -largest
    return np.where((x < low) | (x > largest), np.float32(0), dy)
