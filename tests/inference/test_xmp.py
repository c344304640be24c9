"""Stars go into sidecars; what is there stays, and a person's rating is not replaced unasked."""

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redaes.errors import UserError
from redaes.inference.xmp import rated_by_person, sidecars, stars, stars_by_rank, write_rating

RATING = "{http://ns.adobe.com/xap/1.0/}Rating"
DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xap="http://ns.adobe.com/xap/1.0/" xmlns:darktable="http://darktable.sf.net/"
    darktable:xmp_version="5" {attribute}>{child}
   <darktable:history><rdf:Seq><rdf:li darktable:operation="exposure &amp; more"/></rdf:Seq></darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""


def rating(sidecar: Path) -> list[str | None]:
    """Every rating in a file, attribute or child."""
    elements = list(ElementTree.parse(sidecar).iter())
    return [e.get(RATING) for e in elements if RATING in e.attrib] + [e.text for e in elements if e.tag == RATING]


@given(st.floats(0, 10), st.floats(0, 10))
def test_stars_are_one_to_five_and_rise_with_the_score(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 1 <= stars(low) <= stars(high) <= 5


@given(st.integers(1, 300))
def test_stars_by_rank_fall_with_the_place_and_the_best_has_five(among: int) -> None:
    given_ = [stars_by_rank(rank, among) for rank in range(1, among + 1)]
    assert given_ == sorted(given_, reverse=True)
    assert given_[0] == 5
    assert min(given_) >= 1


def test_sidecars_are_called_as_photo_programs_expect(tmp_path: Path) -> None:
    photograph = tmp_path / "IMG.0001.jpg"
    assert [path.name for path in sidecars(photograph)] == ["IMG.0001.jpg.xmp", "IMG.0001.xmp"]
    assert [path.name for path in sidecars(photograph, "full")] == ["IMG.0001.jpg.xmp"]


def test_a_new_sidecar_holds_rating_and_score(tmp_path: Path) -> None:
    path = tmp_path / "a.xmp"
    assert write_rating(path, 4, 6.4321, "nano@1 & <more>")
    assert rating(path) == ["4"]
    text = path.read_text()
    assert text.startswith('<?xpacket begin="\ufeff"')
    assert 'redaes:Score="6.43"' in text
    assert "nano@1 &amp; &lt;more&gt;" in text


def test_our_own_rating_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.xmp"
    write_rating(path, 4, 6.4, "m")
    assert not rated_by_person(path)
    assert write_rating(path, 2, 3.1, "m")
    assert rating(path) == ["2"]


def test_a_rating_that_a_person_changed_afterwards_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.xmp"
    write_rating(path, 4, 6.4, "m")
    path.write_text(path.read_text().replace('xmp:Rating="4"', 'xmp:Rating="5"'))
    assert rated_by_person(path)
    assert not write_rating(path, 2, 3.1, "m")
    assert rating(path) == ["5"]


@pytest.mark.parametrize(
    "form", [{"attribute": 'xap:Rating="-1"', "child": ""}, {"attribute": "", "child": "<xap:Rating>3</xap:Rating>"}]
)
def test_a_persons_rating_is_left_alone_unless_asked(tmp_path: Path, form: dict[str, str]) -> None:
    path = tmp_path / "a.xmp"
    path.write_text(DARKTABLE.format(**form))
    before = path.read_bytes()
    assert not write_rating(path, 5, 9.0, "m")
    assert path.read_bytes() == before
    assert write_rating(path, 5, 9.0, "m", replace=True)
    assert rating(path) == ["5"]


@pytest.mark.parametrize("attribute", ["", 'xap:Rating="0"'])
def test_what_else_a_sidecar_holds_stays(tmp_path: Path, attribute: str) -> None:
    path = tmp_path / "a.xmp"
    path.write_text(DARKTABLE.format(attribute=attribute, child=""))
    assert write_rating(path, 5, 9.0, "m")
    assert rating(path) == ["5"]
    text = path.read_text()
    assert 'darktable:operation="exposure &amp; more"' in text
    assert 'darktable:xmp_version="5"' in text


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_it_and_what_a_person_writes_with_it_is_left_alone(tmp_path: Path) -> None:
    path, by_person = tmp_path / "a.jpg.xmp", tmp_path / "b.jpg.xmp"

    def exiftool(*words: str | Path) -> str:
        return subprocess.run(["exiftool", *words], capture_output=True, text=True, check=True).stdout

    write_rating(path, 4, 6.4, "m")
    assert exiftool("-validate", "-warning", "-a", "-Rating", "-Model", "-s3", path).splitlines() == ["OK", "4"]
    exiftool("-overwrite_original", "-Rating=2", path)
    exiftool("-Rating=1", "-Subject=cup", "-o", by_person)
    assert [write_rating(sidecar, 5, 9.0, "m") for sidecar in (path, by_person)] == [False, False]
    exiftool("-overwrite_original", "-Rating=", by_person)
    assert write_rating(by_person, 5, 9.0, "m")
    assert exiftool("-Rating", "-Subject", "-s3", by_person).splitlines() == ["5", "cup"]


@pytest.mark.parametrize("text", ["", "no xml", "<a/>", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;'])
def test_what_is_no_xmp_is_named_and_left(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xmp"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.xmp is no XMP file"):
        write_rating(path, 5, 9.0, "m")
    assert path.read_text() == text
