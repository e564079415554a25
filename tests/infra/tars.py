"""Small tars for the tests, and what a scan says of them."""

import io
import tarfile

from infra.shards.shards import scan_shard

COUNT = 6


def sample(number):
    return {"__key__": f"{number:04d}", "jpg": bytes([number + 1]) * (600 + 300 * number), "json": f'{{"n": {number}}}'}


def tar(*members, form=tarfile.PAX_FORMAT):
    """Return a tar of (name, content) pairs; a content that is a text names the kind of a member without one."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type = {"folder": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE}[content]
                info.linkname = "elsewhere"
                archive.addfile(info)
    return sink.getvalue()


def scan(data, size=None):
    return scan_shard(io.BytesIO(data), "a.tar", len(data) if size is None else size)


def keys(scanned):
    return [found.key for found in scanned.samples]


def sound(scanned):
    """Return the keys of the samples of which nothing is wrong."""
    return [found.key for found in scanned.samples if found.fault is None and not found.unusable]


def said(scanned):
    """Return everything that a scan found wrong with the shard."""
    return " ".join(fault.message for fault in scanned.faults)
