"""The LFSRs of hardware/rtl/lp_lfsr.sv: the random words that each element of a product gets.

33 bits, x^33 + x^20 + 1: the bits satisfy b[i] = b[i - 33] ^ b[i - 20]. A word is the low 24 bits
of the state, which then takes 24 steps.
"""

import numpy as np

STATE_BITS, TAP = 33, 20
WORD_BITS = 24


def step(state):
    """One step, as the RTL has it: state <- {state[31:0], state[32] ^ state[19]}."""
    return (state << 1 | (state >> 32 ^ state >> 19) & 1) & (1 << STATE_BITS) - 1


def column_seed(seed, column):
    """State from which column `column` of the array starts."""
    return 1 << 32 | (seed ^ (column + 1) * 0x9E3779B9 & 0xFFFFFFFF)


class Lfsrs:
    """The LFSRs of an array's `columns` columns."""

    def __init__(self, columns, seed=0):
        self.columns = columns
        self.reseed(seed)

    def reseed(self, seed):
        states = [column_seed(seed, j) for j in range(self.columns)]
        self._bits = np.array([[s >> i & 1 for i in reversed(range(STATE_BITS))] for s in states])
        self._bits = self._bits.astype(bool)

    def words(self, count):
        """int32 [count, columns]: each column's next words."""
        end = STATE_BITS + count * WORD_BITS
        bits = np.empty((self.columns, end), bool)
        bits[:, :STATE_BITS] = self._bits
        have, leap = STATE_BITS, 1
        while have < end:
            # A square of the polynomial has the same sequence: b[i] = b[i - 66] ^ b[i - 40], ...
            while 2 * leap * STATE_BITS <= have:
                leap *= 2
            new = min(leap * TAP, end - have)
            far, near = have - leap * STATE_BITS, have - leap * TAP
            bits[:, have : have + new] = bits[:, far : far + new] ^ bits[:, near : near + new]
            have += new
        self._bits = bits[:, end - STATE_BITS :].copy()
        start = STATE_BITS - WORD_BITS
        grouped = bits[:, start : start + count * WORD_BITS].reshape(self.columns, count, WORD_BITS)
        weights = 1 << np.arange(WORD_BITS, dtype=np.int32)[::-1]
        return np.ascontiguousarray((grouped @ weights).T, np.int32)
