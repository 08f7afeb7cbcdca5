"""Training on several workers, which are processes on this machine: what they do is in
multi_worker_program.py."""

import json

import numpy as np
import pytest
import tensorflow as tf
from compat import KERAS_3, needs_keras_3
from test_all_reduce import Twin
from workers import Workers

import tf_lowprec as lp
from tf_lowprec.distribute.exchange import checksum
from tf_lowprec.distribute.multi_worker import essence


def run_all(count, folder, scenarios, limit=900):
    workers = Workers(count, folder, scenarios)
    codes = workers.wait(limit)
    assert codes == [0] * count, workers.errors(0)[-3000:] + workers.errors(1)[-3000:]
    return workers


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    scenarios = ["reductions", "dense", "compressed", "several_steps_per_execution", "custom_loop"]
    scenarios += ["not_finite", "embedding", "backup"]
    return run_all(2, tmp_path_factory.mktemp("two"), scenarios)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return run_all(3, tmp_path_factory.mktemp("three"), ["dense", "compressed"])


@pytest.fixture(params=["two", pytest.param("three", marks=needs_keras_3)])
def workers(request):
    return request.getfixturevalue(request.param)


def test_reductions_have_the_bits_of_the_twin(two):
    result, count = two.result("reductions"), 2
    twin = Twin(50, "entropy")
    twin.residues = np.zeros((count, 1000), np.float32)
    for step, summed in enumerate(result["summed"]):
        rows = [np.random.default_rng([step, i]).normal(size=1007) for i in range(count)]
        rows = np.array(rows, np.float32)
        np.testing.assert_array_equal(summed[:1000], twin.reduce(rows[:, :1000]))
        small = rows[0, 1000:]
        for row in rows[1:]:
            small = small + row[1000:]
        np.testing.assert_array_equal(summed[1000:], small)
    for i, residue in enumerate(twin.residues):
        np.testing.assert_array_equal(result[f"own_residue_{i}"], residue)
    assert result["kept"]
    (compressed, skipped, per_bin), (small_compressed, small_skipped, _) = result["own_counts"]
    assert (compressed, skipped, small_compressed, small_skipped) == (5, 0, 0, 1)
    assert 1 <= per_bin <= 50
    assert result["mean"] == (count + 1) / 2
    assert result["means"].shape == (1,)


@pytest.mark.parametrize("scenario", ["dense", "compressed"])
def test_weights_are_equal_after_200_steps(workers, scenario):
    result = workers.result(scenario)  # which compares all workers'
    assert result["losses"][-1] < 0.6 * result["losses"][0]
    communication = json.loads(str(result["communication"]))
    exchanges = {"dense": "all_reduces", "compressed": "exchanges"}[scenario]
    assert communication[exchanges] == 200  # one for each step
    assert communication["second"] <= 20
    assert result["is_stock"] != KERAS_3


def test_compression_saves_bytes(two):
    dense, compressed = (
        json.loads(str(two.result(name)["communication"]))["bytes"]
        for name in ("dense", "compressed")
    )
    assert compressed < dense / 5  # of so small a model


def test_evaluation_and_prediction_are_those_of_all_data(workers):
    result = workers.result("compressed")
    from multi_worker_program import data, model_under

    model = model_under(tf.distribute.get_strategy())
    model.set_weights([v for k, v in sorted(result.items()) if k.startswith("weight")])
    x, y = data(65)
    predicted = model.predict(x, verbose=0)
    np.testing.assert_allclose(result["predicted"], predicted, rtol=1e-4, atol=1e-5)
    evaluated = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(result["evaluated"], evaluated, rtol=1e-4)


def test_several_steps_per_execution(two):
    result = two.result("several_steps_per_execution")
    assert np.all(result["steps"] == 50)


def test_custom_loop(two):
    losses = two.result("custom_loop")["losses"]
    assert np.all(np.isfinite(losses))


def test_overflow_of_one_worker_is_skipped_by_all(two):
    result = two.result("not_finite")
    assert result["scale"] == 2.0**14
    assert all(np.all(np.isfinite(v)) for k, v in result.items() if k.startswith("weight"))


def test_embeddings_go_dense_beside_packets(two):
    assert two.result("embedding")["bins"].tolist() == [0, 50, 0, 0, 0]


def test_backup_goes_on_with_the_same_bits(two):
    result = two.result("backup")
    assert result["same"]
    assert result["kept"].tolist() == ["epoch-1", "epoch-2"]
    assert not result["left"]


def test_warns_of_a_pattern_that_matches_nothing(two):
    assert "'none of them' matches none" in two.errors(0)


def test_warns_where_compression_does_not_pay(two):
    for i in range(2):
        (line,) = [r for r in two.errors(i).splitlines() if r.startswith("tf_lowprec: ")]
        assert "2 replicas all-gather" in line and "compression does not pay" in line


# What goes wrong.


def run_failing(folder, scenario, limit=400):
    workers = Workers(2, folder, [scenario])
    return workers, workers.wait(limit)


@needs_keras_3
def test_corrupted_packet_ends_all_workers(tmp_path):
    workers, codes = run_failing(tmp_path, "corrupted")
    assert codes == [1, 1]
    what = "[replica] [0] [sent what has another checksum: it was corrupted on the way]"
    assert what in workers.errors(1)
    assert "worker 1 (" in workers.errors(0)  # told by the one that saw it
    assert "another checksum" in workers.errors(0)


@needs_keras_3
def test_killed_worker_ends_the_others(tmp_path):
    workers, codes = run_failing(tmp_path, "killed")
    assert codes == [1, -9]
    assert "worker 1 (" in workers.errors(0) and "died" in workers.errors(0)


# What needs no other worker.


def test_checksum_is_that_of_packets():
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 100)).astype(np.int32)
    with np.errstate(over="ignore"):
        x = words.view(np.uint32) + np.arange(100, dtype=np.uint32) * np.uint32(0x9E3779B9)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
        want = x.sum(axis=1, dtype=np.uint32).view(np.int32)
    np.testing.assert_array_equal(checksum(tf.constant(words)), want)


def test_essence_of_an_error():
    tensorflow = "Graph execution error:\n\nDetected at …\n  File x\n\nassertion failed: [a]\n"
    assert essence(tensorflow + "\t [[{{node Assert}}]] [Op:step]") == "assertion failed: [a]"
    assert essence("no such file\nmore") == "no such file"
    assert essence("x\n\nclosed\n\t [[{{node N}}]]") == "closed"
    assert essence("") == ""


def test_one_worker_alone(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = lp.distribute.MultiWorkerMirroredStrategy(lp.distribute.AdaComp())
    assert strategy.num_workers == 1
    assert strategy.worker_index == 0
    from multi_worker_program import fit, model_under

    losses = fit(model_under(strategy), 2).history["loss"]
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(strategy.gather_from_workers(np.array([[3, 4]])), [[3, 4]])


@needs_keras_3
def test_strategy_is_none_of_tensorflows():
    assert not issubclass(
        lp.distribute.MultiWorkerMirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy
    )
