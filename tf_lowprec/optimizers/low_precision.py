"""lp.optimizers.LowPrecision: weights that never leave their format."""

import random

import tensorflow as tf

from tf_lowprec import formats
from tf_lowprec.formats import Rounding
from tf_lowprec.ops.quantize import round_to
from tf_lowprec.ops.streams import Stream


def _tf_variable(variable):
    """The tf.Variable inside a Keras 3 variable; any other as it is."""
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class LowPrecision(tf.keras.optimizers.Optimizer):
    """Any Keras optimizer, with weights (and slots) kept in a low-precision format.

    Whenever the inner optimizer changes a weight w by a step s, here

        ``w <- Q(w + Q(s))``        (Gupta et al., 2015, section 3)

    with Q rounding to `format`. With fixed point w + Q(s) is exact, so that the two roundings are
    the only ones; with floats it is taken in float64. Weight decay is a step of its own. A slot
    (momentum, moments) m becomes ``Q(m)`` in `slot_format` whenever it changes.

    Random numbers are a function of (seed, iteration, index of the variable) and of nothing else:
    all replicas of a tf.distribute strategy round alike, and their copies stay equal.

    Args:
        optimizer: the inner keras.optimizers.Optimizer; its own arguments (learning rate,
            schedules, clipping, weight decay, gradient accumulation) work as ever.
        format: format of the weights.
        rounding: a Rounding or its name.
        slot_format: format of the slots; None leaves them in float32.
        seed: integer; None takes one from Python's `random`, which keras.utils.set_random_seed
            sets.

    Raises:
        ValueError: an argument of the wrong kind; an inner optimizer that averages weights
            (use_ema), since averages leave the grid.
    """

    def __init__(
        self, optimizer, format, rounding="stochastic", slot_format=None, seed=None, name=None
    ):
        optimizer = tf.keras.optimizers.get(optimizer)
        if isinstance(optimizer, LowPrecision):
            raise ValueError("optimizer is a LowPrecision already: wrap the one inside it")
        if getattr(optimizer, "use_ema", False):
            raise ValueError("optimizer.use_ema = True must be False: averages leave the grid")
        # Nothing of the base class' own state is used: learning rate and iterations are inside.
        super().__init__(learning_rate=0.0, name=name or f"low_precision_{optimizer.name}")
        self.inner_optimizer = optimizer
        self.format = formats.check_format(format)
        self.rounding = Rounding.of(rounding)
        self.slot_format = formats.check_format(slot_format, "slot_format", optional=True)
        if seed is None:
            seed = random.randint(1, 2**31 - 1)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed = {seed!r} must be an integer or None")
        self.seed = seed
        self._indices = {}
        # Keras's optimizers write weights and slots through these three methods.
        optimizer.assign = self._assign
        optimizer.assign_add = lambda variable, value: self._step(variable, value, 1)
        optimizer.assign_sub = lambda variable, value: self._step(variable, value, -1)
        optimizer._apply_weight_decay = self._apply_weight_decay

    # --- the arithmetic -------------------------------------------------------------------------

    def _round(self, value, format, stream):
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(self.iterations, tf.int64)])
        return round_to(value, format, self.rounding, seed, stream)

    def _index(self, variable):
        """(whether it is a weight, its index)."""
        key = self.inner_optimizer._var_key(variable)
        weights = self.inner_optimizer._trainable_variables_indices
        if key in weights:
            return True, weights[key]
        if key not in self._indices:
            self._indices = {
                self.inner_optimizer._var_key(v): i
                for i, v in enumerate(self.inner_optimizer.variables)
            }
        return False, self._indices[key]

    def _write(self, variable, value):
        _tf_variable(variable).assign(tf.cast(value, variable.dtype))

    def _step(self, variable, value, sign):
        value = tf.cast(tf.convert_to_tensor(value), tf.float32)  # IndexedSlices become dense
        is_weight, index = self._index(variable)
        old = tf.convert_to_tensor(variable)
        if not is_weight:
            self._assign(variable, old + sign * value)
            return
        step = self._round(sign * value, self.format, Stream.STEP.of(index))
        if isinstance(self.format, formats.FixedPointFormat):
            # Both lie on one grid of at most 24 bits: their sum is exact.
            total = tf.clip_by_value(old, self.format.min, self.format.max) + step
        else:
            total = tf.cast(old, tf.float64) + tf.cast(step, tf.float64)
        self._write(variable, self._round(total, self.format, Stream.WEIGHT_UPDATE.of(index)))

    def _assign(self, variable, value):
        is_weight, index = self._index(variable)
        value = tf.convert_to_tensor(value)
        if is_weight:
            self._step(variable, value - tf.convert_to_tensor(variable), 1)
        elif self.slot_format is None or not value.dtype.is_floating or value.shape.rank == 0:
            self._write(variable, value)
        else:
            self._write(variable, self._round(value, self.slot_format, Stream.SLOT.of(index)))

    def _apply_weight_decay(self, variables):
        inner = self.inner_optimizer
        if inner.weight_decay is None:
            return

        def decay(variable):
            if inner._use_weight_decay(variable):
                rate = tf.cast(inner.learning_rate, variable.dtype) * inner.weight_decay
                self._step(variable, variable * rate, -1)

        def update(strategy, variables):
            for variable in variables:
                strategy.extended.update(_tf_variable(variable), decay, group=False)

        strategy = inner._distribution_strategy
        tf.__internal__.distribute.interim.maybe_merge_call(update, strategy, variables)

    # --- a Keras optimizer around another (as keras.optimizers.LossScaleOptimizer) --------------

    def build(self, variables):
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            self.build(trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)

    @property
    def variables(self):
        return self.inner_optimizer.variables

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.inner_optimizer.learning_rate = value

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        return {
            "optimizer": tf.keras.optimizers.serialize(self.inner_optimizer),
            "format": self.format.spec,
            "rounding": self.rounding.value,
            "slot_format": None if self.slot_format is None else self.slot_format.spec,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["optimizer"] = tf.keras.optimizers.deserialize(
            config["optimizer"], custom_objects=custom_objects
        )
        for name in ("format", "slot_format"):
            if config[name] is not None:
                config[name] = formats.parse_spec(config[name])
        return cls(**config)
