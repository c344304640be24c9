"""How pictures are prepared for a model: made smaller where they are larger than it needs, and written as a file."""

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from redaes.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

JPEG_QUALITY = 95

PictureFormat = Literal["jpeg", "png"]


@dataclass(frozen=True)
class Preparation:
    """The preparation of every picture that one model sees.

    Attributes:
        longer_side: pixels of it at most; smaller pictures stay as they are.
        picture_format: `jpeg` (quality 95, colours at full resolution) or `png` (not a bit lost).

    Raises:
        UserError: a size or a format there is not.
    """

    longer_side: int = 1024
    picture_format: PictureFormat = "jpeg"

    def __post_init__(self) -> None:
        if self.longer_side < 16:
            raise UserError(f"longer_side is {self.longer_side}; a picture needs at least 16 pixels")
        if self.picture_format not in ("jpeg", "png"):
            raise UserError(f"picture_format is {self.picture_format!r}; it must be jpeg or png")

    def resized(self, image: "Image") -> "Image":
        """The picture as RGB, no larger than `longer_side`, in its proportions."""
        from PIL import Image as PILImage

        rgb = image.convert("RGB")
        scale = self.longer_side / max(rgb.size)
        if scale >= 1:
            return rgb
        width, height = (max(1, round(side * scale)) for side in rgb.size)
        return rgb.resize((width, height), PILImage.Resampling.LANCZOS)

    def encoded(self, image: "Image") -> tuple[str, str]:
        """The prepared picture as a media type and a file in base 64."""
        buffer = io.BytesIO()
        if self.picture_format == "jpeg":
            self.resized(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        else:
            self.resized(image).save(buffer, "PNG")
        return f"image/{self.picture_format}", base64.b64encode(buffer.getvalue()).decode("ascii")

    @property
    def largest_tokens(self) -> int:
        """More than any vendor bills for one picture: one for each square of 20 pixels, and 300."""
        return math.ceil(self.longer_side / 20) ** 2 + 300

    def identity(self) -> dict[str, Any]:
        """What answers depend on."""
        quality = f" {JPEG_QUALITY}" if self.picture_format == "jpeg" else ""
        return {"longer_side": self.longer_side, "format": self.picture_format + quality}
