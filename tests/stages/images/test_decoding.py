"""The decoder of pictures: formats by content, and the same picture in any form gives the same pixels."""

import io
import logging
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from stages.base.errors import BadSampleError
from stages.images import colours
from stages.images.decoding import FORMATS, MOST_PIXELS, decode_mask, decode_picture, picture_geometry
from stages.images.orientation import UPRIGHT, Geometry
from tests.stages.pictures import ORIENTED, encoded, pixels, raw_png, sideways

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"
BEST = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
LOSSLESS = ("PNG", "TIFF", "BMP", "PPM")


def decoded(data: bytes) -> np.ndarray:
    return decode_picture(data, "cat.jpg").pixels_HW3


def refused(data: bytes) -> str:
    with pytest.raises(BadSampleError) as caught:
        decode_picture(data, "cat.jpg")
    return str(caught.value)


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read_whatever_the_member_is_called(form):
    image = pixels(0)
    with Image.open(io.BytesIO(data := encoded(image, form))) as opened:
        np.testing.assert_array_equal(decoded(data), np.asarray(opened.convert("RGB")))
    if form in LOSSLESS:
        np.testing.assert_array_equal(decoded(data), image)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_an_animated_picture_the_first_frame_is_read(form):
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    options = {"lossless": True} if form == "WEBP" else {}
    moving = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    difference = decoded(moving).astype(int) - pixels(0)
    assert abs(difference).mean() < (12 if form in ("GIF", "AVIF") else 1)


@pytest.mark.parametrize(
    "data",
    [
        EPS,
        b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + bytes(22) + EPS,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!DOCTYPE html><html>404 not found</html>",
        b"DDS |\0\0\0",
        b"\0" * 100,
    ],
)
def test_what_is_not_a_picture_is_refused_with_what_it_begins_with_and_what_is_read(data):
    reason = refused(data)
    assert reason.startswith(f"cat.jpg does not decode ({len(data)} bytes): it begins with {data[:12]!r}")
    assert "JPEG, PNG, WEBP, AVIF, TIFF, BMP, GIF, PPM" in reason


def test_no_content_starts_another_program(tmp_path):
    """With a Ghostscript that leaves a mark, in a process that has imported every plugin of Pillow."""
    mark, path = tmp_path / "started", tmp_path / "bin/gs"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\ntouch {mark}\necho 10.0\n")
    path.chmod(0o755)
    code = (
        "from PIL import Image; Image.init()\n"
        "from stages.images.decoding import decode_picture, decode_mask, decode_values\n"
        f"eps = {EPS!r}\n"
        "for decode in (decode_picture, decode_mask, decode_values):\n"
        "    try: decode(eps, 'cat.jpg')\n"
        "    except Exception as error: print(type(error).__name__)\n"
    )
    environment = {"PATH": f"{path.parent}:/usr/bin:/bin"}
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["BadSampleError"] * 3
    assert not mark.exists()


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", ORIENTED)
def test_a_picture_stored_sideways_is_read_upright(orientation, form):
    stored, tag = sideways(pixels(1), orientation)
    data = encoded(stored, form, exif=tag, **BEST.get(form, {}))
    picture = decode_picture(data, "cat.jpg")
    assert picture.pixels_HW3.shape == (24, 36, 3)
    assert abs(picture.pixels_HW3.astype(int) - pixels(1)).mean() <= (0 if form in ("PNG", "TIFF", "WEBP") else 2)
    assert picture.geometry == picture_geometry(data, "cat.jpg") == Geometry(24, 36, orientation)
    assert picture.geometry.stored_size == (stored.height, stored.width)


@pytest.mark.parametrize("orientation", ORIENTED)
def test_turning_upright_undoes_how_the_pixels_were_stored(orientation):
    stored, _ = sideways(pixels(2), orientation)
    np.testing.assert_array_equal(UPRIGHT[orientation](np.asarray(stored)), pixels(2))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(value):
    tag = Image.Exif()
    tag[0x112] = value
    np.testing.assert_array_equal(decoded(encoded(pixels(3), "PNG", exif=tag)), pixels(3))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"", b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_turns_nothing_and_costs_no_picture(exif):
    assert decoded(encoded(pixels(3), "JPEG", exif=b"Exif\0\0" + exif)).shape == (24, 36, 3)


# --- colours ----------------------------------------------------------------------------------------------------------


