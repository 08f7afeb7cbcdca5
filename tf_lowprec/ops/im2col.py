"""A convolution's three products as products of matrices, from the windows laid out as rows.

For what goes by consecutive k, block formats and aligned accumulators, a convolution is the product
of [rows, k] and [k, columns] with k over the full window, in the order of cc/kernels/conv2d.h: taps
on padding, or that a stride skips, are zeros. Groups are a leading axis of both matrices.
"""

import tensorflow as tf

from tf_lowprec.ops.matmul import MatrixProduct


def forward_matrices(geometry, x, filters):
    """y = restore(a . b), summed over (kh, kw, cin)."""
    groups, (height, width, channels, outputs) = geometry.groups, filters.shape
    a, (batch, rows, columns) = _windows(geometry, x, height, width)
    a = _by_group(a, height * width, groups, channels)
    b = _split(tf.reshape(filters, [height * width * channels, outputs]), groups)

    def restore(total):
        return tf.reshape(_join(total, groups), [batch, rows, columns, outputs])

    return _drop(a, groups), _drop(b, groups), restore


def backward_matrices(geometry, dy, filters, x_shape):
    """dx = restore(a . b), summed over (kh, kw, cout)."""
    groups, (height, width, channels, outputs) = geometry.groups, filters.shape
    outputs //= groups
    spread = _spread(geometry, dy, height, width, x_shape)
    a = _patches(spread, height, width, [1, 1], geometry.dilations, "VALID")
    # Windows of dy run against the filter's taps.
    a = tf.reverse(tf.reshape(a, [-1, height, width, groups * outputs]), [1, 2])
    a = _by_group(
        tf.reshape(a, [-1, height * width * groups * outputs]), height * width, groups, outputs
    )
    b = tf.reshape(filters, [height, width, channels, groups, outputs])
    b = tf.reshape(tf.transpose(b, [3, 0, 1, 4, 2]), [groups, -1, channels])

    def restore(total):
        joined = _join(total, groups)
        if dy.shape.num_elements():
            return tf.reshape(joined, x_shape)
        # An image smaller than the filter has no errors, and not as many windows as pixels.
        return tf.cond(
            tf.size(dy) > 0,
            lambda: tf.reshape(joined, x_shape),
            lambda: tf.zeros(x_shape, joined.dtype),
        )

    return _drop(a, groups), _drop(b, groups), restore


def gradient_matrices(geometry, x, dy, filters_shape, swapped):
    """dfilters = restore(a^T . b), summed over (batch, oh, ow); b comes first if swapped."""
    groups, (height, width, channels, outputs) = geometry.groups, filters_shape
    a, _ = _windows(geometry, x, height, width)
    a = _by_group(a, height * width, groups, channels)
    b = _split(tf.reshape(dy, [-1, outputs]), groups)

    def restore(total):
        if swapped:
            total = tf.linalg.matrix_transpose(total)
        return tf.reshape(_join(total, groups), filters_shape)

    a, b = _drop(a, groups), _drop(b, groups)
    return (b, a, restore) if swapped else (a, b, restore)


def matrix_product(a, transpose_a=False):
    return MatrixProduct(a, transpose_a, False)


def _patches(x, height, width, strides, dilations, padding):
    return tf.image.extract_patches(
        x, [1, height, width, 1], [1, *strides, 1], [1, *dilations, 1], padding
    )


def _windows(geometry, x, height, width):
    """[rows, kh kw C] of images, and [batch, oh, ow]."""
    padding = geometry.padding
    if padding == "EXPLICIT":
        top, bottom, left, right = geometry.explicit_paddings
        x, padding = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]]), "VALID"
    windows = _patches(x, height, width, geometry.strides, geometry.dilations, padding)
    shape = [known or dynamic for known, dynamic in zip(windows.shape[:3], _dynamic(windows))]
    return tf.reshape(windows, [-1, height * width * x.shape[3]]), shape


def _dynamic(x):
    shape = tf.shape(x)
    return [shape[i] for i in range(3)]


def _spread(geometry, dy, height, width, x_shape):
    """dy with zeros where the stride skips, and around, so that its windows are dx's."""
    before = []
    paddings, begins, sizes = [[0, 0]], [0], [-1]
    for axis, kernel in ((1, height), (2, width)):
        stride, dilation = geometry.strides[axis - 1], geometry.dilations[axis - 1]
        size, outputs = x_shape[axis], tf.shape(dy)[axis]
        reach = (kernel - 1) * dilation
        if geometry.padding == "EXPLICIT":
            start = geometry.explicit_paddings[2 * (axis - 1)]
        elif geometry.padding == "SAME":
            start = tf.maximum((outputs - 1) * stride + reach + 1 - size, 0) // 2
        else:
            start = 0
        before.append((stride, outputs))
        # Element u of the spread dy is where the window's first tap is at u - start in x.
        first, last = start - reach, start + size - 1
        spread = (outputs - 1) * stride + 1
        paddings.append([tf.maximum(-first, 0), tf.maximum(last - spread + 1, 0)])
        begins.append(tf.maximum(first, 0))
        sizes.append(size + reach)
    if geometry.strides != [1, 1]:
        (sh, oh), (sw, ow) = before
        channels = dy.shape[3]
        dy = tf.reshape(dy, [-1, oh, 1, ow, 1, channels])
        dy = tf.pad(dy, [[0, 0], [0, 0], [0, sh - 1], [0, 0], [0, sw - 1], [0, 0]])
        dy = tf.reshape(dy, [-1, oh * sh, ow * sw, channels])
        dy = dy[:, : (oh - 1) * sh + 1, : (ow - 1) * sw + 1]
    dy = tf.pad(dy, [*paddings, [0, 0]])
    return tf.slice(dy, [*begins, 0], [*sizes, -1])


def _by_group(windows, taps, groups, channels):
    """[groups, rows, taps channels] of [rows, taps groups channels]."""
    if groups == 1:
        return windows[None]
    windows = tf.transpose(tf.reshape(windows, [-1, taps, groups, channels]), [2, 0, 1, 3])
    return tf.reshape(windows, [groups, -1, taps * channels])


def _split(x, groups):
    """[groups, rows, columns / groups] of [rows, columns]."""
    if groups == 1:
        return x[None]
    return tf.transpose(tf.reshape(x, [-1, groups, x.shape[1] // groups]), [1, 0, 2])


def _join(x, groups):
    """[rows, columns] of what `_split` gives."""
    if groups == 1:
        return x
    return tf.reshape(tf.transpose(x, [1, 0, 2]), [-1, groups * x.shape[2]])


def _drop(x, groups):
    return x[0] if groups == 1 else x
