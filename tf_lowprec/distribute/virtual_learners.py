"""lp.distribute.VirtualLearners: many learners on one machine, one after the other."""

import math
import numbers

import tensorflow as tf

from tf_lowprec.distribute.all_reduce import dense_bytes, is_compressible
from tf_lowprec.distribute.settings import AdaComp
from tf_lowprec.distribute.statistics import Counters, statistics_of
from tf_lowprec.ops.adacomp import adacomp_decode, adacomp_encode, is_skip, sent_elements


def adacomp_codec(settings):
    """The `compression` function of VirtualLearners for an AdaComp."""

    def plan(name, shape):
        bin_size = settings.bin_size_for(name, shape)
        if bin_size is None:
            return None

        def compress(gradient, residue):
            packet, new_residue = adacomp_encode(
                gradient, residue, bin_size, settings.encoding, settings.soft_threshold
            )
            sent = adacomp_decode(packet, math.prod(shape))
            counts = 4 * tf.size(packet, tf.int64), sent_elements(packet), is_skip(packet)
            return (sent, new_residue, *counts)

        compress.bin_size = bin_size  # for the statistics
        return compress

    return plan


class _Gradient:
    """One variable: how its gradients are compressed, and what was sent of them."""

    def __init__(self, variable, plan):
        self.variable, self.residues = variable, None
        self.dtype = tf.as_dtype(variable.dtype)
        self.name = getattr(variable, "path", None) or variable.name.split(":")[0]
        self.shape = tuple(variable.shape)
        self.num_elements = math.prod(self.shape)
        self.compress = plan(self.name, self.shape) if plan else None
        self.bin_size = getattr(self.compress, "bin_size", None)
        self.counters = Counters()
        if self.dtype != tf.float32:
            self.goes_dense()

    def goes_dense(self):
        self.compress = self.bin_size = None


