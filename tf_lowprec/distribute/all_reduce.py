"""lp.distribute.AdaCompAllReduce: the cross-device op that compresses gradients."""

import tensorflow as tf

from tf_lowprec.distribute import _tf_private
from tf_lowprec.distribute.residue import GradientState, GradientStates
from tf_lowprec.distribute.settings import AdaComp
from tf_lowprec.distribute.statistics import statistics_of
from tf_lowprec.ops.adacomp import adacomp_decode, adacomp_encode, is_skip, sent_elements


class AdaCompAllReduce(tf.distribute.CrossDeviceOps):
    """Reduces gradients as AdaComp packets: Chen et al., "AdaComp", AAAI 2018.

        ``strategy = tf.distribute.MirroredStrategy(cross_device_ops=AdaCompAllReduce())``

    Each replica encodes its gradient with its own residue; the packets go to all replicas, which
    decode and add them in the replicas' order, so that all have the same bits. It works with
    Keras's ``fit`` and with custom loops that use a Keras optimizer.

    Only gradients that a Keras optimizer reduces are compressed, and only those of dense float32
    tensors of at least ``min_elements``. All else (other reductions, such as those of
    SyncBatchNormalization and metrics; IndexedSlices; small, excluded and non-trainable variables)
    goes through `dense`. Under one replica there is nothing to reduce.

    If a replica's gradient is not finite, no residue of that step's gradients changes on any
    replica, and the reduced gradient is NaN on all of them, so that loss scaling sees it.

    With Keras 3 the first one to be made installs hooks on Keras's optimizers, which act only
    under a strategy whose cross-device op is of this class (docs/adacomp.md).

    `state` is trackable: ``tf.train.Checkpoint(model=model, adacomp=all_reduce.state)`` saves the
    residues.

    Args:
        compression: an AdaComp. None: made of `settings`.
        dense: the tf.distribute.CrossDeviceOps for all that is not compressed. None: NCCL where
            all devices are GPUs, else ReductionToOneDevice.
        settings: arguments of AdaComp, instead of `compression`.

    Raises:
        ValueError: a wrong argument; at the first step, an optimizer's setting that cannot work
            (gradient accumulation and EMA overwriting in Keras 3, XLA).
    """

    def __init__(self, compression=None, dense=None, **settings):
        super().__init__()
        if compression is not None and settings:
            raise ValueError(
                f"compression = {compression!r} and {sorted(settings)} cannot both be given: put "
                "them into AdaComp(...)"
            )
        compression = AdaComp(**settings) if compression is None else compression
        if not isinstance(compression, AdaComp):
            raise ValueError(
                f"compression = {compression!r} must be a tf_lowprec.distribute.AdaComp"
            )
        if dense is not None and not isinstance(dense, tf.distribute.CrossDeviceOps):
            raise ValueError(f"dense = {dense!r} must be a tf.distribute.CrossDeviceOps or None")
        self.compression = compression
        self._dense = dense
        self._names, self._warned, self.state = {}, set(), GradientStates()
        _tf_private.install_gradient_hook(_acts)
        _tf_private.install_part_hooks()

    @property
    def states(self):
        """The GradientStates of living variables, in the order in which these appeared."""
        return list(self.state)

    def statistics(self):
        """What was sent since the last reset, as Statistics: read from the packets."""
        return statistics_of(self.states)

    def reset_statistics(self):
        """Sets what `statistics` counts back to 0."""
        for state in self.states:
            state.counters.reset()

    def reset_residues(self):
        """Sets the residues to 0, as for weights that they do not belong to: loaded ones."""
        for state in self.states:
            for residue in state.residues:
                residue.assign(tf.zeros_like(residue))

    def check_optimizer(self, optimizer):
        """Notes the paths of a Keras 3 optimizer's variables; refuses what cannot work."""
        accumulation = getattr(optimizer, "gradient_accumulation_steps", None)
        if accumulation:
            raise ValueError(
                f"gradient_accumulation_steps = {accumulation} of {optimizer.name} must be None "
                "under a tf.distribute strategy: Keras would reduce gradients inside a condition, "
                "where TensorFlow cannot. Use larger batches"
            )
        if getattr(optimizer, "use_ema", False) and optimizer.ema_overwrite_frequency:
            raise ValueError(
                f"ema_overwrite_frequency = {optimizer.ema_overwrite_frequency} of "
                f"{optimizer.name} must be None under a tf.distribute strategy: Keras would "
                "overwrite the weights inside a condition, where TensorFlow cannot"
            )
        self._names.update(_tf_private.names_of_variables(optimizer))

    def all_true(self, flags):
        """Whether the bools of all replicas are true: one for each replica."""
        with tf.device("CPU:0"):
            every = tf.reduce_all(tf.stack(list(flags)))
        return [tf.identity(every) for _ in flags]

    # tf.distribute.CrossDeviceOps

    def reduce_implementation(self, reduce_op, per_replica_value, destinations, options):
        dense = self._dense_for(per_replica_value)
        return dense.reduce_implementation(reduce_op, per_replica_value, destinations, options)

    def batch_reduce_implementation(self, reduce_op, value_destination_pairs, options):
        pairs = list(value_destination_pairs)
        known = len(self.states)
        states = [self._state_of(value, variable) for value, variable in pairs]
        if len(self.states) > known:
            self.compression.warn_of_unmatched([s.name for s in self.states], self._warned)
        chosen = [i for i, (value, _) in enumerate(pairs) if is_compressed(states[i], value.values)]
        others = [i for i in range(len(pairs)) if i not in set(chosen)]
        results, all_finite = [None] * len(pairs), tf.constant(True)
        if others:
            for i, result in zip(others, self._reduce_densely(reduce_op, pairs, others, options)):
                results[i] = result
                if states[i] is not None:
                    values = pairs[i][0].values
                    finite = is_finite(result.values[0])
                    all_finite = tf.logical_and(all_finite, finite)
                    count_dense(states[i], values, finite)
        if chosen:
            self._refuse_xla()
            reduced = self._reduce_chosen(reduce_op, pairs, states, chosen, all_finite, options)
            for i, result in zip(chosen, reduced):
                results[i] = result
        return results

    def broadcast_implementation(self, tensor, destinations):
        return self._dense_for(destinations).broadcast_implementation(tensor, destinations)

    def _gather_implementation(self, per_replica_value, destinations, axis, options):
        dense = self._dense_for(per_replica_value)
        return dense._gather_implementation(per_replica_value, destinations, axis, options)

    def _refuse_xla(self):
        if _tf_private.compiles_for_xla():
            raise ValueError(
                "jit_compile = True must be False under AdaCompAllReduce: its ops have no XLA "
                "kernels, nor does XLA compile a step with variables on several devices"
            )

    # Which gradients

    def _dense_for(self, values):
        if self._dense is None:
            devices = [getattr(v, "device", "") or "" for v in getattr(values, "values", [])]
            gpus = bool(devices) and all("GPU" in device for device in devices)
            self._dense = (
                tf.distribute.NcclAllReduce() if gpus else tf.distribute.ReductionToOneDevice()
            )
        return self._dense

    def _state_of(self, value, variable):
        """The state of the variable whose gradient this is; None if it is no such gradient."""
        copies = getattr(variable, "values", None)  # a plain variable has none
        if not isinstance(variable, tf.Variable) or copies is None or not variable.trainable:
            return None
        state = self.state.get(variable)
        if state is None:
            key = _tf_private.variable_key(variable)
            name = self._names.get(key, variable.name.split(":")[0])
            bin_size = None
            if all(is_compressible(v) for v in value.values):
                bin_size = self.compression.bin_size_for(name, variable.shape)
            devices = [copy.device for copy in copies]
            state = GradientState(name, variable.shape, devices, bin_size)
            self.state.add(variable, state)
        return state

    # How they are reduced

    def _reduce_densely(self, reduce_op, pairs, indices, options):
        dense = self._dense_for(pairs[indices[0]][0])
        return dense.batch_reduce(reduce_op, [pairs[i] for i in indices], options)

    def _reduce_chosen(self, reduce_op, pairs, states, chosen, others_finite, options):
        chosen_states = [states[i] for i in chosen]

        def compressed():
            gradients = [pairs[i][0].values for i in chosen]
            return self._reduce_compressed(reduce_op, gradients, chosen_states, others_finite)

        def dense():
            reduced = self._reduce_densely(reduce_op, pairs, chosen, options)
            for i, result in zip(chosen, reduced):
                count_dense(states[i], pairs[i][0].values, is_finite(result.values[0]))
            return [[tf.identity(t) for t in result.values] for result in reduced]

        if self.compression.warmup_steps == 0:
            reduced = compressed()
        else:
            warm = is_warming_up(chosen_states, self.compression.warmup_steps)
            reduced = tf.cond(warm, dense, compressed)
        for state in chosen_states:
            state.steps.assign_add(1)
        return [_tf_private.mirrored(tensors) for tensors in reduced]

    def _reduce_compressed(self, reduce_op, gradients, states, others_finite):
        """Per variable, the reduced gradient on each replica; residues and counters go on.

        others_finite: whether the step's other gradients are: the optimizer may skip it if not.
        """
        encoded = [
            [
                self._encode(gradient, residue, state)
                for gradient, residue in zip(parts, state.residues)
            ]
            for parts, state in zip(gradients, states)
        ]
        skips = [tf.stack([is_skip(packet) for packet, _ in parts]) for parts in encoded]
        any_skip = tf.logical_not(others_finite) | tf.reduce_any(tf.concat(skips, 0))

        def keep_what_was_not_sent():
            for parts, state in zip(encoded, states):
                for (_, new_residue), residue in zip(parts, state.residues):
                    with tf.device(residue.device):
                        residue.assign(new_residue)
            return tf.constant(True)

        tf.cond(any_skip, lambda: tf.constant(False), keep_what_was_not_sent)
        reduced = []
        for parts, state, skip in zip(encoded, states, skips):
            packets = [packet for packet, _ in parts]
            state.counters.add(
                steps=1,
                gradients=len(packets),
                compressed=len(packets),
                bytes=4 * tf.add_n([tf.size(packet, tf.int64) for packet in packets]),
                sent=tf.add_n([sent_elements(packet) for packet in packets]),
                skipped=tf.reduce_any(skip),
            )
            tensors = []
            for residue in state.residues:
                with tf.device(residue.device):
                    total = tf.reshape(adacomp_decode(packets, state.num_elements), state.shape)
                    if reduce_op == tf.distribute.ReduceOp.MEAN:
                        total /= len(packets)
                    tensors.append(total)
            reduced.append(tensors)
        return reduced

    def _encode(self, gradient, residue, state):
        with tf.device(residue.device):
            return adacomp_encode(
                tf.reshape(gradient, [-1]),
                residue,
                state.bin_size,
                self.compression.encoding,
                self.compression.soft_threshold,
            )


