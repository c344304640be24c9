"""Pictures side by side with a line of words under each: before, every edit that was kept, after."""

from collections.abc import Sequence

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from PIL.Image import Image, Resampling

HEIGHT = 480
GAP = 16
LINE = 34
PAPER, INK = (251, 250, 248), (29, 28, 26)


def strip(pictures: Sequence[tuple[Image, str]], height: int = HEIGHT) -> Image:
    """Draw pictures in a row.

    Args:
        pictures: each RGB, with the words to put under it; words that are too long for it are cut.
        height: of the pictures, in pixels; they keep their proportions.

    Returns:
        RGB, as wide as it must be.

    Raises:
        ValueError: no pictures.
    """
    if not pictures:
        raise ValueError("a strip needs at least one picture")
    font = ImageFont.load_default(size=18)
    small = [(_of_height(picture, height), words) for picture, words in pictures]
    width = sum(picture.width for picture, _ in small) + GAP * (len(small) + 1)
    sheet = PILImage.new("RGB", (width, height + 2 * GAP + LINE), PAPER)
    draw = ImageDraw.Draw(sheet)
    left = GAP
    for picture, words in small:
        sheet.paste(picture, (left, GAP))
        draw.text((left, GAP + height + 8), _fitting(words, picture.width, font), font=font, fill=INK)
        left += picture.width + GAP
    return sheet


def _of_height(picture: Image, height: int) -> Image:
    return picture.resize((max(1, round(picture.width * height / picture.height)), height), Resampling.LANCZOS)


def _fitting(words: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(f"{words}…") > width:
        words = words[:-1]
    return f"{words.rstrip()}…"
