"""Ratings that photo programs read: XMP sidecars with one to five stars.

In: a score. Out: `xmp:Rating` in a sidecar beside the photograph; whatever else the sidecar holds stays as it was, and
a rating that a person gave is never replaced unasked. XMP reads 0 as "not rated" and -1 as "rejected" (XMP
Specification, Part 1, xmp:Rating), so a scored photograph has at least one star. The photograph is not touched.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.parsers.expat import ExpatError

from redaes.data.manifest import write_atomically
from redaes.errors import UserError

if TYPE_CHECKING:
    from xml.dom.minidom import Document, Element

SidecarNames = Literal["both", "full", "stem"]
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP = "http://ns.adobe.com/xap/1.0/"
_REDAES = "https://arxiv.org/abs/2606.05778#"  # its names are none of XMP's, which readers look for without the prefix
_XMLNS = "http://www.w3.org/2000/xmlns/"
_EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{_RDF}">
  <rdf:Description rdf:about=""/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def stars(score: float) -> int:
    """One to five, each a fifth of the scale from 0 to 10 [ours].

    Example:
        >>> [stars(value) for value in (0, 1.9, 2, 6.4, 8, 10)]
        [1, 1, 2, 4, 5, 5]
    """
    return 1 + min(4, max(0, int(score // 2)))


def stars_by_rank(rank: int, among: int) -> int:
    """One to five by place: of ten photographs 1, 2, 4, 2 and 1 have five, four, three, two and one [ours].

    Args:
        rank: from 1, the best.
        among: how many are ranked.

    Example:
        >>> [stars_by_rank(rank, 10) for rank in range(1, 11)]
        [5, 4, 4, 3, 3, 3, 3, 2, 2, 1]
    """
    place = (rank - 1) / among
    return 5 - sum(place >= cut - 1e-9 for cut in (0.1, 0.3, 0.7, 0.9))


def sidecars(image: Path, names: SidecarNames = "both") -> list[Path]:
    """Where the sidecars of a photograph lie.

    Args:
        image: the photograph.
        names: `full` for `IMG_1.jpg.xmp` (darktable, digiKam), `stem` for `IMG_1.xmp` (Lightroom and Bridge beside raw
            files; digiKam and darktable read it on import), or both.
    """
    full, stem = image.with_name(f"{image.name}.xmp"), image.with_suffix(".xmp")
    return {"both": [full, stem], "full": [full], "stem": [stem]}[names]


def rated_by_person(sidecar: Path) -> bool:
    """Whether a sidecar holds a rating that is not ours; no, where there is no sidecar or it is no XMP file."""
    try:
        return sidecar.exists() and _persons_rating(_descriptions(_read(sidecar)))
    except UserError:
        return False


def write_rating(sidecar: Path, rating: int, score: float, model: str, *, replace: bool = False) -> bool:
    """Put a rating into a sidecar, which is made if there is none.

    Args:
        sidecar: the file; everything else in it is kept.
        rating: stars, from 1 to 5.
        score: in [0, 10], kept beside the rating, as is the rating itself: one that differs was given by a person.
        model: fingerprint of the model.
        replace: also a rating that is not ours.

    Returns:
        Whether it was written; False where somebody else's rating is there.

    Raises:
        UserError: the sidecar is no XMP file, or cannot be written.
    """
    document = _read(sidecar)
    described = _descriptions(document)
    if not described:
        raise UserError(f"{sidecar} is no XMP file: it describes nothing; move it away")
    if not replace and _persons_rating(described):
        return False
    for one in described:
        _remove(one, _XMP, "Rating")
        for name in ("Stars", "Score", "Scorer"):
            _remove(one, _REDAES, name)
    _declare(described[0], "xmp", _XMP)
    _declare(described[0], "redaes", _REDAES)
    described[0].setAttributeNS(_XMP, "xmp:Rating", str(rating))
    described[0].setAttributeNS(_REDAES, "redaes:Stars", str(rating))
    described[0].setAttributeNS(_REDAES, "redaes:Score", f"{score:.2f}")
    described[0].setAttributeNS(_REDAES, "redaes:Scorer", model)
    try:
        write_atomically(sidecar, "".join(f"{node.toxml()}\n" for node in document.childNodes))
    except OSError as error:
        raise UserError(f"cannot write {sidecar}: {error.strerror or error}") from error
    return True


def _read(sidecar: Path) -> "Document":
    from xml.dom.minidom import parseString

    try:
        text = sidecar.read_bytes() if sidecar.exists() else _EMPTY.encode()
        return parseString(text)
    except (OSError, ExpatError, ValueError) as error:
        raise UserError(f"{sidecar} is no XMP file: {error}; move it away") from error


def _descriptions(document: "Document") -> "Sequence[Element]":
    found: Sequence[Element] = document.getElementsByTagNameNS(_RDF, "Description")
    return [one for one in found if one.parentNode is not None and one.parentNode.localName == "RDF"]


def _persons_rating(described: "Sequence[Element]") -> bool:
    return _value(described, _XMP, "Rating") not in ("", "0", _value(described, _REDAES, "Stars"))


def _value(described: "Sequence[Element]", namespace: str, name: str) -> str:
    """Of a property, which may be an attribute or a child; empty if there is none."""
    for one in described:
        if one.hasAttributeNS(namespace, name):
            return one.getAttributeNS(namespace, name).strip()
        for child in _children(one, namespace, name):
            return "".join(node.data for node in child.childNodes if node.nodeType == node.TEXT_NODE).strip()
    return ""


def _children(element: "Element", namespace: str, name: str) -> "list[Element]":
    return [node for node in element.getElementsByTagNameNS(namespace, name) if node.parentNode is element]


def _remove(element: "Element", namespace: str, name: str) -> None:
    if element.hasAttributeNS(namespace, name):
        element.removeAttributeNS(namespace, name)
    for child in _children(element, namespace, name):
        element.removeChild(child)


def _declare(element: "Element", prefix: str, namespace: str) -> None:
    """Bind a prefix here, whatever it means further up."""
    element.setAttributeNS(_XMLNS, f"xmlns:{prefix}", namespace)
