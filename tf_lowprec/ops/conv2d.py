"""lp.conv2d: a two-dimensional convolution with a precision for each of its three passes."""

import functools
import numbers

import tensorflow as tf

from tf_lowprec.ops import gemm
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import as_float
from tf_lowprec.ops.seeds import as_seed
from tf_lowprec.precision import Gemm, as_policy


def _is_size(value, low):
    is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_int and low <= value < 2**31


def _pair(value, name):
    pair = [value, value] if isinstance(value, numbers.Integral) else list(value)
    if len(pair) != 2 or not all(_is_size(v, 1) for v in pair):
        raise ValueError(f"{name} = {value!r} must be an integer in 1..2^31-1, or two of them")
    return [int(v) for v in pair]


def _padding(padding):
    """(name, [top, bottom, left, right])."""
    if isinstance(padding, str):
        if padding.upper() in ("SAME", "VALID"):
            return padding.upper(), []
    else:
        try:
            (top, bottom), (left, right) = padding
        except (TypeError, ValueError):
            pass
        else:
            sides = [top, bottom, left, right]
            if all(_is_size(v, 0) for v in sides):
                return "EXPLICIT", [int(v) for v in sides]
    raise ValueError(
        f"padding = {padding!r} must be 'SAME', 'VALID' or ((top, bottom), (left, right)), each in "
        "0..2^31-1"
    )


