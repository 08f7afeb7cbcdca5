"""What lp.layers.LSTM and GRU share: a stock layer around a cell of ours."""

import tensorflow as tf

from tf_lowprec._keras import KERAS_3, compute_in_float32
from tf_lowprec.layers.precision_layer import PrecisionLayer, activate, affine
from tf_lowprec.ops.matmul import matmul
from tf_lowprec.ops.quantize import round_to
from tf_lowprec.ops.seeds import nth
from tf_lowprec.ops.streams import Stream


def _product(x, kernel, policy, seed):
    return matmul(x, kernel, policy, seed=seed)


class Step:
    """The arithmetic of one call of a cell: a policy, and a seed of its own for each rounding."""

    def __init__(self, policy, seed):
        self.policy, self.seed, self._count = policy, seed, 0

    def _next_seed(self):
        self._count += 1
        return nth(self.seed, self._count)

    def affine(self, x, kernel, bias=None):
        """round(round(x . kernel) + bias)."""
        return affine(x, kernel, bias, _product, self.policy, self._next_seed())

    def round(self, x):
        """`x` in the activations' format."""
        policy = self.policy
        return round_to(
            x, policy.activations, policy.rounding, self._next_seed(), Stream.ACTIVATION
        )

    def _exact(self, x):
        """In float64, where sums and products of float32 are rounded to the format only once."""
        return x if self.policy.activations is None else tf.cast(x, tf.float64)

    def activate(self, activation, x):
        return activate(x, activation, self.policy, self._next_seed())

    def add(self, a, b):
        return self.round(self._exact(a) + self._exact(b))

    def multiply(self, a, b):
        return self.round(self._exact(a) * self._exact(b))


class PrecisionCell(PrecisionLayer):
    """Mixin before a Keras recurrent cell, whose inputs are the projected ones of `project`."""

    @classmethod
    def adopt(cls, cell, layer):
        """Turns the stock cell that a Keras layer made into one of ours.

        It keeps its state, weights and configuration, and gets other methods: Keras's layers take
        no cell.
        """
        if cell.recurrent_dropout:
            raise ValueError(
                f"recurrent_dropout = {cell.recurrent_dropout} must be 0 under a low-precision "
                "policy: it needs a product for each gate; use dropout"
            )
        cell.__class__ = cls
        cell.dropout_mask_count = None  # one mask for all gates, whatever `implementation`
        cell.precision, cell.seed, cell._seed_state = layer.precision, layer.seed, None
        cell._leave_keras_precision()
        compute_in_float32(cell)  # or mixed precision would round the states at each step

    def get_initial_state(self, *args, **kwargs):
        # Keras 2 asks for the dtype of the outer layer.
        states = super().get_initial_state(*args, **kwargs)
        return tf.nest.map_structure(lambda state: tf.cast(state, tf.float32), states)

    def step(self, training):
        return Step(*self._policy_and_seed(training))

    def input_bias(self):
        """The bias of the projection, or None."""
        return self.bias if self.use_bias else None

    def project(self, sequences, training):
        """``round(round(x . kernel) + bias)`` of all steps: ``[B, T, in]`` to ``[B, T, n]``."""
        sequences = tf.cast(sequences, tf.float32)
        if training and self.dropout:
            first = sequences[:, 0]
            if KERAS_3:
                mask = self.get_dropout_mask(first)
            else:
                mask = self.get_dropout_mask_for_cell(first, training, count=1)
            sequences = sequences * tf.cast(mask, tf.float32)[:, None]
        return self.step(training).affine(sequences, self.kernel, self.input_bias())


class PrecisionRecurrent(PrecisionLayer):
    """Mixin before keras.layers.LSTM or GRU; `_cell_class` is the PrecisionCell to use.

    The projections of all time steps are one product, so that its GRAD sums over B and T; the
    recurrent product is taken at each step, its GRAD sums over B, and the steps' results are added
    in float32. Dropout drops the same inputs for all gates.
    """

    _cell_class: type | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.precision.is_native:
            self._cell_class.adopt(self.cell, self)
            self.use_cudnn = False

    def build(self, sequences_shape, initial_state_shape=None):
        if not self.precision.is_native:
            self.cell._make_seed_state()
        if all(size is None or isinstance(size, int) for size in sequences_shape):
            # A list when it comes from a .keras file, and several shapes to Keras 2's RNN.
            sequences_shape = tuple(sequences_shape)
        super().build(sequences_shape)

    def _make_seed_state(self):
        """The cell has it."""

    def _forward_lengths(self, input_shape):
        return [self.cell.kernel.shape[0], self.cell.recurrent_kernel.shape[0]]

    def _process_inputs(self, *args, **kwargs):
        # Keras 2 casts the states of a stateful layer to the layer's dtype.
        inputs, states, constants = super()._process_inputs(*args, **kwargs)
        if not self.precision.is_native:
            states = tf.nest.map_structure(lambda state: tf.cast(state, tf.float32), states)
        return inputs, states, constants

    def call(self, sequences, initial_state=None, mask=None, training=None):
        arguments = {"initial_state": initial_state, "mask": mask, "training": training}
        if self.precision.is_native:
            return super().call(sequences, **arguments)
        if isinstance(sequences, tf.RaggedTensor):
            raise ValueError(
                "sequences are ragged; they must be dense under a low-precision policy: "
                "sequences.to_tensor(), and a mask"
            )
        if isinstance(sequences, (list, tuple)):  # so Keras 2 passes symbolic initial states
            sequences, *arguments["initial_state"] = sequences
        projected = self.cell.project(sequences, training)
        # Not super(): Keras 2's LSTM and GRU have kernels of their own there.
        outputs = tf.keras.layers.RNN.call(self, projected, **arguments)
        return tf.nest.map_structure(lambda y: tf.cast(y, self.compute_dtype), outputs)
