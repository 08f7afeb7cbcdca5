"""A real batch through a model: which products are zero, and what narrow sums keep of its own."""

import dataclasses
import functools
import numbers

import numpy as np
import tensorflow as tf

from tf_lowprec import layers
from tf_lowprec._keras import KERAS_3, native
from tf_lowprec.analysis.gemms import PASSES
from tf_lowprec.analysis.measured import variance_ratio
from tf_lowprec.analysis.trace import first_line, instrumented, shapes_of
from tf_lowprec.analysis.vrr import check_batch_size
from tf_lowprec.formats import MXFormat
from tf_lowprec.ops.mx import quantize_mx
from tf_lowprec.ops.quantize import quantize
from tf_lowprec.precision import Gemm, Policy

# Layers of one kernel and one input, and ours of the same name. Recurrent layers and attention are
# left out: their products have no operands that a layer's input and output would show.
_MEASURED = {
    getattr(tf.keras.layers, name): getattr(layers, name)
    for name in ("Dense", "Conv1D", "Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "EinsumDense")
}


@dataclasses.dataclass
class _Record:
    """What one call of a layer was given, and the scaled error of its output."""

    layer: object
    x: object
    error: object

    @functools.cached_property
    def dy(self):
        """The error of what comes before the activation."""
        return _before_activation(self.layer, self.x, self.error)


class Batch:
    """One batch of data for one model.

    Args:
        model: a built Keras model; its weights and states are the same afterwards.
        data: ``(x, y)`` of at least batch_size examples, or a tf.data.Dataset of batches.
        batch_size: None takes all examples of `data` (the first batch of a Dataset).
        loss: see `plan`.
        loss_scale: see `plan`.

    Raises:
        ValueError: data that does not fit the model, or no loss.
    """

    def __init__(self, model, data, batch_size, loss, loss_scale):
        self.model, self.loss_scale = model, check_loss_scale(loss_scale)
        self.loss = _loss(model, loss)
        self.x, self.y = _first_batch(data, batch_size)
        self.specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), self.x)
        _check_shapes(model, self.specs)
        self._records = self._loss_value = None

    def nonzero_ratios(self, calls, operand):
        """{(layer path, "kernel", pass): ratio of products that are not zero}.

        Counted exactly: the layer's own product, in each pass, of operands that are 1 where the
        rounded ones are not zero. Padding, and taps that a stride skips, count as zeros. Of a layer
        called several times, the most that a call has, over the terms of its longest sums.
        """
        ratios = {}
        recorded = self._recorded(calls)
        if not np.isfinite(self._loss_value):
            raise ValueError(
                f"data gives model {self.model.name!r} a loss of {self._loss_value}: its examples, "
                "the model's weights or loss_scale are not finite, or too large"
            )
        for path, records in recorded.items():
            lengths = [c.products[0] for c in calls if c.path == path]
            probe = _probe(records[0].layer, None)
            most = dict.fromkeys(PASSES, 0.0)
            for record in records:
                indicators = [
                    tf.cast(_rounded(t, operand) != 0, tf.float32)
                    for t in (record.x, _kernel_of(record.layer), record.dy)
                ]
                for which, count in zip(PASSES, _passes(probe, *indicators)):
                    most[which] = max(most[which], float(tf.reduce_mean(count)))
            for which in PASSES:
                longest = max(length.length(which) for length in lengths)
                ratios[path, "kernel", which] = most[which] / longest
        return ratios

    def measure(self, plan, calls):
        """`plan` with the retained variance and the error of its accumulators on this batch.

        All sums of a layer (of its first call) and pass are an ensemble; the reference are
        float32's sums of the same rounded operands.
        """
        measured = {}
        policies = plan.policies()
        for path, (record, *_) in self._recorded(calls).items():
            policy = policies[path]
            reference = Policy(
                *(
                    Gemm(g.lhs, g.rhs, rounding=g.rounding)
                    for g in (policy.forward, policy.backward, policy.gradient)
                )
            )
            operands = (record.x, _kernel_of(record.layer), record.dy)
            narrow = _passes(_probe(record.layer, policy), *operands)
            exact = _passes(_probe(record.layer, reference), *operands)
            for which, s, e in zip(PASSES, narrow, exact):
                s, e = (np.float64(v).ravel() for v in (s, e))
                ratios = (variance_ratio(s, e)[0], variance_ratio(s - e, e)[0])
                # All zero (nothing to measure) or overflowing sums have no ratio.
                measured[path, which] = [r if np.isfinite(r) else None for r in ratios]
        sums = []
        for s in plan.sums:
            vrr, noise = measured.get((s.layer, s.which), (None, None))
            sums.append(dataclasses.replace(s, vrr=vrr, noise=noise))
        return dataclasses.replace(plan, sums=tuple(sums))

    def record(self, calls):
        """{path: _Record} of the layers of `calls`, in their first calls, the model run again."""
        self._records = None
        return {path: records[0] for path, records in self._recorded(calls).items()}

    def _recorded(self, calls):
        """{path: [_Record of each call]} of the layers that are measured."""
        if self._records is not None:
            return self._records
        wanted = {}
        for call in calls:
            if _stock(call.layer) in _MEASURED:
                wanted.setdefault(call.path, call.layer)
        seen = {}

        def around(path, layer, call, args, kwargs):
            y = call(*args, **kwargs)
            # Under functions of its own, such as a loop's, a model runs symbolically.
            if tf.is_tensor(y) and hasattr(y, "numpy"):
                x = args[0] if args else next(iter(kwargs.values()))
                seen.setdefault(path, []).append((layer, x, y))
            return y

        saved = _state(self.model)
        try:
            with instrumented(list(wanted.items()), around), tf.GradientTape() as tape:
                prediction = self.model(self.x, training=True)
                loss = self.loss_scale * tf.reduce_mean(self.loss(self.y, prediction))
            outputs = {path: [y for _, _, y in found] for path, found in seen.items()}
            errors = tape.gradient(loss, outputs)
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise ValueError(
                f"data does not fit model {self.model.name!r} or its loss: {first_line(error)}"
            ) from error
        finally:
            _restore(self.model, saved)
        self._loss_value = float(loss)
        records = {
            path: [
                _Record(layer, tf.cast(x, tf.float32), error)
                for (layer, x, _), error in zip(found, errors[path])
                if error is not None
            ]
            for path, found in seen.items()
        }
        self._records = {path: found for path, found in records.items() if found}
        return self._records


