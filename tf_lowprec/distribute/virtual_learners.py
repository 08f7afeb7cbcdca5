"""lp.distribute.VirtualLearners: many learners on one machine, one after the other."""

import math
import numbers

import tensorflow as tf

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
        self.name = getattr(variable, "path", None) or variable.name.split(":")[0]
        self.shape = tuple(variable.shape)
        self.num_elements = math.prod(self.shape)
        self.compress = plan(self.name, self.shape) if plan else None
        self.bin_size = getattr(self.compress, "bin_size", None)
        self.counters = Counters()


class VirtualLearners(tf.Module):
    """Data-parallel training with 1 to 128 and more learners, computed one after the other.

    A step splits its batch evenly among the learners. Each computes the gradients of its part,
    compresses them with a residue of its own, and the mean of what they send goes to the
    optimizer: bit for bit what as many machines would do. Each begins with the same moving
    statistics (of BatchNormalization), whose mean over the learners stays. A step costs about what
    a dense one of the same batch costs; residues take ``8 * learners * parameters`` bytes (two
    copies, so that a step whose gradients are not finite leaves them as they were).

    Trackable: ``tf.train.Checkpoint(model=model, optimizer=optimizer, learners=learners)``.

    Args:
        model: a Keras model, built.
        optimizer: a Keras optimizer.
        loss: a function of (labels, outputs) whose value is the mean over its batch; the model's
            own losses (of regularizers) are added.
        learners: their number.
        compression: an AdaComp; None for dense gradients; or, to compare with other methods, a
            function of (name, shape) that returns None (dense) or a function of a flat (gradient,
            residue) that returns (sent, new_residue, bytes, elements sent, whether to skip).

    Raises:
        ValueError: a wrong argument, or a batch that cannot be split evenly.
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
        self.learners, self.loss = int(learners), loss
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
        self.half = tf.Variable(0, trainable=False, dtype=tf.int32)

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
        """One step on a batch; returns the mean loss."""
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        if x.shape[0] is None or x.shape[0] % self.learners or x.shape[0] == 0:
            raise ValueError(
                f"x has {x.shape[0]} examples, which {self.learners} learners cannot share evenly"
            )
        return self._step(x, y)

    @tf.function(reduce_retracing=True)
    def _step(self, x, y):
        each = tf.shape(x)[0] // self.learners
        compressed = [g for g in self._gradients if g.compress is not None]
        moving = [v for v in self._model[0].non_trainable_variables if _is_float(v)]
        start = [tf.identity(v) for v in moving]

        def learn(learner, loss, skip, sums, counts, moved):
            begin = learner * each
            for variable, value in zip(moving, start):
                variable.assign(value)
            value, gradients = self._gradients_of(x[begin : begin + each], y[begin : begin + each])
            new_sums, new_counts, residues = [], [], iter(self.residues)
            counts = iter(counts)
            for own, gradient, total in zip(self._gradients, gradients, sums):
                if own.compress is not None:
                    gradient, bad, sent = self._compress(own, gradient, next(residues), learner)
                    skip |= bad
                    new_counts.append(next(counts) + sent)
                new_sums.append(total + gradient)
            moved = [total + tf.convert_to_tensor(v) for total, v in zip(moved, moving)]
            return learner + 1, loss + value, skip, new_sums, new_counts, moved

        _, loss, skip, sums, counts, moved = tf.while_loop(
            lambda learner, *_: learner < self.learners,
            learn,
            (
                tf.constant(0),
                tf.constant(0.0),
                tf.constant(False),
                [tf.zeros(g.shape) for g in self._gradients],
                [tf.zeros([2], tf.int64) for _ in compressed],
                [tf.zeros_like(value) for value in start],
            ),
            parallel_iterations=1,
        )
        self.half.assign(tf.where(skip, self.half, 1 - self.half))
        self._count(skip, counts)
        for variable, total in zip(moving, moved):
            variable.assign(total / self.learners)
        means = [total / self.learners for total in sums]
        self._optimizer[0].apply_gradients(zip(means, self._model[0].trainable_variables))
        return loss / self.learners

    def _gradients_of(self, x, y):
        model = self._model[0]
        with tf.GradientTape() as tape:
            value = self.loss(y, model(x, training=True))
            if model.losses:
                value += tf.add_n(model.losses)
        gradients = tape.gradient(value, model.trainable_variables)
        return value, [
            tf.zeros(g.shape) if d is None else tf.convert_to_tensor(d)
            for g, d in zip(self._gradients, gradients)
        ]

    def _compress(self, own, gradient, residues, learner):
        """(what is sent, whether to skip, [bytes, elements sent]); the new residue is stored."""
        old = tf.gather(residues, self.half * self.learners + learner)
        sent, new, size, elements, skip = own.compress(tf.reshape(gradient, [-1]), old)
        row = (1 - self.half) * self.learners + learner
        residues.scatter_update(tf.IndexedSlices(new[None], row[None]))
        counts = tf.stack([tf.cast(size, tf.int64), tf.cast(elements, tf.int64)])
        return tf.reshape(sent, own.shape), skip, counts

    def _count(self, skip, counts):
        counts = iter(counts)
        for own in self._gradients:
            if own.compress is None:
                size, elements = 4 * own.num_elements * self.learners, 0
            else:
                size, elements = tf.unstack(next(counts))
            own.counters.add(
                steps=1,
                gradients=self.learners,
                compressed=0 if own.compress is None else self.learners,
                bytes=size,
                sent=elements,
                skipped=skip,
            )


def _scales_loss(optimizer):
    scaling = tf.keras.mixed_precision.LossScaleOptimizer
    return isinstance(optimizer, scaling) or getattr(optimizer, "loss_scale_factor", None)


def _is_float(variable):
    return tf.as_dtype(variable.dtype).is_floating
