"""Descriptions of clusters that cannot be, and workers that meet, or should not."""

import json
import socket
import threading

import pytest
import tensorflow as tf
from workers import free_addresses

import tf_lowprec as lp
from tf_lowprec.distribute.cluster import (
    Cluster,
    check_tf_config,
    cluster_of,
    resolver_or_default,
)
from tf_lowprec.distribute.rendezvous import meet, watch

TWO = {"worker": ["a:1", "b:2"]}
TASK = {"type": "worker", "index": 0}


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["no JSON"]),
        ("{", ["no JSON"]),
        ("[1]", ["JSON object"]),
        (json.dumps({"cluster": ["a:1"]}), ["cluster = ['a:1']", "must map jobs to lists"]),
        (json.dumps({"cluster": {"worker": "a:1"}}), ["cluster", "lists"]),
        (json.dumps({"cluster": TWO}), ["task = None", "type and an index"]),
        (json.dumps({"cluster": TWO, "task": {"type": "worker"}}), ["type and an index"]),
        (
            json.dumps({"cluster": TWO, "task": {"type": "worker", "index": "x"}}),
            ["index = 'x'", "integer"],
        ),
        *(
            (
                json.dumps({"cluster": TWO, "task": {"type": "worker", "index": index}}),
                [f"index = {index!r}", "integer >= 0", "example"],
            )
            for index in (1.5, True, None, [0])
        ),
        *(
            (
                json.dumps({"cluster": {"worker": ["a:1", address]}, "task": TASK}),
                [f"address {address!r} of 'worker'", "HOST:PORT", "example"],
            )
            for address in (2, None, ["b:2"])
        ),
    ],
)
def test_bad_tf_config(monkeypatch, text, words):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError) as raised:
        check_tf_config()
    assert all(word in str(raised.value) for word in ["TF_CONFIG", *words])


@pytest.mark.parametrize(
    "config, words",
    [
        ({"cluster": {"worker": []}, "task": TASK}, ["'worker' has no addresses"]),
        ({"cluster": {"worker": ["http://a:1"]}, "task": TASK}, ["'http://a:1'", "HOST:PORT"]),
        ({"cluster": TWO, "task": {**TASK, "index": -1}}, ["index = -1", "0..1"]),
    ],
)
def test_tf_config_that_cannot_be(monkeypatch, config, words):
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(ValueError) as raised:
        cluster_of(resolver_or_default(None))
    assert all(word in str(raised.value) for word in [*words, "an example for the first of two"])


def test_index_as_a_string(monkeypatch):
    config = {"cluster": TWO, "task": {**TASK, "index": "1"}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert cluster_of(resolver_or_default(None)).index == 1


@pytest.mark.parametrize("text", ["{}", json.dumps({"task": {"type": "worker", "index": 0}})])
def test_no_cluster_in_tf_config(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    check_tf_config()
    assert cluster_of(tf.distribute.cluster_resolver.TFConfigClusterResolver()) is None


def resolver(jobs, task="worker", index=0):
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type=task, task_id=index
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        (({"wroker": ["a:1"]},), ["wroker", "worker"]),
        (({"chief": ["a:1", "b:1"]}, "chief"), ["chief", "one address"]),
        ((TWO, None), ["type = None"]),
        ((TWO, "chief"), ["type = 'chief'", "['worker']"]),
        ((TWO, "worker", 2), ["index = 2", "0..1"]),
        ((TWO, "worker", 1.5), ["index = 1.5", "integer"]),
        ((TWO, "worker", True), ["index = True", "integer"]),
        (({"worker": []},), ["'worker' has no addresses"]),
        (({"worker": ["a:1", "http://b:1"]},), ["'http://b:1'", "HOST:PORT, such as"]),
        (({"worker": ["a:1", "b:²"]},), ["'b:²'", "HOST:PORT"]),
        (({"worker": ["a:1", "b"]},), ["'b'", "HOST:PORT"]),
        (({"worker": ["a:1", "b:99999"]},), ["'b:99999'", "HOST:PORT"]),
        (({"worker": ["a:1", "a:1"]},), ["'a:1'", "more than once"]),
    ],
)
def test_bad_cluster(arguments, words):
    with pytest.raises(ValueError) as raised:
        cluster_of(resolver(*arguments))
    assert all(word in str(raised.value) for word in words)


def test_addresses_of_ipv6():
    assert cluster_of(resolver({"worker": ["[::1]:1", "a:2"]})).addresses == ("[::1]:1", "a:2")


def test_chief_comes_first():
    jobs = {"chief": ["c:1"], "worker": ["a:1", "b:2"]}
    assert cluster_of(resolver(jobs, "worker", 1)) == Cluster(("c:1", "a:1", "b:2"), 2)
    assert cluster_of(resolver(jobs, "chief", 0)).name == "worker 0 (c:1)"
    assert cluster_of(resolver({**jobs, "evaluator": ["e:1"]}, "evaluator", 0)) is None


