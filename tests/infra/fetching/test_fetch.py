"""Checkpoints from a web server and from object storage: fetched once, always whole, always the requested ones."""

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from generators import CheckpointError, load_generator
from generators.checkpoints import save_generator
from infra.errors import FetchError
from infra.fetching import fetch
from infra.fetching import web as web_files
from infra.files import HIDDEN
from infra.stores.storage import open_store
from tests.generators.biggan_folder import tiny_biggan, write_folder
from tests.generators.published import tiny
from tests.web import Page, WebServer, web_server

DATA = b"weights " * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def servers() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def web(servers: WebServer, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """A web server that has no pages yet."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers.pages.clear()
    servers.asked.clear()
    return servers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no patience."""
    monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "WAIT_S", 0.01)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_generator(tiny(), path, about="random")
    return path.read_bytes()


def get(address: str, sha256: str | None = None, max_bytes: int = 10**6) -> bytes:
    return fetch.fetch(address, sha256, max_bytes).read_bytes()


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "files").iterdir())


def refused(address: str, sha256: str | None = None, **options) -> str:
    with pytest.raises(FetchError) as caught:
        get(address, sha256, **options)
    return str(caught.value)


# ---- a generator by its address


def test_a_generator_is_loaded_from_a_web_server(web, checkpoint):
    address = web.put("/a.safetensors", checkpoint)
    generator = load_generator(address)
    assert generator.digest == hashlib.sha256(checkpoint).hexdigest()
    assert generator.config == tiny().config


@pytest.mark.parametrize("server", ["ministack", "rclone"])
def test_a_generator_is_loaded_from_object_storage(request, use_server, checkpoint, server):
    running = use_server(request.getfixturevalue(server))
    bucket = running.make_bucket(f"weights-{uuid.uuid4().hex[:12]}")
    open_store(f"s3://{bucket}/models").write("a b+c%20.safetensors", checkpoint)
    generator = load_generator(f"s3://{bucket}/models/a b+c%20.safetensors")
    assert generator.digest == hashlib.sha256(checkpoint).hexdigest()


def test_a_generator_of_another_digest_is_refused_with_both(web, checkpoint, tmp_path):
    path = tmp_path / "local.safetensors"
    path.write_bytes(checkpoint)
    found, wanted = hashlib.sha256(checkpoint).hexdigest(), "0" * 64
    for address in (path, path.as_uri(), web.put("/a.safetensors", checkpoint)):
        with pytest.raises(CheckpointError, match=f"SHA-256 mismatch for .*: expected {wanted}, got {found}"):
            load_generator(address, sha256=wanted)
    assert load_generator(path, sha256=found.upper()).digest == found


@pytest.mark.parametrize("sha256", ["", "abc", "0" * 63 + "g", "../../../etc/passwd"])
def test_a_digest_that_is_none_is_refused(tmp_path, sha256):
    with pytest.raises(ValueError, match="sha256 must be 64 hexadecimal digits"):
        load_generator(tmp_path, sha256=sha256)


# ---- once


def test_a_file_whose_version_is_known_is_not_downloaded_again(web, cache):
    address = web.put("/a", DATA)
    get(address)
    web.pages["/a"].data = b"partial"  # nobody reads this
    web.pages["/a"].headers["Content-Length"] = str(len(DATA))
    web.pages["/a"].length = False
    before = (cache / "files" / SHA256).stat()
    get(address)
    after = (cache / "files" / SHA256).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_changed_file_is_downloaded_again(web, cache):
    address = web.put("/a", DATA)
    get(address)
    web.put("/a", DATA[::-1])
    assert get(address) == DATA[::-1]
    assert len(files(cache)) == 2


def test_a_server_that_tells_no_version_is_not_believed(web):
    address = web.put("/a", DATA, headers={"ETag": ""})
    get(address)
    web.put("/a", DATA[::-1], headers={"ETag": ""})
    assert get(address) == DATA[::-1]


def test_a_changed_object_is_downloaded_again(ministack, use_server):
    use_server(ministack)
    store = open_store(f"s3://{ministack.make_bucket(f'weights-{uuid.uuid4().hex[:12]}')}")
    store.write("a", DATA)
    assert get(f"{store.url}/a") == DATA
    store.write("a", DATA[::-1])
    assert get(f"{store.url}/a") == DATA[::-1]


def test_equal_keys_in_two_services_are_two_objects(ministack, rclone, use_server):
    name = f"weights-{uuid.uuid4().hex[:12]}"
    for server, data in ((ministack, DATA), (rclone, DATA[::-1])):
        use_server(server)
        server.make_bucket(name)
        open_store(f"s3://{name}").write("a", data)
        assert get(f"s3://{name}/a") == data
    use_server(ministack)
    assert get(f"s3://{name}/a") == DATA


def test_one_content_is_kept_once_whatever_its_address(web, cache):
    assert get(web.put("/a", DATA)) == get(web.put("/b", DATA)) == DATA
    assert files(cache) == [SHA256]


