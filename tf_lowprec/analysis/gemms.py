"""The matrix products of Keras's layers and the lengths of their sums in the three passes.

A product ``y = x . w`` sums, in FWD over the axes that x and w share, in BWD (``dx = dy . w^T``)
over those that dy and w share, in GRAD (``dw = x^T . dy``) over those that x and dy share. Every
length below is the size of those axes, batch and time included.
"""

import dataclasses
import math

import tensorflow as tf

FORWARD, BACKWARD, GRADIENT = PASSES = ("FWD", "BWD", "GRAD")


@dataclasses.dataclass(frozen=True)
class Product:
    """One product of a layer: lengths of its sums, and its multiply-accumulates in FWD.

    `has_weights` tells ``x . w`` from the products of two activations in attention; `is_inner`
    those whose input depends on the layer's own weights, so that they have BWD even in a first
    layer.
    """

    name: str
    forward: int
    backward: int
    gradient: int
    macs: int
    has_weights: bool = True
    is_inner: bool = False

    def length(self, which):
        return {FORWARD: self.forward, BACKWARD: self.backward, GRADIENT: self.gradient}[which]


def products(layer, call):
    """The Products of one call of a layer, or None where the layer is of no known class.

    Args:
        layer: a built Keras layer.
        call: shapes of the call: an object with `inputs`, a list of shapes as tuples, the shapes
            of the call's tensor arguments in order, `named`, a dict of those passed by name, and
            `output`, the first output's shape.
    """
    rule = _rule(layer)
    return None if rule is None else rule(layer, call)


def _input(call):
    """The shape of a call's first tensor."""
    return call.inputs[0] if call.inputs else next(iter(call.named.values()))


def has_known_products(layer):
    """Whether `products` knows the layer's class."""
    return _rule(layer) is not None


def _rule(layer):
    if getattr(layer, "lora_enabled", False):
        return None  # its kernel is a product itself
    for cls in type(layer).__mro__:
        if cls in _RULES:
            return _RULES[cls]
        if is_stock(cls):
            break  # Keras 2 derives Conv1DTranspose from Conv1D
    return None


def is_stock(cls):
    """Whether a class is Keras's own."""
    return cls.__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow")


def _kernel(forward, backward, gradient, macs):
    return [Product("kernel", forward, backward, gradient, macs)]


def _dense(layer, call):
    """``[..., in] -> [..., units]``: in, units, all leading axes (batch and time)."""
    shape, units = _input(call), layer.units
    rows = math.prod(shape[:-1])
    return _kernel(shape[-1], units, rows, rows * shape[-1] * units)


