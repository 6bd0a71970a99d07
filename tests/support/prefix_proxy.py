"""A reverse proxy that shows a server under a path prefix, as nginx does with ``location /label/``."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

_ONE_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})


class PrefixProxy:
    """``with PrefixProxy(server.url, "/label") as url``: what lies below `prefix` is asked of the server without it."""

    def __init__(self, server_url: str, prefix: str) -> None:
        target = urlsplit(server_url).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                if not self.path.startswith(prefix + "/"):
                    self.send_error(404, "outside the prefix")
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = http.client.HTTPConnection(target, timeout=120)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _ONE_HOP}
                try:
                    asked.request(self.command, self.path[len(prefix) :], body, headers)
                    answer = asked.getresponse()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in _ONE_HOP:
                            self.send_header(name, value)
                    self.send_header("Connection", "close")
                    self.end_headers()
                    while chunk := answer.read1(1 << 16):
                        self.wfile.write(chunk)
                        self.wfile.flush()
                except OSError:  # somebody hung up
                    pass
                finally:
                    asked.close()
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = pass_on  # noqa: N815 - named by the library

            def log_message(self, *words: object) -> None:
                """Nothing: tests tell what went wrong."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}{prefix}"

    def __enter__(self) -> str:
        self._thread.start()
        return self.url

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
