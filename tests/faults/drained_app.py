"""A WSGI application with the seams of the real one, for test_drain.py: it leaves a file behind for what happens."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TRACE = Path(os.environ["TRACE"])


class Marketplace:
    def start(self, worker_name: str, _began: float) -> None:
        (TRACE / f"started-{worker_name}-{os.getpid()}").touch()

    def stop(self) -> None:
        (TRACE / f"stopped-{os.getpid()}").touch()


class Application:
    extensions = {"marketplace": Marketplace()}  # noqa: RUF012

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/held/"):
            name = path.removeprefix("/held/")
            (TRACE / f"held-{name}").touch()
            while not (TRACE / f"release-{name}").exists():
                time.sleep(0.01)
        if path == "/broken":
            raise RuntimeError("a secret of the application")
        body = str(os.getpid()).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]


application = Application()
