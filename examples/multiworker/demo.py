"""Two workers of train.py on this machine, and what both say: `make demo-multiworker`."""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

WORKERS = 2


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def show(index, stream):
    for line in stream:
        print(f"worker {index} | {line}", end="", flush=True)


parser = argparse.ArgumentParser(description=__doc__, epilog="Options are handed to train.py.")
_, options = parser.parse_known_args()
addresses = [f"localhost:{port}" for port in free_ports(WORKERS)]
processes, threads = [], []
for index in range(WORKERS):
    task = {"type": "worker", "index": index}
    config = json.dumps({"cluster": {"worker": addresses}, "task": task})
    print(f"worker {index} | TF_CONFIG='{config}' python examples/multiworker/train.py", flush=True)
    process = subprocess.Popen(
        [sys.executable, pathlib.Path(__file__).with_name("train.py"), *options],
        env={"TF_NUM_INTRAOP_THREADS": "1", **os.environ, "TF_CONFIG": config},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    thread = threading.Thread(target=show, args=(index, process.stdout))
    thread.start()
    processes.append(process)
    threads.append(thread)
for thread in threads:
    thread.join()
sys.exit(max(process.wait() for process in processes))
