"""Every low-precision layer, with its stock parent and arguments that make it small."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, its parent, arguments for both, the shape of its inputs.

    inputs: how many tensors of that shape it is called with. gemms: its products of activations and
    weights; products: those of two activations; steps: of the first, those taken at each time step.
    """

    name: str
    layer: type
    parent: type
    arguments: dict
    shape: tuple
    inputs: int = 1
    gemms: int = 1
    products: int = 0
    steps: int = 0

    def __str__(self):
        return self.name

    def make(self, stock=False, **arguments):
        return (self.parent if stock else self.layer)(**self.arguments, **arguments)

    def call(self, layer, x, **arguments):
        return layer(*[x] * self.inputs, **arguments)

    def built(self, **arguments):
        layer = self.make(**arguments)
        self.call(layer, tf.zeros(self.shape))
        return layer

    def model(self, policy, **arguments):
        x = tf.keras.Input(self.shape[1:])
        layer = self.make(precision=policy, name="layer", **arguments)
        return tf.keras.Model(x, self.call(layer, x), name="model")


def _case(name, arguments, shape, layer, **more):
    return Case(
        name, getattr(lp.layers, layer), getattr(tf.keras.layers, layer), arguments, shape, **more
    )


CASES = [
    _case("dense", {"units": 5, "activation": "relu"}, (4, 7), "Dense"),
    _case("dense3d", {"units": 5, "use_bias": False}, (2, 3, 7), "Dense"),
    _case(
        "conv",
        {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"},
        (2, 8, 8, 3),
        "Conv2D",
    ),
    _case(
        "grouped",
        {"filters": 4, "kernel_size": 3, "groups": 2, "dilation_rate": 2},
        (2, 8, 8, 2),
        "Conv2D",
    ),
    _case(
        "conv1d",
        {"filters": 4, "kernel_size": 3, "padding": "causal", "activation": "relu"},
        (2, 7, 3),
        "Conv1D",
    ),
    _case(
        "depthwise",
        {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"},
        (2, 5, 5, 3),
        "DepthwiseConv2D",
    ),
    _case(
        "transpose",
        {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"},
        (2, 4, 4, 3),
        "Conv2DTranspose",
    ),
    _case(
        "einsum",
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 5), "bias_axes": "de"},
        (2, 4, 3),
        "EinsumDense",
    ),
    _case("lstm", {"units": 4, "return_sequences": True}, (2, 5, 3), "LSTM", gemms=2, steps=1),
    _case("gru", {"units": 4}, (2, 5, 3), "GRU", gemms=2, steps=1),
    _case("gru before", {"units": 4, "reset_after": False}, (2, 5, 3), "GRU", gemms=3, steps=2),
    _case(
        "attention",
        {"num_heads": 2, "key_dim": 3},
        (2, 4, 3),
        "MultiHeadAttention",
        inputs=2,
        gemms=4,
        products=2,
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