class _Geometry:
    """What a convolution is, apart from its precision; computes its three products.

    TensorFlow's CPU kernels have neither dilated nor grouped gradients: a dilated filter is a
    larger one with zeros in between, and groups are convolutions side by side.
    """

    def __init__(self, strides, dilations, padding, explicit_paddings, groups):
        self.dilations, self.groups = list(dilations), groups
        top, bottom, left, right = list(explicit_paddings) or [0] * 4
        self.attributes = {
            "strides": [1, *strides, 1],
            "padding": padding,
            "explicit_paddings": (
                [0, 0, top, bottom, left, right, 0, 0] if padding == "EXPLICIT" else []
            ),
        }

    def _dilate(self, filters):
        if self.dilations == [1, 1]:
            return filters
        height, width, cin, cout = filters.shape
        dh, dw = self.dilations
        spread = tf.reshape(filters, [height, 1, width, 1, cin, cout])
        spread = tf.pad(spread, [[0, 0], [0, dh - 1], [0, 0], [0, dw - 1], [0, 0], [0, 0]])
        spread = tf.reshape(spread, [height * dh, width * dw, cin, cout])
        return spread[: (height - 1) * dh + 1, : (width - 1) * dw + 1]

    def _grouped(self, function, *operands):
        """function over the groups of each (tensor, axis), concatenated along the last axis."""
        if self.groups == 1:
            return function(*(tensor for tensor, _ in operands))
        parts = zip(*(tf.split(tensor, self.groups, axis) for tensor, axis in operands))
        return tf.concat([function(*part) for part in parts], -1)

    def forward(self, x, filters):
        """y."""

        def convolve(x, filters):
            return tf.raw_ops.Conv2D(input=x, filter=filters, **self.attributes)

        return self._grouped(convolve, (x, -1), (self._dilate(filters), -1))

    def backward(self, dy, filters, x_shape):
        """dx."""
        x_shape = tf.concat([x_shape[:3], x_shape[3:] // self.groups], 0)

        def convolve(dy, filters):
            return tf.raw_ops.Conv2DBackpropInput(
                input_sizes=x_shape, filter=filters, out_backprop=dy, **self.attributes
            )

        return self._grouped(convolve, (dy, -1), (self._dilate(filters), -1))

    def gradient(self, x, dy, filters_shape):
        """dfilters."""
        height, width, cin, cout = filters_shape
        dh, dw = self.dilations
        extent = [(height - 1) * dh + 1, (width - 1) * dw + 1, cin, cout // self.groups]

        def convolve(x, dy):
            return tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=extent, out_backprop=dy, **self.attributes
            )

        return self._grouped(convolve, (x, -1), (dy, -1))[::dh, ::dw]


class _Convolution(gemm.Products):
    """One of a geometry's products: `product` by TensorFlow, in float32 or exactly in float64."""

    def __init__(self, product, terms, narrow):
        self.product, self.terms, self.narrow_product = product, terms, narrow

    def native(self, lhs, rhs):
        return self.product(lhs, rhs)

    def wide(self, lhs, rhs, precision):
        return self.product(tf.cast(lhs, tf.float64), tf.cast(rhs, tf.float64))

    def narrow(self, lhs, rhs, seed, random_bits, **attributes):
        return self.narrow_product(
            lhs.tensor,
            rhs.tensor,
            seed=seed,
            **lhs.attributes("a"),
            **rhs.attributes("b"),
            **attributes,
        )

    def length(self):
        return self.terms


def conv2d(x, filters, precision, strides=1, padding="SAME", dilations=1, groups=1, seed=None):
    """A convolution of images, as tf.nn.conv2d, in low precision.

    Forward: ``round(sum_{i,j,c} round(x[b, s h + d i, s w + d j, c]) round(filters[i, j, c, o]))``
    under ``precision.forward``; the gradients of x and filters are the BWD and GRAD products under
    ``precision.backward`` and ``precision.gradient``, with x and filters as the forward pass
    rounded them. Lengths of the sums: kh kw cin, kh kw cout, and B oh ow (Sakr et al., 2019).

    Args:
        x: float32 ``[B, H, W, C]``.
        filters: float32 ``[kh, kw, C / groups, O]`` of known shape.
        precision: a Gemm, for all three passes, or a Policy.
        strides, dilations: a positive integer, or (height, width).
        padding: "SAME", "VALID", or ((top, bottom), (left, right)).
        groups: divides C and O; each group convolves its own channels.
        seed: two integers, for stochastic rounding. None draws one in eager mode.

    Returns:
        float32 ``[B, oh, ow, O]``.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: arguments or shapes that do not match, a sum too
            long for Accumulator.wide(), no seed inside tf.function.
    """
    policy = as_policy(precision)
    x, filters = _images(x, "x"), _images(filters, "filters")
    strides, dilations = _pair(strides, "strides"), _pair(dilations, "dilations")
    name, explicit = _padding(padding)
    if not filters.shape.is_fully_defined():
        raise ValueError(f"filters has shape {filters.shape}; its shape must be known")
    if not isinstance(groups, int) or groups < 1 or filters.shape[-1] % groups:
        raise ValueError(f"groups = {groups!r} must divide filters' {filters.shape[-1]} outputs")
    channels = filters.shape[2] * groups
    if x.shape[-1] is not None and x.shape[-1] != channels:
        raise ValueError(
            f"x of shape {x.shape} and filters of shape {filters.shape} do not match: with "
            f"groups = {groups} x must have {channels} channels"
        )
    passes = (policy.forward, policy.backward, policy.gradient)
    geometry = _Geometry(strides, dilations, name, explicit, groups)
    if all(p.is_native for p in passes) and groups == 1 and dilations == [1, 1]:
        return geometry.forward(x, filters)
    seed = as_seed(seed, needed=any(p.is_stochastic for p in passes))
    window = {
        "strides": strides,
        "dilations": dilations,
        "padding": name,
        "explicit_paddings": explicit,
        "groups": groups,
    }
    narrow = functools.partial(ops.lowprec_conv2d, **window)
    products = _Convolution(geometry.forward, gemm.size(filters, 0, 1, 2), narrow)
    passes = functools.partial(ops.lowprec_conv2d_passes, **window)
    return gemm.forward(x, filters, policy, products, seed, passes)


def _images(x, name):
    x = as_float(x, name)
    if x.dtype != tf.float32:
        raise ValueError(f"{name} has dtype {x.dtype.name}; it must be float32")
    if x.shape.rank != 4:
        raise ValueError(f"{name} has shape {x.shape}; it must have four axes")
    return x


@tf.RegisterGradient("Lowprec>Conv2DPasses")
def _conv2d_gradient(op, dy):
    forward, backward, gradient = (
        Gemm.from_json(op.get_attr(name)) for name in ("forward", "backward", "gradient")
    )
    seed = op.inputs[3]
    window = {
        name: op.get_attr(name)
        for name in ("strides", "dilations", "padding", "explicit_paddings", "groups")
    }
    window["padding"] = window["padding"].decode()
    geometry = _Geometry(**window)
    x, filters = gemm.saved_operands(op, forward)
    dy = gemm.Operand(tf.cast(dy, tf.float32))  # exact: float64 only carries float32 errors here
    x_shape, filters_shape = tf.shape(x.tensor), filters.tensor.shape
    height, width, _, outputs = filters_shape
    dx = _Convolution(
        lambda dy, filters: geometry.backward(dy, filters, x_shape),
        height * width * outputs // window["groups"],
        functools.partial(ops.lowprec_conv2d_backprop_input, sizes=x_shape, **window),
    )
    dfilters = _Convolution(
        lambda x, dy: geometry.gradient(x, dy, filters_shape),
        gemm.size(dy.tensor, 0, 1, 2),
        functools.partial(
            ops.lowprec_conv2d_backprop_filter, sizes=filters_shape.as_list(), **window
        ),
    )
    dx = gemm.multiply(dy, filters, backward, dx, seed, gemm.BACKWARD)
    dfilters = gemm.multiply(x, dy, gradient, dfilters, seed, gemm.GRADIENT)
    return [None, gemm.straight_through(dx, x), gemm.straight_through(dfilters, filters), None]
