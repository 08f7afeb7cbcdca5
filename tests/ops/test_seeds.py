"""Seeds that are derived from others."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.ops.seeds import fold_in_replica, nth


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_the_first_product_keeps_the_seed(dtype):
    seed = tf.constant([3, -4], dtype)
    assert nth(seed, 0) is seed


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_products_that_share_a_seed_draw_differently(dtype):
    # Generators count in the second word: no product may meet another's next draws.
    drawn = [tf.constant([7, 2**31 - 1 - count], dtype) for count in range(50)]
    words = {
        tuple(int(v) % 2**32 for v in nth(seed, index)) for seed in drawn for index in range(20)
    }
    assert len(words) == 50 * 20


def test_nth_seed_is_taken():
    x = tf.fill([64], 0.5)
    one, other = (
        lp.quantize(x, lp.FixedPointFormat(4, 0), "stochastic", nth(tf.constant([1, 2]), index))
        for index in (1, 2)
    )
    assert np.any(one != other)


def test_only_replicas_have_seeds_of_their_own(two_replicas):
    seed = tf.constant([1, 2], tf.int64)
    assert fold_in_replica(seed) is seed
    first, second = two_replicas.experimental_local_results(
        two_replicas.run(tf.function(lambda: fold_in_replica(seed)))
    )
    np.testing.assert_array_equal(first, seed)
    assert np.any(first != second)


@pytest.mark.parametrize("seed", [(True, 2), "ab", (1, "b")])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match="seed"):
        lp.quantize([0.1], lp.FP8_E5M2, "stochastic", seed)
