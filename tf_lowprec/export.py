"""lp.export: a model's inference as a SavedModel, with our ops or with TensorFlow's alone."""

import collections
import logging
import math
import pathlib
import re

import tensorflow as tf

from tf_lowprec._keras import KERAS_3
from tf_lowprec.ops._library import ops
from tf_lowprec.ops.stock import ops as stock_ops

_LOG = logging.getLogger("tf_lowprec")
_SLOW = 256  # terms of a sum; from here on a portable export warns


def export(model, path, portable=False):
    """Writes the inference of a model as a SavedModel for serving.

    The signature ``serving_default`` takes batches of any size. Its inputs and outputs have the
    names that they have in the model's dictionaries, or that the inputs were given; else they are
    ``inputs`` and ``outputs``, or ``inputs_0``, ``inputs_1`` ... where there are several.
    Stochastic roundings are settled as in any inference, by the policies' `inference_rounding`.

    Args:
        model: a built Keras model.
        path: the folder to write.
        portable: False takes our ops: a program must load the op library first (Python: ``import
            tf_lowprec``). True takes TensorFlow's own ops alone, which give the same bits, but for
            float32 subnormals in formats with 8 exponent bits, which TensorFlow flushes to zero. It
            loads wherever TensorFlow does, and `tf.lite` converts it. A narrow accumulator's terms
            are then added one by one, in a dozen ops each: a warning of the logger "tf_lowprec"
            says how long the sums are.

    Returns:
        The path, a pathlib.Path.

    Raises:
        ValueError: a model that is not built, or what has no form in TensorFlow's own ops: other
            products than those of lp.layers, stochastic rounding at inference.
    """
    if not isinstance(model, tf.keras.Model):
        raise ValueError(f"model = {model!r} must be a tf.keras.Model")
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            f"model {model.name!r} has no known inputs: give it a tf.keras.Input, or call it "
            "within a functional model"
        )
    # A Sequential model that was never called has inputs and no input.
    inputs = model.inputs[0] if isinstance(model, tf.keras.Sequential) else model.input
    names = _names(inputs, "inputs")
    structure = tf.nest.map_structure(lambda t: 0, inputs)
    tensors = tf.nest.flatten(inputs)
    signature = [tf.TensorSpec(t.shape, t.dtype, name) for t, name in zip(tensors, names)]
    recorder = _Recorder()

    def call(*tensors):
        arguments = tf.nest.pack_sequence_as(structure, list(tensors))
        if portable:
            with ops.stand_ins(recorder):
                outputs = model(arguments, training=False)
        else:
            outputs = model(arguments, training=False)
        return dict(zip(_names(outputs, "outputs"), tf.nest.flatten(outputs)))

    function = tf.function(call, input_signature=signature, autograph=False)
    concrete = function.get_concrete_function()
    if portable:
        _check_portable(concrete.graph, model)
        recorder.warn(model)
    archive = tf.keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", function)
    path = pathlib.Path(path)
    archive.write_out(str(path), **({"verbose": False} if KERAS_3 else {}))
    return path


def _names(structure, default):
    """A name for each tensor of a model's inputs or outputs."""
    flat = tf.nest.flatten(structure)
    if isinstance(structure, dict) and len(structure) == len(flat):
        # tf.nest takes dictionaries by their sorted keys.
        return [str(key) for key in sorted(structure)]
    names = [default] if len(flat) == 1 else [f"{default}_{i}" for i in range(len(flat))]
    given = [getattr(t, "name", "") for t in flat] if default == "inputs" else []
    if given and not any(re.match(r"(keras_tensor|input_?\d|args)", name) for name in given):
        names = [re.sub(r"\W", "_", name) for name in given]
    return names


class _Recorder:
    """The stock ops; notes the lengths of the sums that they add up term by term."""

    def __init__(self):
        self.lengths = collections.Counter()

    def __getattr__(self, name):
        function = getattr(stock_ops, name)
        if name not in ("lowprec_mat_mul", "lowprec_conv2d", "lowprec_conv2d_backprop_input"):
            return function

        def recorded(*args, **kwargs):
            result = function(*args, **kwargs)
            a, b = (*args, kwargs.get("a"), kwargs.get("b"))[:2]
            if name == "lowprec_mat_mul":
                length = a.shape[-2 if kwargs["transpose_a"] else -1]
            else:
                last = 2 if name == "lowprec_conv2d" else 3
                length = math.prod([b.shape[axis] for axis in (0, 1, last)])
            self.lengths[length] += 1
            return result

        return recorded

    def warn(self, model):
        known = [n for n in self.lengths if n is not None]
        if known and max(known) >= _SLOW:
            _LOG.warning(
                "%s: portable=True adds up %d narrow sums of up to %d terms one term after the "
                "other, which is slow; where speed counts, export with portable=False and load the "
                "op library",
                model.name,
                sum(self.lengths.values()),
                max(known),
            )


def _check_portable(graph, model):
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    own = sorted({node.op for node in nodes if node.op.startswith("Lowprec>")})
    if own:
        raise ValueError(
            f"model {model.name!r} keeps {', '.join(own)}: a tf.function inside it was traced "
            "before; export in a new process, with portable=True first"
        )
