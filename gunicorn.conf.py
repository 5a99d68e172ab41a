"""How the service is served: gunicorn with gevent workers. Run `gunicorn` in this folder.

The order of life: patch → read settings → fork → `create_app()` → pools open (`post_worker_init`) → requests
→ SIGTERM → no new connections, requests in flight are finished → pools close (`worker_exit`). No pool exists
before the fork: two processes on one connection read each other's answers.
"""

# isort: skip_file
# ruff: noqa: E402 - psycopg chooses how it waits when it is imported: unpatched, it would block every request
# of a worker for as long as one of them waits for its database.
from gevent import monkey

monkey.patch_all()

import ctypes
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gevent
import msgspec
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.http import errors as http_errors
from gunicorn.workers.ggevent import GeventWorker
from psycopg import waiting

import ephemeral.unremembered  # noqa: F401 - before the fork: its page is to be common to all workers
import logs
import metric_files
from config import ROOT, load
from errors import ConfigurationError
from ids import new_id

if waiting.wait is not waiting.wait_poll:
    sys.exit("psycopg was imported before gevent patched the standard library")
try:
    settings = load()
except ConfigurationError as error:
    sys.exit(str(error))

# What gunicorn reads. `python -m gunicorn --help` or https://gunicorn.org/reference/settings/ says what each
# is.
wsgi_app = "app:create_app()"
chdir = str(ROOT)
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.workers
# Requests of a worker at one time. They cost a greenlet each; the pools bound what reaches a database.
worker_connections = 1000
backlog = 1024
# A connection without a request for so long is closed; also how long a client may take to send a request's
# head.
keepalive = 15
# A worker whose loop has not turned for so long is replaced.
timeout = 60
# Longer than any request may take: a few statements, each with its deadline.
graceful_timeout = int(3 * settings.statement_timeout_seconds) + 5
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
forwarded_allow_ips = "127.0.0.1,::1"
# The service writes a line for each request itself.
accesslog = None
errorlog = "-"
loglevel = "warning"
# No management socket in the user's home.
control_socket_disable = True
# The heartbeat's file: on a disk its write could block a worker.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108

# The metrics of all workers meet in files of this folder.
metrics_folder = Path(settings.metrics_dir or settings.var / "metrics")
os.environ[metric_files.FOLDER_VARIABLE] = str(metrics_folder)
# The number of this parent's first worker. While another parent hands over to it (SIGUSR2), both have workers, whose
# numbers have to differ: they count in files of that name.
FIRST_NUMBER = "FIRST_WORKER_NUMBER"
FIRST_NUMBERS = ("1", "1001")

# When this service began, for all workers alike: what they count is counted from then on.
began = time.time()

# A worker looks this often whether it has been told to stop.
TICK_SECONDS = 0.1
# A connection that is kept alive and idle at SIGTERM stays this long: a request that is under way on it
# already is answered, with `Connection: close`.
IDLE_GRACE_SECONDS = 1.0
# What is read and thrown away behind a malformed request, so that closing does not destroy the answer on its
# way.
LINGER_SECONDS, LINGER_BYTES = 1.0, 1 << 20

# What is wrong with a request that never reaches the application: status, title, sentence. The first that
# fits.
REFUSALS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (http_errors.LimitRequestLine, 414, "URI Too Long", "The request line is too long."),
    (http_errors.LimitRequestHeaders, 431, "Request Header Fields Too Large", "The header is too large."),
    (http_errors.UnsupportedTransferCoding, 501, "Not Implemented", "The transfer coding is not supported."),
    (http_errors.ExpectationFailed, 417, "Expectation Failed", "The expectation cannot be met."),
    (http_errors.InvalidHTTPVersion, 505, "HTTP Version Not Supported", "The HTTP version is not supported."),
    (http_errors.InvalidRequestLine, 400, "Bad Request", "The request line is malformed."),
    (http_errors.InvalidRequestMethod, 400, "Bad Request", "The method is malformed."),
    (http_errors.InvalidResponseHeader, 500, "Internal Server Error", "The request could not be answered."),
    (
        http_errors.InvalidResponseHeaderName,
        500,
        "Internal Server Error",
        "The request could not be answered.",
    ),
    (http_errors.InvalidHeader, 400, "Bad Request", "A header field is malformed."),
    (http_errors.InvalidHeaderName, 400, "Bad Request", "The name of a header field is malformed."),
    (http_errors.ObsoleteFolding, 400, "Bad Request", "A header field is folded."),
    (http_errors.ParseException, 400, "Bad Request", "The request is malformed."),
    (Exception, 500, "Internal Server Error", "The request could not be answered."),
)


