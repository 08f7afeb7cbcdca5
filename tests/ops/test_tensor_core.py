"""lp.matmul under Accumulator.hopper against dot products measured on an NVIDIA H200.

tests/data/tensor_core.npz: of tools/hopper_probe's tiles, operands' codes and the chip's results.
"""

import pathlib

import ml_dtypes
import numpy as np
import pytest

import tf_lowprec as lp

DATA = np.load(pathlib.Path(__file__).parent.parent / "data" / "tensor_core.npz")
E4M3 = (lp.FP8_E4M3FN, ml_dtypes.float8_e4m3fn)
E5M2 = (lp.FP8_E5M2, ml_dtypes.float8_e5m2)
BF16, F16 = (lp.BF16, ml_dtypes.bfloat16), (lp.FP16, np.float16)
FP8, WIDE = lp.Accumulator.hopper(), lp.Accumulator.hopper(operand_bits=16)
KINDS = {  # of probe.cu
    0: (E4M3, E4M3, FP8),
    1: (E5M2, E5M2, FP8),
    2: (E4M3, E5M2, FP8),
    3: (E5M2, E4M3, FP8),
    4: (BF16, BF16, WIDE),
    5: (F16, F16, WIDE),
    6: (E4M3, E4M3, lp.Accumulator.hopper(into="float16")),
    7: (F16, F16, lp.Accumulator.hopper(operand_bits=16, into="float16")),
    10: (BF16, BF16, WIDE),
    11: (F16, F16, WIDE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_chips_bits(kind):
    (a_format, a_type), (b_format, b_type), accumulator = KINDS[kind]
    names = [name[:-2] for name in DATA.files if name.startswith(f"{kind}_") and name[-1] == "d"]
    count = 0
    for name in names:
        a = DATA[name + "_a"].view(a_type).astype(np.float32)
        b = DATA[name + "_b"].view(b_type).astype(np.float32)
        expected = DATA[name + "_d"].view(np.float32)
        y = lp.matmul(a[:, None], b[:, :, None], lp.Gemm(a_format, b_format, accumulator))
        y = y.numpy()[:, 0, 0]
        # The chip's NaN is 0x7fffffff, ours the canonical one.
        both = np.isnan(y) & np.isnan(expected)
        wrong = (y.view(np.uint32) != expected.view(np.uint32)) & ~both
        assert not wrong.any(), (name, a[wrong][0], b[wrong][0], y[wrong][0], expected[wrong][0])
        count += len(y)
    assert count > 200
