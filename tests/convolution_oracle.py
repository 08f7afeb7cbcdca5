"""Slow, obvious twin of lp.conv2d and its transpose, from the design's contract. No TensorFlow.

A pass is one matrix product for each group, of windows gathered from an image; terms without a
pixel are marked and left out.
"""

import math

import accumulation_oracle
import numpy as np
import oracle
from accumulation_oracle import mask, rounded


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def taps(image, kernel, strides=1, dilations=1, padding="SAME"):
    """(out, index): the output's (height, width), and the pixel of the image, row-major, under
    each tap of each window; int [oh ow, kh kw], -1 on padding."""
    axes = []
    for axis in (0, 1):
        extent, stride, dilation = image[axis], pair(strides)[axis], pair(dilations)[axis]
        reach = (kernel[axis] - 1) * dilation + 1
        if padding == "SAME":
            total = max((-(-extent // stride) - 1) * stride + reach - extent, 0)
            before, after = total // 2, total - total // 2
        else:
            before, after = (0, 0) if padding == "VALID" else padding[axis]
        out = max((extent + before + after - reach) // stride + 1, 0)
        at = np.array(
            [[o * stride - before + t * dilation for t in range(kernel[axis])] for o in range(out)],
            int,
        ).reshape(out, kernel[axis])
        axes.append(np.where((at >= 0) & (at < extent), at, -1))
    rows, columns = axes[0][:, None, :, None], axes[1][None, :, None, :]
    index = np.where((rows >= 0) & (columns >= 0), rows * image[1] + columns, -1)
    out = (len(axes[0]), len(axes[1]))
    return out, index.reshape(math.prod(out), math.prod(kernel))


def inverse(index, pixels):
    """[pixels, taps]: the output whose window has the pixel under a tap; -1 where there is none."""
    result = np.full((pixels, index.shape[1]), -1)
    for output, window in enumerate(index):
        for tap, pixel in enumerate(window):
            if pixel >= 0:
                result[pixel, tap] = output
    return result


def windows(image, index):
    """(values, present) of an image [B, H, W, C]: [B len(index), taps C]; 0 where there is none."""
    batch, height, width, channels = image.shape
    flat = np.zeros((batch, height * width + 1, channels), image.dtype)
    flat[:, :-1] = image.reshape(batch, height * width, channels)
    values = flat[:, index].reshape(batch * len(index), index.shape[1] * channels)
    present = np.repeat(np.tile(index >= 0, (batch, 1)), channels, 1)
    return values, present


def _matrix(x):
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def dot(a, b, present, add, chunk, r):
    """accumulation_oracle.dot but for the terms that are not there, which keep their place in a
    chunk and their r."""
    r, total = iter(r), 0.0
    for begin in range(0, len(a), chunk or len(a) or 1):
        part = 0.0
        for k in range(begin, min(begin + (chunk or len(a)), len(a))):
            bits = next(r)
            if present[k]:
                part = add(part, a[k] * b[k], bits)
        total = add(total, part, next(r)) if chunk else part
    return total


def sums(lhs, present, rhs, accumulator, r):
    """lhs . rhs of [M, K] and [K, N]; r [M, N, roundings]."""
    add = accumulation_oracle.adder(accumulator.format, accumulator.rounding.value)
    columns = rhs.T.tolist()
    result = [
        [dot(row, column, there, add, accumulator.chunk, bits) for column, bits in zip(columns, rs)]
        for row, there, rs in zip(lhs.tolist(), present.tolist(), r)
    ]
    return np.array(result, np.float32).reshape(len(lhs), len(columns))


class Passes:
    """FWD, BWD and GRAD of lp.conv2d(x, filters) under a policy."""

    def __init__(
        self, x, filters, policy, streams, strides=1, padding="SAME", dilations=1, groups=1, seed=()
    ):
        self.x, self.filters, self.policy, self.streams = x, filters, policy, streams
        self.groups, self.seed = groups, seed or (0, 0)
        self.out, self.index = taps(x.shape[1:3], filters.shape[:2], strides, dilations, padding)
        self.y_shape = (x.shape[0], *self.out, filters.shape[3])
        gemm = policy.forward
        self.rounded_x = self._round(x, gemm.lhs, gemm, "FORWARD_LHS")
        self.rounded_filters = self._round(filters, gemm.rhs, gemm, "FORWARD_RHS")

    def _round(self, x, format, gemm, stream):
        return rounded(x, format, gemm.rounding, self.seed, self.streams[stream])

    def _split(self, x):
        return np.split(x, self.groups, -1)

    def _product(self, operands, shape, gemm, name):
        """lhs . rhs of each group, side by side."""
        accumulator = gemm.accumulator
        if accumulator.kind != "narrow":
            parts = [np.matmul(a.astype(np.float64), b.astype(np.float64)) for a, _, b in operands]
            return np.concatenate(parts, -1).reshape(shape)
        rows, length = operands[0][0].shape
        columns = operands[0][2].shape[1]
        count = accumulation_oracle.steps(length, accumulator.chunk)
        r = np.zeros((rows * self.groups * columns, count), np.int32)
        if accumulator.rounding.value == "stochastic":
            stream = self.streams[f"{name}_ACCUMULATOR"]
            r = accumulation_oracle.random_bits(len(r), count, stream, self.seed)
        r = r.reshape(rows, self.groups, columns, count)
        parts = [sums(*o, accumulator, r[:, g].tolist()) for g, o in enumerate(operands)]
        return oracle.canonical(np.concatenate(parts, -1)).reshape(shape)

    def forward(self):
        """The sums before the output is rounded, and after."""
        gemm = self.policy.forward
        operands = [
            (*windows(x, self.index), _matrix(w))
            for x, w in zip(self._split(self.rounded_x), self._split(self.rounded_filters))
        ]
        total = self._product(operands, self.y_shape, gemm, "FORWARD")
        y = self._round(total, gemm.output, gemm, "FORWARD_OUTPUT")
        return total, np.asarray(y, np.float32)

    def gradients(self, dy):
        """(dx, dfilters)."""
        forward, backward, gradient = (
            getattr(self.policy, name) for name in ("forward", "backward", "gradient")
        )
        if forward.output is not None:
            dy = mask(dy, self.forward()[0], forward.output)

        errors = self._split(self._round(dy, backward.lhs, backward, "BACKWARD_LHS"))
        filters = self._round(self.rounded_filters, backward.rhs, backward, "BACKWARD_RHS")
        index = inverse(self.index, math.prod(self.x.shape[1:3]))
        dx = self._product(
            [
                (*windows(e, index), _matrix(w.transpose(0, 1, 3, 2)))
                for e, w in zip(errors, self._split(filters))
            ],
            self.x.shape,
            backward,
            "BACKWARD",
        )
        dx = self._round(dx, backward.output, backward, "BACKWARD_OUTPUT").astype(np.float32)

        images = self._split(self._round(self.rounded_x, gradient.lhs, gradient, "GRADIENT_LHS"))
        errors = self._split(self._round(dy, gradient.rhs, gradient, "GRADIENT_RHS"))
        dfilters = self._product(
            [(*(m.T for m in windows(x, self.index)), _matrix(e)) for x, e in zip(images, errors)],
            self.filters.shape,
            gradient,
            "GRADIENT",
        )
        dfilters = self._round(dfilters, gradient.output, gradient, "GRADIENT_OUTPUT")
        return mask(dx, self.x, forward.lhs), mask(
            dfilters.astype(np.float32), self.filters, forward.rhs
        )


class TransposedPasses(Passes):
    """FWD, BWD and GRAD of lp.conv2d_transpose(x, filters) under a policy.

    `index` is that of the convolution whose images are the outputs here, [B, *output_size, O].
    """

    def __init__(
        self,
        x,
        filters,
        policy,
        streams,
        output_size,
        strides=1,
        padding="SAME",
        dilations=1,
        seed=(),
    ):
        self.x, self.filters, self.policy, self.streams = x, filters, policy, streams
        self.groups, self.seed = 1, seed or (0, 0)
        out, self.index = taps(output_size, filters.shape[:2], strides, dilations, padding)
        assert out == x.shape[1:3]
        self.y_shape = (x.shape[0], *output_size, filters.shape[2])
        gemm = policy.forward
        self.rounded_x = self._round(x, gemm.lhs, gemm, "FORWARD_LHS")
        self.rounded_filters = self._round(filters, gemm.rhs, gemm, "FORWARD_RHS")

    def forward(self):
        """The sums before the output is rounded, and after."""
        gemm = self.policy.forward
        index = inverse(self.index, math.prod(self.y_shape[1:3]))
        flipped = _matrix(self.rounded_filters.transpose(0, 1, 3, 2))
        operands = [(*windows(self.rounded_x, index), flipped)]
        total = self._product(operands, self.y_shape, gemm, "FORWARD")
        y = self._round(total, gemm.output, gemm, "FORWARD_OUTPUT")
        return total, np.asarray(y, np.float32)

    def gradients(self, dy):
        """(dx, dfilters)."""
        forward, backward, gradient = (
            getattr(self.policy, name) for name in ("forward", "backward", "gradient")
        )
        if forward.output is not None:
            dy = mask(dy, self.forward()[0], forward.output)

        errors = self._round(dy, backward.lhs, backward, "BACKWARD_LHS")
        filters = self._round(self.rounded_filters, backward.rhs, backward, "BACKWARD_RHS")
        operands = [(*windows(errors, self.index), _matrix(filters))]
        dx = self._product(operands, self.x.shape, backward, "BACKWARD")
        dx = self._round(dx, backward.output, backward, "BACKWARD_OUTPUT").astype(np.float32)

        inputs = self._round(self.rounded_x, gradient.lhs, gradient, "GRADIENT_LHS")
        errors = self._round(dy, gradient.rhs, gradient, "GRADIENT_RHS")
        operands = [(*(m.T for m in windows(errors, self.index)), _matrix(inputs))]
        dfilters = self._product(operands, self.filters.shape, gradient, "GRADIENT")
        dfilters = self._round(dfilters, gradient.output, gradient, "GRADIENT_OUTPUT")
        return mask(dx, self.x, forward.lhs), mask(
            dfilters.astype(np.float32), self.filters, forward.rhs
        )
