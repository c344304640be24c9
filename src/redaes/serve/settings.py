"""What the endpoint accepts, and how it batches."""

import math
import os
from dataclasses import dataclass, fields

from redaes.decoding import MAX_PIXELS
from redaes.errors import UserError

TOKEN_VARIABLE = "REDAES_SERVE_TOKEN"


@dataclass(frozen=True)
class Settings:
    """Limits and batching. All are ours; the paper serves nothing.

    Args:
        batch_size: most images that the scorer is given at once.
        gather_ms: how long, in milliseconds, an idle scorer waits for images that are being decoded at this moment;
            with nothing being decoded it starts at once.
        queue: images of all requests that may be inside, from upload to answer; beyond it the answer is 503.
        timeout: seconds for an upload, and again for its answer.
        max_images: images in one request.
        max_body_mb: size of one request's body, in MiB. Four times as much, of all requests, may be inside.
        max_megapixels: an image with more is refused by its header, undecoded.
        decode_threads: images decoded at the same time.
        cache: answers that are kept, to be given again to the same bytes; 0: none.

    Raises:
        UserError: a value that cannot be.
    """

    batch_size: int = 16
    gather_ms: float = 5.0
    queue: int = 256
    timeout: float = 60.0
    max_images: int = 64
    max_body_mb: float = 64.0
    max_megapixels: float = MAX_PIXELS / 1e6
    decode_threads: int = min(4, os.cpu_count() or 1)
    cache: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, may_be_0 = getattr(self, field.name), field.name in ("gather_ms", "cache")
            if not (0 < value < math.inf or (may_be_0 and value == 0)):
                raise UserError(f"{field.name} is {value}; it must be {'at least' if may_be_0 else 'above'} 0")
        if self.max_images > self.queue:
            raise UserError(f"max_images is {self.max_images}; it must be at most queue, which is {self.queue}")

    @property
    def max_body(self) -> int:
        """Bytes of one request's body."""
        return int(self.max_body_mb * (1 << 20))


def token_from_environment() -> str | None:
    """The bearer token that clients must show; None if the variable is not set.

    Raises:
        UserError: it is set to something that protects nothing.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError(f"{TOKEN_VARIABLE} must hold at least 16 ASCII characters and no blank; or unset it")
    return token
