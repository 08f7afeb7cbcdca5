"""What the low-precision layers add to their stock Keras parents: all of it is here."""

import tensorflow as tf

from tf_lowprec._keras import KERAS_3, deserialize_keras_object, serialize_keras_object
from tf_lowprec.layers.seed_state import make_seed_state, next_seed
from tf_lowprec.ops.bias import add_bias
from tf_lowprec.ops.errors import round_error
from tf_lowprec.ops.quantize import quantize, round_to
from tf_lowprec.ops.seeds import fold_in_replica
from tf_lowprec.ops.streams import Stream
from tf_lowprec.precision import Policy, as_policy

# On the grid where their input is, so they need no rounding of their own.
_EXACT_ACTIVATIONS = (tf.keras.activations.linear, tf.keras.activations.relu)


class OnGrid(tf.keras.initializers.Initializer):
    """The values of another initializer, rounded to nearest even in `format`."""

    def __init__(self, initializer, format):
        self.initializer, self.format = tf.keras.initializers.get(initializer), format

    def __call__(self, shape, dtype=None, **kwargs):
        return quantize(self.initializer(shape, dtype, **kwargs), self.format)


class PrecisionLayer:
    """Mixin before a Keras layer: a precision policy, its random seeds, its serialization.

    A layer computes, with each rounding as its policy says:
    ``GEMM -> round -> + bias -> round -> activation -> round``.

    Args:
        precision: a Policy, or a Gemm for all three passes. Default: Policy.float32(), under which
            the layer is its parent, bit for bit.
        seed: integer from which the layer's stochastic roundings are drawn. Default: drawn by
            Python's `random`, which keras.utils.set_random_seed sets.
    """

    def __init__(self, *args, precision=None, seed=None, **kwargs):
        self_precision = Policy.float32() if precision is None else as_policy(precision)
        if not self_precision.is_native:
            kwargs.setdefault("autocast", False)  # float32 inside, whatever Keras's dtype policy
        super().__init__(*args, **kwargs)
        self.precision = self_precision
        self.seed = seed
        self._seed_state = None
        if not self_precision.is_native:
            self.supports_jit = False  # our ops have no XLA kernels
            if getattr(self, "data_format", "channels_last") != "channels_last":
                raise ValueError(
                    f"data_format = {self.data_format!r} must be 'channels_last' under a "
                    "low-precision policy"
                )
            if getattr(self, "lora_rank", None):
                raise ValueError(
                    f"lora_rank = {self.lora_rank} must be None under a low-precision policy"
                )

    def build(self, input_shape):
        super().build(input_shape)
        # Made here, not at the first call: under a tf.distribute strategy that would be too late.
        if self.precision.is_stochastic and self._seed_state is None:
            self._seed_state = make_seed_state(self.seed)

    def add_weight(self, *args, **kwargs):
        if not self.precision.is_native:
            kwargs["autocast" if KERAS_3 else "experimental_autocast"] = False
        format = self.precision.weights
        if format is not None and kwargs.get("initializer") is not None:
            kwargs["initializer"] = OnGrid(kwargs["initializer"], format)
        return super().add_weight(*args, **kwargs)

    def _low_precision_call(self, inputs, product, training):
        """The layer's computation around product(inputs, kernel, policy, seed)."""
        policy = self.precision if training else self.precision.for_inference()
        if policy.is_stochastic:
            seed = fold_in_replica(next_seed(self._seed_state))
        else:
            seed = tf.constant([0, 0], tf.int32)
        y = product(tf.cast(inputs, tf.float32), tf.convert_to_tensor(self.kernel), policy, seed)
        if self.use_bias:
            bias = tf.convert_to_tensor(self.bias)
            y = add_bias(y, bias, policy, policy.forward.output, seed)
        elif policy.forward.output != policy.activations:
            y = round_to(y, policy.activations, policy.rounding, seed, Stream.BIAS)
        y = round_error(y, policy.errors, policy.rounding, seed, Stream.ERROR)
        if self.activation is not None:
            y = self.activation(y)
            rounded = self.activation is not tf.keras.activations.softmax
            if rounded and self.activation not in _EXACT_ACTIVATIONS:
                y = round_to(y, policy.activations, policy.rounding, seed, Stream.ACTIVATION)
        return tf.cast(y, self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        config["precision"] = serialize_keras_object(self.precision)
        config["seed"] = self.seed
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("precision"), dict):
            config["precision"] = deserialize_keras_object(config["precision"])
        return super().from_config(config)
