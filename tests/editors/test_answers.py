"""Pictures that a far side sends are resized, or refused; nothing that they are made of does any harm."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from redaes.calls import UnusableAnswer
from redaes.editors.answers import at_size, png, read_answer, same_aspect

SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_a_picture_of_the_sources_size_is_taken_as_it_is() -> None:
    assert read_answer(png(SOURCE), SOURCE).tobytes() == SOURCE.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(900, 600), (1536, 1024), (45, 30), (912, 592)])
def test_the_same_aspect_in_another_size_and_format_comes_back_at_the_sources_size(
    kind: str, size: tuple[int, int]
) -> None:
    read = read_answer(encoded(SOURCE.resize(size), kind), SOURCE)
    assert (read.size, read.mode) == (SOURCE.size, "RGB")


@pytest.mark.parametrize("size", [(600, 600), (600, 900), (1000, 600)])
def test_another_aspect_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UnusableAnswer, match=f"{size[0]} x {size[1]} pixels, the source 90 x 60: another aspect"):
        read_answer(encoded(SOURCE.resize(size)), SOURCE)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (18, 12)])
def test_a_picture_far_smaller_than_the_source_is_no_edit_of_it(size: tuple[int, int]) -> None:
    with pytest.raises(UnusableAnswer, match=f"is {size[0]} x {size[1]} pixels"):
        read_answer(encoded(SOURCE.resize(size)), SOURCE)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_formats_that_no_image_model_answers_in_are_not_even_opened(kind: str) -> None:
    with pytest.raises(UnusableAnswer, match="not an image in a format"):
        read_answer(encoded(SOURCE, kind), SOURCE)


@pytest.mark.parametrize("size", [(30_000, 20_000), (9_000, 6_000), (60_000, 40_000)])
def test_a_decompression_bomb_is_refused_before_it_goes_off(size: tuple[int, int]) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(UnusableAnswer, match=r"limit of|far larger"):
        read_answer(bomb(*size), SOURCE)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    whole = encoded(SOURCE, kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(UnusableAnswer):
            read_answer(whole[: int(len(whole) * share)], SOURCE)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_png_is_never_taken_for_a_picture(at: int, flipped: int) -> None:
    whole = png(SOURCE)
    at %= len(whole)
    damaged = whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :]
    with suppress(UnusableAnswer):
        assert read_answer(damaged, SOURCE).tobytes() == SOURCE.tobytes()  # damaged where nobody looks


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 10_000), st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_whatever_the_bytes_it_is_an_rgb_picture_of_the_sources_size_or_unusable(
    junk: bytes, at: int, kind: str
) -> None:
    whole = encoded(SOURCE, kind)
    at %= len(whole)
    for data in (junk, whole[:at] + junk + whole[at + len(junk) :]):
        try:
            read = read_answer(data, SOURCE)
        except UnusableAnswer:
            continue
        assert (read.size, read.mode) == (SOURCE.size, "RGB")


def test_transparency_and_orientation_are_resolved() -> None:
    see_through = Image.new("RGBA", SOURCE.size, (10, 20, 30, 0))
    assert read_answer(encoded(see_through), SOURCE).getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    SOURCE.transpose(Image.Transpose.ROTATE_90).save(data, "PNG", exif=exif)
    assert read_answer(data.getvalue(), SOURCE).tobytes() == SOURCE.tobytes()


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.1, 10))
def test_a_scaled_size_has_the_same_aspect(width: int, height: int, scale: float) -> None:
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    if min(*scaled, width, height) >= 16:
        assert same_aspect((width, height), scaled)
        assert same_aspect(scaled, (width, height))


def test_a_picture_at_its_size_is_not_resampled() -> None:
    assert at_size(SOURCE, SOURCE.size).tobytes() == SOURCE.tobytes()
    assert at_size(SOURCE, (30, 20)).size == (30, 20)