def deep(grey: np.ndarray) -> dict[str, bytes]:
    wide, big = grey.astype(np.uint16) * 257, (grey.astype(np.uint16) * 257).astype(">u2").tobytes()
    height, width = grey.shape
    inverted = encoded(65535 - wide, "TIFF", tiffinfo={262: 0})
    opaque = b"".join(b"\0" + np.stack([row, np.full_like(row, 65535)], 1).astype(">u2").tobytes() for row in wide)
    return {
        "PNG": encoded(wide, "PNG"),
        "TIFF": encoded(wide, "TIFF"),
        "TIFF, deflated": encoded(wide, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF, white is zero": inverted,
        "PGM": f"P5\n{width} {height}\n65535\n".encode() + big,
        "PGM, as text": f"P2\n{width} {height}\n65535\n".encode() + b" ".join(b"%d" % value for value in wide.flat),
        "PNG with alpha": raw_png(4, 16, width, height, opaque),
    }


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("form", deep(GREY))
def test_grey_of_16_bits_is_its_high_byte(form):
    np.testing.assert_array_equal(decoded(deep(GREY)[form]), np.repeat(GREY[..., None], 3, axis=2))


def test_colours_of_16_bits_are_their_high_bytes():
    image = pixels(4)
    wide = (image.astype(np.uint16) * 257).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in wide)
    np.testing.assert_array_equal(decoded(raw_png(2, 16, 36, 24, lines)), image)
    np.testing.assert_array_equal(decoded(b"P6\n36 24\n65535\n" + wide.tobytes()), image)


@pytest.mark.parametrize("numbers", [np.float32, np.int32])
def test_numbers_whose_black_and_white_are_not_known_are_refused(numbers):
    reason = refused(encoded(np.arange(64).reshape(8, 8).astype(numbers), "TIFF"))
    assert "whose black and white are unknown; use 8 or 16 bits" in reason


