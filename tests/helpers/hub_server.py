"""A stand-in for the hub of Hugging Face: the requests that read the files of a dataset."""

import contextlib
import http.server
import json
import os
import re
import threading
import urllib.parse

REPOSITORY = "user/name"
_COMMIT = "1" * 40


@contextlib.contextmanager
def hub_server(folder):
    """Serves a local folder as the dataset `REPOSITORY`; yields (URL, list of the requests).

    A request is ("GET", path, value of the header Range or None).
    """
    requests = []

    class Handler(_Handler):
        root, seen = str(folder), requests

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, root, seen = "HTTP/1.1", "", ()

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.seen.append((self.command, path, self.headers.get("Range")))
        pattern = rf"/(?:api/)?datasets/{REPOSITORY}(?:/(tree|resolve)/main(?:/(.*))?)?"
        match = re.fullmatch(pattern, path)
        kind, name = match.groups() if match else ("none", None)
        local = os.path.join(self.root, name or "")
        if kind is None:
            self._send_json({"id": REPOSITORY, "sha": _COMMIT, "siblings": [], "tags": []})
        elif kind == "tree" and os.path.isdir(local):
            entries = [os.path.join(name or "", entry) for entry in sorted(os.listdir(local))]
            self._send_json([self._entry(entry) for entry in entries])
        elif kind == "resolve" and os.path.isfile(local):
            self._send_file(local)
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def _entry(self, name):
        local = os.path.join(self.root, name)
        if os.path.isdir(local):
            return {"type": "directory", "oid": "0" * 40, "path": name, "size": 0}
        return {"type": "file", "oid": "0" * 40, "path": name, "size": os.path.getsize(local)}

    def _send_json(self, content):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send_file(self, path):
        with open(path, "rb") as file:
            data = file.read()
        headers = {"ETag": '"0"', "X-Repo-Commit": _COMMIT, "Accept-Ranges": "bytes"}
        if bounds := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end = int(bounds[1]), min(int(bounds[2]), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self._send(206, data[start : end + 1], headers)
        else:
            self._send(200, data, headers)

    def _send(self, status, data, headers):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
