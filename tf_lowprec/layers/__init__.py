"""Stock Keras layers plus a precision policy."""

from tf_lowprec.layers.conv1d import Conv1D
from tf_lowprec.layers.conv2d import Conv2D
from tf_lowprec.layers.conv2d_transpose import Conv2DTranspose
from tf_lowprec.layers.dense import Dense
from tf_lowprec.layers.depthwise_conv2d import DepthwiseConv2D
from tf_lowprec.layers.einsum_dense import EinsumDense
from tf_lowprec.layers.gru import GRU
from tf_lowprec.layers.lstm import LSTM
from tf_lowprec.layers.multi_head_attention import MultiHeadAttention

__all__ = [
    "GRU",
    "LSTM",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Dense",
    "DepthwiseConv2D",
    "EinsumDense",
    "MultiHeadAttention",
]