def test_slurm(monkeypatch):
    variables = {
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
        jobs={"worker": 2}, port_base=8888, gpus_per_node=1, gpus_per_task=1, auto_set_gpu=False
    )
    assert cluster_of(slurm) == Cluster(("node1:8888", "node2:8888"), 1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"compression": "adacomp"}, ["compression = 'adacomp'", "AdaComp"]),
        ({"cluster_resolver": TWO}, ["cluster_resolver", "ClusterResolver"]),
        ({"timeout_seconds": 0}, ["timeout_seconds = 0", "above 0"]),
        ({"start_timeout_seconds": None}, ["start_timeout_seconds = None"]),
        ({"averaged": "("}, ["averaged = '('", "regular expression"]),
    ],
)
def test_wrong_argument(arguments, words):
    with pytest.raises(ValueError) as raised:
        lp.distribute.MultiWorkerMirroredStrategy(**arguments)
    assert all(word in str(raised.value) for word in words)


# Workers that meet. In threads: nothing here needs TensorFlow.


@pytest.fixture
def addresses():
    return free_addresses(3)


def meet_all(clusters, facts, timeout=20.0):
    """Each worker's error, as text; None where there was none."""
    errors = [None] * len(clusters)

    def one(i):
        try:
            for connection in meet(clusters[i], facts[i], timeout).values():
                connection.close()
        except (ValueError, RuntimeError) as error:
            errors[i] = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(clusters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def clusters_of(addresses):
    return [Cluster(tuple(addresses), i) for i in range(len(addresses))]


def test_workers_meet(addresses):
    facts = [{"TensorFlow": "2.21.0", "compression": None}] * 3
    assert meet_all(clusters_of(addresses), facts) == [None] * 3
    assert meet_all(clusters_of(addresses), facts) == [None] * 3  # the ports are free again


@pytest.mark.parametrize(
    "fact, other",
    [("TensorFlow", "2.15.1"), ("compression", {"bin_sizes": 50}), ("tf_lowprec", "0.0.9")],
)
def test_facts_that_differ(addresses, fact, other):
    same = {"TensorFlow": "2.21.0", "compression": None, "tf_lowprec": "0.1.0"}
    errors = meet_all(clusters_of(addresses), [same, same, {**same, fact: other}])
    want = f"ValueError: {fact} must be equal on all workers: worker 2 has {other!r}, worker 0 has"
    for error in errors:
        assert error.startswith(want)


def test_lists_of_workers_that_differ(addresses):
    clusters = clusters_of(addresses[:2])
    clusters[1] = Cluster(tuple(addresses), 1)
    errors = meet_all(clusters, [{}, {}])
    assert errors[0] == errors[1]
    assert "workers must be equal on all workers: worker 1 has" in errors[0]


def test_two_with_one_index(addresses):
    clusters = clusters_of(addresses)
    errors = meet_all([*clusters[:2], clusters[1]], [{}] * 3)
    # The port of worker 1 is free only for the first of them, if they try at the same time.
    assert "worker 1" in errors[0]
    assert all(errors)


def test_worker_that_does_not_come(addresses):
    errors = meet_all(clusters_of(addresses)[:2], [{}] * 2, timeout=1.5)
    assert errors[0] == errors[1]
    assert f"worker 2 ({addresses[2]}) did not come to worker 0" in errors[0]
    assert "in 1.5 s" in errors[0] and "RuntimeError" in errors[0]


def test_first_worker_that_does_not_come(addresses):
    errors = meet_all(clusters_of(addresses)[1:], [{}] * 2, timeout=1.0)
    assert all(f"worker 0 ({addresses[0]}) did not answer" in error for error in errors)


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_process_that_dies_is_missed(addresses, dies):
    """By the first worker, or by all if it is the first; one that says goodbye is not."""
    clusters, found, lost = clusters_of(addresses), {}, []
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: meet(clusters[i], {}, 20)}))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    heard = threading.Semaphore(0)

    def miss(i, name):
        lost.append((i, name))
        heard.release()

    for i in {0, 1, 2} - {dies}:
        watch(clusters[i], found[i], lambda name, i=i: miss(i, name))
    if dies != 1:  # the other one ends as it should
        list(found[1].values())[0].sendall(b"goodbye\n")
    for connection in found[dies].values():
        connection.close()
    expected = [(1, 0), (2, 0)] if dies == 0 else [(0, dies)]
    for _ in expected:
        assert heard.acquire(timeout=20)
    assert sorted(lost) == [(i, f"worker {j} ({addresses[j]})") for i, j in expected]
    for connections in found.values():
        for connection in connections.values():
            connection.close()


@pytest.mark.parametrize("taken", [0, 1])
def test_port_that_is_taken(addresses, taken):
    port = int(addresses[taken].split(":")[1])
    with socket.create_server(("", port)):
        errors = meet_all(clusters_of(addresses[:2]), [{}] * 2, timeout=2.0)
    message = f"the port {port} of worker {taken} ({addresses[taken]}) cannot be listened on"
    assert message in errors[taken]
    assert all(errors)


def test_other_programs_are_not_listened_to(addresses):
    """What connects to the first worker, but is no worker, does not disturb."""
    port = int(addresses[0].split(":")[1])
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            try:
                with socket.create_connection(("localhost", port), 0.1) as connection:
                    connection.sendall(b"GET / HTTP/1.0\r\n")
            except OSError:
                stop.wait(0.01)

    thread = threading.Thread(target=disturb)
    thread.start()
    errors = meet_all(clusters_of(addresses), [{}] * 3)
    stop.set()
    thread.join()
    assert errors == [None] * 3
