"""round_error: the identity, through which errors flow back rounded. Op Lowprec>RoundError."""

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.quantize import round_to


def round_error(x, format, rounding, seed, stream):
    """`x` itself; its gradient is rounded to `format` (None: not rounded)."""
    if format is None:
        return x
    return ops.lowprec_round_error(
        x=x, seed=seed, format=format.spec, rounding=rounding.value, stream=int(stream)
    )


@tf.RegisterGradient("Lowprec>RoundError")
def _round_error_gradient(op, dy):
    format = formats.parse_spec(op.get_attr("format").decode())
    rounding = Rounding(op.get_attr("rounding").decode())
    return [round_to(dy, format, rounding, op.inputs[1], op.get_attr("stream")), None]
