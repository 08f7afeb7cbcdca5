"""What lp_accelerator must give, in Python integers, from docs/hardware.md alone. No TensorFlow."""

import numpy as np

R = 24  # bits of r


def rounded(total, cut, mode, r, bits):
    """The sum `total` without its `cut` last bits, saturated to `bits` bits."""
    unit = 1 << cut
    whole, rest = total // unit, total % unit
    if mode == "stochastic":
        value = ((total << R) + r * unit) // (unit << R)
    elif mode == "floor":
        value = whole
    elif mode == "toward_zero":
        value = whole + (total < 0 and rest != 0)
    else:
        value = whole + (2 * rest > unit)
        if 2 * rest == unit:
            value += 1 if mode == "nearest_up" else whole % 2
    return max(-(1 << bits - 1), min((1 << bits - 1) - 1, value))


def wrapped(total, bits):
    """`total` as the signed integer of `bits` bits that is equal to it modulo 2^bits."""
    return (total + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def sums(a, b):
    """The exact products' sums, as an object array of Python integers."""
    if a.shape[1] == 0:
        return np.zeros((a.shape[0], b.shape[1]), object)
    return a.astype(object) @ b.astype(object)


def product(a, b, cut, mode, random, bits, accumulator_bits):
    """(result, beyond) of a job: int32 and bool [m, n]."""
    total = [wrapped(int(t), accumulator_bits) for t in sums(a, b).ravel()]
    values = [rounded(t, cut, mode, int(r), bits) for t, r in zip(total, random.ravel())]
    low, high = -(1 << bits - 1) << cut, ((1 << bits - 1) - 1) << cut
    beyond = [not low <= t <= high for t in total]
    shape = a.shape[0], b.shape[1]
    return np.array(values, np.int32).reshape(shape), np.array(beyond, bool).reshape(shape)