def _convolution(layer, call):
    """window cin / groups, window cout / groups, batch and all output positions.

    With stride s, BWD counts the whole window, as the paper does: at most
    ``ceil(kh / s) ceil(kw / s) cout`` of its terms contribute, the others are skipped.
    """
    window = math.prod(layer.kernel_size)
    channels = _input(call)[_channel_axis(layer)] // layer.groups
    outputs = math.prod(call.output)
    rows = outputs // layer.filters
    return _kernel(
        window * channels,
        window * (layer.filters // layer.groups),
        rows,
        outputs * window * channels,
    )


def _depthwise(layer, call):
    """window, window times the depth multiplier, batch and all output positions."""
    window = math.prod(layer.kernel_size)
    outputs = math.prod(call.output)
    channels = call.output[_channel_axis(layer)]
    multiplier = layer.depth_multiplier
    return _kernel(window, window * multiplier, outputs // channels, outputs * window)


def _transposed(layer, call):
    """A convolution backwards: window cin, window cout, batch and all *input* positions.

    With stride s, FWD counts the whole window; about 1 / s^2 of its terms contribute.
    """
    window = math.prod(layer.kernel_size)
    shape = _input(call)
    channels = shape[_channel_axis(layer)]
    rows = math.prod(shape) // channels
    return _kernel(
        window * channels, window * layer.filters, rows, rows * channels * window * layer.filters
    )


def _channel_axis(layer):
    return -1 if layer.data_format == "channels_last" else 1


def _einsum_dense(layer, call):
    """Whatever axes the equation says; those under its ellipsis are batch."""
    x, y = _input(call), call.output
    left, result = layer.equation.replace(" ", "").split("->")
    lhs, rhs = left.split(",")
    # The three dots stand for as many axes of x as it has letters too few.
    dots = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(x) - len(lhs.replace("...", ""))]
    lhs, result = lhs.replace("...", dots), result.replace("...", dots)
    extent = {**dict(zip(lhs, x)), **dict(zip(result, y))}

    def size(labels):
        return math.prod(extent[label] for label in set(labels))

    return _kernel(
        size(set(lhs) & set(rhs) - set(result)),
        size(set(result) & set(rhs) - set(lhs)),
        size(set(lhs) & set(result) - set(rhs)),
        size(lhs + rhs + result),
    )


def _lstm(layer, call):
    """kernel: in, 4 units, batch x time, all steps being one product; recurrent kernel: units,
    4 units, batch, as each step has a product whose gradients are added in float32."""
    return _recurrent(layer, call, 4, 4)


def _gru(layer, call):
    """As `_lstm` with 3 gates; without reset_after the recurrent product is split in 2 + 1."""
    return _recurrent(layer, call, 3, 3 if layer.reset_after else 2)


def _recurrent(layer, call, gates, at_once):
    batch, time, features = _input(call)
    units, rows = layer.units, batch * time
    width = gates * units
    return [
        Product("kernel", features, width, rows, rows * features * width),
        Product(
            "recurrent_kernel", units, at_once * units, batch, rows * units * width, is_inner=True
        ),
    ]


def _attention(layer, call):
    """Four projections, and the two inner products of attention, of T queries and S values.

    Projections are einsum-dense: query ``d -> heads x key_dim``, and so on. Scores ``q . k^T`` sum
    over key_dim; their gradients over S (to q) and T (to k). Context ``a . v`` sums over S; its
    gradients over value_dim (to a) and T (to v). T and S are the sizes of `attention_axes`, by
    default all but the first and last; the other axes are batch.
    """
    given = {**dict(zip(("query", "value", "key"), call.inputs)), **call.named}
    query, values = given["query"], given["value"]
    keys = given.get("key", values)
    config = layer.get_config()
    heads, key_dim = config["num_heads"], config["key_dim"]
    value_dim = config["value_dim"] or key_dim
    axes = config.get("attention_axes")
    axes = range(1, len(query) - 1) if axes is None else axes
    axes = [axis % len(query) for axis in ([axes] if isinstance(axes, int) else axes)]
    t, s = (math.prod(shape[axis] for axis in axes) for shape in (query, values))
    batch = math.prod(query[:-1]) // t if t else 0
    shape = config["output_shape"]
    outputs = 1 if shape is None or isinstance(shape, int) else len(shape)
    units = math.prod(call.output[-outputs:])

    def projection(name, features, units, rows, is_inner=False):
        return Product(name, features, units, rows, rows * features * units, is_inner=is_inner)

    def inner(name, forward, backward, gradient):
        macs = batch * heads * forward * backward * gradient
        return Product(name, forward, backward, gradient, macs, has_weights=False, is_inner=True)

    return [
        projection("query", query[-1], heads * key_dim, batch * t),
        projection("key", keys[-1], heads * key_dim, batch * s),
        projection("value", values[-1], heads * value_dim, batch * s),
        inner("scores", key_dim, s, t),
        inner("context", s, value_dim, t),
        projection("output", heads * value_dim, units, batch * t, is_inner=True),
    ]


_LAYERS = tf.keras.layers
_RULES = {
    _LAYERS.Dense: _dense,
    _LAYERS.Conv1D: _convolution,
    _LAYERS.Conv2D: _convolution,
    _LAYERS.DepthwiseConv2D: _depthwise,
    _LAYERS.Conv2DTranspose: _transposed,
    _LAYERS.EinsumDense: _einsum_dense,
    _LAYERS.LSTM: _lstm,
    _LAYERS.GRU: _gru,
    _LAYERS.MultiHeadAttention: _attention,
}
