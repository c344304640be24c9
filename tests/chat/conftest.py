"""Two photographs and a loopback server."""

import pytest
from benchmarks.vendors.faults import Faults
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Vendors
from PIL import Image

from redaes.sources.skimage_photos import SkimagePhotos


@pytest.fixture(scope="session")
def photo():
    return SkimagePhotos(["chelsea"]).open("chelsea").resize((96, 64), Image.Resampling.LANCZOS)


@pytest.fixture(scope="session")
def other(photo):
    return photo.rotate(180)


@pytest.fixture
def vendors():
    return Vendors(faults=Faults(delay=1.5, huge=32 * 2**20))


@pytest.fixture
def address(vendors):
    with running(vendors) as where:
        yield where
