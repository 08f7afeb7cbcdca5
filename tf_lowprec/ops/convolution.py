"""What a two-dimensional convolution is: its window, and its three products in any precision.

conv2d.py and conv2d_transpose.py are what users call; the gradient of both is registered here.
"""

import numbers

import tensorflow as tf

from tf_lowprec.ops import gemm, im2col
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import as_float
from tf_lowprec.precision import Gemm


def _is_size(value, low):
    is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_int and low <= value < 2**31


def pair(value, name):
    """[height, width] of an argument that may be one number for both, or TensorFlow's four."""
    try:
        sizes = [value, value] if isinstance(value, numbers.Integral) else list(value)
    except TypeError:
        sizes = []
    valid = len(sizes) in (2, 4) and all(_is_size(v, 1) for v in sizes)
    if not valid or (len(sizes) == 4 and (sizes[0], sizes[3]) != (1, 1)):
        raise ValueError(
            f"{name} = {value!r} must be an integer in 1..2^31-1, two of them, or TensorFlow's "
            "[1, height, width, 1]"
        )
    return [int(v) for v in (sizes if len(sizes) == 2 else sizes[1:3])]


def parse_padding(padding):
    """(name, [top, bottom, left, right])."""
    if isinstance(padding, str):
        if padding.upper() in ("SAME", "VALID"):
            return padding.upper(), []
    else:
        try:
            sides = [side for before, after in padding for side in (before, after)]
        except (TypeError, ValueError):
            sides = []
        if (
            len(sides) == 8
            and all(_is_size(v, 0) for v in sides)
            and not any(sides[:2] + sides[6:])
        ):
            sides = sides[2:6]
        if len(sides) == 4 and all(_is_size(v, 0) for v in sides):
            return "EXPLICIT", [int(v) for v in sides]
    raise ValueError(
        f"padding = {padding!r} must be 'SAME', 'VALID', ((top, bottom), (left, right)), each in "
        "0..2^31-1, or TensorFlow's [[0, 0], [top, bottom], [left, right], [0, 0]]"
    )


def images(x, name):
    """`x` as a float32 tensor of rank 4."""
    x = as_float(x, name)
    if x.dtype != tf.float32:
        raise ValueError(f"{name} has dtype {x.dtype.name}; it must be float32")
    if x.shape.rank != 4:
        raise ValueError(f"{name} has shape {x.shape}; it must have four axes")
    return x


def filters_of(filters):
    """`filters` as a float32 tensor of rank 4 and known shape."""
    filters = images(filters, "filters")
    if not filters.shape.is_fully_defined():
        raise ValueError(f"filters has shape {filters.shape}; its shape must be known")
    return filters


