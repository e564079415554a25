"""Whatever happened to a tar is noticed, and costs no more than what it hit."""

import hashlib
import io
import subprocess
import tarfile

import pytest

from infra.shards.tar_walk import BLOCK
from tests.infra.tars import COUNT, keys, said, scan, sound, tar

ZERO_BLOCK = bytes(BLOCK)


def test_a_cut_anywhere_is_noticed_and_keeps_every_complete_sample(shard):
    """At every block boundary, and at odd places around each: nothing raises, nothing whole is lost or invented."""
    whole = scan(shard).samples
    end = whole[-1].stop
    assert shard[end:] == bytes(len(shard) - end)
    places = sorted({block + odd for block in range(0, end + 2 * BLOCK, BLOCK) for odd in (0, 1, 257, 511)})
    for cut in (place for place in places if place < end + 2 * BLOCK):
        scanned = scan(shard[:cut])
        assert scanned.faults, f"a cut at {cut} went unnoticed"
        assert scanned.size == cut
        ends = [found.members[-1].offset + found.members[-1].size for found in whole]
        complete = [found.key for found, stop in zip(whole, ends, strict=True) if stop <= cut]
        begun = [found.key for found in whole if found.start + BLOCK <= cut]
        assert keys(scanned) == begun, cut
        if len(begun) > 1:  # a lone first sample cannot be told from one that has a single member
            assert sound(scanned) == complete, cut


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_cut_among_long_names_is_noticed_too(form):
    data = tar(*((f"{number}{'x' * 700}.jpg", b"1") for number in range(3)), form=form)
    samples = scan(data).samples
    for cut in range(0, samples[-1].stop + 2 * BLOCK, 256):
        scanned = scan(data[:cut])
        assert scanned.faults, f"a cut at {cut} went unnoticed"
        assert sound(scanned) == [found.key for found in samples if found.members[-1].offset < cut], cut


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_corrupted_extended_header_costs_its_member_only(form):
    data = tar(*((f"{number}{'x.jpg' * 140}.jpg", b"1") for number in range(3)), form=form)
    samples = scan(data).samples
    for start in range(samples[1].start, samples[1].stop - BLOCK, BLOCK):
        scanned = scan(data[:start] + b"\xff" * BLOCK + data[start + BLOCK :])
        assert {samples[0].key, samples[2].key} <= set(sound(scanned)) <= {found.key for found in samples}, start


def test_the_samples_before_a_cut_are_the_same_as_without_it(shard):
    whole = scan(shard).samples
    assert scan(shard[: whole[3].start]).samples == whole[:3]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (lambda found: found.stop, "no end marker"),
        (lambda found: found.start + 100, "inside a header"),
        (lambda found: found.start + BLOCK + 100, "in the data of '0002.jpg'"),
        (lambda found: found.members[0].offset + found.members[0].size + 1, "in the padding of '0002.jpg'"),
    ],
)
def test_each_kind_of_cut_says_where_it_is(shard, place, says):
    cut = place(scan(shard).samples[2])
    fault = said(scan(shard[:cut]))
    assert says in fault
    assert f"byte {cut}" in fault
    assert "upload the shard again" in fault


def test_a_sample_that_lost_a_member_to_a_cut_says_which(shard):
    third = scan(shard).samples[2]
    last = scan(shard[: third.members[1].offset - BLOCK]).samples[-1]
    assert last.fault is None
    assert "lacks json" in last.unusable["json"]
    last = scan(shard[: third.members[0].offset + 5]).samples[-1]
    assert "ends after 5 of 1200 bytes of its 'jpg'" in last.unusable["jpg"]
    assert last.unusable["jpg"] in last.fault  # nothing of it is left


def test_a_cut_in_the_end_marker_keeps_all(shard):
    end = scan(shard).samples[-1].stop
    for cut, says in ((end + BLOCK, "inside the end marker"), (end + 100, "the end marker"), (end + 1100, "padding")):
        scanned = scan(shard[:cut])
        assert len(sound(scanned)) == COUNT
        assert says in said(scanned)


def test_fewer_bytes_than_listed_are_a_fault(shard):
    assert f"{len(shard)} bytes could be read, {len(shard) + 512} are listed" in said(scan(shard, len(shard) + 512))


def test_an_empty_shard_is_a_fault():
    assert "no bytes" in said(scan(b""))
    assert "no samples" in said(scan(tar()))


def test_a_corrupted_header_costs_its_member_and_no_other_sample(shard):
    for number, found in enumerate(scan(shard).samples):
        for member in found.members:
            start = member.offset - BLOCK
            scanned = scan(shard[: start + 10] + b"\xff" + shard[start + 11 :])
            others = [f"{other:04d}" for other in range(COUNT) if other != number]
            assert sound(scanned) == others, (number, member)
            assert f"corrupted header at byte {start}" in said(scanned)
            assert len(scanned.faults) == 1
            broken = next(one for one in scanned.samples if one.key == found.key)
            assert f"lacks {member.extension}" in broken.unusable[member.extension]


