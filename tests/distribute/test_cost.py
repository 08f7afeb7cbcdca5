"""The cost model, against what rings do step by step."""

import pytest

from tf_lowprec.distribute import cost

D, P = 8_000_000, 40_000


@pytest.mark.parametrize("workers", [2, 3, 8, 100])
def test_bytes_are_those_of_a_ring(workers):
    chunks = [D / workers] * workers
    scatter = sum(chunks[: workers - 1])
    assert cost.bytes_per_step("dense", workers, D, P) == pytest.approx(2 * scatter)
    gathered = sum(P for other in range(workers) if other != 0)
    assert cost.bytes_per_step("gather", workers, D, P) == gathered
    sharded = sum(P / workers + D / workers for other in range(workers) if other != 0)
    assert cost.bytes_per_step("sharded", workers, D, P) == pytest.approx(sharded)


def test_break_even():
    even = cost.break_even_workers(D, P)
    assert even == 400
    for workers, pays in [(399, True), (400, None), (401, False)]:
        dense = cost.bytes_per_step("dense", workers, D, P)
        gather = cost.bytes_per_step("gather", workers, D, P)
        assert (gather < dense) is bool(pays) or pays is None
    assert cost.bytes_per_step("gather", 400, D, P) == cost.bytes_per_step("dense", 400, D, P)


def test_one_worker_sends_nothing():
    assert [cost.bytes_per_step(e, 1, D, P) for e in cost.EXCHANGES] == [0, 0, 0]
    assert [cost.messages_per_step(e, 1) for e in cost.EXCHANGES] == [0, 0, 0]


def test_seconds():
    link = cost.Link(8e6, latency=0.001)  # a megabyte in a second
    assert cost.seconds_per_step("dense", 2, 10**6, P, link) == pytest.approx(1.002)
    codec = (0.25, 0.5)
    gather = cost.seconds_per_step("gather", 3, D, 10**6, link, codec)
    assert gather == pytest.approx(2 + 2 * 0.001 + 0.25 + 3 * 0.5)
    sharded = cost.seconds_per_step("sharded", 2, 10**6, 10**6, link, codec)
    assert sharded == pytest.approx(1 + 2 * 0.001 + 0.25 + 0.5)


def test_unknown_exchange():
    with pytest.raises(ValueError, match="exchange = 'tree' must be one of"):
        cost.bytes_per_step("tree", 2, D, P)