class VirtualLearners(tf.Module):
    """Data-parallel training with 1 to 128 and more learners, computed one after the other.

    A step splits its batch evenly among the learners. Each computes the gradients of its part,
    compresses them with a residue of its own, and the mean of what they send goes to the
    optimizer: bit for bit what as many machines would do. Each begins with the same moving
    statistics (of BatchNormalization), whose mean over the learners stays. A step costs about what
    a dense one of the same batch costs; residues take ``8 * learners * parameters`` bytes (two
    copies, so that a step whose gradients are not finite leaves them as they were).

    As under AdaCompAllReduce, gradients of other dtypes than float32 and IndexedSlices (of
    embeddings) go dense, and so do the first `warmup_steps` steps. IndexedSlices are made dense
    before they are added, which may round otherwise than their own sum; that they are some is
    seen in the first step, so that room for residues of theirs is taken, and stays unused.

    Trackable: ``tf.train.Checkpoint(model=model, optimizer=optimizer, learners=learners)``.

    Args:
        model: a Keras model, built, with one input. Its trainable variables must stay those that
            it has now.
        optimizer: a Keras optimizer.
        loss: a function of (labels, outputs) whose value is the mean over its batch; or the name
            of one in tf.keras.losses, of whose values the mean is taken. The model's own losses (of
            regularizers) are added.
        learners: their number.
        compression: an AdaComp; None for dense gradients; or, to compare with other methods, a
            function of (name, shape) that returns None (dense) or a function of a flat (gradient,
            residue) that returns (sent, new_residue, bytes, elements sent, whether to skip).

    Raises:
        ValueError: a wrong argument; at a step, a batch that cannot be split evenly, a loss that
            is not one number, or other trainable variables than at first.
    """

    def __init__(self, model, optimizer, loss, learners, compression=None):
        super().__init__(name="virtual_learners")
        if not isinstance(learners, numbers.Integral) or learners < 1:
            raise ValueError(f"learners = {learners!r} must be an integer >= 1")
        settings = None
        if compression is not None and not callable(compression):
            if not isinstance(compression, AdaComp):
                raise ValueError(
                    f"compression = {compression!r} must be an AdaComp, None, or a function of "
                    "(name, shape)"
                )
            settings, compression = compression, adacomp_codec(compression)
        if not model.built:
            raise ValueError("model must be built: call it on a batch, or give it an Input")
        if _scales_loss(optimizer):
            raise ValueError(
                f"optimizer = {type(optimizer).__name__} scales the loss, which VirtualLearners "
                "does not do: give it an optimizer without loss scaling"
            )
        self.learners, self.loss = int(learners), _loss_of(loss)
        self._model, self._optimizer = [model], [optimizer]
        variables = model.trainable_variables
        if hasattr(optimizer, "build"):
            optimizer.build(variables)
        self._gradients = tuple(_Gradient(v, compression) for v in variables)
        if settings is not None:
            settings.warn_of_unmatched([g.name for g in self._gradients], set())
        # Rows 0 … learners - 1 and as many more: a step reads one half and writes the other.
        self.residues = [
            tf.Variable(tf.zeros([2 * self.learners, g.num_elements]), trainable=False)
            for g in self._gradients
            if g.compress is not None
        ]
        compressed = [g for g in self._gradients if g.compress is not None]
        for gradient, residues in zip(compressed, self.residues):
            gradient.residues = residues
        self.half = tf.Variable(0, trainable=False, dtype=tf.int32)
        self._warmup_steps = 0 if settings is None else settings.warmup_steps
        self.steps = tf.Variable(0, trainable=False, dtype=tf.int64)

    def statistics(self):
        """What the learners sent since the last reset, as Statistics."""
        return statistics_of(self._gradients)

    def reset_statistics(self):
        """Sets what `statistics` counts back to 0."""
        for gradient in self._gradients:
            gradient.counters.reset()

    def counters(self):
        """The variables behind `statistics`, in order: a checkpoint may hold them."""
        return [g.counters.values for g in self._gradients]

    def train_step(self, x, y):
        """One step on a batch; returns the mean loss, as float32.

        x and y are an array or a tensor each, with as many examples along their first axes.
        """
        now = self._model[0].trainable_variables
        if len(now) != len(self._gradients) or any(
            own.variable is not variable for own, variable in zip(self._gradients, now)
        ):
            raise ValueError(
                "model.trainable_variables changed since VirtualLearners was made: make it anew"
            )
        x, y = _tensor(x, "x"), _tensor(y, "y")
        examples = x.shape[0]
        if examples is None or examples % self.learners or examples == 0:
            raise ValueError(
                f"x has {examples} examples, which {self.learners} learners cannot share evenly"
            )
        if y.shape[0] not in (None, examples):
            raise ValueError(f"y has {y.shape[0]} examples; it must have as many as x, {examples}")
        return self._step(x, y)

    @tf.function(reduce_retracing=True)
    def _step(self, x, y):
        each = tf.shape(x)[0] // self.learners
        warm = self.steps < self._warmup_steps
        moving = [v for v in self._model[0].non_trainable_variables if _is_float(v)]
        start = [tf.identity(v) for v in moving]

        def learn(learner, loss, sums, counts, moved):
            begin = learner * each
            for variable, value in zip(moving, start):
                variable.assign(value)
            value, gradients = self._gradients_of(x[begin : begin + each], y[begin : begin + each])
            sent = [
                self._send(own, gradient, learner, warm)
                for own, gradient in zip(self._gradients, gradients)
            ]
            sums = [total + gradient for total, (gradient, _) in zip(sums, sent)]
            counts = [total + count for total, (_, count) in zip(counts, sent)]
            moved = [total + tf.convert_to_tensor(v) for total, v in zip(moved, moving)]
            return learner + 1, loss + tf.cast(value, tf.float32), sums, counts, moved

        _, loss, sums, counts, moved = tf.while_loop(
            lambda learner, *_: learner < self.learners,
            learn,
            (
                tf.constant(0),
                tf.constant(0.0),
                [tf.zeros(g.shape, g.dtype) for g in self._gradients],
                [tf.zeros([3], tf.int64) for _ in self._gradients],
                [tf.zeros_like(value) for value in start],
            ),
            parallel_iterations=1,
        )
        skips = [
            self._is_skipped(own, total, count, warm)
            for own, total, count in zip(self._gradients, sums, counts)
        ]
        # In warm-up steps no residues were written into the other half.
        stays = warm | tf.reduce_any(tf.stack(skips)) if skips else warm
        self.half.assign(tf.where(stays, self.half, 1 - self.half))
        self.steps.assign_add(1)
        self._count(skips, counts, warm)
        for variable, total in zip(moving, moved):
            variable.assign(total / self.learners)
        means = [total / self.learners for total in sums]
        self._optimizer[0].apply_gradients(zip(means, [g.variable for g in self._gradients]))
        return loss / self.learners

    def _gradients_of(self, x, y):
        model = self._model[0]
        with tf.GradientTape() as tape:
            value = tf.convert_to_tensor(self.loss(y, model(x, training=True)))
            if value.shape.rank != 0:
                raise ValueError(
                    f"loss returned the shape {value.shape}; it must return one number, the mean "
                    "over its batch: tf.reduce_mean of its values"
                )
            if model.losses:
                value += tf.add_n([tf.cast(more, value.dtype) for more in model.losses])
        gradients = tape.gradient(value, [g.variable for g in self._gradients])
        return value, [
            tf.zeros(g.shape, g.dtype) if d is None else d
            for g, d in zip(self._gradients, gradients)
        ]

    def _send(self, own, gradient, learner, warm):
        """(what is sent, [bytes, elements sent, whether to skip]); the new residue is stored."""
        if not is_compressible(gradient):
            own.goes_dense()
        size = dense_bytes(gradient)
        flat = tf.reshape(tf.convert_to_tensor(gradient), [-1])

        def dense():
            return flat, _row(size, 0, False)

        def compressed():
            old = tf.gather(own.residues, self.half * self.learners + learner)
            sent, new, packet_size, elements, skip = own.compress(flat, old)
            row = (1 - self.half) * self.learners + learner
            own.residues.scatter_update(tf.IndexedSlices(new[None], row[None]))
            return sent, _row(packet_size, elements, skip)

        if own.compress is None:
            sent, counts = dense()
        elif self._warmup_steps == 0:
            sent, counts = compressed()
        else:
            sent, counts = tf.cond(warm, dense, compressed)
        return tf.reshape(sent, own.shape), counts

    def _is_skipped(self, own, total, counts, warm):
        """Whether a learner's gradient was not finite: where all went dense, the sum shows it."""
        if own.compress is not None and self._warmup_steps == 0:
            return counts[2] > 0
        dense = warm if own.compress is not None else tf.constant(True)
        not_finite = tf.logical_not(tf.reduce_all(tf.math.is_finite(total)))
        return (counts[2] > 0) | (dense & not_finite)

    def _count(self, skips, counts, warm):
        for own, skip, count in zip(self._gradients, skips, counts):
            none = warm if own.compress is not None else tf.constant(True)
            own.counters.add(
                steps=1,
                gradients=self.learners,
                compressed=tf.where(none, 0, self.learners),
                bytes=count[0],
                sent=count[1],
                skipped=skip,
            )