def test_a_zeroed_header_does_not_end_the_shard(shard):
    third = scan(shard).samples[2]
    scanned = scan(shard[: third.start] + ZERO_BLOCK + shard[third.start + BLOCK :])
    assert sound(scanned) == [key for key in keys(scan(shard)) if key != third.key]
    assert f"corrupted header at byte {third.start + BLOCK}" in said(scanned)


def test_what_follows_the_end_marker_is_kept_and_said(shard):
    scanned = scan(tar(("z.jpg", b"1"), ("z.json", b"{}")) + shard)
    assert sound(scanned) == ["z", *keys(scan(shard))]
    assert scanned.faults == ()
    assert "the end marker is followed by more members at byte 10240" in scanned.notes[0]


@pytest.mark.parametrize("seed", range(20))
def test_no_damage_raises(shard, seed):
    noise = hashlib.sha256(bytes([seed])).digest()
    data = bytearray(shard)
    for number in range(8):
        data[int.from_bytes(noise[4 * number : 4 * number + 3]) % len(data)] ^= noise[4 * number + 3] | 1
    scan(bytes(data))


def test_something_else_than_a_tar_is_said(shard):
    scanned = scan(b"<html>not found</html>" * 100)
    assert scanned.samples == ()
    assert "not a tar but an HTML or XML page" in said(scanned)


def test_a_compressed_shard_says_what_to_do(tmp_path, shard):
    (tmp_path / "z.tar").write_bytes(shard)
    subprocess.run(["gzip", "z.tar"], cwd=tmp_path, check=True)
    data = (tmp_path / "z.tar.gz").read_bytes()
    scanned = scan(data)
    assert "compressed with gzip" in said(scanned)
    assert scanned.sha256 == hashlib.sha256(data).hexdigest()


# Joined, padded and sparse tars


def test_joined_tars_of_any_writer_are_read_whole_and_no_fault():
    for padding in (0, 10240):
        one, other = (tar((f"{name}.jpg", b"1"), (f"{name}.txt", b"2")) for name in "ab")
        body = scan(one).samples[-1].stop
        scanned = scan(one[: body + 2 * BLOCK] + bytes(-(body + 2 * BLOCK) % padding if padding else 0) + other)
        assert sound(scanned) == ["a", "b"]
        assert scanned.faults == ()
        assert "the end marker is followed by more members" in scanned.notes[0]


def test_bytes_after_the_end_marker_are_a_note():
    scanned = scan(tar(("a.jpg", b"1")) + b"signature" * 100)
    assert sound(scanned) == ["a"]
    assert scanned.faults == ()
    assert "the end marker is followed by 900 bytes that are not a tar's" in scanned.notes[0]


def test_a_hole_of_zeros_between_members_is_a_fault():
    data = tar(*((f"{number}.jpg", b"1") for number in range(12)))
    samples = scan(data).samples
    start, stop = samples[3].start, samples[7].start
    scanned = scan(data[:start] + bytes(stop - start) + data[stop:])
    assert keys(scanned) == [found.key for found in samples if not start <= found.start < stop]
    assert f"blocks of zeros before byte {stop}, members may be missing" in said(scanned)


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_files_are_a_fault_and_cost_no_neighbour(tmp_path, version):
    with (tmp_path / "b.jpg").open("wb") as stream:
        for number in range(40):  # more pieces than the first header has room for
            stream.seek(number * 131072)
            stream.write(b"picture")
    for name in ("a.jpg", "b.txt", "c.jpg"):
        (tmp_path / name).write_bytes(b"1")
    form = ["--format=gnu"] if version == "gnu" else ["--format=posix", f"--sparse-version={version}"]
    subprocess.run(
        ["tar", *form, "--sparse", "-cf", "s.tar", "a.jpg", "b.jpg", "b.txt", "c.jpg"], cwd=tmp_path, check=True
    )
    scanned = scan((tmp_path / "s.tar").read_bytes())
    assert keys(scanned) == ["a", "b", "c"]
    assert sound(scanned) == ["a", "c"]
    assert "without tar --sparse" in scanned.samples[1].unusable["jpg"]
    assert [fault.kind for fault in scanned.faults] == ["sparse"]


def test_a_global_extended_header_says_nothing_of_a_member():
    sink = io.BytesIO()
    with tarfile.open(
        fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 600, "path": "z.png"}
    ) as archive:
        for name in ("a.jpg", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"1"))
    scanned = scan(sink.getvalue())
    assert sound(scanned) == ["a", "b"]
    assert scanned.faults == ()


def test_a_name_in_an_extended_header_stands_before_the_short_one():
    info = tarfile.TarInfo("short.jpg")
    info.size = 1
    info.pax_headers = {"path": "the real name.jpg"}
    scanned = scan(info.tobuf(tarfile.PAX_FORMAT) + b"1".ljust(BLOCK, b"\0") + 2 * ZERO_BLOCK)
    assert sound(scanned) == ["the real name"]
