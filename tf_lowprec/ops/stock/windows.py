"""Convolutions as matrix products: the pixels under each tap of a window, and which are there."""

import tensorflow as tf


def _at_least_0(value):
    return max(value, 0) if isinstance(value, int) else tf.maximum(value, 0)


def _size(x):
    """[height, width] of images: ints where they are known, else scalar tensors."""
    return [x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis] for axis in (1, 2)]


class Windows:
    """The windows of a convolution over images ``[B, H, W, C]``.

    Attributes:
        values: float32 ``[B, oh ow, taps, C]``.
        present: bool ``[taps, 1, oh ow, 1]``, or None where every tap has a pixel.
        out: [oh, ow].
    """

    def __init__(self, x, starts, strides, out, padding):
        """`starts`: of each axis, the padded image's index of each tap in the first window."""
        self.out = out
        taps = len(starts[0]) * len(starts[1])
        self.values = self._gather(x, starts, strides, padding)
        is_padded = any(not isinstance(p, int) or p > 0 for side in padding for p in side)
        self.present = None
        if is_padded:
            self.present = self._mark(tf.ones_like(x[:1, :, :, :1]), starts, strides, padding, taps)

    def _mark(self, ones, starts, strides, padding, taps):
        there = self._gather(ones, starts, strides, padding)
        return tf.reshape(tf.transpose(there, [2, 0, 1, 3]), [taps, 1, -1, 1]) > 0.5

    def _gather(self, x, starts, strides, padding):
        x = tf.pad(x, [[0, 0], *padding, [0, 0]])
        (oh, ow), (sh, sw) = self.out, strides
        taps = [
            x[:, i : i + (oh - 1) * sh + 1 : sh, j : j + (ow - 1) * sw + 1 : sw]
            for i in starts[0]
            for j in starts[1]
        ]
        windows = tf.stack(taps, 3)
        return tf.reshape(windows, [tf.shape(x)[0], oh * ow, len(taps), x.shape[-1]])


def forward_windows(x, kernel, strides, dilations, padding, explicit_paddings):
    """The Windows of lp.conv2d."""
    out, sides = [], []
    for axis, size in enumerate(_size(x)):
        stride, reach = strides[axis], (kernel[axis] - 1) * dilations[axis] + 1
        if padding == "SAME":
            count = (size + stride - 1) // stride
            total = _at_least_0((count - 1) * stride + reach - size)
            before, after = total // 2, total - total // 2
        else:
            before, after = explicit_paddings[2 * axis : 2 * axis + 2] or (0, 0)
            count = _at_least_0((size + before + after - reach) // stride + 1)
        out.append(count)
        sides.append([before, after])
    starts = [[t * d for t in range(k)] for k, d in zip(kernel, dilations)]
    return Windows(x, starts, strides, out, sides)


def backward_windows(dy, size, kernel, strides, dilations, padding, explicit_paddings):
    """The Windows of lp.conv2d's gradient with respect to images of `size`: [height, width].

    They go over dy spread out by the strides, the taps in the order in which filters are stored.
    """
    spread, ones = _spread(dy, strides), _spread(tf.ones_like(dy[:1, :, :, :1]), strides)
    starts, sides = [], []
    for axis, length in enumerate(_size(spread)):
        reach = (kernel[axis] - 1) * dilations[axis]
        if padding == "SAME":
            count = (size[axis] + strides[axis] - 1) // strides[axis]
            before = _at_least_0((count - 1) * strides[axis] + reach + 1 - size[axis]) // 2
        else:
            before = explicit_paddings[2 * axis] if explicit_paddings else 0
        # Pixel h under tap i is spread[h + before - i dilation].
        front = _at_least_0(reach - before)
        offset = front + before
        starts.append([offset - i * dilations[axis] for i in range(kernel[axis])])
        sides.append([front, _at_least_0(size[axis] + offset - front - length)])
    windows = Windows(spread, starts, [1, 1], list(size), sides)
    taps = kernel[0] * kernel[1]
    windows.present = windows._mark(ones, starts, [1, 1], sides, taps)
    return windows


def _spread(x, strides):
    """x with ``stride - 1`` zeros between its pixels."""
    sh, sw = strides
    if (sh, sw) == (1, 1):
        return x
    height, width = _size(x)
    batch, channels = tf.shape(x)[0], x.shape[-1]
    x = tf.reshape(x, [batch, height, 1, width, 1, channels])
    x = tf.pad(x, [[0, 0], [0, 0], [0, sh - 1], [0, 0], [0, sw - 1], [0, 0]])
    x = tf.reshape(x, [batch, height * sh, width * sw, channels])
    return x[:, : (height - 1) * sh + 1, : (width - 1) * sw + 1]
