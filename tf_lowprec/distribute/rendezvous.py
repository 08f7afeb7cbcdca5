"""All workers meet, and compare what they are about to do, before TensorFlow's servers start.

TensorFlow waits without end, or dies with an error about something else, where workers' lists,
versions or programs differ. Here the first worker listens on its own port for a moment, all others
tell it what they have, and it answers all with the same verdict. The connections stay: when a
process dies its end is closed by the system, at once, where TensorFlow would wait for heartbeats.
"""

import atexit
import contextlib
import json
import selectors
import socket
import threading
import time

_GREETING = "tf_lowprec rendezvous 1"
_GOODBYE = b"goodbye\n"
_RETRY, _GRACE = 0.2, 10  # seconds


def meet(cluster, facts, timeout):
    """Returns when all workers have come with equal facts: connections to watch, by worker.

    The first worker has one to each of the others, each of them one to the first.

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
        verdict, connections = _listen(cluster, facts, deadline, timeout)
    else:
        hello = {"greeting": _GREETING, "index": cluster.index, "facts": facts, "problem": problem}
        verdict, connections = _tell(cluster, hello, deadline, timeout)
    if verdict["error"] is not None:
        for connection in connections.values():
            connection.close()
        raise (RuntimeError if verdict["late"] else ValueError)(verdict["error"])
    return connections


def watch(cluster, connections, lost):
    """Calls lost("worker 1 (host:port)") when a process at the other end dies.

    One that ends as it should says so before, and is not lost. Watches in a thread, until there is
    nothing more to watch.
    """

    def say_goodbye():
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(_GOODBYE)

    def run():
        with selectors.DefaultSelector() as selector:
            for index, connection in connections.items():
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    try:
                        said = key.fileobj.recv(64)
                    except BlockingIOError:
                        continue
                    except OSError:
                        said = b""
                    selector.unregister(key.fileobj)
                    if said != _GOODBYE:
                        lost(f"worker {key.data} ({cluster.addresses[key.data]})")

    atexit.register(say_goodbye)
    threading.Thread(target=run, daemon=True, name="watches workers").start()


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
    came, told, error, late = {}, [], None, False
    with _listener(cluster.port) as server:
        while len(came) < len(cluster.addresses) - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except OSError:
                missing = [
                    f"worker {i} ({address})"
                    for i, address in enumerate(cluster.addresses)
                    if i and i not in came
                ]
                if error is None:
                    error, late = (
                        f"{', '.join(missing)} did not come to worker 0 ({cluster.addresses[0]}) "
                        f"in {timeout:g} s: start all workers, with equal lists of workers, within "
                        "start_timeout_seconds",
                        True,
                    )
                break
            hello = _receive(connection, min(deadline, time.monotonic() + 10))
            if hello is None or hello.get("greeting") != _GREETING:
                connection.close()
                continue  # some other program's
            index, told = hello["index"], [*told, connection]
            wrong = hello["problem"] or _difference(index, hello["facts"], facts)
            if wrong is None and index in came:
                wrong = f"two workers say that they are worker {index}: give each its own index"
            came.setdefault(index, connection)
            if wrong is not None and error is None:
                # Those that come in the next seconds hear of it too.
                error, deadline = wrong, min(deadline, time.monotonic() + _GRACE)
        for connection in told:
            with contextlib.suppress(OSError):
                _send(connection, {"error": error, "late": late})
            if connection not in came.values():
                connection.close()
    return {"error": error, "late": late}, came


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
            server = socket.create_connection((host.strip("[]"), int(port)), min(left, 10))
            with contextlib.suppress(OSError):
                _send(server, hello)
                # The first worker may wait for others as long as this one, and a little more.
                verdict = _receive(server, deadline + 5)
                if verdict is not None and "error" in verdict:
                    return verdict, {0: server}
            server.close()
        time.sleep(_RETRY)
    if hello["problem"]:
        return {"error": hello["problem"], "late": True}, {}
    error = (
        f"worker 0 ({cluster.addresses[0]}) did not answer {cluster.name} in {timeout:g} s: start "
        "all workers, with equal lists of workers, within start_timeout_seconds"
    )
    return {"error": error, "late": True}, {}
