"""The floating-point multiply-accumulate unit of hardware/rtl, and lp.matmul on the same codes."""

import ctypes
import dataclasses

import numpy as np

import tf_lowprec as lp
from hardware.codes import ROUNDINGS
from hardware.cosim import verilate


@dataclasses.dataclass(frozen=True)
class FloatMac:
    """A simulated lp_float_mac.

    Args:
        accumulator: a narrow lp.Accumulator whose format is "ieee".
        operand: lp.FloatFormat of both operands, "ieee" or "fn", of at most 8 bits.
    """

    accumulator: lp.Accumulator
    operand: lp.FloatFormat = lp.FP8_E5M2

    def parameters(self):
        """Parameters of lp_float_mac."""
        format = self.accumulator.format
        return {
            "OP_E": self.operand.exponent_bits,
            "OP_M": self.operand.mantissa_bits,
            "OP_FN": int(self.operand.specials == "fn"),
            "ACC_E": format.exponent_bits,
            "ACC_M": format.mantissa_bits,
            "ROUNDING": ROUNDINGS[self.accumulator.rounding.value],
            "CHUNKED": int(bool(self.accumulator.chunk)),
        }

    def steps(self, terms):
        """Roundings of a sum: one for each term, and one for each chunk."""
        chunk = self.accumulator.chunk
        return terms + (-(-terms // chunk) if chunk else 0)

    def dot(self, a, b, random=None, pause=0.0, seed=0):
        """sum_k a[:, k] b[:, k] as the RTL has it.

        Args:
            a, b: uint8 [count, terms], the operands' codes.
            random: int32 [count, steps], for stochastic rounding.

        Returns:
            (uint32 [count] of the accumulator's codes, cycles).
        """
        path = verilate.library("lp_float_mac", "float_mac.cc", {}, "-O1", **self.parameters())
        library = ctypes.CDLL(str(path))
        library.lowprec_dot.restype = ctypes.c_int64
        a, b = (np.ascontiguousarray(x, np.uint8) for x in (a, b))
        count, terms = a.shape
        random = None if random is None else np.ascontiguousarray(random, np.int32)
        sums, cycles = np.zeros(count, np.uint32), ctypes.c_int64()
        done = library.lowprec_dot(
            ctypes.c_uint32(seed), ctypes.c_int64(count), ctypes.c_int64(terms),
            ctypes.c_void_p(a.ctypes.data), ctypes.c_void_p(b.ctypes.data),
            ctypes.c_int64(self.accumulator.chunk or 0),
            ctypes.c_void_p(None if random is None else random.ctypes.data),
            ctypes.c_int64(self.steps(terms)), ctypes.c_double(pause),
            ctypes.c_void_p(sums.ctypes.data), ctypes.byref(cycles),
        )  # fmt: skip
        if done != count:
            raise RuntimeError(f"the unit gave {done} sums of {count} (negative: wrong steps)")
        return sums, cycles.value

    def reference(self, a, b, random=None):
        """The same from lp.matmul, as codes: [count, 1, terms] by [count, terms, 1]."""
        x, y = (lp.from_bits(np.asarray(v, np.uint8).view(np.int8), self.operand) for v in (a, b))
        gemm = lp.Gemm(self.operand, self.operand, self.accumulator)
        bits = {} if random is None else {"random_bits": random[:, None, None, :]}
        product = lp.matmul(x[:, None, :], y[:, :, None], gemm, **bits)
        codes = np.array(lp.to_bits(product[:, 0, 0], self.accumulator.format)).astype(np.int64)
        return (codes & (1 << self.accumulator.format.bits) - 1).astype(np.uint32)