def cut_outs(hidden: np.ndarray) -> dict[str, bytes]:
    """A picture that is seen in its middle alone, in every way to say so; elsewhere are other colours."""
    seen = np.zeros((24, 36), bool)
    seen[6:18, 9:27] = True
    colours_HW3 = np.where(seen[..., None], pixels(5), hidden)
    alpha = (seen * 255).astype(np.uint8)
    rgba, grey = np.dstack([colours_HW3, alpha]), np.dstack([colours_HW3[..., 0], alpha])
    palette = Image.fromarray(np.where(seen, 1 + np.arange(36) % 15, 0).astype(np.uint8), "P")
    palette.putpalette(bytes(int(value) for value in hidden[0, 0]) + bytes(range(3, 48)))
    key = tuple(int(value) for value in hidden[0, 0])
    keyed = np.where(seen[..., None], pixels(5) // 2 * 2, hidden[0, 0])
    return {
        "RGBA PNG": encoded(rgba, "PNG"),
        "RGBA TIFF": encoded(rgba, "TIFF"),
        "RGBA WebP": encoded(rgba, "WEBP", lossless=True, exact=True),
        "LA PNG": encoded(grey, "PNG"),
        "palette PNG": encoded(palette, "PNG", transparency=bytes([0] + [255] * 15)),
        "palette PNG, one colour": encoded(palette, "PNG", transparency=0),
        "GIF": encoded(palette, "GIF", transparency=0),
        "RGB PNG, one colour": encoded(keyed.astype(np.uint8), "PNG", transparency=key),
        "L PNG, one grey": encoded(keyed[..., 0].astype(np.uint8), "PNG", transparency=key[0]),
        "16-bit L PNG, one grey": encoded(keyed[..., 0].astype(np.uint16) * 257, "PNG", transparency=key[0] * 257),
    }


def one_colour(*values: int) -> np.ndarray:
    return np.broadcast_to(np.array(values, np.uint8), (24, 36, 3))


@pytest.mark.parametrize("form", cut_outs(one_colour(1, 3, 5)))
def test_what_is_transparent_is_white_whatever_colour_is_hidden_there(form):
    first, second = (decoded(cut_outs(one_colour(*hidden))[form]) for hidden in ((251, 21, 249), (1, 3, 5)))
    np.testing.assert_array_equal(first, second)
    assert (first[:6] == 255).all()
    assert not (first[8:16, 12:24] == 255).all()


def test_half_transparent_colours_are_half_white():
    rgba = np.broadcast_to(np.array([100, 0, 50, 51], np.uint8), (2, 2, 4))
    assert decoded(encoded(rgba, "PNG")).tolist() == [[[224, 204, 214]] * 2] * 2  # 255 - (255 - v) / 5


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_grey_of_few_bits_is_that_grey(depth):
    count = 8 // depth
    line = b"\0" + bytes([sum((i % 2) << depth * (count - 1 - i) for i in range(count))])  # 0, 1, 0, 1, ...
    image = decoded(raw_png(0, depth, count, 1, line, [(b"tRNS", b"\0\x01")]))
    assert image[0, :, 0].tolist() == [255 * (i % 2) for i in range(count)]


def profile() -> bytes:
    """An ICC profile of other primaries than sRGB's: its red and green change places."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)}
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_colour_profile_is_converted_to_srgb(form):
    image = pixels(6)
    found = decoded(encoded(image, form, icc_profile=profile(), **BEST.get(form, {}))).astype(int)
    assert abs(found - image[..., [1, 0, 2]]).mean() < 3


def test_a_profile_of_srgb_changes_no_pixel():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decoded(encoded(pixels(6), "PNG", icc_profile=srgb)), pixels(6))


def test_a_profile_applies_to_colours_that_are_seen_through_transparency_and_to_palettes():
    image = pixels(6)
    rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    palette = Image.fromarray(image).quantize(64)
    for data, plain in (
        (encoded(rgba, "PNG", icc_profile=profile()), image),
        (encoded(palette, "PNG", icc_profile=profile()), np.asarray(palette.convert("RGB"))),
    ):
        assert abs(decoded(data).astype(int) - plain[..., [1, 0, 2]]).max() <= 2


def test_a_profile_for_other_channels_is_left_out():
    grey = pixels(6)[..., 0]
    np.testing.assert_array_equal(decoded(encoded(grey, "PNG", icc_profile=profile()))[..., 1], grey)


def test_damaged_profiles_are_left_out_with_one_warning(caplog):
    colours._transform.cache_clear()
    with caplog.at_level(logging.WARNING, "stages"):
        for junk in (b"junk", profile()[:200], b"\0" * 500):
            np.testing.assert_array_equal(decoded(encoded(pixels(7), "PNG", icc_profile=junk)), pixels(7))
    assert set(caplog.messages) == {
        "ICC profiles of some pictures are damaged: they are ignored, and their colours read as sRGB"
    }


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_long_texts_and_profiles_next_to_the_pixels_cost_no_picture(kind):
    image, packed = pixels(7), zlib.compress(b"about " * 500_000)
    heads = {b"zTXt": b"Comment\0\0", b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0", b"iCCP": b"profile\0\0"}
    lines = b"".join(b"\0" + row.tobytes() for row in image)
    data = raw_png(2, 8, image.shape[1], image.shape[0], lines, [(kind, heads[kind] + packed)])
    np.testing.assert_array_equal(decoded(data), image)


def test_cmyk_is_read():
    ink = Image.fromarray(pixels(8)).convert("CMYK")
    np.testing.assert_array_equal(decoded(encoded(ink, "TIFF")), np.asarray(ink.convert("RGB")))
    assert abs(decoded(encoded(ink, "JPEG", quality=100)).astype(int) - pixels(8)).mean() < 3


# --- masks ------------------------------------------------------------------------------------------------------------


def test_of_a_mask_neither_transparent_pixels_nor_a_profile_make_values():
    white = np.full((4, 6, 4), 255, np.uint8)
    white[:2, :, 3] = 0
    mask_HW, tag = decode_mask(encoded(white, "PNG", icc_profile=profile()), "cat.mask.png")
    assert tag is None
    assert mask_HW.tolist() == [[0] * 6] * 2 + [[255] * 6] * 2


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_a_picture_over_the_limit_is_refused_with_the_limit():
    side = int(MOST_PIXELS**0.5) + 1
    reason = refused(raw_png(0, 8, side, side, b""))
    assert str(MOST_PIXELS) in reason or "exceeds limit" in reason


def test_the_limit_is_ours_whatever_pillows_was_set_to(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert f"over the limit of {MOST_PIXELS} pixels" in refused(raw_png(0, 8, 20_000, 20_000, b""))


def test_one_pixel_is_a_picture_and_none_is_none():
    assert decoded(encoded(np.full((1, 1, 3), 9, np.uint8), "PNG")).tolist() == [[[9, 9, 9]]]
    assert "does not decode" in refused(b"P6\n0 4\n255\n")
