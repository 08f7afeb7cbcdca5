"""AdaCompAllReduce by itself: what it compresses, what it leaves alone, what it keeps."""

import adacomp_oracle as oracle
import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp

SUM, MEAN = tf.distribute.ReduceOp.SUM, tf.distribute.ReduceOp.MEAN
N = 1000


def gradients(seed, shape=(N,)):
    """One per replica: far from what AdaComp sends of them."""
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


def per_replica(strategy, values):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )


def variable(strategy, shape=(N,), dtype=tf.float32, **kwargs):
    with strategy.scope():
        return tf.Variable(tf.zeros(shape, dtype), **kwargs)


def reduce(strategy, pairs, op=SUM):
    """batch_reduce_to of [(values of the replicas, destination)]: results [pair][replica]."""
    pairs = [(per_replica(strategy, v), d) for v, d in pairs]
    results = strategy.extended.batch_reduce_to(op, pairs)
    return [[t.numpy() for t in strategy.experimental_local_results(r)] for r in results]


def residues(all_reduce, index=0):
    return [r.numpy() for r in all_reduce.states[index].residues]


class Twin:
    """The residues of two replicas, and the reduction, by the oracle."""

    def __init__(self, bin_size, encoding="plain"):
        self.residues, self.arguments = np.zeros((2, N), np.float32), (bin_size, encoding)
        self.bytes = self.sent = 0

    def reduce(self, values):
        total = np.zeros(N, np.float32)
        for i, value in enumerate(values):
            packet, self.residues[i] = oracle.encode(
                value.ravel(), self.residues[i], *self.arguments
            )
            total = total + oracle.decode(packet, N)
            self.bytes += packet.nbytes
            self.sent += int(packet[4])
        return total


@pytest.mark.parametrize("encoding", ["plain", "entropy"])
@pytest.mark.parametrize("bin_size", [50, 500])
def test_steps_have_the_bits_of_the_twin(adacomp, bin_size, encoding):
    all_reduce, strategy = adacomp(bin_sizes=bin_size, encoding=encoding)
    v, twin = variable(strategy, (10, 100)), Twin(bin_size, encoding)
    for step in range(4):
        values = gradients(step, (10, 100))
        ((first, second),) = reduce(strategy, [(values, v)])
        want = twin.reduce(values).reshape(10, 100)
        np.testing.assert_array_equal(first, want)
        np.testing.assert_array_equal(second, want)
        np.testing.assert_array_equal(residues(all_reduce), twin.residues)
    (statistics,) = all_reduce.statistics()
    assert (statistics.bytes, statistics.sent) == (twin.bytes, twin.sent)
    assert (statistics.steps, statistics.gradients, statistics.skipped) == (4, 8, 0)
    assert statistics.ratio == 4 * N * 8 / twin.bytes


