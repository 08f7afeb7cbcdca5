"""Whether a cluster's description makes sense, before TensorFlow starts servers by it."""

import dataclasses
import json
import numbers
import os
import re

import tensorflow as tf

ONE = "an example for the first of two: " + json.dumps(
    {
        "cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
        "task": {"type": "worker", "index": 0},
    }
)
_WORKERS = ("chief", "worker")  # those that train, in the order of their replicas
_OTHERS = ("evaluator", "ps")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The addresses of the workers that train, in order, and which one this is."""

    addresses: tuple
    index: int

    @property
    def name(self):
        return f"worker {self.index} ({self.addresses[self.index]})"

    @property
    def port(self):
        return int(self.addresses[self.index].rpartition(":")[2])


def check_tf_config():
    """Raises a ValueError if the environment's TF_CONFIG is no JSON with the parts it needs."""
    text = os.environ.get("TF_CONFIG")
    if text is None:
        return
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"TF_CONFIG = {text!r} is no JSON ({error}); {ONE}") from None
    if not isinstance(config, dict):
        raise ValueError(f"TF_CONFIG = {text!r} must be a JSON object; {ONE}")
    if "cluster" not in config:
        return  # one worker alone, as in TensorFlow
    cluster, task = config["cluster"], config.get("task")
    if not isinstance(cluster, dict) or not all(isinstance(v, list) for v in cluster.values()):
        raise ValueError(f"TF_CONFIG: cluster = {cluster!r} must map jobs to lists; {ONE}")
    for job, addresses in cluster.items():
        for address in addresses:
            if not isinstance(address, str):
                raise ValueError(
                    f"TF_CONFIG: the address {address!r} of {job!r} must be a string, HOST:PORT; "
                    f"{ONE}"
                )
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise ValueError(f"TF_CONFIG: task = {task!r} must have a type and an index; {ONE}")
    index = task["index"]
    # TensorFlow takes "1" too, and makes 1 of 1.5 and true.
    if not _is_whole(index) and not (isinstance(index, str) and re.fullmatch("-?[0-9]+", index)):
        raise ValueError(f"TF_CONFIG: the task's index = {index!r} must be an integer >= 0; {ONE}")


def _is_whole(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def cluster_of(resolver):
    """The Cluster of a cluster resolver; None if it has none, or if this task does not train.

    Raises:
        ValueError: a job, address, type or index that cannot be.
    """
    jobs = resolver.cluster_spec().as_dict()
    if not jobs:
        return None
    source = type(resolver).__name__
    from_environment = isinstance(resolver, tf.distribute.cluster_resolver.TFConfigClusterResolver)

    def wrong(what):
        return ValueError(f"{source}: {what}" + (f"; {ONE}" if from_environment else ""))

    unknown = sorted(set(jobs) - {*_WORKERS, *_OTHERS})
    if unknown:
        raise wrong(f"the jobs {unknown} must be among {[*_WORKERS, *_OTHERS]}")
    if len(jobs.get("chief", [])) > 1:
        raise wrong(f"chief = {jobs['chief']} must have one address")
    task, index = resolver.task_type, resolver.task_id
    if task in _OTHERS:
        return None
    if task is None or index is None:
        raise wrong(f"the task's type = {task!r} and index = {index!r} must be set")
    if task not in jobs:
        raise wrong(f"the task's type = {task!r} must be one of the cluster's jobs {sorted(jobs)}")
    if not jobs[task]:
        raise wrong(f"the job {task!r} has no addresses: it must have one for each of its tasks")
    if not _is_whole(index):
        raise wrong(f"the task's index = {index!r} must be an integer >= 0")
    if not 0 <= index < len(jobs[task]):
        raise wrong(
            f"the task's index = {index} must be in 0..{len(jobs[task]) - 1}: the "
            f"cluster has {len(jobs[task])} tasks of type {task!r}"
        )
    addresses = [address for job in _WORKERS for address in jobs.get(job, [])]
    for address in addresses:
        # A host has no slash: "http://a:1" is none.
        found = re.fullmatch(r"[^\s/]+:([0-9]{1,5})", str(address))
        if not found or not 0 < int(found[1]) < 65536:
            raise wrong(f"the address {address!r} must be HOST:PORT, such as '10.0.0.1:2222'")
    for address in addresses:
        if addresses.count(address) > 1:
            raise wrong(f"the address {address!r} is in the cluster more than once")
    before = len(jobs.get("chief", [])) if task == "worker" else 0
    return Cluster(tuple(addresses), before + int(index))


def resolver_or_default(resolver):
    """The resolver, or the one of TF_CONFIG, which is checked then."""
    if resolver is None:
        check_tf_config()
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if not isinstance(resolver, tf.distribute.cluster_resolver.ClusterResolver):
        raise ValueError(
            f"cluster_resolver = {resolver!r} must be a "
            "tf.distribute.cluster_resolver.ClusterResolver or None"
        )
    return resolver