def test_with_its_digest_a_kept_file_needs_no_server(web):
    get(web.put("/a", DATA))
    web.asked.clear()
    assert get(f"{web.url}/a", SHA256) == get("https://nowhere.invalid/a", SHA256) == DATA
    assert get("s3://nowhere/a", SHA256) == DATA
    assert web.asked == []


def test_a_damaged_kept_file_is_downloaded_again(web, cache):
    address = web.put("/a", DATA)
    for wanted in (None, SHA256):
        get(address)
        (cache / "files" / SHA256).write_bytes(DATA[:-1])
        assert get(address, wanted) == DATA


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "\xff"])
def test_a_damaged_index_is_passed_over(web, cache, text):
    address = web.put("/a", DATA)
    get(address)
    for entry in (cache / "addresses").iterdir():
        entry.write_text(text, encoding="latin-1")
    assert get(address) == DATA


def test_workers_that_begin_together_download_once(web, cache, monkeypatch):
    address = web.put("/a", DATA, delay_s=0.1)
    begun, downloads = threading.Barrier(4), []
    download = fetch._download
    monkeypatch.setattr(fetch, "_download", lambda *args: downloads.append(1) or download(*args))

    def work(_: int) -> bytes:
        begun.wait()
        return get(address)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(4))) == {DATA}
    assert files(cache) == [SHA256]
    assert len(downloads) == 1


# ---- always whole


def test_a_download_that_breaks_off_is_tried_again(web, cache):
    assert get(web.put("/a", DATA, torn=2)) == DATA
    assert files(cache) == [SHA256]


def test_a_download_that_always_breaks_off_leaves_nothing(web, cache):
    message = refused(web.put("/a", DATA, torn=99))
    assert "the answer broke off" in message
    assert f"{fetch.ATTEMPTS} times; try again later" in message
    assert files(cache) == []
    assert not (cache / "addresses").exists()


def test_an_answer_without_an_end_is_refused_unless_its_digest_is_known(web, cache):
    address = web.put("/a", DATA, length=False)
    assert "the server does not give its size; give its sha256" in refused(address)
    assert get(address, SHA256) == DATA
    web.put("/b", DATA, length=False, torn=99)
    (cache / "files" / SHA256).unlink()
    assert f"expected {SHA256}, got" in refused(f"{web.url}/b", SHA256)
    assert files(cache) == []


def test_a_file_that_is_too_large_is_refused_before_it_is_downloaded(web, cache):
    message = refused(web.put("/a", DATA), max_bytes=len(DATA) - 1)
    assert f"/a has {len(DATA):,} bytes: at most {len(DATA) - 1:,} are read" in message
    assert not (cache / "files").exists()
    assert get(f"{web.url}/a", max_bytes=len(DATA)) == DATA


def test_a_file_of_unknown_size_is_refused_where_it_becomes_too_large(web, cache):
    address = web.put("/a", DATA, length=False)
    assert "has more bytes: at most 100 are read" in refused(address, "1" * 64, max_bytes=100)
    assert files(cache) == []


def test_another_content_than_its_digest_says_is_not_kept(web, cache):
    address = web.put("/a", DATA)
    assert f"SHA-256 mismatch for {web.url}/a: expected {'0' * 64}, got {SHA256}" in refused(address, "0" * 64)
    assert files(cache) == []
    get(address)
    assert "SHA-256 mismatch" in refused(address, "0" * 64)


