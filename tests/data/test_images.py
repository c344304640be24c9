"""Any photograph a person may have opens as the picture a viewer shows, or says in one line why not."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from redaes.data.images import ImageError, exif_of, list_images, open_image
from redaes.decoding import as_seen
from redaes.errors import UserError


def _gradient(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 5, y * 7, x + y], axis=-1).astype(np.uint8))


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def _png_header_only(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "gif", "jpg"])
def test_common_formats_open_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    _gradient().save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = open_image(path)
    assert image.mode == "RGB"
    assert image.size == (48, 32)
    if suffix in {"png", "webp", "bmp", "tiff"}:
        assert np.array_equal(_pixels(image), _pixels(_gradient()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = _gradient()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that stores the picture turned
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    assert np.array_equal(_pixels(open_image(path)), _pixels(upright))


def test_a_broken_exif_block_does_not_stop_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    _gradient().save(path, exif=b"Exif\x00\x00not a tiff header at all")
    assert open_image(path).size == (48, 32)


def test_16_bit_gray_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(np.uint16)
    for name in ("a.png", "a.tiff", "a.pgm"):
        Image.fromarray(deep).save(tmp_path / name)
        gray = _pixels(open_image(tmp_path / name))
        assert np.abs(gray[..., 0] - deep / 257.0).max() <= 1.0
        assert np.array_equal(gray[..., 0], gray[..., 2])


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 200, dtype=np.uint16)).save(tmp_path / "a.png")
    assert _pixels(open_image(tmp_path / "a.png")).max() <= 1


def test_float_gray_in_the_unit_range_and_beyond(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for scale in (1.0, 40.0):
        Image.fromarray(values * np.float32(scale)).save(tmp_path / "a.tiff")
        assert np.abs(_pixels(open_image(tmp_path / "a.tiff"))[..., 0] - values * 255).max() <= 1
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert open_image(tmp_path / "a.tiff").getpixel((0, 0)) == (0, 0, 0)


def test_transparency_becomes_white_paper(tmp_path: Path) -> None:
    clear, half = (10, 20, 30, 0), (0, 0, 0, 128)
    image = Image.new("RGBA", (2, 1), clear)
    image.putpixel((1, 0), half)
    image.save(tmp_path / "rgba.png")
    assert open_image(tmp_path / "rgba.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "rgba.png").getpixel((1, 0)) == (127, 127, 127)

    image.convert("LA").save(tmp_path / "la.png")
    assert open_image(tmp_path / "la.png").getpixel((0, 0)) == (255, 255, 255)

    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([200, 10, 10, 10, 200, 10])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert [open_image(tmp_path / "p.png").getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 200, 10)]


def test_cmyk_without_and_with_a_broken_profile(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cmyk.save(tmp_path / "plain.jpg", quality=95)
    cmyk.save(tmp_path / "broken.jpg", quality=95, icc_profile=b"no profile" * 20)
    for name in ("plain.jpg", "broken.jpg"):
        red, green, blue = open_image(tmp_path / name).getpixel((8, 8))
        assert red < 30
        assert green > 220
        assert blue > 220


def test_an_embedded_profile_is_followed(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    _gradient().save(tmp_path / "srgb.png", icc_profile=srgb)
    assert np.array_equal(_pixels(open_image(tmp_path / "srgb.png")), _pixels(_gradient()))

    swapped = srgb.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "sBGR".encode("utf-16-be"))
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (4, 4), "red").save(tmp_path / "swapped.png", icc_profile=swapped)
        red, _, blue = open_image(tmp_path / "swapped.png").getpixel((0, 0))
        assert (red, blue) == (0, 255)


def test_lab_tiff(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4), (255, 128, 128)).save(tmp_path / "lab.tiff")
    assert min(open_image(tmp_path / "lab.tiff").getpixel((0, 0))) > 240


def test_bilevel_and_one_pixel_images(tmp_path: Path) -> None:
    Image.new("1", (1, 1), 1).save(tmp_path / "one.png")
    image = open_image(tmp_path / "one.png", max_side=64)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (1, 1), (255, 255, 255))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=100)
    red, green, blue = open_image(tmp_path / f"a.{suffix}").getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


def test_max_side_bounds_the_longer_side_and_never_enlarges(tmp_path: Path) -> None:
    Image.new("RGB", (900, 300)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_side=300).size == (300, 100)
    assert open_image(tmp_path / "a.png", max_side=2000).size == (900, 300)


def test_a_long_thin_image_keeps_at_least_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_side=64).size == (64, 1)


def test_a_target_size_makes_a_12_megapixel_jpeg_faster_and_looks_the_same(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=90)
    whole_seconds, (small_seconds, small) = [], (float("inf"), None)
    for _ in range(2):
        start = time.perf_counter()
        whole = open_image(tmp_path / "a.jpg")
        whole_seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        small = open_image(tmp_path / "a.jpg", max_side=256)
        small_seconds = min(small_seconds, time.perf_counter() - start)
    assert small is not None
    assert small.size == (256, 192)
    reference = whole.resize((256, 192), Image.Resampling.LANCZOS)
    assert np.abs(_pixels(small) - _pixels(reference)).mean() < 2.0
    assert small_seconds < min(whole_seconds)


def _refusal(path: Path, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert isinstance(caught.value, UserError)
    return message


def test_what_cannot_be_used_says_why_in_one_line(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "none.png")
    assert "is a folder" in _refusal(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    assert "is empty" in _refusal(tmp_path / "empty.png")
    (tmp_path / "text.jpg").write_text("hello")
    assert "not an image" in _refusal(tmp_path / "text.jpg")
    _refusal(tmp_path / ("x" * 5000))
    _refusal(Path("\0"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, format={"jpg": "jpeg"}.get(suffix, suffix))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    assert _refusal(path)


def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = _png_header_only(tmp_path / "bomb.png", 60_000, 60_000)
    assert "limit of 89 megapixels" in _refusal(path)
    path = _png_header_only(tmp_path / "large.png", 10_000, 9_000)
    with pytest.warns(Image.DecompressionBombWarning):
        assert "10000 x 9000 pixels" in _refusal(path)
    _gradient().save(tmp_path / "a.png")
    assert "48 x 32 pixels, above the limit of 0.001 megapixels" in _refusal(tmp_path / "a.png", max_pixels=1000)


def _mode_or_refusal(path: Path) -> str:
    try:
        return open_image(path).mode
    except ImageError as error:
        return str(error)


@given(
    position=st.integers(0, 10_000), junk=st.binary(min_size=1, max_size=16), suffix=st.sampled_from(["png", "jpeg"])
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_opens_or_raises_image_error_and_nothing_else(
    tmp_path: Path, position: int, junk: bytes, suffix: str
) -> None:
    buffer = io.BytesIO()
    _gradient().save(buffer, format=suffix)
    data = bytearray(buffer.getvalue())
    at = position % len(data)
    data[at : at + len(junk)] = junk
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(bytes(data))
    outcome = _mode_or_refusal(path)
    assert outcome == "RGB" or outcome.startswith(f"{path}: ")
    assert "\n" not in outcome


def test_folders_are_listed_recursively_sorted_without_hidden_files_and_without_duplicates(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpg", "a/notes.txt", ".hidden/d.png", "a/._e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    expected = [tmp_path / "a/c.jpg", tmp_path / "b.PNG"]
    assert list_images([tmp_path]) == expected
    assert list_images([tmp_path / "b.PNG", tmp_path]) == expected[::-1]


def test_globs_and_files_named_by_themselves(tmp_path: Path) -> None:
    for name in ("a1.jpg", "a2.jpg", "b[1].jpg", "odd"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in list_images([tmp_path / "a*.jpg"])] == ["a1.jpg", "a2.jpg"]
    assert [p.name for p in list_images([tmp_path / "b[1].jpg"])] == ["b[1].jpg"]
    assert [p.name for p in list_images([tmp_path / "odd"])] == ["odd"]


def test_a_path_that_names_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path, words in [
        (tmp_path / "missing", "no such file or folder"),
        (tmp_path / "*.webp", "no file matches"),
        (tmp_path, "no images in the folder"),
    ]:
        with pytest.raises(UserError, match=words):
            list_images([path])
    with pytest.raises(UserError, match="no images were named"):
        list_images([])


def test_an_opened_image_is_taken_as_it_is_afterwards(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    _gradient(64, 40).save(path, exif=exif)
    opened = open_image(path, max_side=32)
    assert opened.size == (20, 32)
    assert as_seen(opened, 32) is opened
    with Image.open(path) as lazily:
        assert as_seen(lazily, 32).size == (20, 32)
        assert lazily.size == (64, 40)


@pytest.mark.parametrize("block", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(256))])
def test_exif_that_cannot_be_read_is_none(tmp_path: Path, block: bytes) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=block)
    assert exif_of(tmp_path / "a.jpg") == b""


def test_exif_that_no_jpeg_can_hold_is_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70_000
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=exif)
    assert exif_of(tmp_path / "a.png") == b""
    exif[ExifTags.Base.ImageDescription] = "x" * 60_000
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=exif)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", exif=exif_of(tmp_path / "a.png"))
    assert len(exif_of(tmp_path / "b.jpg")) > 60_000