class Geometry:
    """A convolution, apart from its precision; computes its three products by TensorFlow.

    TensorFlow's CPU kernels have neither dilated nor grouped gradients: a dilated filter is a
    larger one with zeros in between, and groups are convolutions side by side, or TensorFlow's
    depthwise convolution where each has one channel.
    """

    def __init__(self, strides, dilations, padding, explicit_paddings, groups):
        self.strides, self.dilations = list(strides), list(dilations)
        self.padding, self.explicit_paddings = padding, list(explicit_paddings)
        self.groups = groups
        top, bottom, left, right = self.explicit_paddings or [0] * 4
        self._tf_attributes = {
            "strides": [1, *strides, 1],
            "padding": padding,
            "explicit_paddings": (
                [0, 0, top, bottom, left, right, 0, 0] if padding == "EXPLICIT" else []
            ),
        }

    @property
    def attributes(self):
        """As attributes of our own ops."""
        return {
            "strides": self.strides,
            "dilations": self.dilations,
            "padding": self.padding,
            "explicit_paddings": self.explicit_paddings,
            "groups": self.groups,
        }

    def output_size(self, image, kernel):
        """[oh, ow] of images [height, width], integers or tensors, under filters of size kernel."""
        sides = self.explicit_paddings or [0] * 4
        sizes = []
        for axis in range(2):
            stride = self.strides[axis]
            reach = (kernel[axis] - 1) * self.dilations[axis] + 1
            padded = image[axis] + sides[2 * axis] + sides[2 * axis + 1]
            same = self.padding == "SAME"
            size = (padded - (1 if same else reach)) // stride + 1
            sizes.append(tf.maximum(size, 0) if tf.is_tensor(size) else max(size, 0))
        return sizes

    def _dilate(self, filters):
        if self.dilations == [1, 1]:
            return filters
        height, width, cin, cout = filters.shape
        dh, dw = self.dilations
        spread = tf.reshape(filters, [height, 1, width, 1, cin, cout])
        spread = tf.pad(spread, [[0, 0], [0, dh - 1], [0, 0], [0, dw - 1], [0, 0], [0, 0]])
        spread = tf.reshape(spread, [height * dh, width * dw, cin, cout])
        return spread[: (height - 1) * dh + 1, : (width - 1) * dw + 1]

    def _is_depthwise(self, filters_shape):
        # TensorFlow's depthwise kernels have one stride for both axes.
        return self.groups > 1 and filters_shape[2] == 1 and len(set(self.strides)) == 1

    def _as_depthwise(self, filters):
        """[kh, kw, C, multiplier] of grouped filters [kh, kw, 1, C multiplier]."""
        height, width, _, outputs = filters.shape
        return tf.reshape(filters, [height, width, self.groups, outputs // self.groups])

    def _grouped(self, function, *operands):
        """function over the groups of each (tensor, axis), concatenated along the last axis."""
        if self.groups == 1:
            return function(*(tensor for tensor, _ in operands))
        parts = zip(*(tf.split(tensor, self.groups, axis) for tensor, axis in operands))
        return tf.concat([function(*part) for part in parts], -1)

    def forward(self, x, filters):
        """y."""
        channels = filters.shape[3]
        known = x.shape[1:3].is_fully_defined()
        image = x.shape[1:3] if known else tf.unstack(tf.shape(x)[1:3], num=2)
        size = self.output_size(image, filters.shape[:2])
        shape = [tf.shape(x)[0] if x.shape[0] is None else x.shape[0], *size, channels]

        def convolved():
            return self._forward(x, filters)

        def nothing():
            return tf.zeros(shape, x.dtype)

        # An empty result of TensorFlow's oneDNN kernels has their input's shape. (An unknown number
        # of images is taken not to be 0, so that convolutions are still fused with what follows.)
        if not known:
            return tf.cond(tf.reduce_all(tf.stack(shape) > 0), convolved, nothing)
        return nothing() if 0 in (x.shape[0], *size) else convolved()

    def _forward(self, x, filters):
        spread = self._dilate(filters)
        if self._is_depthwise(filters.shape):
            return tf.raw_ops.DepthwiseConv2dNative(
                input=x, filter=self._as_depthwise(spread), **self._tf_attributes
            )

        def convolve(x, filters):
            return tf.raw_ops.Conv2D(input=x, filter=filters, **self._tf_attributes)

        return self._grouped(convolve, (x, -1), (spread, -1))

    def backward(self, dy, filters, x_shape):
        """dx."""
        spread = self._dilate(filters)
        if self._is_depthwise(filters.shape):
            return tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=x_shape,
                filter=self._as_depthwise(spread),
                out_backprop=dy,
                **self._tf_attributes,
            )
        x_shape = tf.concat([x_shape[:3], x_shape[3:] // self.groups], 0)

        def convolve(dy, filters):
            return tf.raw_ops.Conv2DBackpropInput(
                input_sizes=x_shape, filter=filters, out_backprop=dy, **self._tf_attributes
            )

        return self._grouped(convolve, (dy, -1), (spread, -1))

    def gradient(self, x, dy, filters_shape):
        """dfilters."""

        def convolved():
            return self._gradient(x, dy, filters_shape)

        def zeros():
            return tf.zeros(filters_shape, dy.dtype)

        # Of sums without terms TensorFlow's kernels return memory as they find it, or crash.
        count = dy.shape.num_elements()
        if count is None:
            return tf.cond(tf.size(dy) > 0, convolved, zeros)
        return convolved() if count else zeros()

    def _gradient(self, x, dy, filters_shape):
        height, width, cin, cout = filters_shape
        dh, dw = self.dilations
        extent = [(height - 1) * dh + 1, (width - 1) * dw + 1]
        if self._is_depthwise(filters_shape):
            dfilters = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=x,
                filter_sizes=[*extent, self.groups, cout // self.groups],
                out_backprop=dy,
                **self._tf_attributes,
            )
            return tf.reshape(dfilters[::dh, ::dw], filters_shape)

        def convolve(x, dy):
            return tf.raw_ops.Conv2DBackpropFilter(
                input=x,
                filter_sizes=[*extent, cin, cout // self.groups],
                out_backprop=dy,
                **self._tf_attributes,
            )

        return self._grouped(convolve, (x, -1), (dy, -1))[::dh, ::dw]


class _Convolution(gemm.Products):
    """One of a geometry's products; derived classes say which."""

    def __init__(self, geometry, terms):
        self.geometry, self.terms = geometry, terms

    def wide(self, lhs, rhs, precision):
        return self.native(tf.cast(lhs, tf.float64), tf.cast(rhs, tf.float64))

    def length(self):
        return self.terms

    def _narrow(self, op, a, b, attributes, **inputs):
        return op(
            a.tensor,
            b.tensor,
            **inputs,
            **self.geometry.attributes,
            **a.attributes("a"),
            **b.attributes("b"),
            **attributes,
        )


class Convolve(_Convolution):
    """lhs: images ``[B, H, W, C]``; rhs: filters; the sum runs over (kh, kw, C)."""

    def __init__(self, geometry, filters_shape):
        height, width, channels, _ = filters_shape
        super().__init__(geometry, height * width * channels)

    def native(self, lhs, rhs):
        return self.geometry.forward(lhs, rhs)

    def narrow(self, lhs, rhs, seed, random_bits, **attributes):
        return self._narrow(ops.lowprec_conv2d, lhs, rhs, attributes, seed=seed)

    def as_matrices(self, lhs, rhs):
        a, b, restore = im2col.forward_matrices(self.geometry, lhs, rhs)
        return a, b, im2col.matrix_product(a), restore


class ConvolveBack(_Convolution):
    """lhs: ``[B, oh, ow, O]``; rhs: filters; the result is ``x_shape``, summed over (kh, kw, O)."""

    def __init__(self, geometry, filters_shape, x_shape):
        height, width, _, outputs = filters_shape
        super().__init__(geometry, height * width * outputs // geometry.groups)
        self.x_shape = x_shape

    def native(self, lhs, rhs):
        return self.geometry.backward(lhs, rhs, self.x_shape)

    def narrow(self, lhs, rhs, seed, random_bits, **attributes):
        op = ops.lowprec_conv2d_backprop_input
        return self._narrow(op, lhs, rhs, attributes, seed=seed, sizes=self.x_shape)

    def as_matrices(self, lhs, rhs):
        a, b, restore = im2col.backward_matrices(self.geometry, lhs, rhs, self.x_shape)
        return a, b, im2col.matrix_product(a), restore


class Correlate(_Convolution):
    """lhs: images, rhs: errors, or `swapped`: the filters' gradient, summed over (B, oh, ow)."""

    def __init__(self, geometry, filters_shape, small, swapped):
        super().__init__(geometry, gemm.size(small, 0, 1, 2))
        self.filters_shape, self.swapped = filters_shape, swapped

    def native(self, lhs, rhs):
        x, dy = (rhs, lhs) if self.swapped else (lhs, rhs)
        return self.geometry.gradient(x, dy, self.filters_shape)

    def narrow(self, lhs, rhs, seed, random_bits, **attributes):
        x, dy = (rhs, lhs) if self.swapped else (lhs, rhs)
        op, sizes = ops.lowprec_conv2d_backprop_filter, self.filters_shape.as_list()
        return self._narrow(op, x, dy, attributes, seed=seed, sizes=sizes)

    def as_matrices(self, lhs, rhs):
        x, dy = (rhs, lhs) if self.swapped else (lhs, rhs)
        a, b, restore = im2col.gradient_matrices(
            self.geometry, x, dy, self.filters_shape, self.swapped
        )
        return a, b, im2col.matrix_product(a, transpose_a=True), restore


@tf.RegisterGradient("Lowprec>Conv2DPasses")
def _conv2d_gradient(op, dy):
    forward, backward, gradient = (
        Gemm.from_json(op.get_attr(name)) for name in ("forward", "backward", "gradient")
    )
    seed, transposed = op.inputs[3], op.get_attr("transposed")
    window = {
        name: op.get_attr(name)
        for name in ("strides", "dilations", "padding", "explicit_paddings", "groups")
    }
    window["padding"] = window["padding"].decode()
    geometry = Geometry(**window)
    x, filters = gemm.saved_operands(op, forward)
    dy = gemm.Operand(tf.cast(dy, tf.float32))  # exact: float64 only carries float32 errors here
    shape = filters.tensor.shape
    if shape.rank is None:  # in a loop of a SavedModel
        shape = tf.TensorShape(op.get_attr("filter_shape"))
        filters.tensor.set_shape(shape)
    if transposed:
        back = Convolve(geometry, shape)
    else:
        back = ConvolveBack(geometry, shape, tf.shape(x.tensor))
    correlate = Correlate(geometry, shape, (x if transposed else dy).tensor, transposed)
    dx = gemm.multiply(dy, filters, backward, back, seed, gemm.BACKWARD)
    dfilters = gemm.multiply(x, dy, gradient, correlate, seed, gemm.GRADIENT)
    return [None, gemm.straight_through(dx, x), gemm.straight_through(dfilters, filters), None]
