"""Workers on this machine, each a process that runs multi_worker_program.py."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np

PROGRAM = pathlib.Path(__file__).with_name("multi_worker_program.py")


def free_addresses(count):
    """Addresses on this machine that nobody listens on, for now."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    found = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return found


class Workers:
    """Processes that run scenarios, and what they left."""

    def __init__(self, count, folder, scenarios):
        addresses = free_addresses(count)
        self.folder, self.processes = folder, []
        for i in range(count):
            task = {"type": "worker", "index": i}
            config = {"cluster": {"worker": addresses}, "task": task}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, PROGRAM, str(folder), *scenarios],
                    env={
                        **os.environ,
                        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                        "TF_CONFIG": json.dumps(config),
                    },
                    stdout=subprocess.DEVNULL,
                    stderr=(folder / f"errors-{i}").open("w"),
                )
            )

    def wait(self, limit):
        """The exit codes; None of those that have not ended in time, which are killed then."""
        deadline, codes = time.monotonic() + limit, []
        for process in self.processes:
            try:
                codes.append(process.wait(max(0.1, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                codes.append(None)
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        return codes

    def errors(self, i):
        return (self.folder / f"errors-{i}").read_text()

    def result(self, scenario):
        """What all workers have, once it was compared; what each has of its own beside it."""
        files = [self.folder / f"{scenario}-{i}.npz" for i in range(len(self.processes))]
        results = [dict(np.load(file)) for file in files]
        own = {"communication"}
        for result in results[1:]:
            for key, value in results[0].items():
                if key not in own and not key.startswith(("residue", "own")):
                    np.testing.assert_array_equal(result[key], value, err_msg=key)
        return {key: value for result in results for key, value in result.items()}
