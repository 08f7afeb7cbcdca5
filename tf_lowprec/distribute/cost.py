"""What an exchange of gradients costs, by bytes and latency: where compression stops paying."""

import dataclasses

EXCHANGES = ("dense", "gather", "sharded")


@dataclasses.dataclass(frozen=True)
class Link:
    """A network in which each worker sends and receives at once.

    Attributes:
        bits_per_second: of each worker's link, in either direction.
        latency: seconds of one message, however short.
    """

    bits_per_second: float
    latency: float = 1e-4

    def seconds(self, sent, messages):
        """Of `messages` one after the other that have `sent` bytes together."""
        return 8 * sent / self.bits_per_second + messages * self.latency


def bytes_per_step(exchange, workers, dense_bytes, packet_bytes):
    """What each worker sends, which is also what it receives, in one step.

    With N workers, D the bytes of the gradients as float32 and P those of one worker's packets:

        dense    2 (N - 1) / N D     ring all-reduce: reduce-scatter, then all-gather
        gather   (N - 1) P           ring all-gather of packets
        sharded  (N - 1) / N (P + D)  each worker adds up one shard: all-to-all of the packets'
                                     shards, then an all-gather of the sums, which are dense

    The strategy does the first two; the third is here to compare.

    Args:
        exchange: "dense", "gather" or "sharded".
        workers: N.
        dense_bytes: D.
        packet_bytes: P, the largest worker's.
    """
    others = workers - 1
    if exchange == "dense":
        return 2 * others / workers * dense_bytes
    if exchange == "gather":
        return others * packet_bytes
    if exchange == "sharded":
        return others / workers * (packet_bytes + dense_bytes)
    raise ValueError(f"exchange = {exchange!r} must be one of {EXCHANGES}")


def messages_per_step(exchange, workers):
    """Messages that follow one another: each waits for the one before it."""
    return {"dense": 2, "gather": 1, "sharded": 2}[exchange] * (workers - 1)


def seconds_per_step(exchange, workers, dense_bytes, packet_bytes, link, codec=(0.0, 0.0)):
    """The time of one exchange, with the packets' encoding and decoding.

    Args:
        link: a Link.
        codec: seconds to encode a gradient, and to decode one worker's packets.
    """
    size = bytes_per_step(exchange, workers, dense_bytes, packet_bytes)
    seconds = link.seconds(size, messages_per_step(exchange, workers))
    encode, decode = codec
    decoded = {"dense": 0, "gather": workers, "sharded": 1}[exchange]  # N parts of 1 / N each
    return seconds + (encode if decoded else 0.0) + decoded * decode


def break_even_workers(dense_bytes, packet_bytes):
    """From so many workers on, all-gathered packets have more bytes than a dense ring: 2 D / P.

    (N - 1) P > 2 (N - 1) / N D is N > 2 D / P: twice the compression ratio.
    """
    return 2 * dense_bytes / packet_bytes
