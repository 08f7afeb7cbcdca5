"""Sizes beyond what can be counted are errors, not crashes."""

import subprocess
import sys

import pytest
import tensorflow as tf

import tf_lowprec as lp

E5M2, FIXED = lp.FP8_E5M2, lp.FixedPointFormat(2, 14)
GEMMS = {
    "narrow": lp.Gemm(accumulator=lp.Accumulator(E5M2)),
    "aligned": lp.Gemm(E5M2, E5M2, lp.Accumulator.hopper()),
    "wide": lp.Gemm(FIXED, FIXED, lp.Accumulator.wide()),
}


@pytest.mark.parametrize("kind", GEMMS)
def test_a_product_of_more_elements_than_int64_counts(kind):
    a, b = tf.zeros([2**33, 0]), tf.zeros([0, 2**33])
    with pytest.raises(tf.errors.InvalidArgumentError, match="overflow"):
        lp.matmul(a, b, GEMMS[kind])


OUT_OF_MEMORY = """
import resource, sys
import tensorflow as tf
import tf_lowprec as lp

kind = sys.argv[1]
accumulator = lp.Accumulator.hopper() if kind == "aligned" else lp.Accumulator(lp.FloatFormat(6, 9))
a = tf.zeros([1, 2**26])
b = tf.reshape(a, [2**26, 1])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, resource.RLIM_INFINITY))
try:
    lp.matmul(a, b, lp.Gemm(lp.FP8_E5M2, lp.FP8_E5M2, accumulator))
except tf.errors.ResourceExhaustedError:
    print("caught")
"""


@pytest.mark.parametrize("kind", ["narrow", "aligned"])
def test_no_memory_for_packed_operands(kind, tmp_path):
    command = [sys.executable, "-c", OUT_OF_MEMORY, kind]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert found.stdout.split() == ["caught"], found.stderr[-2000:]


@pytest.mark.parametrize("dilations", [1, 2])
@pytest.mark.parametrize("gemm", [*GEMMS.values(), lp.Gemm(lp.BF16, lp.BF16)], ids=[*GEMMS, "bf16"])
def test_images_that_turn_out_smaller_than_the_filter(gemm, dilations):
    filters = tf.ones([2, 3, 2, 1])

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2])])
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch([x, filters])
            y = lp.conv2d(x, filters, gemm, (2, 3), "VALID", dilations)
        return tape.gradient(y, [x, filters])

    x = tf.ones([1, 6, 2, 2])
    dx, dfilters = gradients(x)
    tf.debugging.assert_equal(dx, tf.zeros_like(x))
    tf.debugging.assert_equal(dfilters, tf.zeros_like(filters))
