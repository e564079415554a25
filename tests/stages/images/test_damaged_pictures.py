"""Damaged pictures: whatever a decoder makes of one, it is one bad sample, with the same reason every time."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from stages.base.errors import BadSampleError
from stages.images.decoding import decode_mask, decode_picture, decode_values
from tests.stages.pictures import encoded, pixels, raw_png


def avif_without_payload() -> bytes:
    data = encoded(pixels(0), "AVIF")
    start = data.index(b"mdat") + 4
    return data[:start] + bytes(len(data) - start)


LINES = b"".join(b"\0" + bytes(range(8)) for _ in range(8))
RAISING = {
    "AVIF whose payload was overwritten": avif_without_payload(),
    "palette PNG without a palette but with tRNS": raw_png(3, 8, 8, 8, LINES, [(b"tRNS", b"\0")]),
    "PNG whose IHDR is short": b"\x89PNG\r\n\x1a\n\0\0\0\x05IHDR12345\0\0\0\0",
    "TIFF with nothing after its header": b"II*\0\xff\xff\xff\x7f",
    "DDS of an unknown kind": b"DDS |\0\0\0" + bytes(120),
    "GIF without a frame": b"GIF89a\x01\0\x01\0\0\0\0;",
    "PPM whose numbers are words": b"P6 wide high 255\n",
    "BMP with an unknown header": b"BM" + bytes(12) + b"\xff\0\0\0" + bytes(300),
}


@pytest.mark.parametrize("kind", RAISING)
@pytest.mark.parametrize("decode", [decode_picture, decode_mask, decode_values])
def test_whatever_a_decoder_raises_is_a_bad_sample_with_a_reason_that_stays_the_same(kind, decode):
    if decode is decode_values and "palette" in kind:
        pytest.skip("labels are the numbers of a palette, and need none")
    reasons = set()
    for _ in range(2):
        with pytest.raises(BadSampleError, match=r"^cat\.jpg does not decode \(\d+ bytes\): ") as caught:
            decode(bytes(bytearray(RAISING[kind])), "cat.jpg")
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert not re.search("0x|BytesIO|/tmp", reasons.pop())


FORMS = {
    "JPEG": {"quality": 90},
    "JPEG, progressive": {"quality": 90, "progressive": True},
    "JPEG, restarting": {"quality": 90, "restart_marker_rows": 1},
    "JPEG, grey": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "WEBP, lossy": {},
    "AVIF": {},
    "TIFF": {},
    "TIFF, deflated": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
    "GIF": {},
    "PPM": {},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_that_was_cut_off_is_whole_or_refused_wherever_the_cut_is(form):
    image = pixels(0, 40, 48)
    data = encoded(image[..., 0] if "grey" in form else image, form.partition(",")[0], **FORMS[form])
    whole = decode_picture(data, "cat.jpg").pixels_HW3
    read = []
    for length in {*range(0, len(data), max(1, len(data) // 150)), *range(len(data) - 40, len(data))}:
        try:
            found = decode_picture(data[:length], "cat.jpg").pixels_HW3
        except BadSampleError:
            continue
        np.testing.assert_array_equal(found, whole, err_msg=f"cut to {length} of {len(data)} bytes")
        read.append(length)
    if "JPEG" in form:
        assert len(data) - 2 in read
    assert all(length >= len(data) * 0.9 for length in read)


@pytest.mark.parametrize("form", [form for form in FORMS if "JPEG" in form])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_read_also_with_zeros_after(form):
    data = encoded(pixels(0, 40, 48), "JPEG", **FORMS[form])
    whole = decode_picture(data, "cat.jpg").pixels_HW3
    for rest in (b"", b"\xff", b"\0" * 512):
        np.testing.assert_array_equal(decode_picture(data[:-2] + rest, "cat.jpg").pixels_HW3, whole)
    for rest in (b"", b"\0" * 512, b"\0" * 20_000):
        with pytest.raises(BadSampleError, match="truncated"):
            decode_picture(data[: len(data) * 3 // 4] + rest, "cat.jpg")


@pytest.mark.parametrize("form", [form for form in FORMS if "JPEG" in form and "progressive" not in form])
@pytest.mark.parametrize("appended", [b"", b"about it" * 20])
def test_an_end_marker_before_the_last_pixel_makes_no_picture(form, appended):
    data = encoded(pixels(0, 40, 48), "JPEG", **FORMS[form])
    for share in (0.6, 0.75, 0.9):
        with pytest.raises(BadSampleError, match="truncated"):
            decode_picture(data[: int(len(data) * share)] + b"\xff\xd9" + appended, "cat.jpg")


@pytest.mark.parametrize("form", [form for form in FORMS if "JPEG" in form])
def test_a_jpeg_whose_last_pixels_are_middle_grey_is_whole(form):
    image = np.array(pixels(0, 40, 48))
    image[24:] = 128
    data = encoded(image, "JPEG", **FORMS[form])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)))[-1, -1], [128] * 3)
    np.testing.assert_array_equal(
        decode_picture(data + b"about it", "cat.jpg").pixels_HW3, np.asarray(Image.open(io.BytesIO(data)))
    )


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_zeros_in_place_of_pixels_are_not_pixels_and_after_them_no_damage(form):
    coarse = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    data = encoded(Image.fromarray(coarse).resize((240, 200), Image.Resampling.BICUBIC), form)
    whole = decode_picture(data, "cat.jpg").pixels_HW3
    np.testing.assert_array_equal(decode_picture(data + bytes(4096), "cat.jpg").pixels_HW3, whole)
    for share in (0.3, 0.5, 0.7, 0.9):
        kept = int(len(data) * share)
        with pytest.raises(BadSampleError, match="does not decode"):
            decode_picture(data[:kept] + bytes(len(data) - kept), "cat.jpg")


def test_a_lossless_picture_may_end_in_zeros():
    image = np.full((64, 64, 3), 255, np.uint8)
    image[:8] = np.random.default_rng(0).integers(0, 256, (8, 64, 3))
    data = encoded(image, "WEBP", lossless=True, quality=0, method=0)
    assert data.endswith(bytes(64))
    np.testing.assert_array_equal(decode_picture(data, "cat.jpg").pixels_HW3, image)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM"])
def test_bytes_changed_anywhere_give_a_picture_or_a_bad_sample(form):
    data, random = encoded(pixels(1, 16, 24), form), np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 6)):
            changed[at] = random.integers(0, 256)
        try:
            picture = decode_picture(bytes(changed), "cat.jpg")
        except BadSampleError as error:
            assert not re.search("0x|BytesIO|/tmp", str(error).partition(" bytes): ")[2].replace("\\x", ""))  # noqa: PT017
            continue
        assert picture.pixels_HW3.dtype == np.uint8
        assert picture.pixels_HW3.shape[2:] == (3,)


def test_no_memory_is_not_the_pictures_fault(monkeypatch):
    def full(*_arguments, **_options):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "getexif", full)
    with pytest.raises(MemoryError):
        decode_picture(encoded(pixels(0), "PNG"), "cat.png")


def test_pillow_itself_never_reads_what_was_cut_off():
    from PIL import ImageFile

    decode_picture(encoded(pixels(0), "JPEG")[:-2], "cat.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(encoded(pixels(0), "JPEG")[:-30])).load()
