"""lp.adacomp_encode and lp.adacomp_decode against the twin, bit for bit."""

import adacomp_oracle as oracle
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tf_lowprec as lp
from tf_lowprec.ops.adacomp import PacketHeader

ENCODINGS = ("plain", "entropy")
encodings = pytest.mark.parametrize("encoding", ENCODINGS)


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def numbers(n, seed=0):
    """A gradient and a residue with heavy tails, some zeros of both signs, some equal numbers."""
    rng = np.random.default_rng(seed)
    dw = rng.standard_t(3, n).astype(np.float32)
    residue = (3 * rng.standard_t(3, n)).astype(np.float32)
    dw[rng.random(n) < 0.05] = 0.5
    dw[rng.random(n) < 0.05] = -0.0
    residue[rng.random(n) < 0.2] = 0.0
    return dw, residue


def check(dw, residue, bin_size, encoding, soft_threshold=2.0):
    """Packet, new residue and decoded values are the twin's; returns the packet."""
    packet, new = lp.adacomp_encode(dw, residue, bin_size, encoding, soft_threshold)
    want_packet, want_new = oracle.encode(dw, residue, bin_size, encoding, soft_threshold)
    np.testing.assert_array_equal(packet, want_packet)
    np.testing.assert_array_equal(bits(new), bits(want_new))
    decoded = lp.adacomp_decode(packet, dw.size).numpy()
    np.testing.assert_array_equal(bits(decoded), bits(oracle.decode(want_packet, dw.size)))
    return packet.numpy()


@encodings
@pytest.mark.parametrize("bin_size", [1, 2, 7, 50, 63, 64, 65, 500, 16384])
@pytest.mark.parametrize("n", [1, 49, 50, 51, 1000, 1001])
def test_bits_of_the_twin(encoding, bin_size, n):
    check(*numbers(n), bin_size, encoding)


@encodings
@pytest.mark.parametrize("bin_size", [50, 500])
def test_several_segments(encoding, bin_size):
    # A segment holds 2^17 elements: three of them, the last one short.
    check(*numbers(2 * 2**17 + 777), bin_size, encoding)


@encodings
@pytest.mark.parametrize("soft_threshold", [1.0, 1.5, 2.0, 3.0, 1.1])
def test_soft_threshold(encoding, soft_threshold):
    packet = check(*numbers(3000), 50, encoding, soft_threshold)
    if soft_threshold == 1:
        assert PacketHeader.of(packet).sent >= 60  # each bin's maximum, at least


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(floats, floats), min_size=1, max_size=40),
    st.integers(1, 20),
    st.sampled_from(ENCODINGS),
    st.sampled_from([1.0, 1.7, 2.0]),
)
def test_any_finite_numbers(pairs, bin_size, encoding, soft_threshold):
    dw, residue = (np.array(x, np.float32) for x in zip(*pairs))
    check(dw, residue, bin_size, encoding, soft_threshold)


@encodings
@pytest.mark.parametrize("seed", range(10))
def test_any_bit_pattern_that_is_finite(encoding, seed):
    rng = np.random.default_rng(seed)
    dw, residue = rng.integers(0, 2**32, (2, 400), np.uint32).view(np.float32)
    dw, residue = (np.where(np.isfinite(x), x, 0).astype(np.float32) / 4 for x in (dw, residue))
    assert PacketHeader.of(check(dw, residue, 50, encoding)).sent > 0


@encodings
def test_subnormals_are_kept(encoding):
    dw = np.array([1, -3, 2, 5, -4, 7], np.int32).astype(np.float64) * 2.0**-149
    packet = check(dw.astype(np.float32), np.zeros(6, np.float32), 3, encoding)
    assert PacketHeader.of(packet).scale == 5 * 2.0**-149


@encodings
@pytest.mark.parametrize("n", [0, 1, 50, 500, 2**17 + 1000])
def test_all_zero_sends_nothing(encoding, n):
    zeros = np.zeros(n, np.float32)
    packet = check(zeros, zeros, 50, encoding)
    header = PacketHeader.of(packet)
    assert (header.sent, header.scale) == (0, 0)


@pytest.mark.parametrize("n", [258 * 50, 515 * 50, 516 * 50, 600 * 50])
def test_runs_of_empty_bins(n):
    # A run's code says at most 257 bins: before, at, and after that; and one bin at the end.
    dw = np.zeros(n, np.float32)
    dw[3] = 1
    check(dw, 0 * dw, 50, "plain")
    dw[-1] = -1
    check(dw, 0 * dw, 50, "plain")
    check(dw, 0 * dw, 64, "plain")


@encodings
def test_a_bin_may_send_nothing(encoding):
    # The greatest |G| is where the gradient points away from it.
    dw, residue = np.array([-1, 0.1, 0, 0], np.float32), np.array([9, 0, 1, 2], np.float32)
    packet = check(dw, residue, 2, encoding)
    assert PacketHeader.of(packet).sent == 1


@encodings
def test_minus_zero_is_not_sent_and_stays(encoding):
    dw = np.full(4, -0.0, np.float32)
    check(dw, dw, 2, encoding)
    _, new = lp.adacomp_encode(dw, dw, 2, encoding)
    assert np.all(np.signbit(new))


@encodings
def test_everything_may_be_sent(encoding):
    dw = np.ones(2**17 + 99, np.float32)
    packet = check(dw, 0 * dw, 64, encoding)
    assert PacketHeader.of(packet).sent == dw.size


