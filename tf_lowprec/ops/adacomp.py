"""lp.adacomp_encode and lp.adacomp_decode: gradients as packets. Ops Lowprec>AdaComp…."""

import dataclasses
import numbers

import numpy as np
import tensorflow as tf

from tf_lowprec.ops._library import ops
from tf_lowprec.ops.tensors import as_tensor

MAX_BIN_SIZE = 2**14  # 14-bit indices
ENCODINGS = ("plain", "entropy")
_ENTROPY, _SKIP, _WIDE = 1 << 16, 2 << 16, 4 << 16  # flags in a packet's first word


def check_bin_size(bin_size, argument="bin_size"):
    """`bin_size` as an integer, if it is one from 1 to 16384."""
    whole = isinstance(bin_size, numbers.Integral) and not isinstance(bin_size, bool)
    if not whole or not 1 <= bin_size <= MAX_BIN_SIZE:
        raise ValueError(
            f"{argument} = {bin_size!r} must be an integer in 1..{MAX_BIN_SIZE}, such as 50 for "
            "convolutions and 500 for other layers"
        )
    return int(bin_size)


def check_encoding(encoding):
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding = {encoding!r} must be 'plain' or 'entropy'")
    return encoding


def check_soft_threshold(soft_threshold):
    real = isinstance(soft_threshold, numbers.Real) and not isinstance(soft_threshold, bool)
    if not real or not 1 <= soft_threshold <= 1024:
        raise ValueError(
            f"soft_threshold = {soft_threshold!r} must be a number in 1..1024; the paper takes 2, "
            "chosen from 1.5 to 3"
        )
    return float(soft_threshold)


def _float32(x, argument):
    x = as_tensor(x, argument)
    if x.dtype != tf.float32:
        raise ValueError(
            f"{argument} has dtype {x.dtype.name}; it must be float32: "
            f"tf.cast({argument}, tf.float32)"
        )
    return x


def adacomp_encode(gradient, residue, bin_size, encoding="plain", soft_threshold=2.0):
    """Compresses a gradient with AdaComp: Chen et al., "AdaComp", AAAI 2018, algorithm 2.

    With t the soft threshold, all in float32 and element by element:

        ``G = residue + gradient``,  ``H = residue + t * gradient`` (for t = 2, ``G + gradient``)

    In each bin of `bin_size` consecutive elements (row-major; the last may be shorter) those are
    sent that have ``|H| >= max |G|`` over the bin, and ``G != 0``. What is sent for them is
    ``sign(G) * scale``, with scale the mean of all bins' maxima. The new residue is G minus what
    is sent, so that ``sent + new_residue = residue + gradient`` up to float32's rounding.

    Where a G is infinite or NaN, nothing is sent: the packet has its skip flag set, the new
    residue is `residue`, and `adacomp_decode` gives NaN.

    Args:
        gradient: float32 tensor of any shape.
        residue: float32 tensor of the same shape: what earlier steps left; zeros at first.
        bin_size: L_T, 1 to 16384. The paper takes 50 for convolutions, 500 for other layers.
        encoding: "plain" (8 bits per element sent with bins of up to 64, 16 bits with larger
            ones, as the paper counts) or "entropy" (Rice codes of the gaps: shorter, slower).
        soft_threshold: t, 1 to 1024; 1 sends only the elements that equal their bin's maximum.

    Returns:
        (packet, new_residue): a 1-D int32 tensor, whose size is what is sent, and a float32 tensor
        of the gradient's shape. docs/adacomp.md specifies the packet.

    Raises:
        ValueError: a wrong argument.
        tf.errors.InvalidArgumentError: shapes that differ, where it shows at run time only.
    """
    gradient, residue = _float32(gradient, "gradient"), _float32(residue, "residue")
    if not gradient.shape.is_compatible_with(residue.shape):
        raise ValueError(
            f"residue has shape {residue.shape}; it must have the gradient's, {gradient.shape}"
        )
    packet, new_residue = ops.lowprec_ada_comp_encode(
        gradient=gradient,
        residue=residue,
        bin_size=check_bin_size(bin_size),
        encoding=check_encoding(encoding),
        soft_threshold=check_soft_threshold(soft_threshold),
    )
    return packet, new_residue


def adacomp_decode(packets, num_elements):
    """The sum of what AdaComp packets send.

    Args:
        packets: one packet of `adacomp_encode`, or a list of them, which are added in order.
        num_elements: the number of elements of the gradient: an integer or an integer tensor.

    Returns:
        float32 tensor of shape [num_elements]; all NaN if one of the packets is a skip packet.

    Raises:
        ValueError: no packet, or one that is no 1-D int32 tensor; a number of elements that is no
            integer, below 0, or beyond 64 bits.
        tf.errors.InvalidArgumentError: a packet that is truncated, corrupt, or was made for
            another number of elements; it names the packet and what is wrong with it.
    """
    packets = list(packets) if isinstance(packets, (list, tuple)) else [packets]
    if not packets:
        raise ValueError("packets = [] must hold one packet at least")
    packets = [as_tensor(packet, f"packets[{i}]") for i, packet in enumerate(packets)]
    for i, packet in enumerate(packets):
        if packet.dtype != tf.int32 or packet.shape.rank not in (None, 1):
            raise ValueError(
                f"packets[{i}] has dtype {packet.dtype.name} and shape {packet.shape}; it must be "
                "int32 with one dimension, as adacomp_encode returns it"
            )
    if tf.is_tensor(num_elements):
        whole = num_elements.dtype.is_integer
    else:
        number = np.asarray(num_elements)
        whole = number.dtype.kind in "iu" and number.ndim == 0 and 0 <= int(number) < 2**63
    if not whole:
        raise ValueError(
            f"num_elements = {num_elements!r} must be an integer in 0..2^63-1, or an integer tensor"
        )
    return ops.lowprec_ada_comp_decode(
        packets=packets, num_elements=tf.cast(num_elements, tf.int64)
    )


def is_skip(packet):
    """Whether a packet says that its learner's gradient was not finite: a bool tensor."""
    return tf.not_equal(tf.bitwise.bitwise_and(packet[0], _SKIP), 0)


def sent_elements(packet):
    """The number of elements that a packet of less than 2^32 elements sends: an int64 tensor."""
    return tf.cast(tf.bitcast(packet[4], tf.uint32), tf.int64)


@dataclasses.dataclass(frozen=True)
class PacketHeader:
    """What the header of a packet says, and its length in words."""

    encoding: str
    skip: bool
    num_elements: int
    bin_size: int
    scale: float
    sent: int
    num_words: int

    @classmethod
    def of(cls, packet):
        """The header of a packet of adacomp_encode, read from its own words."""
        packet = np.asarray(packet, np.int32).view(np.uint32)
        words = packet[:7].tolist()
        wide = bool(words[0] & _WIDE)
        return cls(
            encoding=ENCODINGS[bool(words[0] & _ENTROPY)],
            skip=bool(words[0] & _SKIP),
            num_elements=words[2] | (words[5] << 32 if wide else 0),
            bin_size=words[0] & 0xFFFF,
            scale=float(packet[3:4].view(np.float32)[0]),
            sent=words[4] | (words[6] << 32 if wide else 0),
            num_words=packet.size,
        )


for _op in ("Lowprec>AdaCompEncode", "Lowprec>AdaCompDecode"):
    tf.no_gradient(_op)
