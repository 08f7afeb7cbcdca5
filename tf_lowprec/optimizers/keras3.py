"""LowPrecision around an optimizer of Keras 3."""

import tensorflow as tf

from tf_lowprec.optimizers.update import Update, check_inner, parse_config


def _tf_variable(variable):
    """The tf.Variable inside a Keras 3 variable; any other as it is."""
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


class Implementation(tf.keras.optimizers.Optimizer):
    # Of LowPrecision, in low_precision.py.

    def __init__(
        self, optimizer, format, rounding="stochastic", slot_format=None, seed=None, name=None
    ):
        optimizer = check_inner(optimizer, Implementation)
        update = Update.of(format, rounding, slot_format, seed)
        # Nothing of the base class' own state is used: learning rate and iterations are inside.
        super().__init__(learning_rate=0.0, name=name or f"low_precision_{optimizer.name}")
        self.inner_optimizer, self.update = optimizer, update
        self._slot_indices = {}
        optimizer._low_precision = True
        # Keras's optimizers write weights and slots through these three methods.
        optimizer.assign = self._assign
        optimizer.assign_add = lambda variable, value: self._step(variable, value, 1)
        optimizer.assign_sub = lambda variable, value: self._step(variable, value, -1)
        optimizer._apply_weight_decay = self._apply_weight_decay

    def _index(self, variable):
        """(whether it is a weight, its index)."""
        key = self.inner_optimizer._var_key(variable)
        weights = self.inner_optimizer._trainable_variables_indices
        if key in weights:
            return True, weights[key]
        if key not in self._slot_indices:
            self._slot_indices = {
                self.inner_optimizer._var_key(v): i
                for i, v in enumerate(self.inner_optimizer.variables)
            }
        return False, self._slot_indices[key]

    def _write(self, variable, value):
        _tf_variable(variable).assign(tf.cast(value, variable.dtype))

    def _step(self, variable, value, sign, is_decay=False):
        step = sign * tf.cast(tf.convert_to_tensor(value), tf.float32)  # IndexedSlices: dense
        is_weight, index = self._index(variable)
        old = tf.convert_to_tensor(variable)
        if is_weight:
            new = self.update.weight(old, step, self.iterations, index, is_decay)
            self._write(variable, new)
        else:
            self._assign(variable, old + step)

    def _assign(self, variable, value):
        is_weight, index = self._index(variable)
        value = tf.convert_to_tensor(value)
        if is_weight:
            self._step(variable, value - tf.convert_to_tensor(variable), 1)
        elif self.update.rounds_slot(value):
            self._write(variable, self.update.slot(value, self.iterations, index))
        else:
            self._write(variable, value)

    def _apply_weight_decay(self, variables):
        inner = self.inner_optimizer
        if inner.weight_decay is None:
            return

        def decay(variable):
            if inner._use_weight_decay(variable):
                rate = tf.cast(inner.learning_rate, variable.dtype) * inner.weight_decay
                self._step(variable, variable * rate, -1, is_decay=True)

        def update(strategy, variables):
            for variable in variables:
                strategy.extended.update(_tf_variable(variable), decay, group=False)

        strategy = inner._distribution_strategy
        tf.__internal__.distribute.interim.maybe_merge_call(update, strategy, variables)

    # A Keras optimizer around another, as keras.optimizers.LossScaleOptimizer is one.

    def build(self, variables):
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            if trainable_variables is None:
                raise ValueError(
                    "trainable_variables = None must be given at the first call of apply, or to "
                    "build before it"
                )
            self.build(trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)
        self._round_constrained(trainable_variables)

    def _round_constrained(self, variables):
        """Q(w) of weights with a constraint, which Keras applies last."""
        if variables is None:
            variables = self._trainable_variables
        for variable in variables:
            if getattr(variable, "constraint", None) is not None:
                self._write(variable, self.update.constrained(tf.convert_to_tensor(variable)))

    def exclude_from_weight_decay(self, *args, **kwargs):
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

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

    @property
    def loss_scale_factor(self):
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value):
        # Keras's LossScaleOptimizer sets None here, so that gradients are divided only once.
        if hasattr(self, "inner_optimizer"):  # not yet in the base class' __init__
            self.inner_optimizer.loss_scale_factor = value

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        inner = tf.keras.optimizers.serialize(self.inner_optimizer)
        return {"optimizer": inner, "name": self.name, **self.update.get_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(
            **parse_config(
                config,
                lambda c: tf.keras.optimizers.deserialize(c, custom_objects=custom_objects),
            )
        )
