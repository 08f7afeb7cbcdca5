"""tf_lowprec: training with few bits in TensorFlow and Keras.

Importing it registers its ops, their gradients and its Keras classes, so that SavedModels and
.keras files that use them load.
"""

from tf_lowprec import analysis, datasets, distribute, layers, models, optimizers
from tf_lowprec.accumulator import Accumulator
from tf_lowprec.convert import convert, unconverted
from tf_lowprec.export import export
from tf_lowprec.formats import (
    BF16,
    DLFLOAT16,
    FP4_E2M1FN,
    FP6_E2M3FN,
    FP6_E3M2FN,
    FP8_E4M3FN,
    FP8_E5M2,
    FP16,
    FP32,
    MXFP4_E2M1,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8_E4M3,
    MXFP8_E5M2,
    TF32,
    FixedPointFormat,
    FloatFormat,
    MXFormat,
    Rounding,
)
from tf_lowprec.ops import (
    adacomp_decode,
    adacomp_encode,
    conv2d,
    conv2d_transpose,
    einsum,
    from_bits,
    matmul,
    quantize,
    quantize_mx,
    to_bits,
)
from tf_lowprec.policy_map import PolicyMap
from tf_lowprec.precision import Gemm, Policy
from tf_lowprec.watch import Watch
from tf_lowprec.weights import export_weights, import_weights

__version__ = "0.2.0.dev0"

__all__ = [
    "BF16",
    "DLFLOAT16",
    "FP16",
    "FP32",
    "FP4_E2M1FN",
    "FP6_E2M3FN",
    "FP6_E3M2FN",
    "FP8_E4M3FN",
    "FP8_E5M2",
    "MXFP4_E2M1",
    "MXFP6_E2M3",
    "MXFP6_E3M2",
    "MXFP8_E4M3",
    "MXFP8_E5M2",
    "TF32",
    "Accumulator",
    "FixedPointFormat",
    "FloatFormat",
    "Gemm",
    "MXFormat",
    "Policy",
    "PolicyMap",
    "Rounding",
    "Watch",
    "adacomp_decode",
    "adacomp_encode",
    "analysis",
    "conv2d",
    "conv2d_transpose",
    "convert",
    "datasets",
    "distribute",
    "einsum",
    "export",
    "export_weights",
    "from_bits",
    "import_weights",
    "layers",
    "matmul",
    "models",
    "optimizers",
    "quantize",
    "quantize_mx",
    "to_bits",
    "unconverted",
]
