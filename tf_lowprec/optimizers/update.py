"""The arithmetic of a low-precision weight update, apart from any optimizer."""

import dataclasses
import numbers
import random

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding
from tf_lowprec.ops.quantize import quantize, round_to
from tf_lowprec.ops.streams import Stream


@dataclasses.dataclass(frozen=True)
class Update:
    """``w <- Q(w + Q(step))`` and ``slot <- Q(slot)`` with their formats and seed.

    Random numbers are a function of (seed, iteration, index of the variable) and of nothing else.
    """

    format: object
    rounding: Rounding
    slot_format: object
    seed: int

    @classmethod
    def of(cls, format, rounding, slot_format, seed):
        """Checks the arguments of LowPrecision."""
        formats.check_format(format)
        formats.check_format(slot_format, "slot_format", optional=True)
        if seed is None:
            seed = random.randint(1, 2**31 - 1)
        integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
        if not integer or not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed = {seed!r} must be an integer of 64 bits or None")
        return cls(format, Rounding.of(rounding), slot_format, int(seed))

    def _round(self, value, format, iteration, stream):
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(iteration, tf.int64)])
        return round_to(value, format, self.rounding, seed, stream)

    def weight(self, old, step, iteration, index, is_decay=False):
        """Q(old + Q(step)): float32. Weight decay is rounded by random numbers of its own."""
        streams = Stream.STEP, Stream.WEIGHT_UPDATE
        if is_decay:
            streams = Stream.DECAY_STEP, Stream.DECAY_UPDATE
        step = self._round(step, self.format, iteration, streams[0].of(index))

        def total(dtype):
            sums = tf.cast(old, dtype) + tf.cast(step, dtype)
            return self._round(sums, self.format, iteration, streams[1].of(index))

        if isinstance(self.format, formats.FixedPointFormat):
            # From the second update on both lie on one grid of at most 24 bits, where float32's
            # sums are exact, and take half the time.
            return tf.cond(iteration > 0, lambda: total(tf.float32), lambda: total(tf.float64))
        return total(tf.float64)

    def constrained(self, value):
        """A weight that a constraint has moved off the grid: the nearest number on it."""
        return quantize(value, self.format)

    def rounds_slot(self, slot):
        """Whether slots of this kind are rounded: counters and rates are not."""
        return self.slot_format is not None and slot.dtype.is_floating and slot.shape.rank != 0

    def slot(self, value, iteration, index):
        """Q(value) in the slots' format."""
        return self._round(value, self.slot_format, iteration, Stream.SLOT.of(index))

    def get_config(self):
        return {
            "format": self.format.spec,
            "rounding": self.rounding.value,
            "slot_format": None if self.slot_format is None else self.slot_format.spec,
            "seed": self.seed,
        }


def as_optimizer(given):
    """A Keras optimizer, or the name of one, as an object."""
    optimizer = None if given is None else tf.keras.optimizers.get(given)
    if optimizer is None:
        raise ValueError(f"optimizer = {given!r} must be a Keras optimizer or the name of one")
    return optimizer


def check_inner(optimizer, wrapper):
    """`optimizer` as an object, if LowPrecision can be put around it."""
    optimizer = as_optimizer(optimizer)
    if isinstance(optimizer, wrapper):
        raise ValueError("optimizer is a LowPrecision already: wrap the one inside it")
    if getattr(optimizer, "_low_precision", False):
        raise ValueError("optimizer is inside another LowPrecision: make one of its own")
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        raise ValueError(
            "optimizer is a LossScaleOptimizer, which must be outside: "
            "loss_scaling(LowPrecision(...), 'dynamic')"
        )
    if getattr(optimizer, "use_ema", False):
        raise ValueError("optimizer.use_ema = True must be False: averages leave the grid")
    return optimizer


def parse_config(config, deserialize):
    """LowPrecision's arguments from its get_config()."""
    config = dict(config)
    config["optimizer"] = deserialize(config["optimizer"])
    for name in ("format", "slot_format"):
        if config[name] is not None:
            config[name] = formats.parse_spec(config[name])
    return config