def _row(*counts):
    return tf.stack([tf.cast(count, tf.int64) for count in counts])


def _loss_of(loss):
    """The loss as a function; a name's has the mean of its values, as in `compile`."""
    if not isinstance(loss, str):
        if not callable(loss):
            raise ValueError(
                f"loss = {loss!r} must be a function of (labels, outputs), such as "
                "tf.keras.losses.MeanSquaredError(), or the name of one in tf.keras.losses"
            )
        return loss
    try:
        found = tf.keras.losses.get(loss)
    except ValueError as error:
        raise ValueError(f"loss = {loss!r} is not the name of one in tf.keras.losses") from error

    def mean(labels, outputs):
        if labels.shape.rank == outputs.shape.rank - 1 and outputs.shape[-1] == 1:
            labels = labels[..., None]  # Keras 2's functions would broadcast them
        return tf.reduce_mean(found(labels, outputs))

    return mean


def _tensor(value, name):
    """A batch as a tensor; a ValueError where it is not one array."""
    allowed = (
        f"{name} must be one array or tensor with the examples along its first axis: "
        "VirtualLearners takes models with one input, and one tensor of labels"
    )
    arrays = isinstance(value, (list, tuple)) and any(hasattr(part, "shape") for part in value)
    if arrays:
        raise ValueError(f"{name} is a {type(value).__name__} of arrays; {allowed}")
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is a {type(value).__name__}; {allowed}") from error
    if tensor.shape.rank == 0:
        raise ValueError(f"{name} is one number; {allowed}")
    return tensor


def _scales_loss(optimizer):
    scaling = tf.keras.mixed_precision.LossScaleOptimizer
    return isinstance(optimizer, scaling) or getattr(optimizer, "loss_scale_factor", None)


def _is_float(variable):
    return tf.as_dtype(variable.dtype).is_floating
