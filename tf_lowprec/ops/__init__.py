"""One thin module per op family. Importing this package registers the ops and their gradients."""

from tf_lowprec.ops.adacomp import adacomp_decode, adacomp_encode
from tf_lowprec.ops.bits import from_bits, to_bits
from tf_lowprec.ops.conv2d import conv2d
from tf_lowprec.ops.conv2d_transpose import conv2d_transpose
from tf_lowprec.ops.einsum import einsum
from tf_lowprec.ops.matmul import matmul
from tf_lowprec.ops.mx import quantize_mx
from tf_lowprec.ops.quantize import quantize

__all__ = [
    "adacomp_decode",
    "adacomp_encode",
    "conv2d",
    "conv2d_transpose",
    "einsum",
    "from_bits",
    "matmul",
    "quantize",
    "quantize_mx",
    "to_bits",
]
