"""Hosts of a network of their own: network namespaces that are joined by a bridge.

Each host has an address and a link, which can be cut, slowed and read. Needs Linux, root
and iproute2; nothing outside of the namespaces is touched.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

PORT = 2222


def why_not():
    """Why there can be no such network here; empty if there can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "ip and tc of iproute2 are not installed"
    name = f"tkprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    ip("netns", "del", name)
    return ""


def ip(*arguments, within=None):
    """Runs `ip`, in the namespace of a host if one is named."""
    place = ["-n", within] if within else []
    return subprocess.run(
        ["ip", *place, *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


class Network:
    """Hosts 0, 1, ... with addresses of their own, on one bridge.

    Args:
      count: of hosts.
    """

    def __init__(self, count):
        self._prefix = f"tk{os.getpid()}"
        self._hub = f"{self._prefix}hub"
        self._names = [f"{self._prefix}h{i}" for i in range(count)]
        self._processes = [[] for _ in self._names]

    @property
    def addresses(self):
        """HOST:PORT of a worker on each host."""
        return [f"10.77.0.{10 + i}:{PORT}" for i in range(len(self._names))]

    def __enter__(self):
        ip("netns", "add", self._hub)
        ip("link", "add", "bridge", "type", "bridge", within=self._hub)
        ip("link", "set", "bridge", "up", within=self._hub)
        for i, name in enumerate(self._names):
            ip("netns", "add", name)
            ip(
                *("link", "add", f"port{i}", "type", "veth"),
                *("peer", "name", "eth0", "netns", name),
                within=self._hub,
            )
            ip("link", "set", f"port{i}", "master", "bridge", within=self._hub)
            ip("link", "set", f"port{i}", "up", within=self._hub)
            ip("link", "set", "lo", "up", within=name)
            ip("addr", "add", f"10.77.0.{10 + i}/24", "dev", "eth0", within=name)
            ip("link", "set", "eth0", "up", within=name)
        return self

    def __exit__(self, *_):
        for i in range(len(self._names)):
            self.lose(i)
        for name in (*self._names, self._hub):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)

    def start(self, host, command, log):
        """Starts a process on a host; what it prints goes to a file."""
        with open(log, "a") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._names[host], *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes[host].append(process)
        return process

    def lose(self, host):
        """Kills all processes of a host at once, as a loss of power would."""
        for pid in ip("netns", "pids", self._names[host]).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for process in self._processes[host]:
            process.wait()

    def cut(self, host):
        """Takes the link of a host down: packets are lost, no connection is closed."""
        ip("link", "set", f"port{host}", "down", within=self._hub)

    def mend(self, host):
        """Takes the link of a host up again."""
        ip("link", "set", f"port{host}", "up", within=self._hub)

    def slow(self, host, rate, delay):
        """Limits what a host sends, and delays it where the kernel has netem.

        Args:
          host: which one.
          rate: such as ``"10mbit"``.
          delay: such as ``"20ms"``.

        Returns:
          What limits it: ``"netem"``, or ``"tbf"``, which delays nothing else.
        """
        ways = {
            "netem": ("rate", rate, "delay", delay),
            "tbf": ("rate", rate, "burst", "32kbit", "latency", "1s"),
        }
        replace = ("tc", "-n", self._names[host], "qdisc", "replace", "dev", "eth0")
        for name, how in ways.items():
            command = [*replace, "root", name, *how]
            if not subprocess.run(command, capture_output=True).returncode:
                return name
        raise OSError(
            "Expected a kernel with the qdisc netem or tbf. Received: neither"
        )

    def sent(self, host):
        """Bytes that a host has sent so far, with the headers of packets."""
        shown = ip("-s", "link", "show", "eth0", within=self._names[host]).splitlines()
        [place] = [i for i, line in enumerate(shown) if line.strip().startswith("TX:")]
        return int(shown[place + 1].split()[0])


def tail(log):
    """The end of what a process has printed."""
    return pathlib.Path(log).read_text(errors="replace")[-4000:]
