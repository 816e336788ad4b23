"""Run Amazon's client as forks of one process that has imported it, as forks.py does with MLflow.

A new process of `aws` takes 1.4 s of processor time, a fork 0.2 s.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager

import forks


@contextmanager
def launcher(folder, env):
    """Put `aws` into FOLDER while its process runs."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        command = [sys.executable, __file__, str(listener.fileno())]
        process = subprocess.Popen(command, env=env, pass_fds=[listener.fileno()])
    words = [sys.executable, "-IS", forks.__file__, "command", f"{folder}/socket", "aws"]
    (folder / "aws").write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    (folder / "aws").chmod(0o755)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def serve(listener):
    """Fork for each request that LISTENER gets, one after another; in the fork, return it."""
    from awscli.clidriver import create_clidriver

    create_clidriver()  # imports what it needs
    while True:
        connection = listener.accept()[0]
        size, streams, *_ = socket.recv_fds(connection, 4, 3)
        request = json.loads(connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        pid = os.fork()
        if not pid:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            request["argv"].insert(0, shutil.which("aws"))
            request["env"]["AWS_DATA_PATH"] = os.environ["AWS_DATA_PATH"]  # set by the import
            return request
        for stream in streams:
            os.close(stream)
        connection.sendall(b"%d\n" % pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(b"%d\n" % code)
        connection.close()


if __name__ == "__main__":
    forks.end(forks.execute(serve(socket.socket(fileno=int(sys.argv[1])))))
