"""Real S3 servers for the tests, each a subprocess with a folder and a free port of its own."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import urllib3
from botocore.config import Config

START_S = 20


@dataclass(frozen=True)
class S3Server:
    """A running server and the credentials that it accepts."""

    endpoint_url: str
    access_key: str
    secret_key: str
    conditional: bool

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which boto3 finds this server and nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its name."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=name)
        client.close()
        return name


@contextmanager
def ministack(folder: Path) -> Iterator[S3Server]:
    """Run ministack: honours conditional writes, accepts any credentials."""
    port = free_port()
    settings = {
        "SERVICES": "s3",
        "SFTP_ENABLED": "0",
        "BIND_HOST": "127.0.0.1",
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder / "data"),
        "GATEWAY_PORT": str(port),
    }
    with _running([_executable("ministack")], settings, folder, port):
        yield S3Server(f"http://127.0.0.1:{port}", "test", "test-secret", conditional=True)


@contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """Run rclone: checks credentials, silently overwrites on conditional writes."""
    port = free_port()
    (folder / "data").mkdir()
    command = [_executable("rclone"), "serve", "s3", "--config", "", "--addr", f"127.0.0.1:{port}"]
    with _running([*command, "--auth-key", "mill-key,mill-secret", str(folder / "data")], {}, folder, port):
        yield S3Server(f"http://127.0.0.1:{port}", "mill-key", "mill-secret", conditional=False)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(command: list[str], settings: Mapping[str, str], folder: Path, port: int) -> Iterator[None]:
    """Run a server in `folder` until the block ends; its output is in `server.log` there."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait_until_open(process, port, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not open port {port}; it said: {log.read_text(errors='replace')[-2000:]}")


def _executable(name: str) -> str:
    """Return the path of a program that was installed with this Python."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        raise RuntimeError(f"{name} is not installed with {sys.executable}; install the dev dependencies")
    return found


class _Gate(BaseHTTPRequestHandler):
    """Passes requests on to a server, except those that it refuses."""

    protocol_version = "HTTP/1.1"
    target = ""
    refuse: Callable[[BaseHTTPRequestHandler], str | None]
    closed: threading.Event

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.closed.is_set():  # a connection that was open before
            self.close_connection = True
            return
        if reason := type(self).refuse(self):
            self._send(403, {}, f"<Error><Code>AccessDenied</Code><Message>{reason}</Message></Error>".encode())
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        headers["Host"] = urlsplit(self.target).netloc
        url = self.target + self.path
        answer = urllib3.request(self.command, url, headers=headers, body=body, decode_content=False)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_HEADERS}
        if self.command == "HEAD":
            kept["Content-Length"] = answer.headers.get("Content-Length", "0")
        self._send(answer.status, kept, answer.data)

    def _send(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


class _Gateway(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection open


_HOP_HEADERS = ("transfer-encoding", "content-length", "connection")


@contextmanager
def gate(target: str, refuse: Callable[[BaseHTTPRequestHandler], str | None], port: int = 0) -> Iterator[str]:
    """Stand before a server and answer 403 where `refuse` gives a reason; yields the endpoint."""
    closed = threading.Event()
    handler = type("Gate", (_Gate,), {"target": target, "refuse": staticmethod(refuse), "closed": closed})
    with _Gateway(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            closed.set()
            server.shutdown()
            thread.join()