@encodings
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 99, 130])
def test_gradient_that_is_not_finite_is_skipped(encoding, bad, at):
    dw, residue = numbers(131)
    dw[at] = bad
    packet, new = lp.adacomp_encode(dw, residue, 50, encoding)
    assert PacketHeader.of(packet) == PacketHeader(encoding, True, 131, 50, 0.0, 0, 5)
    np.testing.assert_array_equal(packet, oracle.encode(dw, residue, 50, encoding)[0])
    np.testing.assert_array_equal(bits(new), bits(residue))
    assert np.all(np.isnan(lp.adacomp_decode(packet, 131)))


def test_overflow_of_the_sum_is_skipped():
    x = np.full(3, 3e38, np.float32)
    packet, new = lp.adacomp_encode(x, x, 2)
    assert PacketHeader.of(packet).skip
    np.testing.assert_array_equal(new, x)


def test_overflow_of_the_look_ahead_is_sent():
    x = np.array([3e38, 1], np.float32)
    assert PacketHeader.of(check(x, 0 * x, 2, "plain")).sent == 1


@encodings
def test_conservation_is_exact_for_dyadic_numbers(encoding):
    # Equal maxima in both bins: the scale is one of them, and all sums are exact.
    rng = np.random.default_rng(0)
    dw, residue = rng.integers(-8, 9, (2, 128)).astype(np.float32)
    dw[[0, 64]], residue[[0, 64]] = 8, 8
    packet, new = lp.adacomp_encode(dw, residue, 64, encoding)
    sent = lp.adacomp_decode(packet, 128)
    assert np.any(sent != 0)
    np.testing.assert_array_equal(sent + new, dw + residue)


@encodings
def test_conservation_holds_to_rounding(encoding):
    dw, residue = numbers(5000)
    packet, new = lp.adacomp_encode(dw, residue, 50, encoding)
    sent = lp.adacomp_decode(packet, 5000).numpy().astype(np.float64)
    total = residue.astype(np.float64) + dw
    largest = np.maximum(np.abs(sent), np.abs(total))
    assert np.all(np.abs(sent + new.numpy() - total) <= largest * 2.0**-23)


@pytest.mark.parametrize("kinds", [("plain",) * 3, ("entropy",) * 3, ("plain", "entropy", "plain")])
def test_packets_are_added_in_order(run, kinds):
    packets, total = [], np.zeros(1000, np.float32)
    for seed, kind in enumerate(kinds):
        packet, _ = lp.adacomp_encode(*numbers(1000, seed), (50, 500, 7)[seed], kind)
        packets.append(packet)
        total = total + oracle.decode(packet, 1000)
    decoded = run(lambda: lp.adacomp_decode(packets, 1000))()
    np.testing.assert_array_equal(bits(decoded), bits(total))


def test_one_skip_packet_makes_the_sum_nan():
    good, _ = lp.adacomp_encode(*numbers(100), 50)
    skip, _ = lp.adacomp_encode(np.full(100, np.nan, np.float32), np.zeros(100, np.float32), 50)
    for packets in ([good, skip], [skip, good]):
        assert np.all(np.isnan(lp.adacomp_decode(packets, 100)))


def test_gradient_keeps_its_shape(run):
    dw, residue = (x.reshape(3, 4, 25) for x in numbers(300))
    packet, new = run(lambda: lp.adacomp_encode(dw, residue, 50))()
    assert new.shape == (3, 4, 25)
    np.testing.assert_array_equal(packet, oracle.encode(dw, residue, 50)[0])


def test_shapes_in_a_graph():
    signature = [tf.TensorSpec([None, 3], tf.float32)] * 2
    encode = tf.function(lambda d, r: lp.adacomp_encode(d, r, 50), input_signature=signature)
    packet, new = encode.get_concrete_function().outputs
    assert packet.shape.as_list() == [None]
    assert new.shape.as_list() == [None, 3]
    decode = tf.function(
        lambda p: lp.adacomp_decode(p, 12), input_signature=[tf.TensorSpec([None], tf.int32)]
    )
    assert decode.get_concrete_function().outputs[0].shape.as_list() == [12]


def test_inputs_are_not_overwritten():
    dw, residue = (tf.constant(x) for x in numbers(1000))
    before = dw.numpy().copy(), residue.numpy().copy()
    lp.adacomp_encode(dw, residue, 50)
    np.testing.assert_array_equal(dw, before[0])
    np.testing.assert_array_equal(residue, before[1])


def training_like(per_bin, bin_size, n):
    """A packet's header and its bits: about `per_bin` elements sent of every `bin_size`."""

    def measure(encoding):
        # Every bin's maximum is 1, or nothing: sent is what is 1.
        dw = (np.random.default_rng(0).random(n) < per_bin / bin_size).astype(np.float32)
        packet, _ = lp.adacomp_encode(dw, 0 * dw, bin_size, encoding)
        header = PacketHeader.of(packet)
        assert header.sent == dw.sum()
        paper = (8 if bin_size <= 64 else 16) * header.sent + 32
        return 32 * packet.shape[0] / paper

    return measure


densities = pytest.mark.parametrize(
    "bin_size, per_bin", [(50, 2.7), (50, 3.8), (500, 2.7), (500, 3.0), (500, 4.3)]
)


@densities
def test_plain_needs_at_most_five_per_cent_more_than_the_paper_counts(bin_size, per_bin):
    assert training_like(per_bin, bin_size, 100_000)("plain") <= 1.05


@densities
def test_entropy_against_the_papers_count(bin_size, per_bin):
    bound = 0.88 if bin_size == 50 else 0.70
    assert training_like(per_bin, bin_size, 1_000_000)("entropy") <= bound
