"""Measured compression: Statistics, its table, the Keras callback, TensorBoard's scalars."""

import numpy as np
import pytest
import tensorflow as tf
from test_training import OPTIMIZERS, data, dense_model

import tf_lowprec as lp
from tf_lowprec.distribute import GradientStatistics, Statistics


def gradient(**changes):
    values = {
        "name": "kernel",
        "num_elements": 1000,
        "bin_size": 50,
        "steps": 3,
        "gradients": 6,
        "compressed": 6,
        "bytes": 480,
        "sent": 240,
        "skipped": 0,
    }
    return GradientStatistics(**{**values, **changes})


def test_rates():
    g = gradient()
    assert (g.dense_bytes, g.ratio, g.bytes_per_gradient, g.sent_per_bin) == (24000, 50, 80, 2)


def test_steps_that_went_dense_do_not_count_in_bins():
    assert gradient(compressed=4).sent_per_bin == 3


def test_nothing_measured_is_not_a_number():
    g = gradient(steps=0, gradients=0, compressed=0, bytes=0, sent=0)
    assert np.isnan([g.ratio, g.bytes_per_gradient, g.sent_per_bin]).all()
    assert np.isnan([Statistics(()).ratio, Statistics(()).bytes_per_gradient]).all()
    assert Statistics((g, gradient(name="other"))).bytes_per_gradient == 80


def test_totals_and_table():
    dense = gradient(name="bias", num_elements=10, bin_size=None, bytes=240, sent=0)
    both = Statistics((gradient(), dense))
    assert both.ratio == (24000 + 240) / (480 + 240)
    assert both["bias"] is dense
    with pytest.raises(KeyError, match="kernel"):
        both["weight"]
    lines = both.table().splitlines()
    assert lines[0].split() == [
        "variable",
        "elements",
        "bin",
        "bytes/gradient",
        "sent/bin",
        "ratio",
    ]
    assert lines[1].split() == ["kernel", "1,000", "50", "80", "2.00", "50.0"]
    assert lines[2].split() == ["bias", "10", "dense", "40", "1.0"]
    assert lines[3].split() == ["all", "1,010", "120", "33.7"]


def test_since():
    later = gradient(steps=5, gradients=10, bytes=500, sent=260)
    new = gradient(key=2)
    gone = gradient(steps=4, key=1)  # of the same name, as the others
    difference = Statistics((later, new)).since(Statistics((gone, gradient())))
    first, second = difference
    assert (first.steps, first.gradients, first.bytes, first.sent) == (2, 4, 20, 20)
    assert second == new


def test_since_a_reset():
    for steps in (1, 12):
        after = gradient(steps=steps, gradients=2, bytes=160, resets=1)
        assert Statistics((after,)).since(Statistics((gradient(),))) == Statistics((after,))


def fit(strategy, callbacks):
    x, y = data(256)
    with strategy.scope():
        model = dense_model()
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(OPTIMIZERS["SGD with momentum"](), loss)
    return model.fit(x, y, batch_size=32, epochs=2, verbose=0, callbacks=callbacks).history


def written(folder):
    """{(tag, step): value} of TensorBoard's scalars."""
    scalars = {}
    for file in folder.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                scalars[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return scalars


def test_callback_logs_each_epoch(adacomp, tmp_path):
    all_reduce, strategy = adacomp(bin_sizes=50)
    history = fit(strategy, [lp.distribute.CompressionLogger(tmp_path)])
    ratios, sizes = history["compression_ratio"], history["gradient_bytes"]
    total = all_reduce.statistics()
    # 8 steps of 2 replicas in each of 2 epochs.
    np.testing.assert_allclose(np.sum(sizes) * 16, total.bytes)
    np.testing.assert_allclose(1 / np.mean(1 / np.array(ratios)), total.ratio)
    scalars = written(tmp_path)
    np.testing.assert_allclose(scalars["compression/compression_ratio", 1], ratios[1], rtol=1e-6)
    (kernel,) = [s.name for s in total if s.num_elements == 64 * 64]
    by_epoch = [scalars[f"compression/{kernel}/bytes", epoch] for epoch in range(2)]
    np.testing.assert_allclose(np.sum(by_epoch) * 16, total[kernel].bytes, rtol=1e-6)
    assert f"compression/{kernel}/sent_per_bin" in {tag for tag, _ in scalars}


def test_callback_tells_variables_of_one_path_apart(adacomp, tmp_path, monkeypatch):
    all_reduce, strategy = adacomp()
    with strategy.scope():
        model = dense_model()
    logger = lp.distribute.CompressionLogger(tmp_path, all_reduce)
    logger.set_model(model)
    logger.on_train_begin()
    same_path = Statistics((gradient(key=1), gradient(key=2, bytes=960)))
    monkeypatch.setattr(all_reduce, "statistics", lambda: same_path)
    logger.on_epoch_end(0)
    logger.on_train_end()
    scalars = written(tmp_path)
    assert scalars["compression/kernel/bytes", 0] == 80
    assert scalars["compression/kernel_1/bytes", 0] == 160


def test_callback_serves_one_strategy_after_another(adacomp):
    logger = lp.distribute.CompressionLogger()
    _, strategy = adacomp(bin_sizes=50)
    fit(strategy, [logger])
    all_reduce, strategy = adacomp(bin_sizes=50)
    (*_, last) = fit(strategy, [logger])["gradient_bytes"]
    assert 0 < last < all_reduce.statistics().bytes


def test_callback_says_that_one_replica_compresses_nothing(caplog):
    all_reduce = lp.distribute.AdaCompAllReduce()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"], cross_device_ops=all_reduce)
    fit(strategy, [lp.distribute.CompressionLogger()])
    assert "one replica" in caplog.text


def test_callback_needs_our_op(two_replicas):
    with pytest.raises(ValueError, match="no AdaCompAllReduce"):
        fit(two_replicas, [lp.distribute.CompressionLogger()])
    with pytest.raises(ValueError, match="all_reduce = 3"):
        lp.distribute.CompressionLogger(all_reduce=3)


def test_reset(adacomp):
    all_reduce, strategy = adacomp(bin_sizes=50)
    fit(strategy, [])
    assert all_reduce.statistics().bytes > 0
    all_reduce.reset_statistics()
    assert all_reduce.statistics().bytes == 0
