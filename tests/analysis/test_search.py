"""analysis.search on a problem of a second."""

import numpy as np
import pytest
import tensorflow as tf

import tf_lowprec as lp
from tf_lowprec.analysis import SearchResult, Trial, total_bits
from tf_lowprec.analysis.planner import Rules
from tf_lowprec.analysis.search import _Noise

L = tf.keras.layers


def problem():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((640, 64)).astype(np.float32)
    y = np.argmax(x @ rng.standard_normal((64, 3)), 1).astype(np.int32)
    tf.keras.utils.set_random_seed(1)
    model = tf.keras.Sequential(
        [
            tf.keras.Input((64,)),
            tf.keras.layers.Dense(32, activation="relu"),
            tf.keras.layers.Dense(3),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model, (x[:512], y[:512]), (x[512:], y[512:])


@pytest.fixture(scope="module")
def found():
    model, train, validation = problem()
    before = [w.copy() for w in model.get_weights()]
    seen = []
    result = lp.analysis.search(
        model, train, 6, validation_data=validation, batch_size=64, repeats=2, progress=seen.append
    )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    assert tuple(seen) == result.trials
    return result


def test_it_finds_fewer_bits(found):
    assert [t.label for t in found.trials[:2]] == ["float32", "closed form"]
    assert len(found.trials) <= 6
    assert found.best.bits < found.reference.bits
    assert found.best.metric >= found.reference.metric - found.tolerance
    for trial in found.trials[1:]:
        assert trial.bits == total_bits(trial.plan)
    for trial in found.trials:
        assert len(trial.metrics) == 2 and trial.metric == pytest.approx(np.mean(trial.metrics))
    assert any(len(set(trial.metrics)) == 2 for trial in found.trials)  # other orders


def test_files(found, tmp_path):
    assert SearchResult.from_json(found.to_json(tmp_path / "found.json")) == found
    assert SearchResult.from_json(tmp_path / "found.json") == found
    found.plot(tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 10_000


def test_pareto_front():
    plan = object()
    trials = [
        Trial("closed form", plan, 10, 0.90, 0.0, ()),
        Trial("a", plan, 8, 0.91, 0.0, ()),
        Trial("b", plan, 6, 0.85, 0.0, ()),
        Trial("c", plan, 7, 0.84, 0.0, ()),
        Trial("float32", None, None, 0.95, 0.0, ()),
    ]
    result = SearchResult(tuple(trials), "accuracy", 0.001)
    assert [t.label for t in result.pareto()] == ["b", "a"]
    assert result.best.label == "a"


def test_arguments():
    model, train, validation = problem()
    with pytest.raises(ValueError, match="budget = 2"):
        lp.analysis.search(model, train, 2, validation_data=validation)
    wrong = {
        "repeats": 0,
        "seed": -1,
        "steps": 0,
        "batch_size": 0,
        "loss_scale": 0,
        "tolerance": -0.1,
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            lp.analysis.search(model, train, 4, validation_data=validation, **{name: value})
    with pytest.raises(ValueError, match="validation_data must be"):
        lp.analysis.search(model, train, 4, validation_data=validation[0])
    model = tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="not compiled"):
        lp.analysis.search(model, train, 4, validation_data=validation)


def test_sums_that_are_not_measured_stay_as_planned():
    layers = [L.LSTM(8, name="lstm"), L.Dense(40, name="dense"), L.Dense(3)]
    model = tf.keras.Sequential([tf.keras.Input((50, 30)), *layers])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    data = np.random.default_rng(0).normal(size=(16, 50, 30)).astype(np.float32), np.arange(16) % 3
    rules = Rules(chunk=None)
    closed = lp.analysis.plan(model, 16, chunk=None)
    noise = _Noise(model, closed, data, 16, 1.0, rules)
    plans = [p for _, p in (*noise.candidates(), *noise.decrements(closed))]
    assert len({tuple(s.mantissa_bits for s in p.sums if s.layer == "dense") for p in plans}) > 1
    for plan in plans:
        for s, t in zip(plan.sums, closed.sums):
            assert s.layer != "lstm" or s == t


def test_what_is_no_result():
    with pytest.raises(ValueError, match="this is no result of analysis.search"):
        SearchResult.from_json("{}")
