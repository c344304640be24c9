"""One forward pass, read as an expectation."""

import pytest
from PIL import Image

from redaes.errors import UserError
from redaes.registry import create


@pytest.mark.parametrize("tokens", ["digits", "levels"])
def test_batch_and_single_agree_and_every_image_has_a_score(tokens):
    photo = Image.radial_gradient("L").resize((96, 64)).convert("RGB")
    photos = [photo, photo.point(lambda level: 255 - level), photo.rotate(90, expand=True)]
    scorer = create("scorers", "logit_expectation", model="nano", tokens=tokens, device="cpu")
    together = [score.value for score in scorer.score(photos)]
    assert together == pytest.approx([scorer.score([photo])[0].value for photo in photos], abs=1e-3)
    assert all(0 <= value <= 10 for value in together)
    assert len(set(together)) > 1


def test_other_tokens_are_refused():
    with pytest.raises(UserError, match="digits or levels"):
        create("scorers", "logit_expectation", model="nano", tokens="letters")
