"""An HTTP proxy in front of a storage server, which delays requests and injects faults."""

import collections
import contextlib
import http.client
import http.server
import json
import random
import re
import socket
import struct
import threading
import time
import urllib.parse

# A reset closes the connection without an answer; "half" sends only a part of the body; a number is
# the status of an answer. A further fault, "hang", is no answer for `HANG_SECONDS`.
FAULTS = ("reset", "half", "503", "404")
HANG_SECONDS = 10.0
_HEADERS = {"301": {"x-amz-bucket-region": "eu-west-1"}}
_HOP_HEADERS = ("transfer-encoding", "connection", "keep-alive", "content-length")


class FaultyProxy:
    """Forwards requests to a server; a context manager.

    Args:
        upstream: URL of the server; it may be set later.
        **options: see `reset`.

    Attributes:
        injected: {fault: number}.
        requests: number of requests.
        most_at_once: largest number of requests at the same time.
        down: status with which each request is answered, such as "503", or None.
        url: URL of the proxy.
    """

    def __init__(self, upstream="", **options):
        self.upstream, self._lock = upstream, threading.Lock()
        self.reset(**options)
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self, rate=0.0, faults=FAULTS, delay=0.0, limit=None, hidden_seconds=0.0, seed=0):
        """Sets what the proxy does, and the counts to zero.

        Args:
            rate: share of the requests that get a fault.
            faults: names of `FAULTS`.
            delay: seconds that each request takes longer.
            limit: number of faults after which no more faults are injected; None: no limit.
            hidden_seconds: time during which a new object is missing in listings.
            seed: seed of the choice of the requests.
        """
        self.rate, self.faults, self.delay = rate, faults, delay
        self.limit, self.hidden_seconds, self.down = limit, hidden_seconds, None
        self.injected, self.requests = collections.Counter(), 0
        self._active, self.most_at_once = 0, 0
        self._random, self._written = random.Random(seed), {}

    @contextlib.contextmanager
    def counting(self):
        """Counts a request while it is answered."""
        with self._lock:
            self._active += 1
            self.most_at_once = max(self.most_at_once, self._active)
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1

    def choose(self):
        """Returns the fault of the next request, or None."""
        with self._lock:
            self.requests += 1
            if self.down:
                return self.down
            is_full = self.limit is not None and sum(self.injected.values()) >= self.limit
            if is_full or self._random.random() >= self.rate:
                return None
            fault = self._random.choice(self.faults)
            self.injected[fault] += 1
            return fault

    def note_written(self, path, body):
        """Remembers the time of a request that writes an object."""
        # GCS has the name of the object in the first part of the body.
        name = re.search(rb'"name": ?"([^"]+)"', body[:1000])
        key = name[1].decode() if name else urllib.parse.unquote(path.partition("?")[0])
        self._written[key.rpartition("/")[2]] = time.monotonic()

    def listed(self, path, body):
        """Returns the body of an answer; listings lack the objects that are too new."""
        if not self.hidden_seconds or not (
            "list-type" in path or path.partition("?")[0][-2:] == "/o"
        ):
            return body
        now = time.monotonic()
        hidden = {n for n, when in self._written.items() if now - when < self.hidden_seconds}
        if "list-type" in path:
            return re.sub(
                rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>",
                lambda m: b"" if m[1].decode().rpartition("/")[2] in hidden else m[0],
                body,
                flags=re.DOTALL,
            )
        content = json.loads(body)
        items = content.get("items", [])
        content["items"] = [i for i in items if i["name"].rpartition("/")[2] not in hidden]
        return json.dumps(content).encode()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256

    def handle_error(self, request, client_address):
        """Prints nothing: clients close connections after faults."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, owner = "HTTP/1.1", None

    def _forward(self):
        with self.owner.counting():
            self._respond()

    def _respond(self):
        proxy = self.owner
        body = self._request_body()
        if proxy.delay:
            time.sleep(proxy.delay)
        fault = proxy.choose()
        if fault == "hang":
            time.sleep(HANG_SECONDS)
        if fault in ("reset", "hang"):
            self._close()
            return
        if fault and fault.isdigit():
            self._answer(int(fault), _HEADERS.get(fault, {}), b"")
            return
        status, headers, data = self._ask_upstream(body)
        if self.command in ("PUT", "POST"):
            proxy.note_written(self.path, body)
        if self.command == "GET" and status == 200:
            data = proxy.listed(self.path, data)
        self._answer(status, headers, data, is_cut=fault == "half")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _forward

    def _request_body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _ask_upstream(self, body):
        host = self.owner.upstream.partition("://")[2]
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_HEADERS}
        headers["Content-Length"] = str(len(body))
        with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
            own = {k: v for k, v in response.getheaders() if k.lower() not in _HOP_HEADERS}
            if self.command == "HEAD":
                own["Content-Length"] = response.getheader("Content-Length") or "0"
            return response.status, own, data

    def _answer(self, status, headers, data, is_cut=False):
        if is_cut and not data:  # The request has succeeded, and the client does not know it.
            self._close()
            return
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if is_cut and data:
            self.wfile.write(data[: len(data) // 2])
            self._close()
        else:
            self.wfile.write(data)

    def _close(self):
        """Closes the connection; the client receives a reset."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
