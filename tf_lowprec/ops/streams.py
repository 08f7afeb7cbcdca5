"""Stream ids, mirrored from cc/numerics/streams.h: a test compares the two."""

import enum


class Stream(enum.IntEnum):
    """Upper half of Philox's counter: roundings that share a seed differ in their stream."""

    QUANTIZE = 0
    FORWARD_LHS = 1
    FORWARD_RHS = 2
    FORWARD_OUTPUT = 3
    BACKWARD_LHS = 4
    BACKWARD_RHS = 5
    BACKWARD_OUTPUT = 6
    GRADIENT_LHS = 7
    GRADIENT_RHS = 8
    GRADIENT_OUTPUT = 9
    FORWARD_ACCUMULATOR = 10
    BACKWARD_ACCUMULATOR = 11
    GRADIENT_ACCUMULATOR = 12
    BIAS = 16
    ACTIVATION = 17
    ERROR = 18
    BIAS_GRADIENT = 19
    STEP = 20
    WEIGHT_UPDATE = 21
    SLOT = 22
    DECAY_STEP = 23
    DECAY_UPDATE = 24

    def of(self, index):
        """The stream of the index-th variable."""
        return int(self) + (index << 32)
