"""AdaComp word for word, and its packets written and read one bit at a time: docs/adacomp.md.

Slow and plain on purpose. Chen et al., "AdaComp", AAAI 2018.
"""

import fractions
import struct

import numpy as np

SEGMENT_ELEMENTS = 2**17


def bits_of(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def rounded(exact):
    """The float32 nearest to a Fraction, ties to even; infinite beyond the largest."""
    largest = fractions.Fraction(2**24 - 1) * 2**104
    if abs(exact) >= largest + 2**103:
        return np.float32(np.inf if exact > 0 else -np.inf)
    guess = np.float32(float(exact))
    with np.errstate(over="ignore"):
        near = [np.nextafter(guess, np.float32(to)) for to in (-np.inf, np.inf)]
    near = [x for x in [guess, *near] if np.isfinite(x)]
    return min(near, key=lambda x: (abs(fractions.Fraction(float(x)) - exact), bits_of(x) & 1))


def look_ahead(g, dw, residue, soft_threshold):
    """H = fl(residue + t dW), for t = 2 fl(G + dW)."""
    with np.errstate(over="ignore"):
        if soft_threshold == 2:
            return g + dw
    t = fractions.Fraction(float(np.float32(soft_threshold)))
    exact = [
        fractions.Fraction(float(r)) + t * fractions.Fraction(float(d)) for r, d in zip(residue, dw)
    ]
    return np.array([rounded(x) for x in exact], np.float32)


def select(gradient, residue, bin_size, soft_threshold=2.0):
    """(scale, list of sent indices, G); None for G where it is not finite."""
    dw, residue = (np.asarray(x, np.float32).ravel() for x in (gradient, residue))
    with np.errstate(over="ignore", invalid="ignore"):
        g = residue + dw
    if not np.all(np.isfinite(g)):
        return np.float32(0), [], None
    h = look_ahead(g, dw, residue, soft_threshold)
    bins = [slice(b, min(b + bin_size, g.size)) for b in range(0, g.size, bin_size)]
    maxima = [np.max(np.abs(g[b])) for b in bins]
    total = np.float64(0)
    for m in maxima:
        total += np.float64(m)
    scale = np.float32(total / np.float64(len(bins))) if bins else np.float32(0)
    sent = []
    for b, m in zip(bins, maxima):
        sent += [i for i in range(b.start, b.stop) if abs(h[i]) >= m and g[i] != 0]
    return scale, sent, g


def encode(gradient, residue, bin_size, encoding="plain", soft_threshold=2.0):
    """(packet as int32, new residue in the gradient's shape)."""
    shape = np.shape(gradient)
    scale, sent, g = select(gradient, residue, bin_size, soft_threshold)
    n = int(np.prod(shape, dtype=np.int64))
    if g is None:
        return pack([], [], n, bin_size, np.float32(0), 0, encoding, skip=True), np.array(residue)
    new = g.copy()
    for i in sent:
        new[i] = g[i] - np.copysign(scale, g[i])
    bins_per_segment = SEGMENT_ELEMENTS // bin_size
    table, bodies = [], []
    size = bins_per_segment * bin_size
    for begin in range(0, n, size):
        end = min(begin + size, n)
        inside = [(i - begin, bool(g[i] < 0)) for i in sent if begin <= i < end]
        if encoding == "plain":
            body, rice = plain_segment(inside, end - begin, bin_size), 0
        else:
            body, rice = entropy_segment(inside)
        table.append(len(body) | rice << 24)
        bodies += body
    return pack(table, bodies, n, bin_size, scale, len(sent), encoding), new.reshape(shape)


def words_of(data):
    data += b"\0" * (-len(data) % 4)
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def plain_segment(sent, elements, bin_size):
    field_bits, code = (6, "<B") if bin_size <= 64 else (14, "<H")
    index_bits = (bin_size - 1).bit_length()
    longest, most = 2 ** (field_bits + 2) + 1, 2 ** (field_bits - index_bits) - 1
    out, empty = [], 0

    def put_empty(left):
        while left > 0:
            run = min(left, longest)
            out.extend([0] if run == 1 else [1 << field_bits, run - 2])
            left -= run

    for begin in range(0, elements, bin_size):
        inside = [(p - begin, neg) for p, neg in sent if begin <= p < begin + bin_size]
        if not inside:
            empty += 1
            continue
        skipped = min(empty, most)
        put_empty(empty - skipped)
        empty = 0
        for nth, (index, negative) in enumerate(inside):
            first = nth == 0
            before = skipped if first else 0
            out.append(
                index | before << index_bits | negative << field_bits | first << (field_bits + 1)
            )
    put_empty(empty)
    return words_of(b"".join(struct.pack(code, c) for c in out))


def rice_bits(gaps, k):
    return "".join("0" * (gap >> k) + "1" + str(sign) + low_bits(gap, k) for gap, sign in gaps)


def low_bits(value, count):
    """Lowest first."""
    return "".join(str(value >> b & 1) for b in range(count))


def entropy_segment(sent):
    gaps, previous = [], -1
    for position, negative in sent:
        gaps.append((position - previous - 1, int(negative)))
        previous = position
    costs = [sum((gap >> k) + k + 2 for gap, _ in gaps) for k in range(16)]
    k = costs.index(min(costs))
    text = rice_bits(gaps, k)
    text += "0" * (-len(text) % 32)
    return [int(text[i : i + 32][::-1], 2) for i in range(0, len(text), 32)], k


def mix(word, index):
    x = (word + index * 0x9E3779B9) % 2**32
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def checksum(words):
    """Of a packet's words, the second taken as 0."""
    return sum(mix(0 if i == 1 else w, i) for i, w in enumerate(words)) % 2**32


def sealed(words):
    """The packet with its checksum set: int32."""
    words = [int(w) % 2**32 for w in words]
    words[1] = checksum(words)
    return np.array(words, np.uint32).view(np.int32)


def pack(table, bodies, n, bin_size, scale, sent, encoding, skip=False):
    flags = (encoding == "entropy") | skip << 1 | (n >= 2**32) << 2
    header = [0xAC << 24 | 1 << 20 | flags << 16 | bin_size, 0, n % 2**32, bits_of(scale)]
    header += [sent % 2**32] + ([n >> 32, sent >> 32] if n >= 2**32 else [])
    return sealed([*header, *table, *bodies])


def decode(packet, n):
    """What a packet sends, float32 [n], by the specification's own steps."""
    words = [int(w) for w in np.asarray(packet, np.int32).view(np.uint32)]
    assert words[0] >> 20 == 0xAC << 4 | 1
    assert words[1] == checksum(words)
    assert words[2] == n < 2**32
    y = np.zeros(n, np.float32)
    entropy, skip, bin_size = words[0] >> 16 & 1, words[0] >> 17 & 1, words[0] & 0xFFFF
    if skip:
        return np.full(n, np.nan, np.float32)
    scale = np.array(words[3], np.uint32).view(np.float32)
    size = SEGMENT_ELEMENTS // bin_size * bin_size
    segments = -(-n // size)
    at, count = 5 + segments, 0
    for s in range(segments):
        entry = words[5 + s]
        body = words[at : at + entry % 2**24]
        at += len(body)
        elements = min(size, n - s * size)
        read = read_entropy if entropy else read_plain
        for position, negative in read(body, elements, bin_size, entry >> 24):
            y[s * size + position] += -scale if negative else scale
            count += 1
    assert at == len(words)
    assert count == words[4]
    return y


def read_plain(body, elements, bin_size, _):
    width = 1 if bin_size <= 64 else 2
    data = np.array(body, np.uint32).tobytes()
    codes = list(np.frombuffer(data, np.uint8 if width == 1 else np.uint16))
    codes = [int(c) for c in codes]
    sign, first = 1 << (8 * width - 2), 1 << (8 * width - 1)
    bins, bin = -(-elements // bin_size), -1
    index_bits = (bin_size - 1).bit_length()
    while codes:
        code = codes.pop(0)
        if not code & first and code & (sign - 1) == 0:
            if bin == bins - 1:
                assert not any(codes)
                break
            bin += codes.pop(0) + 2 if code == sign else 1
            continue
        if code & first:
            bin += 1 + (code % sign >> index_bits)
        yield bin * bin_size + code % 2**index_bits, bool(code & sign)
    assert bin == bins - 1


def read_entropy(body, elements, bin_size, k):
    text = "".join(low_bits(w, 32) for w in body)
    at, position = 0, -1
    while "1" in text[at:]:
        one = text.index("1", at)
        low = text[one + 2 : one + 2 + k][::-1]
        position += 1 + ((one - at) << k | int(low or "0", 2))
        yield position, text[one + 1] == "1"
        at = one + 2 + k
