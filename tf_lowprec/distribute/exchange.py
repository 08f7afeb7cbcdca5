"""One all-gather per step that holds all that the workers have to tell each other."""

import sys
import zlib

import numpy as np
import tensorflow as tf

from tf_lowprec.distribute import _tf_private

MAGIC = 0x1ADC0001  # the last byte is the version
HEADER = ("magic", "checksum", "fingerprint", "step", "replica", "words")
RING, WARN_AFTER = 2, 20
_UNIT = 16  # words that capacities are multiples of


def fingerprint(description):
    """A description's hash, as an int32."""
    return int(np.uint32(zlib.crc32(description.encode())).astype(np.int32))


def checksum(words):
    """Per row of int32 words, the sum of mix(w_i, i) of docs/adacomp.md, modulo 2^32."""
    x = tf.bitcast(words, tf.uint32)
    index = tf.cast(tf.range(tf.shape(words)[-1]), tf.uint32)
    x += index * tf.constant(0x9E3779B9, tf.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
        if factor is not None:
            x *= tf.constant(factor, tf.uint32)
    # Bits in, bits out: int32 sums wrap as uint32 ones do.
    return tf.reduce_sum(tf.bitcast(x, tf.int32), axis=-1)


class Exchange(tf.Module):
    """Gathers packets and small dense tensors of all replicas in one collective.

    Each replica sends a blob of int32 words:

        header (6)   magic and version; checksum of what comes before the packets, taken with
                     itself as 0; fingerprint of the configuration; step; replica; words in all
        sizes        of each packet, in words
        dense        the small dense tensors, as float32 bits
        packets      as docs/adacomp.md has them, with checksums of their own

    TensorFlow's all-gather wants equal sizes. All replicas pad to a capacity that they have
    derived from the sizes of the last steps, so that it is equal on all; where a blob is longer, a
    second all-gather takes the rest of all.

    Args:
        collectives: Collectives.
        description: what has to be equal on all replicas, as text.
        packets: their number.
        dense_elements: the number of elements of the dense tensors together.
        elements: of the gradients and the dense tensors together.
        words: that a blob will have, as a guess.
    """

    FIELDS = ("exchanges", "second", "words", "needed")

    def __init__(self, collectives, description, packets, dense_elements, elements, words):
        super().__init__(name="exchange")
        self._collectives, self._devices = collectives, collectives.devices
        self.replicas = collectives.replicas
        self._fingerprint = fingerprint(description)
        self._packets, self._dense, self._elements = packets, dense_elements, elements
        self._prefix = len(HEADER) + packets + dense_elements
        words = max(words, self._prefix)
        with tf.init_scope():
            # Not checkpointed: they change what is padded, and no result.
            self._capacity = _tf_private.plain_zeros([], tf.int32, "capacity", "CPU:0")
            self._capacity.assign(-(-words // _UNIT) * _UNIT)
            self._counts = _tf_private.plain_zeros([4], tf.int64, "exchange_counts", "CPU:0")
            self._warned = _tf_private.plain_zeros([], tf.bool, "warned", "CPU:0")
            self._seconds = _tf_private.plain_zeros([], tf.float64, "exchange_seconds", "CPU:0")

    def counts(self):
        """{"exchanges", "second": with a second all-gather, "words": sent to each other replica,
        "needed": without what was padded, "seconds"} since the start."""
        counts = dict(zip(self.FIELDS, self._counts.numpy().tolist()))
        return {**counts, "seconds": float(self._seconds.numpy())}

    def gather(self, packets, dense, step, first_replica, options):
        """Exchanges what the local replicas have.

        Args:
            packets: per local replica, a list of packets.
            dense: per local replica, a float32 vector.
            step: an int64 scalar, equal on all replicas.
            first_replica: the number of the first local replica.
            options: tf.distribute.experimental.CommunicationOptions.

        Returns:
            Per local replica (packets, dense): packets[i] the packets that all replicas sent as
            the i-th, dense of shape [replicas, dense elements]. The bits are the same everywhere.
        """
        blobs = []
        for i, device in enumerate(self._devices):
            with tf.device(device):
                blobs.append(self._blob(packets[i], dense[i], step, first_replica + i))
        rows = self._all_gather(blobs, step, options)
        results = []
        for device, gathered in zip(self._devices, rows):
            with tf.device(device):
                results.append(self._open(gathered))
        return results

    def _blob(self, packets, dense, step, replica):
        sizes = [tf.size(packet) for packet in packets]
        words = self._prefix + (tf.add_n(sizes) if sizes else 0)
        head = [MAGIC, 0, self._fingerprint, _low(step), replica, words]
        prefix = tf.concat([tf.stack(head + sizes), tf.bitcast(dense, tf.int32)], 0)
        prefix = tf.tensor_scatter_nd_update(prefix, [[1]], [checksum(prefix)])
        return tf.concat([prefix, *packets], 0)

    def _all_gather(self, blobs, step, options):
        """Per local replica, [replicas, words]: all blobs, padded."""
        capacity = tf.identity(self._capacity)

        def gather(parts):
            gathered = self._collectives.all_gather(parts, options)
            return [tf.reshape(words, [self.replicas, -1]) for words in gathered]

        def padded(words, size):
            return tf.pad(words, [[0, size - tf.size(words)]])

        with tf.control_dependencies(blobs), tf.device("CPU:0"):
            start = tf.timestamp()
        with tf.control_dependencies([start]):
            first = gather([padded(blob[:capacity], capacity) for blob in blobs])
        # Checked before the sizes are used: all must agree on whether there is a second one.
        checks = [self._check(rows[:, : self._prefix], step) for rows in first]
        with tf.control_dependencies(checks):
            longest = tf.reduce_max(first[0][:, HEADER.index("words")])
        more = longest > capacity

        def rest():
            size = longest - capacity
            return gather([padded(blob[capacity:], size) for blob in blobs])

        def nothing():
            return [tf.zeros([self.replicas, 0], tf.int32) for _ in blobs]

        second = tf.cond(more, rest, nothing)
        rows = [tf.concat(pair, 1) for pair in zip(first, second)]
        with tf.control_dependencies(rows), tf.device("CPU:0"):
            self._seconds.assign_add(tf.timestamp() - start)
            counts = [1, more, tf.maximum(capacity, longest), tf.size(blobs[0])]
            self._counts.assign_add(tf.stack([tf.cast(c, tf.int64) for c in counts]))
            # An eighth more than now, and not much less than what was needed lately.
            following = tf.maximum(longest + longest // 8, capacity - capacity // 16)
            following = tf.maximum(following, self._prefix)
            self._capacity.assign((following + _UNIT - 1) // _UNIT * _UNIT)
            self._warn(tf.size(rows[0], tf.int64))
        return rows

    def _warn(self, words):
        """Says once, and not in the first steps, that dense gradients would be fewer bytes.

        A ring all-reduce sends 2 (N - 1) / N of the gradients' bytes, an all-gather N - 1 blobs.
        """
        most = int(RING * self._elements)
        late = tf.logical_and(words > most, self._counts[0] > WARN_AFTER)

        def warn():
            tf.print(
                f"tf_lowprec: {self.replicas} replicas all-gather",
                4 * words,
                f"bytes of packets in each step, but dense gradients have {4 * self._elements} "
                "bytes, of which a ring sends twice: compression does not pay here. Use larger "
                "bin_sizes, or compression=None. See docs/multiworker.md",
                output_stream=sys.stderr,
            )
            return self._warned.assign(True)

        tf.cond(tf.logical_and(late, tf.logical_not(self._warned)), warn, lambda: self._warned)

    def _check(self, prefix, step):
        """An op that fails, and says why, unless all replicas' prefixes are as they should be."""
        fields = {name: prefix[:, i] for i, name in enumerate(HEADER)}
        cleared = prefix * tf.constant([int(i != 1) for i in range(self._prefix)])
        checks = [
            (MAGIC, "speaks another version of the exchange"),
            (
                checksum(cleared),
                "sent what has another checksum: it was corrupted on the way",
            ),
            (
                self._fingerprint,
                "trains other variables, or with other settings of AdaComp: run the same program "
                "on all workers",
            ),
            (_low(step), "is at another step: restore all workers from the same epoch"),
        ]
        check = tf.no_op()
        for field, (want, what) in zip(HEADER, checks):
            good = tf.equal(fields[field], want)
            worst = tf.argmin(tf.cast(good, tf.int32))
            with tf.control_dependencies([check]):  # the first that fails is told
                check = tf.debugging.Assert(tf.reduce_all(good), ["replica", worst, what])
        return check

    def _open(self, rows):
        begin = len(HEADER)
        sizes = rows[:, begin : begin + self._packets]
        ends = self._prefix + tf.cumsum(sizes, axis=1)
        packets = [
            [rows[r, ends[r, i] - sizes[r, i] : ends[r, i]] for r in range(self.replicas)]
            for i in range(self._packets)
        ]
        dense = rows[:, begin + self._packets : self._prefix]
        return packets, tf.bitcast(dense, tf.float32)


def _low(step):
    """An int64 scalar's low half."""
    return tf.bitcast(step, tf.int32)[0]