def test_what_a_killed_process_left_is_swept_after_a_day(web, cache):
    (cache / "files").mkdir(parents=True)
    old, new = (cache / "files" / f"{HIDDEN}{name}.partial" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(DATA[:10])
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    get(web.put("/a", DATA))
    assert files(cache) == [f"{HIDDEN}new.partial", SHA256]


# ---- what is refused, and why


def test_a_busy_server_is_asked_again(web):
    assert get(web.put("/a", DATA, busy=2)) == DATA


@pytest.mark.parametrize(("status", "said"), [(404, "404 Not Found; correct the address"), (403, "403 Forbidden")])
def test_an_answer_that_is_not_a_file_is_told(web, status, said):
    web.pages["/a"] = Page(status=status)
    assert f"cannot fetch {web.url}/a: the server answers {said}" in refused(f"{web.url}/a")


def test_plain_http_is_for_this_machine_or_for_a_known_digest(web):
    for host in ("example.org", "10.0.0.1", "127.0.0.1.example.org"):
        message = refused(f"http://{host}/a")
        assert f"cannot fetch http://{host}/a: plain http can be altered on its way; use https" in message
    assert get(web.put("/a", DATA).replace("127.0.0.1", "localhost")) == DATA


def test_a_redirect_is_followed_but_not_to_plain_http_elsewhere(web, monkeypatch):
    assert get(web.redirect("/old", web.put("/new", DATA))) == DATA
    monkeypatch.setattr(web_files, "_is_this_machine", lambda host: host == "localhost")
    address = web.redirect("/moved", web.put("/away", DATA)).replace("127.0.0.1", "localhost")
    assert f"cannot fetch {web.url}/away, which {address} leads to: plain http" in refused(address)
    assert get(address, SHA256) == DATA


def test_a_packed_answer_is_refused(web):
    assert "packed (gzip)" in refused(web.put("/a", DATA, headers={"Content-Encoding": "gzip"}))


def test_what_may_be_secret_in_an_address_is_never_shown_or_kept(web, cache):
    web.put("/a", DATA)
    address = f"{web.url}/a?X-Amz-Signature=verysecret".replace("//", "//user:verysecret@")
    get(address)
    kept = [path.read_text() for path in (cache / "addresses").iterdir()]
    assert json.loads(kept[0])["address"] == f"{web.url}/a"
    assert "verysecret" not in "".join(kept)
    for wrong in (address.replace("/a?", "/b?"), address.replace("127.0.0.1:", "127.0.0.1:1"), "https://[x?verysecret"):
        assert "verysecret" not in refused(wrong)


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(web_files, "ATTEMPTS", 1)
    message = refused("http://127.0.0.1:9/a")
    assert "cannot fetch http://127.0.0.1:9/a: " in message
    assert "check the address and the network. With its sha256, a copy that is in the cache is used" in message


@pytest.mark.parametrize("address", ["s3://", "s3://bucket", "s3://bucket/", "S3:///key"])
def test_an_address_in_object_storage_has_a_bucket_and_a_key(address):
    assert "an address in object storage is s3://BUCKET/KEY" in refused(address)


def test_a_missing_object_and_refused_credentials_are_told(rclone, use_server, monkeypatch):
    use_server(rclone)
    bucket = rclone.make_bucket(f"weights-{uuid.uuid4().hex[:12]}")
    assert f"cannot fetch s3://{bucket}/a: there is no such object" in refused(f"s3://{bucket}/a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    assert "refused the credentials" in refused(f"s3://{bucket}/a")


def test_a_cache_that_cannot_be_written_is_named(web, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("INVERTMILL_CACHE", str(tmp_path / "file"))
    message = refused(web.put("/a", DATA))
    assert f"cannot keep {web.url}/a in the cache" in message
    assert "set INVERTMILL_CACHE to another folder" in message


# ---- folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("biggan"), tiny_biggan())


def serve(web: WebServer, folder: Path) -> str:
    for path in folder.iterdir():
        web.put(f"/deep/{path.name}", path.read_bytes())
    return f"{web.url}/deep/"


def test_a_folder_is_loaded_from_a_web_server(web, folder):
    here, there = load_generator(folder, truncation=0.5), load_generator(serve(web, folder), truncation=0.5)
    assert there.digest == here.digest
    assert all(torch.equal(tensor, there.state_dict()[name]) for name, tensor in here.state_dict().items())
    assert sorted(web.asked) == ["/deep/config.json", "/deep/pytorch_model.bin"]


def test_a_folder_is_loaded_from_object_storage(ministack, use_server, folder):
    use_server(ministack)
    store = open_store(f"s3://{ministack.make_bucket(f'weights-{uuid.uuid4().hex[:12]}')}/deep")
    for path in folder.iterdir():
        store.write(path.name, path)
    assert load_generator(f"{store.url}/").digest == load_generator(folder).digest


def test_with_its_digest_a_kept_folder_needs_no_server_and_a_damaged_one_is_fetched_again(web, folder, cache):
    address, digest = serve(web, folder), load_generator(folder).digest
    load_generator(address)
    web.asked.clear()
    assert load_generator(address, sha256=digest).digest == digest
    assert web.asked == []
    kept = cache / "folders" / digest / "config.json"
    kept.unlink()
    kept.write_bytes(b"{}")
    assert load_generator(address, sha256=digest).digest == digest
    assert web.asked == ["/deep/config.json", "/deep/pytorch_model.bin"]


def test_a_folder_of_another_digest_and_one_without_its_files_are_refused(web, folder):
    address, digest = serve(web, folder), load_generator(folder).digest
    with pytest.raises(CheckpointError, match=f"/deep/: expected {'0' * 64}, got {digest}"):
        load_generator(address, sha256="0" * 64)
    del web.pages["/deep/pytorch_model.bin"]
    with pytest.raises(CheckpointError, match=r"cannot fetch .*/deep/pytorch_model\.bin: the server answers 404"):
        load_generator(address)


def test_a_signature_goes_with_each_file_of_a_folder(web, folder):
    load_generator(f"{serve(web, folder)}?token=secret")
    assert sorted(web.asked) == ["/deep/config.json?token=secret", "/deep/pytorch_model.bin?token=secret"]


def test_what_is_wrong_with_a_fetched_file_is_told_with_its_address(web):
    with pytest.raises(CheckpointError, match=rf"is an empty file; .*; it was fetched from {web.url}/a"):
        load_generator(web.put("/a", b"") + "?token=secret")
