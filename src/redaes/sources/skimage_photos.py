"""The freely licensed photographs that scikit-image ships inside its wheel: nothing is downloaded.

Eight are photographs of things (an astronaut, a cat, a cup of coffee, a rocket, a motorcycle, a cameraman, coins, the
moon), three are textures (brick, grass, gravel), and three come from instruments (deep field of the Hubble telescope,
a retina, a stained tissue section, `ihc`). Six are black and white. Licences as the docstrings of `skimage.data` give
them; where those are silent, that is said. Drawings, scans of text and test patterns are left out.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from redaes.errors import UserError, nearest
from redaes.sources import Photograph

if TYPE_CHECKING:
    from PIL.Image import Image

PUBLIC_DOMAIN = "public domain"
CC0 = "CC0"

# name: (file, licence)
PHOTOGRAPHS: dict[str, tuple[str, str]] = {
    "astronaut": ("astronaut.png", f"{PUBLIC_DOMAIN} (NASA)"),
    "brick": ("brick.png", CC0),
    "camera": ("camera.png", CC0),
    "chelsea": ("chelsea.png", CC0),
    "coffee": ("coffee.png", CC0),
    "coins": ("coins.png", "no known restrictions (Brooklyn Museum Collection)"),
    "grass": ("grass.png", CC0),
    "gravel": ("gravel.png", CC0),
    "hubble": ("hubble_deep_field.jpg", f"{PUBLIC_DOMAIN} (NASA)"),
    "ihc": ("ihc.png", "no known restrictions"),
    "moon": ("moon.png", "not stated by scikit-image"),
    "motorcycle": ("motorcycle_left.png", "not stated by scikit-image (Middlebury 2014 stereo benchmark)"),
    "retina": ("retina.jpg", f"{CC0} (Häggström 2014)"),
    "rocket": ("rocket.jpg", f"{PUBLIC_DOMAIN} (SpaceX)"),
}


class SkimagePhotos:
    """Photographs of scikit-image by name.

    Args:
        names: which; None takes all of `PHOTOGRAPHS`.
    """

    def __init__(self, names: list[str] | None = None) -> None:
        for name in names or ():
            if name not in PHOTOGRAPHS:
                raise UserError(f"scikit-image ships no photograph {name!r} ({nearest(name, PHOTOGRAPHS)})")
        self.names = sorted(names or PHOTOGRAPHS)

    def photographs(self) -> list[Photograph]:
        """The chosen photographs, sorted by name."""
        return [Photograph(name, PHOTOGRAPHS[name][1]) for name in self.names]

    def open(self, name: str) -> "Image":
        """The photograph as RGB.

        Raises:
            UserError: a name that scikit-image does not ship.
        """
        if name not in PHOTOGRAPHS:
            raise UserError(f"scikit-image ships no photograph {name!r} ({nearest(name, PHOTOGRAPHS)})")
        import skimage

        from redaes.data.images import open_image

        return open_image(Path(skimage.__file__).parent / "data" / PHOTOGRAPHS[name][0])
