"""Sums of a layer drawn at random: what each addition of a narrow accumulator does."""

import numpy as np
import tensorflow as tf

from tf_lowprec.analysis.measured import variance_ratio
from tf_lowprec.ops.matmul import matmul
from tf_lowprec.ops.stock.windows import backward_windows, forward_windows
from tf_lowprec.precision import Gemm

_STEPS = 64  # additions looked at in one sum, unless a chunk has fewer


def matrices(layer, x, kernel, dy, which):
    """(lhs ``[M, K]``, rhs ``[K, N]``) of a pass of a layer's first group; None for other layers.

    Args:
        layer: Dense, Conv1D, Conv2D or DepthwiseConv2D, stock or ours.
        x, kernel, dy: what it is called with, its kernel, the error before its activation.
        which: "FWD", "BWD" or "GRAD".
    """
    if isinstance(layer, tf.keras.layers.Dense):
        x, dy = (tf.reshape(t, [-1, t.shape[-1]]) for t in (x, dy))
    elif isinstance(layer, tf.keras.layers.DepthwiseConv2D):
        multiplier = kernel.shape[-1]
        x, kernel, dy = x[..., :1], kernel[:, :, :1], dy[..., :multiplier]
        return _convolution(layer, x, kernel, dy, which)
    elif type(layer).__name__ == "Conv2D":
        return _convolution(layer, *_first_group(layer, x, kernel, dy), which)
    elif type(layer).__name__ == "Conv1D" and layer.padding != "causal":
        x, kernel, dy = _first_group(layer, x, kernel, dy)
        return _convolution(layer, x[:, None], kernel[None], dy[:, None], which)
    else:
        return None
    return {
        "FWD": (x, kernel),
        "BWD": (dy, tf.transpose(kernel)),
        "GRAD": (tf.transpose(x), dy),
    }[which]


def _first_group(layer, x, kernel, dy):
    return x[..., : kernel.shape[-2]], kernel, dy[..., : kernel.shape[-1] // layer.groups]


def _convolution(layer, x, kernel, dy, which):
    kernel = kernel[..., : dy.shape[-1]]
    size, (channels, outputs) = kernel.shape[:2], kernel.shape[2:]
    one = len(layer.strides) == 1
    strides = (1, *layer.strides) if one else tuple(layer.strides)
    dilations = (1, *layer.dilation_rate) if one else tuple(layer.dilation_rate)
    padding = layer.padding.upper()
    if which == "BWD":
        windows = backward_windows(dy, x.shape[1:3], size, strides, dilations, padding, [])
        lhs = tf.reshape(windows.values, [-1, size[0] * size[1] * outputs])
        return lhs, tf.reshape(tf.transpose(kernel, [0, 1, 3, 2]), [-1, channels])
    windows = forward_windows(x, size, strides, dilations, padding, [])
    lhs = tf.reshape(windows.values, [-1, size[0] * size[1] * channels])
    if which == "FWD":
        return lhs, tf.reshape(kernel, [-1, outputs])
    return tf.transpose(lhs), tf.reshape(dy, [-1, outputs])


def draw(lhs, rhs, samples, seed):
    """Terms ``[samples, K]`` of sums drawn at random from the product."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, lhs.shape[0], samples)
    columns = rng.integers(0, rhs.shape[1], samples)
    return tf.gather(lhs, rows) * tf.transpose(tf.gather(rhs, columns, axis=1))


def swamped(terms, accumulator, seed=0):
    """Ratio of terms other than zero that leave their partial sum as it was.

    Looks at up to 64 additions of each sum, or of each chunk: prefixes of it are added up by the
    real op. None if all terms are zero.
    """
    samples, length = terms.shape
    chunk = min(accumulator.chunk or length, length)
    whole = length // chunk * chunk  # a shorter last chunk is left out
    parts = tf.reshape(terms[:, :whole], [-1, chunk])
    at = np.arange(chunk)
    if chunk > _STEPS:
        at = np.sort(np.random.default_rng(seed).choice(chunk, _STEPS, replace=False))
    before = (np.arange(chunk) < at[:, None]).astype(np.float32)
    after = (np.arange(chunk) <= at[:, None]).astype(np.float32)
    gemm = Gemm(accumulator=accumulator)
    s, t = (
        matmul(parts, prefix, gemm, transpose_b=True, seed=(seed, 1)) for prefix in (before, after)
    )
    nonzero = tf.gather(parts, at, axis=1) != 0
    count = int(tf.reduce_sum(tf.cast(nonzero, tf.int32)))
    if not count:
        return None
    return int(tf.reduce_sum(tf.cast((s == t) & nonzero, tf.int32))) / count


def retention(terms, accumulator, seed=0):
    """(VRR, noise): variance of the narrow sums, and of their errors, over the exact ones'."""
    ones = tf.ones([terms.shape[1], 1])
    narrow = matmul(terms, ones, Gemm(accumulator=accumulator), seed=(seed, 2)).numpy().ravel()
    exact = np.sum(terms.numpy(), 1, dtype=np.float64)
    if not np.all(np.isfinite(narrow)):
        return None, None
    ratios = variance_ratio(narrow, exact)[0], variance_ratio(narrow - exact, exact)[0]
    return tuple(r if np.isfinite(r) else None for r in ratios)
