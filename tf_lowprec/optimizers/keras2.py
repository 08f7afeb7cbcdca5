"""LowPrecision around an optimizer of Keras 2 or of tensorflow-addons."""

import tensorflow as tf

from tf_lowprec.optimizers.update import Update, check_inner, parse_config

_Legacy = tf.keras.optimizers.legacy.Optimizer


class _Variables(list):
    """Both `optimizer.variables` and `optimizer.variables()` are in use in Keras 2."""

    def __call__(self):
        return self


class Implementation(tf.keras.optimizers.Optimizer):
    # Of LowPrecision, in low_precision.py.
    #
    # Optimizers of Keras 2 change weights inside fused ops, so the step is what they changed:
    # fl(w + s) - w, which is s up to half a float32 ulp of w.

    def __init__(
        self, optimizer, format, rounding="stochastic", slot_format=None, seed=None, name=None
    ):
        optimizer = check_inner(optimizer, Implementation)
        update = Update.of(format, rounding, slot_format, seed)
        inner_name = getattr(optimizer, "name", None) or optimizer._name
        super().__init__(name=name or f"low_precision_{inner_name}")
        self.inner_optimizer, self.update = optimizer, update
        optimizer._low_precision = True

    def build(self, var_list):
        if isinstance(self.inner_optimizer, _Legacy):
            self.inner_optimizer._create_all_weights(var_list)
        else:
            self.inner_optimizer.build(var_list)
        self._built = True

    def apply_gradients(
        self, grads_and_vars, name=None, skip_gradients_aggregation=False, **kwargs
    ):
        grads_and_vars = [(g, v) for g, v in grads_and_vars if g is not None]
        variables = [v for _, v in grads_and_vars]
        if not getattr(self, "_built", False):
            with tf.init_scope():
                self.build(variables)
        iteration = tf.identity(self.inner_optimizer.iterations)
        old = [tf.identity(v) for v in variables]
        if skip_gradients_aggregation:
            legacy = isinstance(self.inner_optimizer, _Legacy)
            key = "experimental_aggregate_gradients" if legacy else "skip_gradients_aggregation"
            kwargs[key] = not legacy
        done = self.inner_optimizer.apply_gradients(grads_and_vars, name=name, **kwargs)
        context = tf.distribute.get_replica_context()
        context.merge_call(self._round, args=(variables, old, iteration))
        return done

    def _round(self, strategy, variables, old, iteration):
        """In cross-replica context: every replica rounds its copy, all with the same numbers."""

        def weight(variable, old, iteration, index):
            variable.assign(self.update.weight(old, variable - old, iteration, index))

        def slot(variable, iteration, index):
            variable.assign(self.update.slot(tf.identity(variable), iteration, index))

        for index, (variable, value) in enumerate(zip(variables, old)):
            strategy.extended.update(variable, weight, args=(value, iteration, index), group=False)
        for index, variable in enumerate(self.inner_optimizer.variables()):
            if self.update.rounds_slot(variable):
                strategy.extended.update(variable, slot, args=(iteration, index), group=False)

    def exclude_from_weight_decay(self, *args, **kwargs):
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    # A Keras 2 optimizer around another. Its own iterations and learning rate are not used.

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @iterations.setter
    def iterations(self, variable):
        self.inner_optimizer.iterations = variable

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.inner_optimizer.learning_rate = value

    lr = learning_rate

    @property
    def variables(self):
        return _Variables(self.inner_optimizer.variables())

    def get_config(self):
        inner = tf.keras.optimizers.serialize(self.inner_optimizer)
        legacy = isinstance(self.inner_optimizer, _Legacy)
        config = {"optimizer": inner, "legacy": legacy, "name": self.name}
        return {**config, **self.update.get_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        legacy = config.pop("legacy")

        def deserialize(inner):
            return tf.keras.optimizers.deserialize(
                inner, custom_objects=custom_objects, use_legacy_optimizer=legacy
            )

        return cls(**parse_config(config, deserialize))
