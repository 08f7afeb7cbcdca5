"""lp.conv2d_transpose: the transpose of lp.conv2d, with a precision for each of its passes."""

import functools
import numbers

import tensorflow as tf

from tf_lowprec.ops import convolution, gemm
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.seeds import as_seed
from tf_lowprec.precision import as_policy


def _size(output_size):
    """(height, width): integers, or scalar tensors."""
    try:
        sizes = list(output_size)
    except TypeError:
        sizes = []
    integers = [isinstance(v, numbers.Integral) or _is_integer_tensor(v) for v in sizes]
    if len(sizes) != 2 or not all(integers):
        raise ValueError(f"output_size = {output_size!r} must be (height, width), integers")
    return tuple(int(v) if isinstance(v, numbers.Integral) else v for v in sizes)


def _is_integer_tensor(value):
    return tf.is_tensor(value) and value.dtype.is_integer and value.shape.rank == 0


def conv2d_transpose(
    x, filters, precision, output_size, strides=1, padding="SAME", dilations=1, seed=None
):
    """A transposed convolution of images, as tf.nn.conv2d_transpose, in low precision.

    Forward: the gradient of lp.conv2d with respect to its input, with x in place of the error,
    under ``precision.forward``. So the sums are those of lp.conv2d's other passes: FWD runs over
    (kh, kw, C) and leaves out the taps that do not contribute, BWD over (kh, kw, O), and GRAD over
    (B, h, w).

    Args:
        x: float32 ``[B, h, w, C]``.
        filters: float32 ``[kh, kw, O, C]`` of known shape.
        precision: a Gemm, for all three passes, or a Policy.
        output_size: (H, W), such that lp.conv2d of ``[B, H, W, O]`` has the shape of x.
        strides, dilations: a positive integer, or (height, width).
        padding: "SAME", "VALID", or ((top, bottom), (left, right)), lp.conv2d's.
        seed: two integers, for stochastic rounding. None draws one in eager mode.

    Returns:
        float32 ``[B, H, W, O]``.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: arguments or shapes that do not match, a sum too
            long for Accumulator.wide(), no seed inside tf.function.
    """
    policy = as_policy(precision)
    x, filters = convolution.images(x, "x"), convolution.filters_of(filters)
    strides = convolution.pair(strides, "strides")
    dilations = convolution.pair(dilations, "dilations")
    name, explicit = convolution.parse_padding(padding)
    if x.shape[-1] is not None and x.shape[-1] != filters.shape[-1]:
        raise ValueError(
            f"x of shape {x.shape} and filters of shape {filters.shape} do not match: x must have "
            f"{filters.shape[-1]} channels, the last axis of filters"
        )
    geometry = convolution.Geometry(strides, dilations, name, explicit, 1)
    height, width = _size(output_size)
    if isinstance(height, int) and isinstance(width, int):
        small = geometry.output_size((height, width), filters.shape[:2])
        if not x.shape[1:3].is_compatible_with(small):
            raise ValueError(
                f"output_size = {(height, width)} does not match x of shape {x.shape}: lp.conv2d "
                f"makes {tuple(small)} of it with strides = {strides}, padding = {padding!r} and "
                f"dilations = {dilations}"
            )
    y_shape = tf.stack([tf.shape(x)[0], height, width, filters.shape[2]])
    passes = (policy.forward, policy.backward, policy.gradient)
    seed = as_seed(seed, needed=any(p.is_stochastic for p in passes))
    products = convolution.ConvolveBack(geometry, filters.shape, y_shape)
    passes = functools.partial(
        ops.lowprec_conv2d_passes,
        transposed=True,
        filter_shape=filters.shape.as_list(),
        **geometry.attributes,
    )
    y = gemm.forward(x, filters, policy, products, seed, passes)
    known = [v if isinstance(v, int) else None for v in (height, width)]
    y.set_shape([x.shape[0], *known, filters.shape[2]])
    return y
