"""Arguments as tensors, with errors that name them."""

import tensorflow as tf

_DENSE = {tf.SparseTensor: "tf.sparse.to_dense({0})", tf.RaggedTensor: "{0}.to_tensor()"}


def as_tensor(x, argument):
    """`x` as a dense tensor of its own type."""
    for kind, fix in _DENSE.items():
        if isinstance(x, kind):
            fix = fix.format(argument)
            raise ValueError(f"{argument} is a {kind.__name__}; it must be dense: {fix}")
    try:
        return tf.convert_to_tensor(x)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{argument} is no tensor, but {type(x).__name__}: {error}") from error