class ListenerName:
    """Stands for a listener that may be closed by now: all that gunicorn asks one while it serves is its address."""

    def __init__(self, address: Any) -> None:
        self._address = address

    def getsockname(self) -> Any:
        return self._address


class IdleWait(gevent.Timeout):
    """The wait for a connection's next request; ends after `keepalive`, or when the worker wants to stop."""

    def __init__(self, worker: "MarketplaceWorker") -> None:
        super().__init__(worker.cfg.keepalive, False)  # type: ignore[arg-type]  # False: ends silently
        self._idle = worker.idle
        self._greenlet = gevent.getcurrent()

    def __enter__(self) -> "IdleWait":
        self._idle.add(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> Literal[True] | None:
        self._idle.discard(self)
        return super().__exit__(*error)

    def end(self) -> None:
        gevent.get_hub().loop.run_callback(self._end)

    def _end(self) -> None:
        # In the hub, where nothing can happen between the look and the throw: a request that has come is not
        # hit.
        if self in self._idle:
            self._greenlet.throw(self)


class MarketplaceWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's gevent worker, which stops quickly, answers whatever it accepted, and refuses in problem+json."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number = 0
        self.idle: set[IdleWait] = set()

    def timeout_ctx(self) -> IdleWait:
        return IdleWait(self)

    def run(self) -> None:
        servers = [self._serve(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            gevent.sleep(TICK_SECONDS)
        for server in servers:
            self._stop_accepting(server)
        self._finish(servers)

    def _serve(self, listener: Any) -> StreamServer:
        listener.setblocking(1)
        spawn = Pool(self.worker_connections)
        # A connection that is accepted last is served when the listener is closed already.
        handle = partial(self.handle, ListenerName(listener.getsockname()))
        server = StreamServer(listener, handle=handle, spawn=spawn)
        if self.cfg.workers > 1:
            server.max_accept = 1  # one at a time, so that connections spread over the workers
        server.start()
        return server

    def _stop_accepting(self, server: StreamServer) -> None:
        """Take what the kernel has accepted already, then close: what is left in its queue would be reset.

        With the whole service stopping, nothing new comes into the queue (`deaden`).
        """
        poller = monkey.get_original("select", "poll")()
        poller.register(server.socket.fileno(), 1)
        until = time.monotonic() + 1.0
        while poller.poll(0) and time.monotonic() < until:
            gevent.sleep(0)
        server.close()

    def _finish(self, servers: list[StreamServer]) -> None:
        """Wait for the requests in flight; connections without one are closed after their grace."""
        began = time.monotonic()
        while left := sum(len(server.pool or ()) for server in servers):
            elapsed = time.monotonic() - began
            if elapsed > IDLE_GRACE_SECONDS:
                for wait in list(self.idle):
                    wait.end()
            if elapsed > self.cfg.graceful_timeout - 1:
                self.log.warning("Stopping with %d requests unanswered", left)
                return
            self.notify()
            gevent.sleep(TICK_SECONDS / 2)

    def handle_error(self, _req: Any, client: socket.socket, _addr: Any, exc: BaseException) -> None:
        """Answer what never reached the application, or broke outside of it, as RFC 9457 has it."""
        status, title, detail = next(
            (refusal[1:] for refusal in REFUSALS if isinstance(exc, refusal[0])), REFUSALS[-1][1:]
        )
        if status == REFUSALS[-1][1]:
            self.log.error("Error handling a request", exc_info=exc)
        request_id = new_id()
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        body = msgspec.json.encode(problem | {"instance": f"urn:uuid:{request_id}"})
        head = (
            f"HTTP/1.1 {status} {title}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-Id: {request_id}\r\n\r\n"
        )
        try:
            client.sendall(head.encode() + body)
            self._linger(client)
        except OSError:
            self.log.debug("The client was gone before it could be refused")

    def _linger(self, client: socket.socket) -> None:
        client.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        with gevent.Timeout(LINGER_SECONDS, False):  # type: ignore[arg-type]
            while left > 0 and (data := client.recv(65536)):
                left -= len(data)


worker_class = MarketplaceWorker


def on_starting(server: Any) -> None:
    """In the parent, before any worker: its own lines as everyone's, no figures of processes that are no more."""
    logs.configure(settings)
    metrics_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = os.environ.get(FIRST_NUMBER)
    if server.master_pid:  # it takes over from a parent whose workers still serve, and count
        os.environ[FIRST_NUMBER] = FIRST_NUMBERS[before == FIRST_NUMBERS[0]]
        return
    os.environ[FIRST_NUMBER] = FIRST_NUMBERS[0]
    # By their names: the folder is a setting, and what else may lie in it is not ours to delete.
    for figures in metrics_folder.glob("*.db"):
        figures.unlink()


def deaden(listener: Any) -> None:
    """Let no new connection into a listening socket, for all processes that share it.

    Between a worker's last accept and its close, a connection could still be made, and would be reset with
    its request. A filter that drops every packet keeps the kernel from it: the client's SYN goes unanswered
    and is sent again a second later, when nobody listens. socket(7), SO_ATTACH_FILTER; one BPF instruction,
    "ret 0". A handshake that is half done in that moment is still reset, and so is a client that connects then where
    the system has no such filter, or not for this user: it has no answer, and nothing of it was begun.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        attach = struct.pack("HP", 1, ctypes.addressof(program))
        with suppress(OSError):
            listener.setsockopt(
                socket.SOL_SOCKET, 26, attach
            )  # SO_ATTACH_FILTER; Python's socket has no name for it


def when_ready(server: Any) -> None:
    """In the parent: it has no hook for the moment before it tells its workers to stop, so one is put there."""
    stop = server.stop

    def stop_listening_first(graceful: bool = True) -> None:
        if server.reexec_pid == server.master_pid == 0:  # else another parent goes on with these sockets
            for listener in server.LISTENERS:
                deaden(listener)
        stop(graceful)

    server.stop = stop_listening_first


def pre_exec(server: Any) -> None:
    """In a copy of the parent, about to become the next parent: with the environment that this one was started with."""
    server.cfg.env_orig[FIRST_NUMBER] = os.environ[FIRST_NUMBER]


def pre_fork(server: Any, worker: MarketplaceWorker) -> None:
    """In the parent: the lowest number no living worker has, so that a replaced worker's name comes back.

    Whoever had it has been reaped: one that gunicorn has told to stop, or killed, stays in `WORKERS` until then.
    """
    taken = {living.number for living in server.WORKERS.values()}
    first = int(os.environ[FIRST_NUMBER])
    worker.number = next(number for number in range(first, first + len(taken) + 1) if number not in taken)


def post_fork(_server: Any, worker: MarketplaceWorker) -> None:
    """In the worker, before the application is imported."""
    metric_files.be_worker(worker.number)


def post_worker_init(worker: MarketplaceWorker) -> None:
    """In the worker, after `create_app()`: from here on it may talk to servers."""
    if marketplace := getattr(worker.wsgi, "extensions", {}).get("marketplace"):
        marketplace.start(f"worker-{worker.number}", began)


def worker_exit(_server: Any, worker: MarketplaceWorker) -> None:
    """In the worker, with no request left."""
    if marketplace := getattr(getattr(worker, "wsgi", None), "extensions", {}).get("marketplace"):
        marketplace.stop()


def child_exit(_server: Any, worker: MarketplaceWorker) -> None:
    """In the parent, after a worker is gone, and before another one gets its number."""
    metric_files.forget_worker(worker.number)
