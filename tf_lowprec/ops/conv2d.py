"""lp.conv2d: a two-dimensional convolution with a precision for each of its three passes."""

import functools
import numbers

from tf_lowprec.formats import FP32
from tf_lowprec.ops import convolution, gemm
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.seeds import as_seed
from tf_lowprec.precision import Accumulator, Gemm, Policy, as_policy

# For sums without terms, and results without elements: its kernels take any sizes.
_NO_SUMS = Policy(*(Gemm(accumulator=Accumulator(FP32)),) * 3)


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
        strides, dilations: a positive integer, (height, width), or tf.nn.conv2d's
            ``[1, height, width, 1]``.
        padding: "SAME", "VALID", ((top, bottom), (left, right)), or tf.nn.conv2d's
            ``[[0, 0], [top, bottom], [left, right], [0, 0]]``.
        groups: divides C and O; each group convolves its own channels.
        seed: two integers, for stochastic rounding. None draws one in eager mode.

    Returns:
        float32 ``[B, oh, ow, O]``.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: arguments or shapes that do not match, a sum too
            long for Accumulator.wide(), no seed inside tf.function.
    """
    policy = as_policy(precision)
    x, filters = convolution.images(x, "x"), convolution.filters_of(filters)
    strides = convolution.pair(strides, "strides")
    dilations = convolution.pair(dilations, "dilations")
    name, explicit = convolution.parse_padding(padding)
    if not isinstance(groups, numbers.Integral) or groups < 1 or filters.shape[-1] % groups:
        raise ValueError(f"groups = {groups!r} must divide filters' {filters.shape[-1]} outputs")
    groups = int(groups)
    channels = filters.shape[2] * groups
    if x.shape[-1] is not None and x.shape[-1] != channels:
        raise ValueError(
            f"x of shape {x.shape} and filters of shape {filters.shape} do not match: with "
            f"groups = {groups} x must have {channels} channels"
        )
    geometry = convolution.Geometry(strides, dilations, name, explicit, groups)
    image = x.shape[1:3].as_list()
    if 0 in filters.shape or (
        None not in image and 0 in geometry.output_size(image, filters.shape[:2])
    ):
        policy = _NO_SUMS
    passes = (policy.forward, policy.backward, policy.gradient)
    if all(p.is_native for p in passes) and groups == 1 and dilations == [1, 1]:
        return geometry.forward(x, filters)
    seed = as_seed(seed, needed=any(p.is_stochastic for p in passes))
    products = convolution.Convolve(geometry, filters.shape)
    passes = functools.partial(
        ops.lowprec_conv2d_passes, filter_shape=filters.shape.as_list(), **geometry.attributes
    )
    return gemm.forward(x, filters, policy, products, seed, passes)
