"""Nobody's code runs unless it is asked for."""

import pytest
from PIL import Image

from redaes.errors import UserError
from redaes.registry import create


@pytest.mark.parametrize("name", ["artimuse", "unipercept"])
def test_remote_code_needs_consent(name):
    with pytest.raises(UserError, match="trust_remote_code"):
        create("scorers", name).score([Image.new("RGB", (8, 8))])
