import logging

import pytest
from PIL import Image

from redaes.errors import UserError
from redaes.sources import PhotoSource
from redaes.sources.folder import FolderPhotos
from redaes.sources.skimage_photos import PHOTOGRAPHS, SkimagePhotos


def test_every_photograph_of_scikit_image_opens_without_a_download():
    source = SkimagePhotos()
    assert isinstance(source, PhotoSource)
    assert {p.name for p in source.photographs()} == set(PHOTOGRAPHS)
    assert {"astronaut", "chelsea", "coffee", "rocket", "motorcycle"} <= set(PHOTOGRAPHS)
    for photograph in source.photographs():
        assert photograph.license
        image = source.open(photograph.name)
        assert image.mode == "RGB"
        assert min(image.size) >= 256


def test_an_unknown_photograph_is_named_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'coffee'"):
        SkimagePhotos(["cofee"])


def test_a_folder_lists_what_can_be_read_in_order_and_reports_the_rest(tmp_path, caplog):
    (tmp_path / "b").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "b" / "two.jpg")
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a photograph")
    with caplog.at_level(logging.WARNING):
        names = [p.name for p in FolderPhotos(str(tmp_path)).photographs()]
    assert names == ["a.png", "b/two.jpg"]
    assert "broken.jpg" in caplog.text
    assert FolderPhotos(str(tmp_path)).open("a.png").mode == "RGB"


def test_a_name_cannot_leave_the_folder(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError, match="outside"):
        FolderPhotos(str(tmp_path / "inside")).open("../outside.png")


def test_a_folder_without_a_photograph_is_said(tmp_path):
    with pytest.raises(UserError):
        FolderPhotos(str(tmp_path)).photographs()
