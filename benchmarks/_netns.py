"""Hosts on one machine: network namespaces on a bridge, each behind a link of limited speed.

Needs root, iproute2, and a kernel with network namespaces, veth, bridge and tbf.
"""

import contextlib
import os
import subprocess


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


class Hosts:
    """`count` namespaces with the addresses 10.77.0.1, 10.77.0.2, …

    ``with Hosts(2) as hosts: hosts.limit(100e6); subprocess.Popen(hosts.command(0, [...]))``.
    """

    def __init__(self, count):
        self.count, self._prefix = count, f"lp{os.getpid() % 100000}"

    def _namespace(self, i):
        return f"{self._prefix}h{i}"

    def address(self, i):
        return f"10.77.0.{i + 1}"

    def __enter__(self):
        switch = f"{self._prefix}sw"
        self._cleanup = contextlib.ExitStack()
        try:
            for name in [switch, *map(self._namespace, range(self.count))]:
                _run("ip", "netns", "add", name)
                self._cleanup.callback(_run, "ip", "netns", "del", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", switch, "link", "set", "br0", "up")
            for i in range(self.count):
                name, port = self._namespace(i), f"port{i}"
                peer = ("type", "veth", "peer", "name", port, "netns", switch)
                _run("ip", "-n", name, "link", "add", "eth0", *peer)
                _run("ip", "-n", name, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
                _run("ip", "-n", name, "link", "set", "eth0", "up")
                _run("ip", "-n", switch, "link", "set", port, "master", "br0")
                _run("ip", "-n", switch, "link", "set", port, "up")
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *exception):
        self._cleanup.close()

    def limit(self, bits_per_second):
        """Limits what each host sends and what it receives; None lifts the limits."""
        ends = [(self._namespace(i), "eth0") for i in range(self.count)]
        ends += [(f"{self._prefix}sw", f"port{i}") for i in range(self.count)]
        for name, device in ends:
            at = ("tc", "-n", name, "qdisc")
            if bits_per_second is None:
                subprocess.run([*at, "del", "dev", device, "root"], capture_output=True)
                continue
            rate = int(bits_per_second)
            # A burst has to last for a tick of the kernel's clock.
            burst = max(16384, rate // 8 // 200)
            limits = ("rate", f"{rate}bit", "burst", str(burst), "latency", "50ms")
            _run(*at, "replace", "dev", device, "root", "tbf", *limits)

    def command(self, i, command):
        return ["ip", "netns", "exec", self._namespace(i), *command]


def bytes_sent():
    """By this host's interface since it was made, as the kernel counts: all headers included."""
    with open("/sys/class/net/eth0/statistics/tx_bytes") as counter:
        return int(counter.read())
