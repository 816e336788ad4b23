"""Dask's scheduler and workers in the background, and hosts that they may run on."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

from running import AS_ROOT, ENV
from services import WITHOUT_JOBS, free_port
from team import missing

DASK = [sys.executable, "-m", "dask"]


class Cluster:
    """Dask's scheduler and workers, each in a folder of its own and without the repo's code."""

    def __init__(self, folder, ip="127.0.0.1", on=()):
        """ON: what starts a process on the scheduler's host, which has the address IP."""
        port = free_port()
        self.folder = folder
        self.address = f"tcp://{ip}:{port}"
        self.processes = []
        options = ["--host", ip, "--port", str(port), "--no-dashboard"]
        self.start("scheduler", [*on, *DASK, "scheduler", *options])

    def add_worker(self, name, on=(), **env):
        """Start a worker whose folder and log have this NAME, by ON if it is on another host."""
        options = ["--nworkers", "1", "--nthreads", "1", "--no-dashboard"]
        self.start(name, [*on, *DASK, "worker", self.address, *options], **env)

    def start(self, name, command, **env):
        (self.folder / name).mkdir()
        with (self.folder / name / "log").open("w") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder / name,
                    env=ENV | WITHOUT_JOBS | env,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def stop(self):
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def three_hosts():
    """Make a network of three hosts, 10.99.0.1 to 3; yield what starts a process on each."""
    if not shutil.which("ip") or not AS_ROOT:
        missing("network namespaces, as root", "iproute2")
    names = [f"h3-{os.getpid()}-{number}" for number in (1, 2, 3)]
    bridge = f"h3-{os.getpid()}b"[-15:]

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    try:
        ip("netns", "add", names[0])
        inside = ["-n", names[0]]
        ip(*inside, "link", "add", bridge, "type", "bridge")
        ip(*inside, "addr", "add", "10.99.0.1/24", "dev", bridge)
        for up in "lo", bridge:
            ip(*inside, "link", "set", up, "up")
        for number, host in enumerate(names[1:], 2):
            ip("netns", "add", host)
            ip(*inside, "link", "add", f"to{number}", "type", "veth", "peer", "e0", "netns", host)
            ip(*inside, "link", "set", f"to{number}", "master", bridge, "up")
            ip("-n", host, "addr", "add", f"10.99.0.{number}/24", "dev", "e0")
            for up in "lo", "e0":
                ip("-n", host, "link", "set", up, "up")
        yield [["ip", "netns", "exec", host] for host in names]
    finally:
        for host in names:
            subprocess.run(["ip", "netns", "del", host], check=False)
