"""A real web server for the tests, which can also do what web servers do wrong."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What the server answers for a path."""

    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    torn: int = 0  # number of times the answer breaks off in its middle
    busy: int = 0  # number of times, before anything else, the answer is 503
    length: bool = True  # whether the answer says how long it is
    delay_s: float = 0.0


@dataclass
class WebServer:
    """A running server: its pages by path, and the paths that were asked for, in order."""

    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, path: str, data: bytes, **options) -> str:
        """Serve a file with an ETag of its content, and return its address."""
        headers = {"ETag": f'"{hash(data)}"', **options.pop("headers", {})}
        self.pages[path] = Page(data, {name: value for name, value in headers.items() if value}, **options)
        return self.url + path

    def redirect(self, path: str, to: str) -> str:
        """Answer that a path is elsewhere, and return its address."""
        self.pages[path] = Page(headers={"Location": to}, status=302)
        return self.url + path


@contextmanager
def web_server() -> Iterator[WebServer]:
    """Run a web server on a free port of this machine until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            page = served.pages.get(self.path.partition("?")[0], Page(status=404))
            if page.busy:
                page.busy -= 1
                page = Page(status=503)
            self.send_response(page.status)
            for name, value in page.headers.items():
                self.send_header(name, value)
            if page.length:
                self.send_header("Content-Length", str(len(page.data)))
            self.end_headers()
            data = page.data[: len(page.data) // 2] if page.torn else page.data
            page.torn = max(0, page.torn - 1)
            threading.Event().wait(page.delay_s)
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # a client that hangs up is normal
        served = WebServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()
