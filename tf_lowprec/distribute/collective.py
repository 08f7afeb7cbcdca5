"""The cross-device op of several workers: packets, small tensors and statistics in one exchange."""

import tensorflow as tf

from tf_lowprec.distribute import _tf_private
from tf_lowprec.distribute.all_reduce import (
    AdaCompAllReduce,
    count_dense,
    dense_bytes,
    is_compressed,
    is_compressible,
    is_finite,
    is_warming_up,
)
from tf_lowprec.distribute.collectives import Collectives
from tf_lowprec.distribute.exchange import Exchange
from tf_lowprec.distribute.settings import AdaComp
from tf_lowprec.ops.adacomp import adacomp_decode, is_skip, sent_elements

# Smaller tensors go with the packets, up to so many bytes of them in all. An all-gather sends them
# to each other replica, but saves a whole all-reduce.
FUSED_BYTES = 65536


class CollectiveAdaComp(AdaCompAllReduce):
    """Reduces gradients over workers, as AdaComp packets or dense, in one exchange per step.

    Args:
        compression: an AdaComp, or None: all gradients go dense.
        collective: TensorFlow's CollectiveAllReduce, which moves the bytes.
        options: tf.distribute.experimental.CommunicationOptions.
        first_replica: the number of the first local replica among all.
        take_statistics: a function that returns the variables whose mean over the replicas is to
            be taken along with the gradients of this step.
    """

    def __init__(self, compression, collective, options, first_replica, take_statistics):
        self.compresses = compression is not None
        super().__init__(compression or AdaComp(exclude=""), collective)
        self._first_replica, self._take_statistics = first_replica, take_statistics
        self._default_options = options
        self._exchanges, self._functions = {}, {}
        self._collectives = Collectives(collective)
        self.replicas = self._collectives.replicas
        self.local_replicas = self._collectives.local_replicas
        self._all_reduces = _tf_private.plain_zeros([3], tf.float64, "all_reduces", "CPU:0")

    @property
    def _num_between_graph_workers(self):
        return self.replicas // self.local_replicas  # tf.distribute.CrossDeviceOps asks

    def _all_reduce(self, reduce_op, value, replica_id, options):
        # ReplicaContext.all_reduce of what is no gradient; tf.distribute calls this.
        return _tf_private.all_reduce(self._dense, reduce_op, value, replica_id, options)

    def communication(self):
        """What this worker exchanged for gradients since the start: a dict.

        ``exchanges``, all-gathers of packets; ``second``, those that needed a second one;
        ``all_reduces``, dense ones; ``bytes``, this worker's own part, padded, that an exchange
        or an all-reduce starts from; ``seconds`` in them, waiting for the others included.
        """
        number, size, seconds = self._all_reduces.numpy().tolist()
        total = {"exchanges": 0, "second": 0, "all_reduces": int(number), "bytes": int(size)}
        total["seconds"] = seconds
        for exchange in self._exchanges.values():
            counts = exchange.counts()
            for key in ("exchanges", "second", "seconds"):
                total[key] += counts[key]
            total["bytes"] += 4 * counts["words"]
        return total

    def all_true(self, flags):
        """Whether the bools of all replicas are true: one for each local replica, in a graph."""
        options = self._default_options
        false = [tf.cast(tf.logical_not(flag), tf.int32) for flag in flags]
        return [tf.equal(total, 0) for total in self._collectives.sum(false, options)]

    # tf.distribute.CrossDeviceOps

    def batch_reduce_implementation(self, reduce_op, value_destination_pairs, options):
        pairs = list(value_destination_pairs)
        known = len(self.states)
        states = [self._state_of(value, variable) for value, variable in pairs]
        if self.compresses and len(self.states) > known:
            self.compression.warn_of_unmatched([s.name for s in self.states], self._warned)
        if all(state is None for state in states):
            return self._dense.batch_reduce(reduce_op, pairs, options)
        self._refuse_xla()
        statistics = self._take_statistics()

        def reduce(values):
            return self._reduce_gradients(reduce_op, values, states, statistics, options)

        values = [value.values for value, _ in pairs]
        if tf.executing_eagerly():
            # Collectives of several devices must be launched together, which eager code does not.
            variables = [*(destination for _, destination in pairs), *statistics]
            key = (reduce_op, *map(_tf_private.variable_key, variables))
            if key not in self._functions:
                self._functions[key] = tf.function(reduce, reduce_retracing=True)
            reduce = self._functions[key]
        return [_tf_private.mirrored(tensors) for tensors in reduce(values)]

    # How they are reduced

    def _reduce_gradients(self, reduce_op, values, states, statistics, options):
        """Per value, the reduced tensor on each local replica; statistics are assigned."""
        chosen, small, large = self._sort(values, states)
        moving = [[tf.identity(copy) for copy in variable.values] for variable in statistics]
        results = [None] * len(values)

        def fill(indices, reduced):
            for i, tensors in zip(indices, reduced):
                results[i] = tensors

        def pick(items, indices):
            return [items[i] for i in indices]

        def dense(indices, moving):
            """Sums of some values, and of statistics, by all-reduces."""
            reduced = self._sum_densely([*pick(values, indices), *moving], options)
            return reduced[: len(indices)], reduced[len(indices) :]

        if not chosen:
            reduced, means = dense([*small, *large], moving)
            fill([*small, *large], reduced)
        else:
            large_finite = tf.constant(True)
            if large:
                reduced, _ = dense(large, [])
                fill(large, reduced)
                large_finite = _all_finite(pick(results, large), pick(states, large))
            chosen_states = pick(states, chosen)

            def compressed():
                extra = [*pick(values, small), *moving]
                extra_states = [*pick(states, small), *(None for _ in moving)]
                reduced = self._sum_compressed(
                    *(pick(values, chosen), chosen_states),
                    *(extra, extra_states, large_finite, options),
                )
                return reduced[: len(chosen) + len(small)], reduced[len(chosen) + len(small) :]

            def warming_up():
                reduced, means = dense([*chosen, *small], moving)
                for i, tensors in zip(chosen, reduced):
                    count_dense(states[i], values[i], is_finite(tensors[0]))
                return reduced, means

            if self.compression.warmup_steps == 0:
                reduced, means = compressed()
            else:
                warm = is_warming_up(chosen_states, self.compression.warmup_steps)
                reduced, means = tf.cond(warm, warming_up, compressed)
            fill([*chosen, *small], reduced)
            for state in chosen_states:
                state.steps.assign_add(1)
        for i in (*small, *large):
            if states[i] is not None:
                count_dense(states[i], values[i], is_finite(results[i][0]))
        for variable, tensors in zip(statistics, means):
            for copy, tensor in zip(variable.values, tensors):
                copy.assign(tensor / self.replicas)
        if reduce_op == tf.distribute.ReduceOp.MEAN:
            results = [[_divided(t, self.replicas) for t in tensors] for tensors in results]
        return results

    def _sort(self, values, states):
        """Indices of what is compressed, what goes along with it, and what does not."""
        chosen, small, large, room = [], [], [], FUSED_BYTES
        for i, (parts, state) in enumerate(zip(values, states)):
            if is_compressed(state, parts):
                chosen.append(i)
                continue
            fits = is_compressible(parts[0])
            size = 4 * (parts[0].shape.num_elements() or 0) if fits else 0
            if 0 < size <= room:
                small.append(i)
                room -= size
            else:
                large.append(i)
        return chosen, small, large

    def _sum_densely(self, values, options):
        """Sums by TensorFlow's all-reduce: one for each dtype, one for each IndexedSlices."""
        groups, local = {}, range(self.local_replicas)
        for i, parts in enumerate(values):
            sparse = isinstance(parts[0], tf.IndexedSlices)
            groups.setdefault(("sparse", i) if sparse else parts[0].dtype, []).append(i)
        flat = tf.nest.flatten(values, expand_composites=True)
        with tf.control_dependencies(flat), tf.device("CPU:0"):
            start = tf.timestamp()
        with tf.control_dependencies([start]):
            values = [[_identity(part) for part in parts] for parts in values]
        results = [None] * len(values)
        for kind, indices in groups.items():
            if isinstance(kind, tuple):
                results[indices[0]] = self._collectives.sum_slices(values[indices[0]], options)
                continue
            parts = [[values[i][r] for i in indices] for r in local]
            summed = self._collectives.sum_together(parts, options)
            for i, tensors in zip(indices, zip(*summed)):
                results[i] = list(tensors)
        with (
            tf.control_dependencies(tf.nest.flatten(results, expand_composites=True)),
            tf.device("CPU:0"),
        ):
            size = tf.add_n([tf.cast(dense_bytes(parts[0]), tf.float64) for parts in values])
            one = tf.constant(1.0, tf.float64)
            self._all_reduces.assign_add(tf.stack([one, size, tf.timestamp() - start]))
        return results

    def _sum_compressed(self, values, states, small, small_states, others_finite, options):
        """Sums of gradients as packets, and of small tensors that go along, with the same bits."""
        local = range(self.local_replicas)
        encoded = [
            [
                self._encode(parts[i], state.residues[i], state)
                for parts, state in zip(values, states)
            ]
            for i in local
        ]
        packets = [[packet for packet, _ in of_replica] for of_replica in encoded]
        flat = [
            tf.concat([tf.reshape(parts[i], [-1]) for parts in small], 0)
            if small
            else tf.zeros([0])
            for i in local
        ]
        exchange = self._exchange_for(states, small)
        gathered = exchange.gather(packets, flat, states[0].steps, self._first_replica, options)
        sums, reduced = [], [[] for _ in (*states, *small)]
        for i, (all_packets, dense) in enumerate(gathered):
            with tf.device(states[0].residues[i].device):
                for v, (parts, state) in enumerate(zip(values, states)):
                    total = adacomp_decode(all_packets[v], state.num_elements)
                    sums.append(total)
                    reduced[v].append(tf.reshape(total, parts[i].shape))
                total = dense[0]
                for row in range(1, self.replicas):  # one after the other: the same bits everywhere
                    total += dense[row]
                sizes = [parts[i].shape.num_elements() for parts in small]
                for v, part in enumerate(tf.split(total, sizes) if small else []):
                    reduced[len(states) + v].append(tf.reshape(part, small[v][i].shape))
        finite = others_finite & _all_finite(reduced[len(states) :], small_states)
        self._keep(encoded, gathered[0][0], states, sums, finite)
        return reduced

    def _keep(self, encoded, all_packets, states, decoded, others_finite):
        """Residues and counters go on, once all packets were found to be sound."""
        skips = [tf.reduce_any([is_skip(packet) for packet in parts]) for parts in all_packets]

        def keep_what_was_not_sent():
            for i, of_replica in enumerate(encoded):
                for (_, new_residue), state in zip(of_replica, states):
                    with tf.device(state.residues[i].device):
                        state.residues[i].assign(new_residue)
            return tf.constant(True)

        with tf.control_dependencies(decoded):
            any_skip = tf.logical_not(others_finite) | tf.reduce_any(skips)
        tf.cond(any_skip, lambda: tf.constant(False), keep_what_was_not_sent)
        for v, (state, skip) in enumerate(zip(states, skips)):
            own = [of_replica[v][0] for of_replica in encoded]
            state.counters.add(
                steps=1,
                gradients=len(own),
                compressed=len(own),
                bytes=4 * tf.add_n([tf.size(packet, tf.int64) for packet in own]),
                sent=tf.add_n([sent_elements(packet) for packet in own]),
                skipped=skip,
            )

    def _exchange_for(self, states, small):
        shapes = tuple(tuple(parts[0].shape) for parts in small)
        key = (tuple(map(id, states)), shapes)
        if key not in self._exchanges:
            variables = [(s.num_elements, s.bin_size) for s in states]
            description = repr((variables, shapes, self.compression.get_config()))
            dense = sum(parts[0].shape.num_elements() for parts in small)
            elements = sum(state.num_elements for state in states) + dense
            words = sum(_expected_words(*v) for v in variables) + dense + 6 + len(states)
            self._exchanges[key] = Exchange(
                self._collectives, description, len(states), dense, elements, words
            )
        return self._exchanges[key]


def _expected_words(elements, bin_size):
    """A packet's, if five elements of each bin are sent: Chen et al., 2018, section 4."""
    codes = 5 * -(-elements // bin_size)
    return 5 + -(-elements // 2**17) + codes // (4 if bin_size <= 64 else 2)


def _identity(value):
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.identity(value.values), tf.identity(value.indices), value.dense_shape
        )
    return tf.identity(value)


def _divided(value, divisor):
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(value.values / divisor, value.indices, value.dense_shape)
    return value / divisor


def _all_finite(reduced, states):
    """Whether the reduced gradients of the variables with these states are; None is no gradient."""
    found = [is_finite(t[0]) for t, state in zip(reduced, states) if state is not None]
    return tf.reduce_all(tf.stack(found)) if found else tf.constant(True)
