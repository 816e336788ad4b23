"""Run Python programs as forks of one process that has imported what the lessons import.

A new process spends two to five seconds of processor time on these imports, a fork a tenth of it.
`launchers()` makes the commands `python` and `mlflow` in a folder. They act like the real ones:
streams, arguments, environment, folder, signals and exit code. `python SCRIPT` and
`python -c CODE` are forks; everything else, and each `mlflow` that serves, is a new process.
tests/test_forks.py compares both for each lesson. Without Linux there is no fork here.
"""

import atexit
import json
import os
import signal
import socket
import sys
from contextlib import suppress

SERVES = ("ui", "server", "models", "--env-file")
# What Python or a library reads when it starts: another value needs a new process.
AT_START = ("PYTHON", "DASK", "MPL", "MLFLOW_LOGGING", "MLFLOW_DISABLE", "OMP_", "OPENBLAS_")
IMPORTED = """
matplotlib.backends.backend_agg matplotlib.pyplot mlflow mlflow.cli mlflow.data.pandas_dataset
mlflow.models.evaluation.evaluators.classifier mlflow.pyfunc mlflow.sklearn
mlflow.store.artifact.local_artifact_repo mlflow.store.model_registry.sqlalchemy_store
mlflow.store.tracking.sqlalchemy_store mlflow.tracing.processor.base_mlflow
mlflow.utils.requirements_utils pandas seaborn skops.io sklearn.datasets sklearn.ensemble
sklearn.metrics sklearn.model_selection sqlalchemy.dialects.sqlite
""".split()


def at_start(env):
    """The variables of ENV that count when Python starts."""
    return {k: v for k, v in env.items() if k.startswith(AT_START) and k != "PYTHONPATH"}


# The command: it sends the request with its own streams, and ends as the fork ends.


def command(path, name, *args):
    """Be `python` or `mlflow`: run ARGS as a fork if they can be one."""
    folder = os.path.dirname(sys.executable)
    real = os.path.join(folder, name)
    program = [real, *args] if name == "mlflow" else [*args]
    if name == "mlflow":
        can_fork = not set(args[:2]) & set(SERVES)
    else:
        can_fork = bool(args) and (args[0] == "-c" or not args[0].startswith("-"))
    request = {"argv": program, "cwd": os.getcwd(), "env": dict(os.environ)}
    data = json.dumps(request).encode("utf-8", "surrogateescape")
    pid = 0
    with socket.socket(socket.AF_UNIX) as server:
        answer = server.makefile()
        if can_fork:
            with suppress(OSError):  # the process that is forked has ended
                server.connect(path)
                socket.send_fds(server, [len(data).to_bytes(4, "big")], [0, 1, 2])
                server.sendall(data)
                pid = int(answer.readline() or 0)
        if not pid:
            os.execv(real, [real, *args])
        for number in signal.SIGINT, signal.SIGTERM:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: os.kill(pid, number))
        code = int(answer.readline())
    if code < 0:
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


# The process that is forked.


def serve(listener):
    """Import, then fork for each request that LISTENER gets; in the fork, return the request."""
    import gc
    import importlib
    import selectors
    from functools import cache

    for name in IMPORTED:
        importlib.import_module(name)
    from mlflow.store.db import utils
    from mlflow.utils import requirements_utils

    # Who logs or loads a model looks up all installed packages, once a process.
    requirements_utils._init_modules_to_packages_map()
    # With each store that is opened MLflow reads all its migrations, only to find the last one.
    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)
    utils._get_latest_schema_revision()
    gc.freeze()  # a collection in a fork would copy all memory
    mine = at_start(os.environ)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)  # ends when the tests end
    forks = {}  # the connection of each, by its pidfd
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                for pid, *_ in forks.values():
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            elif key.fileobj is listener:
                connection = listener.accept()[0]
                size, streams, *_ = socket.recv_fds(connection, 4, 3)
                if not size:  # the command was killed
                    connection.close()
                    continue
                data = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
                request = json.loads(data.decode("utf-8", "surrogateescape"))
                same = at_start(request["env"]) == mine
                pid = os.fork() if same else 0  # 0 tells the command to start a new process
                if same and not pid:
                    for end in [listener, connection, selector, *[f[1] for f in forks.values()]]:
                        end.close()
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    for stream in [*streams, *forks]:
                        os.close(stream)
                    return request
                for stream in streams:
                    os.close(stream)
                connection.sendall(b"%d\n" % pid)
                if not pid:
                    connection.close()
                    continue
                ended = os.pidfd_open(pid)
                forks[ended] = pid, connection
                selector.register(ended, selectors.EVENT_READ)
                selector.register(connection, selectors.EVENT_READ, ended)
            elif key.fileobj in forks:
                pid, connection = forks.pop(key.fileobj)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                selector.unregister(key.fileobj)
                os.close(key.fileobj)
                if connection.fileno() >= 0:
                    selector.unregister(connection)
                    with suppress(BrokenPipeError):
                        connection.sendall(b"%d\n" % code)
                    connection.close()
            else:  # the command was killed
                selector.unregister(key.fileobj)
                key.fileobj.close()
                if key.data in forks:
                    os.kill(forks[key.data][0], signal.SIGKILL)


def become(argv, cwd, env):
    """Give this fork what a new process has; return its code and its module."""
    import builtins
    import types

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, name in (1, "stdout"), (2, "stderr"):
        old = getattr(sys, name)
        tty = os.isatty(number)
        # A pipe gets blocks, a terminal gets lines, and stderr always gets lines.
        new = open(number, "w", encoding=old.encoding, errors=old.errors, closefd=False)
        new.reconfigure(line_buffering=tty or name == "stderr")
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    sys.stdin = sys.__stdin__ = open(0, encoding=sys.stdin.encoding, closefd=False)
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    path = [each for each in env.get("PYTHONPATH", "").split(os.pathsep) if each]
    if argv[0] == "-c":
        sys.argv = ["-c", *argv[2:]]
        sys.path[:1] = ["", *path]
        code = compile(argv[1], "<string>", "exec")
    else:
        sys.argv = argv
        main.__file__ = os.path.abspath(argv[0])
        sys.path[:1] = [os.path.dirname(os.path.realpath(argv[0])), *path]
        with open(argv[0], "rb") as file:
            code = compile(file.read(), main.__file__, "exec")
    sys.modules["__main__"] = main
    return code, main


def execute(request):
    """Run the request's code as Python runs a program; return the exit code."""
    code, main = become(**request)
    try:
        exec(code, main.__dict__)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException as error:
        # Without this file's own line in the traceback.
        error.with_traceback(error.__traceback__.tb_next)
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end(code):
    """End as Python does, less the half second that it takes to free all modules."""
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def launchers(folder, env):
    """Put `python` and `mlflow` into FOLDER, and start the process that they fork."""
    import shlex
    import subprocess

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/socket")
    listener.listen(64)
    process = subprocess.Popen(
        [sys.executable, __file__, "serve", str(listener.fileno())],
        env=env,
        cwd=folder,
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    )
    listener.close()
    for name in "python", "mlflow":
        words = [sys.executable, "-IS", __file__, "command", f"{folder}/socket", name]
        path = os.path.join(folder, name)
        with open(path, "w") as file:
            file.write(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        os.chmod(path, 0o755)
    atexit.register(process.wait)
    atexit.register(process.stdin.close)


if __name__ == "__main__":
    if sys.argv[1] == "command":
        command(*sys.argv[2:])
    else:
        end(execute(serve(socket.socket(fileno=int(sys.argv[2])))))
