"""Functions of the names and arguments of the library's ops, for `_library.ops.stand_ins`."""

import tensorflow as tf

from tf_lowprec.formats import Rounding, parse_spec
from tf_lowprec.ops.stock.rounding import round_to_format
from tf_lowprec.ops.stock.sums import adders, narrow_sums
from tf_lowprec.ops.stock.windows import backward_windows, forward_windows


def __getattr__(name):
    if not name.startswith("lowprec_"):
        raise AttributeError(name)
    raise ValueError(
        f"{name} has no form in TensorFlow's own ops: lp.export(portable=True) is for inference "
        "with native, wide and narrow accumulators; use portable=False"
    )


def lowprec_quantize(x, seed, random_bits, format, rounding, stream):
    return _to_float32(round_to_format(x, parse_spec(format), Rounding(rounding)))


def lowprec_mat_mul_passes(product, **unused):
    return product


def lowprec_conv2d_passes(product, **unused):
    return product


def lowprec_add_bias_passes(sum, **unused):
    return sum


def lowprec_round_error(x, **unused):
    return x


def lowprec_wide_mat_mul(a, b, transpose_a, transpose_b, a_format, b_format):
    a, b = tf.cast(a, tf.float64), tf.cast(b, tf.float64)
    return tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)


def lowprec_mat_mul(a, b, seed, random_bits, transpose_a, transpose_b, **attributes):
    gemm = _Gemm(**attributes)
    a, b = gemm.operands(a, b)
    a = tf.linalg.matrix_transpose(a) if transpose_a else a
    b = tf.linalg.matrix_transpose(b) if transpose_b else b
    return gemm.product(a, b)


def lowprec_conv2d(
    x, filters, seed, strides, dilations, padding, explicit_paddings, groups, **attributes
):
    gemm = _Gemm(**attributes)
    x, filters = gemm.operands(x, filters)
    height, width, channels, outputs = filters.shape
    windows = forward_windows(x, (height, width), strides, dilations, padding, explicit_paddings)
    taps, pixels = height * width, windows.out[0] * windows.out[1]
    values, batch = windows.values, tf.shape(x)[0]
    if groups == 1:
        a = tf.reshape(values, [batch, pixels, taps * channels])
        b = tf.reshape(filters, [taps * channels, outputs])
        y = gemm.product(a, b, windows.present)
    else:
        # Groups are one more batch axis, in front of the images'.
        a = tf.reshape(values, [batch, pixels, taps, groups, channels])
        a = tf.reshape(tf.transpose(a, [3, 0, 1, 2, 4]), [groups, batch, pixels, taps * channels])
        b = tf.reshape(filters, [taps * channels, groups, outputs // groups])
        b = tf.transpose(b, [1, 0, 2])[:, None]
        present = None if windows.present is None else windows.present[:, None]
        y = tf.transpose(gemm.product(a, b, present), [1, 2, 0, 3])
    return tf.reshape(y, [batch, *windows.out, outputs])


def lowprec_conv2d_backprop_input(
    dy, filters, sizes, seed, strides, dilations, padding, explicit_paddings, groups, **attributes
):
    if groups != 1:
        raise ValueError(f"groups = {groups} must be 1 in a transposed convolution")
    gemm = _Gemm(**attributes)
    dy, filters = gemm.operands(dy, filters)
    height, width, channels, outputs = filters.shape
    known = tf.zeros(sizes).shape  # what is constant in `sizes`
    size = [sizes[axis] if known[axis] is None else known[axis] for axis in (1, 2)]
    windows = backward_windows(
        dy, size, (height, width), strides, dilations, padding, explicit_paddings
    )
    taps = height * width
    a = tf.reshape(windows.values, [tf.shape(dy)[0], size[0] * size[1], taps * outputs])
    b = tf.reshape(tf.transpose(filters, [0, 1, 3, 2]), [taps * outputs, channels])
    return tf.reshape(gemm.product(a, b, windows.present), sizes)


class _Gemm:
    """The attributes that Lowprec>MatMul and its kin share (cc/ops/gemm_attributes.h)."""

    def __init__(
        self,
        a_formats,
        a_roundings,
        b_formats,
        b_roundings,
        accumulator,
        rounding,
        chunk,
        output_format,
        output_rounding,
        **streams,
    ):
        self._a = _parse(a_formats, a_roundings)
        self._b = _parse(b_formats, b_roundings)
        self._accumulator, self._rounding = parse_spec(accumulator), Rounding(rounding)
        self._chunk = chunk
        self._output = _parse([output_format] if output_format else [], [output_rounding])

    def operands(self, a, b):
        return _rounded(a, self._a), _rounded(b, self._b)

    def product(self, a, b, present=None):
        a_format, b_format = (r[-1][0] if r else None for r in (self._a, self._b))
        of_products, of_chunks = adders(self._accumulator, self._rounding, a_format, b_format)
        sums = narrow_sums(a, b, self._chunk, of_products, of_chunks, present)
        return _rounded(sums, self._output)


def _parse(formats, roundings):
    return [(parse_spec(f), Rounding(r)) for f, r in zip(formats, roundings)]


def _rounded(x, roundings):
    for format, rounding in roundings:
        x = round_to_format(x, format, rounding)
    return x


def _to_float32(x):
    return x if x.dtype == tf.float32 else tf.cast(x, tf.float32)