def is_compressible(gradient):
    return not isinstance(gradient, tf.IndexedSlices) and gradient.dtype == tf.float32


def is_compressed(state, gradients):
    """Whether the replicas' gradients of a variable, whose state this is, are compressed."""
    compresses = state is not None and state.bin_size is not None
    return compresses and all(is_compressible(gradient) for gradient in gradients)


def is_warming_up(states, warmup_steps):
    """Whether one of the variables is in its first steps."""
    return tf.reduce_min(tf.stack([state.steps for state in states])) < warmup_steps


def count_dense(state, gradients, finite):
    """Counts a step in which the replicas' gradients of a variable went as they are."""
    state.counters.add(
        steps=1,
        gradients=len(gradients),
        bytes=sum(map(dense_bytes, gradients)),
        skipped=tf.logical_not(finite),
    )


def is_finite(reduced):
    """Whether a reduced gradient is; where one replica's is not, the sum is not either."""
    values = reduced.values if isinstance(reduced, tf.IndexedSlices) else reduced
    if not values.dtype.is_floating:
        return tf.constant(True)
    return tf.reduce_all(tf.math.is_finite(values))


def dense_bytes(value):
    """The bytes of one replica's gradient as it is."""
    if isinstance(value, tf.IndexedSlices):
        return dense_bytes(value.values) + dense_bytes(value.indices)
    return tf.size(value, tf.int64) * value.dtype.size


def _acts(strategy, optimizer):
    """Whether a Keras 3 optimizer's gradients are to be reduced to their variables."""
    all_reduce = _tf_private.cross_device_ops_of(strategy)
    if not isinstance(all_reduce, AdaCompAllReduce) or strategy.num_replicas_in_sync == 1:
        return False
    all_reduce.check_optimizer(optimizer)
    return True
