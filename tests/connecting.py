"""connect() in a new process, and servers that answer it as real ones do in trouble."""

import http.server
import threading
import time
from contextlib import contextmanager

import requests
from running import PYTHON, ROOT, run

LESSON = "import mlflow; from tracking import connect; connect(); "


def at(uri):
    """The variables of a process that uses src/tracking.py on this store."""
    return {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": uri}


def connecting(uri, cwd, code="", *, python=(PYTHON,), **env):
    """Run connect() and then CODE in a new process; it also has the seconds that this took."""
    began = time.monotonic()
    result = run([*python, "-c", LESSON + code], cwd, timeout=120, **(at(uri) | env))
    result.seconds = time.monotonic() - began
    return result


class Quiet(http.server.BaseHTTPRequestHandler):
    """A handler that writes no log."""

    def log_message(self, *args):
        pass


@contextmanager
def serving(handler, context=None):
    """An HTTP server with this handler, with TLS if there is a CONTEXT; yields its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def answering(answer, kind="text/html", context=None):
    """An HTTP server, with TLS if there is a CONTEXT; yields its port.

    It answers a call of a path by the (status, body) that ANSWER(path) returns.
    """

    class Handler(Quiet):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_CONNECT = do_POST

    return serving(Handler, context)


@contextmanager
def forwarding(server, answer):
    """A proxy in front of the SERVER; yields its address.

    ANSWER(call, body) gives the (status, body) of a call such as "GET /version", or None. If it is
    None, the server answers.
    """

    class Handler(Quiet):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, found = answer(f"{self.command} {self.path}", body) or self.ask(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def ask(self, body):
            kept = {k: v for k, v in self.headers.items() if k in ("Content-Type", "Authorization")}
            reply = requests.request(self.command, server + self.path, headers=kept, data=body)
            return reply.status_code, reply.content

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"
