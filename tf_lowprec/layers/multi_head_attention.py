"""lp.layers.MultiHeadAttention."""

import tensorflow as tf

from tf_lowprec._keras import compute_in_float32, replace_sublayer, serialize_keras_object
from tf_lowprec.layers.einsum_dense import EinsumDense
from tf_lowprec.layers.precision_layer import PrecisionLayer, affine
from tf_lowprec.ops.einsum import einsum
from tf_lowprec.ops.seeds import nth

_PROJECTIONS = ("_query_dense", "_key_dense", "_gate_dense", "_value_dense", "_output_dense")


@tf.keras.utils.register_keras_serializable("tf_lowprec")
class MultiHeadAttention(PrecisionLayer, tf.keras.layers.MultiHeadAttention):
    """keras.layers.MultiHeadAttention with its projections and inner products under a policy.

    Takes the arguments of keras.layers.MultiHeadAttention, and `precision` and `seed` (see
    PrecisionLayer). The projections are EinsumDense layers under the same policy. For the inner
    products, per batch entry and head:

    - ``scores = query . key^T`` after query is divided by sqrt(key_dim): FWD sums over key_dim,
      BWD (the gradient of query) over the S keys, GRAD (that of key) over the T queries.
    - ``softmax(scores) . value``: FWD sums over S, BWD (of the scores) over value_dim, GRAD (of
      value) over T.

    The softmax, and the product with the gate if there is one, are in float32.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.precision.is_native and getattr(self, "_flash_attention", None):
            raise ValueError(
                "flash_attention = True must be None or False under a low-precision policy: its "
                "kernels have their own arithmetic"
            )

    def build(self, query_shape, value_shape=None, key_shape=None):
        # Keras 3 makes the projections here, and reads the arguments' names.
        shapes = [s for s in (query_shape, value_shape, key_shape) if s is not None]
        super().build(*shapes)
        self._lower_projections()

    def _check_lengths(self, input_shape):
        self.precision.for_activations().forward.check_length(self._key_dim)

    def _build_from_signature(self, *args, **kwargs):
        # Keras 2 makes them here.
        super()._build_from_signature(*args, **kwargs)
        self._lower_projections()

    def _lower_projections(self):
        """Puts EinsumDense layers of ours in place of Keras's."""
        if self.precision.is_native or not hasattr(self, "_query_dense"):
            return  # Keras 2 has none when it builds the layer
        for layer in (self._softmax, self._dropout_layer):
            compute_in_float32(layer)
        for index, name in enumerate(_PROJECTIONS):
            stock = getattr(self, name, None)
            if stock is None or isinstance(stock, EinsumDense):
                continue
            config = {
                **stock.get_config(),
                "precision": serialize_keras_object(self.precision),
                # Equal seeds would round query and key by the same random numbers.
                "seed": None if self.seed is None else self.seed + index + 1,
            }
            if name != "_output_dense":
                config["dtype"] = "float32"
            layer = EinsumDense.from_config(config)
            if stock.built:
                layer.build_from_config(stock.get_build_config())
            replace_sublayer(self, name, layer)

    def _compute_attention(
        self, query, key, value, attention_mask=None, training=None, *args, **kwargs
    ):
        if self.precision.is_native:
            return super()._compute_attention(
                query, key, value, attention_mask, training, *args, **kwargs
            )
        policy, seed = self._policy_and_seed(training)
        policy = policy.for_activations()
        query = tf.cast(query, tf.float32) * self._key_dim**-0.5
        scores = self._inner_product(
            self._dot_product_equation, query, key, policy, nth(seed, 0), swapped=True
        )
        scores = self._masked_softmax(scores, attention_mask)
        kept = self._dropout_layer(scores, training=training)
        output = self._inner_product(self._combine_equation, kept, value, policy, nth(seed, 1))
        return output, tf.cast(scores, self.compute_dtype)

    def _inner_product(self, equation, lhs, rhs, policy, seed, swapped=False):
        """lhs . rhs; `swapped`: Keras's equation has them the other way round."""
        if swapped:
            operands, result = equation.split("->")
            equation = ",".join(reversed(operands.split(","))) + "->" + result

        def product(lhs, rhs, policy, seed):
            return einsum(equation, lhs, rhs, policy, seed=seed)

        return affine(lhs, tf.cast(rhs, tf.float32), None, product, policy, seed)