def _rounded(x, format):
    # Blocks, for which each pass has an axis of its own, along the last one for all.
    return quantize_mx(x, format) if isinstance(format, MXFormat) else quantize(x, format)


def check_loss_scale(loss_scale):
    if not isinstance(loss_scale, numbers.Real) or not 0 < loss_scale < 1e30:
        raise ValueError(f"loss_scale = {loss_scale!r} must be a number above 0, such as 1000")
    return float(loss_scale)


def _loss(model, loss):
    loss = getattr(model, "loss", None) if loss is None else loss
    if loss is None:
        raise ValueError(
            f"model {model.name!r} is not compiled: give loss, such as "
            'loss="sparse_categorical_crossentropy", to measure with data'
        )
    try:
        found = tf.keras.losses.get(loss)
    except (ValueError, TypeError):
        found = None
    if not callable(found):
        raise ValueError(
            f"loss = {loss!r} of model {model.name!r} must be one loss of Keras, or a function of "
            "(y_true, y_pred), which for several outputs adds up their losses"
        )
    return found


def _first_batch(data, batch_size):
    if batch_size is not None:
        batch_size = check_batch_size(batch_size)
    if isinstance(data, tf.data.Dataset):
        data = next(iter(data), None)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        what = f"{len(data)} parts" if isinstance(data, (tuple, list)) else type(data).__name__
        raise ValueError(f"data must be (x, y), or a tf.data.Dataset of such batches, got {what}")

    def cut(array):
        array = array if tf.is_tensor(array) else np.asarray(array)
        if not tf.is_tensor(array) and array.dtype == np.float64:
            array = array.astype(np.float32)
        if len(array.shape) == 0:
            raise ValueError("data has a part without an axis of examples: batch the Dataset")
        if batch_size is not None and array.shape[0] < batch_size:
            held = array.shape[0]
            raise ValueError(
                f"data holds {held} examples, fewer than batch_size = {batch_size}; give more, or "
                "a smaller batch"
            )
        return tf.convert_to_tensor(array[:batch_size])

    x, y = (tf.nest.map_structure(cut, part) for part in data)
    sizes = {int(t.shape[0]) for t in tf.nest.flatten((x, y))}
    if len(sizes) != 1:
        raise ValueError(f"data has parts of different numbers of examples: {sorted(sizes)}")
    return x, y


def _check_shapes(model, specs):
    wanted = getattr(model, "inputs", None)
    given = tf.nest.flatten(specs)
    if not wanted:
        return
    if len(wanted) != len(given) or not all(
        tf.TensorShape(w.shape[1:]).is_compatible_with(g.shape[1:]) for w, g in zip(wanted, given)
    ):
        raise ValueError(
            f"data does not fit model {model.name!r}: x has shape {shapes_of(given)}, the model "
            f"takes {shapes_of(wanted)}"
        )


def _state(model):
    variables = model.variables if KERAS_3 else model.weights
    return [(v, v.numpy()) for v in variables]


def _restore(model, saved):
    for variable, value in saved:
        variable.assign(value)


def _stock(layer):
    """The stock class that a layer is, or is ours of; None for others."""
    if getattr(layer, "lora_enabled", False):
        return None
    for cls, ours in _MEASURED.items():
        if type(layer) in (cls, ours):
            return cls
    return None


def _kernel_of(layer):
    return tf.cast(tf.convert_to_tensor(layer.weights[0]), tf.float32)


def _probe(layer, policy):
    """(x, kernel) -> the layer's product, without bias and activation."""
    stock = _stock(layer)
    config = layer.get_config()
    config.update(activation=None, name=None, dtype="float32", trainable=True)
    config.pop("precision", None)
    config.pop("seed", None)
    for key in ("use_bias", "bias_axes"):
        if key in config:
            config[key] = False if key == "use_bias" else None
    for key in [k for k in config if k.endswith(("_regularizer", "_constraint"))]:
        config[key] = None
    if policy is None:
        probe = stock.from_config(config)
    else:
        probe = _MEASURED[stock].from_config({**config, "precision": policy})

    def call(x, kernel):
        if not probe.built:
            probe.build(x.shape)
        probe.weights[0].assign(kernel)
        return probe(x, training=True), probe.trainable_variables[0]

    return call


def _passes(probe, x, kernel, dy):
    """(y, dx, dw) of the product alone."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, variable = probe(x, kernel)
    dx, dw = tape.gradient(y, [x, native(variable)], dy)
    return y, dx, dw


def _before_activation(layer, x, error):
    """The error of ``x . kernel + bias``, from that of the layer's output."""
    activation = getattr(layer, "activation", None)
    error = tf.cast(error, tf.float32)
    if activation is None or activation is tf.keras.activations.linear:
        return error
    z, _ = _probe(layer, None)(x, _kernel_of(layer))
    if len(layer.weights) > 1:
        z += tf.cast(tf.convert_to_tensor(layer.weights[1]), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = activation(z)
    return tape.gradient(y, z, error)
