"""All workers meet, and compare what they are about to do, before TensorFlow's servers start.

TensorFlow waits without end, or dies with an error about something else, where workers' lists,
versions or programs differ. Here the first worker listens on its own port for a moment, all others
tell it what they have, and it answers all with the same verdict.
"""

import contextlib
import json
import socket
import time

_GREETING = "tf_lowprec rendezvous 1"
_RETRY = 0.2  # seconds


def meet(cluster, facts, timeout):
    """Returns when all workers have come with equal facts.

    Args:
        cluster: a Cluster.
        facts: {what: a value that JSON holds}: equal on all workers, or there is an error.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: facts that differ, in the same words on all workers.
        RuntimeError: this worker's port is taken; or a worker did not come in time, which the
            error names.
    """
    facts = {"workers": list(cluster.addresses), **facts}
    deadline = time.monotonic() + timeout
    problem = _port_problem(cluster)
    if cluster.index == 0:
        if problem:
            raise RuntimeError(problem)
        verdict = _listen(cluster, facts, deadline, timeout)
    else:
        hello = {"greeting": _GREETING, "index": cluster.index, "facts": facts, "problem": problem}
        verdict = _tell(cluster, hello, deadline, timeout)
    if verdict["error"] is not None:
        raise (RuntimeError if verdict["late"] else ValueError)(verdict["error"])


def _port_problem(cluster):
    try:
        _listener(cluster.port).close()
    except OSError as error:
        return (
            f"the port {cluster.port} of {cluster.name} cannot be listened on "
            f"({error.strerror}): end the process that has it, or give the workers other ports"
        )
    return None


def _listener(port):
    try:
        found = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError):  # a machine without IPv6, or a port that is taken
        found = socket.create_server(("", port))
    return found


def _send(connection, message):
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection, deadline):
    """One line's object; None if the other end says something else, or goes."""
    data = b""
    while not data.endswith(b"\n"):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            part = connection.recv(65536)
        except OSError:
            return None
        if not part or len(data) > 2**24:
            return None
        data += part
    try:
        message = json.loads(data)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _listen(cluster, facts, deadline, timeout):
    """The first worker's part: hears all others, and tells them the verdict."""
    came, error, late = {}, None, False
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listener(cluster.port))
        while len(came) < len(cluster.addresses) - 1 and error is None:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except OSError:
                missing = [
                    f"worker {i} ({address})"
                    for i, address in enumerate(cluster.addresses)
                    if i and i not in came
                ]
                error, late = (
                    f"{', '.join(missing)} did not come to worker 0 ({cluster.addresses[0]}) in "
                    f"{timeout:g} s: start all workers, with equal lists of workers, within "
                    "start_timeout_seconds",
                    True,
                )
                break
            stack.enter_context(connection)
            hello = _receive(connection, min(deadline, time.monotonic() + 10))
            if hello is None or hello.get("greeting") != _GREETING:
                continue  # some other program's
            index = hello["index"]
            error = hello["problem"] or _difference(index, hello["facts"], facts)
            if error is None and index in came:
                error = f"two workers say that they are worker {index}: give each its own index"
            came[index if error is None else object()] = connection
        verdict = {"error": error, "late": late}
        for connection in came.values():
            with contextlib.suppress(OSError):
                _send(connection, verdict)
    return verdict


def _difference(index, theirs, ours):
    for what in {**ours, **theirs}:
        if theirs.get(what) != ours.get(what):
            return (
                f"{what} must be equal on all workers: worker {index} has "
                f"{theirs.get(what)!r}, worker 0 has {ours.get(what)!r}"
            )
    return None


def _tell(cluster, hello, deadline, timeout):
    """Another worker's part: finds the first one, tells, and hears the verdict."""
    host, _, port = cluster.addresses[0].rpartition(":")
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            left = max(0.01, deadline - time.monotonic())
            with socket.create_connection((host.strip("[]"), int(port)), min(left, 10)) as server:
                _send(server, hello)
                # The first worker may wait for others as long as this one, and a little more.
                verdict = _receive(server, deadline + 5)
            if verdict is not None and "error" in verdict:
                return verdict
        time.sleep(_RETRY)
    if hello["problem"]:
        return {"error": hello["problem"], "late": True}
    error = (
        f"worker 0 ({cluster.addresses[0]}) did not answer {cluster.name} in {timeout:g} s: start "
        "all workers, with equal lists of workers, within start_timeout_seconds"
    )
    return {"error": error, "late": True}