def test_same_in_a_graph_that_is_traced_twice(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    v, twin = variable(strategy), Twin(50)

    @tf.function
    def step(value, tracing):
        (result,) = strategy.extended.batch_reduce_to(SUM, [(value, v)])
        return strategy.experimental_local_results(result)

    for i in range(4):
        values = gradients(i)
        copies = step(per_replica(strategy, values), i // 2)  # a new Python number: a new trace
        want = twin.reduce(values)
        np.testing.assert_array_equal(copies, [want, want])
    np.testing.assert_array_equal(residues(all_reduce), twin.residues)


def test_mean(adacomp):
    _, strategy = adacomp(bin_sizes=50)
    values = gradients(0)
    ((first, _),) = reduce(strategy, [(values, variable(strategy))], MEAN)
    np.testing.assert_array_equal(first, Twin(50).reduce(values) / 2)


def test_conservation_over_the_replicas(adacomp):
    # Dyadic numbers whose maxima are equal: every sum is exact.
    all_reduce, strategy = adacomp(bin_sizes=64)
    values = np.random.default_rng(0).integers(-7, 8, (2, 512)).astype(np.float32)
    values[:, ::64] = 8
    v = variable(strategy, (512,))
    for step in range(2):
        before = np.sum(residues(all_reduce), axis=0) if step else 0
        ((first, _),) = reduce(strategy, [(values, v)])
        after = np.sum(residues(all_reduce), axis=0)
        np.testing.assert_array_equal(first + after, before + values.sum(axis=0))
        values[:, 1::64] = 0


# What is not compressed.


def test_what_is_no_gradient_is_exact(adacomp):
    all_reduce, strategy = adacomp()
    values = gradients(0)
    value = per_replica(strategy, values)
    results = strategy.extended.batch_reduce_to(SUM, [(value, value)])
    exact = values[0] + values[1]
    np.testing.assert_array_equal(strategy.experimental_local_results(results[0])[0], exact)
    np.testing.assert_array_equal(strategy.reduce(SUM, value, axis=None), exact)
    v = variable(strategy)
    reduced = strategy.extended.reduce_to(SUM, value, v)
    np.testing.assert_array_equal(strategy.experimental_local_results(reduced)[1], exact)
    gathered = strategy.gather(value, axis=0)
    np.testing.assert_array_equal(gathered, values.ravel())
    assert len(all_reduce.statistics()) == 0


def test_all_reduce_in_a_replica_is_exact(adacomp):
    all_reduce, strategy = adacomp()
    values = gradients(0)

    @tf.function
    def step(value):
        return tf.distribute.get_replica_context().all_reduce(SUM, value)

    result = strategy.run(step, (per_replica(strategy, values),))
    for copy in strategy.experimental_local_results(result):
        np.testing.assert_array_equal(copy, values[0] + values[1])
    assert len(all_reduce.statistics()) == 0


@pytest.mark.parametrize(
    "settings, shape, kwargs",
    [
        ({}, (255,), {}),
        ({}, (), {}),
        ({"exclude": "kernel$"}, (N,), {"name": "dense/kernel"}),
        ({"exclude": ["a", "^den"]}, (N,), {"name": "dense/kernel"}),
        ({}, (N,), {"dtype": tf.float64}),
        ({}, (N,), {"dtype": tf.float16}),
    ],
    ids=["small", "scalar", "excluded", "excluded too", "float64", "float16"],
)
@pytest.mark.filterwarnings("ignore:exclude. 'a' matches none:UserWarning")
def test_gradients_that_go_dense(adacomp, settings, shape, kwargs):
    all_reduce, strategy = adacomp(**settings)
    v = variable(strategy, shape, **kwargs)
    values = gradients(0, shape).astype(v.dtype.as_numpy_dtype)
    ((first, second),) = reduce(strategy, [(values, v)])
    np.testing.assert_array_equal(first, values[0] + values[1])
    np.testing.assert_array_equal(second, first)
    (statistics,) = all_reduce.statistics()
    assert statistics.bin_size is None
    assert statistics.bytes == values.nbytes
    assert all_reduce.states[0].residues == []


def test_non_trainable_variable_goes_dense(adacomp):
    all_reduce, strategy = adacomp()
    values = gradients(0)
    ((first, _),) = reduce(strategy, [(values, variable(strategy, trainable=False))])
    np.testing.assert_array_equal(first, values[0] + values[1])
    assert len(all_reduce.statistics()) == 0


def test_indexed_slices_go_dense_beside_compressed_ones(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    embedding, dense = variable(strategy, (100, 20)), variable(strategy)
    values = gradients(0)
    slices = strategy.experimental_distribute_values_from_function(
        lambda context: tf.IndexedSlices(
            tf.fill([2, 20], 1.0 + context.replica_id_in_sync_group),
            tf.constant([3, 7]),
            tf.constant([100, 20]),
        )
    )
    pairs = [(slices, embedding), (per_replica(strategy, values), dense)]
    first, second = strategy.extended.batch_reduce_to(SUM, pairs)
    total = tf.convert_to_tensor(strategy.experimental_local_results(first)[0]).numpy()
    np.testing.assert_array_equal(total[3], np.full(20, 3.0))
    assert total.sum() == 2 * 20 * 3
    np.testing.assert_array_equal(
        strategy.experimental_local_results(second)[0], Twin(50).reduce(values)
    )
    sparse, compressed = all_reduce.statistics()
    assert sparse.bytes == 2 * (2 * 20 * 4 + 2 * 4)
    assert compressed.ratio > 1


def test_indexed_slices_of_a_variable_that_was_compressed_go_dense(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    v = variable(strategy)
    reduce(strategy, [(gradients(0), v)])
    before = residues(all_reduce)
    slices = strategy.experimental_distribute_values_from_function(
        lambda context: tf.IndexedSlices(tf.ones([2]), tf.constant([3, 7]), tf.constant([N]))
    )
    (result,) = strategy.extended.batch_reduce_to(SUM, [(slices, v)])
    total = tf.convert_to_tensor(strategy.experimental_local_results(result)[0]).numpy()
    assert (total[3], total[7], total.sum()) == (2, 2, 4)
    np.testing.assert_array_equal(residues(all_reduce), before)


def test_plain_variable_as_destination_is_no_replicated_one(adacomp):
    all_reduce, strategy = adacomp()
    values, plain = gradients(0), tf.Variable(tf.zeros(N))
    (result,) = strategy.extended.batch_reduce_to(SUM, [(per_replica(strategy, values), plain)])
    (total,) = strategy.experimental_local_results(result)
    np.testing.assert_array_equal(total, values[0] + values[1])
    assert len(all_reduce.statistics()) == 0


def test_gradient_of_unknown_shape(adacomp):
    _, strategy = adacomp(bin_sizes=50)
    v, values = variable(strategy, (10, 100)), gradients(0, (10, 100))

    @tf.function
    def step(*parts):
        parts = [tf.numpy_function(lambda part: part, [part], tf.float32) for part in parts]
        value = strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )
        (result,) = strategy.extended.batch_reduce_to(SUM, [(value, v)])
        return strategy.experimental_local_results(result)

    want = Twin(50).reduce(values).reshape(10, 100)
    np.testing.assert_array_equal(step(*values), [want, want])


# Warm-up, and gradients that are not finite.


def test_warm_up_is_dense(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50, warmup_steps=2)
    v, twin = variable(strategy), Twin(50)

    @tf.function
    def step(value):
        (result,) = strategy.extended.batch_reduce_to(SUM, [(value, v)])
        return strategy.experimental_local_results(result)

    for i in range(4):
        values = gradients(i)
        want = values[0] + values[1] if i < 2 else twin.reduce(values)
        copies = step(per_replica(strategy, values))
        np.testing.assert_array_equal(copies, [want, want])
    np.testing.assert_array_equal(residues(all_reduce), twin.residues)
    (statistics,) = all_reduce.statistics()
    assert statistics.bytes == 2 * 2 * 4 * N + twin.bytes
    assert (statistics.gradients, statistics.compressed) == (8, 4)
    assert statistics.sent_per_bin == twin.sent / (4 * N / 50)


def test_warm_up_counts_what_is_not_finite(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50, warmup_steps=2)
    v, values = variable(strategy), gradients(0)
    reduce(strategy, [(values, v)])
    values[1, 3] = np.nan
    reduce(strategy, [(values, v)])
    (statistics,) = all_reduce.statistics()
    assert (statistics.steps, statistics.skipped) == (2, 1)


@pytest.mark.parametrize("place", [0, 1])
def test_variable_that_comes_later_has_its_own_warm_up(adacomp, place):
    _, strategy = adacomp(bin_sizes=50, warmup_steps=1)
    old, new = variable(strategy), variable(strategy)
    reduce(strategy, [(gradients(0), old)])
    pairs = [(gradients(1), old)]
    pairs.insert(place, (gradients(2), new))
    exact = gradients(2).sum(axis=0)
    np.testing.assert_array_equal(reduce(strategy, pairs)[place][0], exact)
    assert np.any(reduce(strategy, pairs)[place][0] != exact)


@pytest.mark.parametrize("replica", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("graph", [False, True])
def test_gradient_that_is_not_finite(adacomp, replica, bad, graph):
    all_reduce, strategy = adacomp(bin_sizes=50)
    pair = [variable(strategy), variable(strategy)]

    def reduce_all(*values):
        results = strategy.extended.batch_reduce_to(SUM, list(zip(values, pair)))
        return [strategy.experimental_local_results(r) for r in results]

    step = tf.function(reduce_all) if graph else reduce_all

    def run(*values):
        return step(*(per_replica(strategy, v) for v in values))

    run(gradients(0), gradients(1))
    before = residues(all_reduce, 0), residues(all_reduce, 1)
    broken = gradients(2)
    broken[replica, 77] = bad
    nan, finite = run(broken, gradients(3))
    assert np.all(np.isnan(nan))
    assert np.all(np.isfinite(finite))
    np.testing.assert_array_equal(residues(all_reduce, 0), before[0])
    np.testing.assert_array_equal(residues(all_reduce, 1), before[1])
    assert [s.skipped for s in all_reduce.statistics()] == [1, 0]
    run(gradients(4), gradients(5))
    assert np.any(residues(all_reduce, 0)[0] != before[0][0])


# Bad arguments.


@pytest.mark.parametrize("kind", ["small", "slices"])
@pytest.mark.parametrize("graph", [False, True])
def test_dense_gradient_that_is_not_finite(adacomp, kind, graph):
    all_reduce, strategy = adacomp(bin_sizes=50)
    v, other = variable(strategy), variable(strategy, (8, 2))

    def dense(values):
        def on(context):
            value = tf.constant(values[context.replica_id_in_sync_group])
            if kind == "small":
                return value
            return tf.IndexedSlices(value, tf.range(8), tf.constant([8, 2]))

        return strategy.experimental_distribute_values_from_function(on)

    def step(small):
        pairs = [(per_replica(strategy, gradients(0)), v), (small, other)]
        strategy.extended.batch_reduce_to(SUM, pairs)

    run = tf.function(step) if graph else step
    good = gradients(1, (8, 2))
    bad = good.copy()
    bad[1, 3, 1] = np.inf
    before = None
    for values in (good, bad):
        run(dense(values))
        before, after = residues(all_reduce) if before is None else before, residues(all_reduce)
    assert np.any(after) and np.array_equal(before, after)
    assert [g.skipped for g in all_reduce.statistics()] == [0, 1]


def test_reset_residues(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    v = variable(strategy)
    reduce(strategy, [(gradients(0), v)])
    assert np.any(residues(all_reduce))
    all_reduce.reset_residues()
    assert not np.any(residues(all_reduce))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"compression": 50}, ["compression = 50", "AdaComp"]),
        ({"dense": "nccl"}, ["dense = 'nccl'", "CrossDeviceOps"]),
        ({"compression": lp.distribute.AdaComp(), "warmup_steps": 3}, ["warmup_steps"]),
        ({"bin_sizes": 0}, ["bin_sizes = 0", "1..16384"]),
    ],
)
def test_wrong_argument(arguments, words):
    with pytest.raises(ValueError) as raised:
        lp.distribute.AdaCompAllReduce(**arguments)
    assert all(word in str(raised.value) for word in words)


def test_one_replica_needs_no_packets():
    all_reduce = lp.distribute.AdaCompAllReduce()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"], cross_device_ops=all_reduce)
    v, values = variable(strategy), gradients(0)
    ((only,),) = reduce(strategy, [(values, v)])
    np.testing.assert_array_equal(only, values[0])
