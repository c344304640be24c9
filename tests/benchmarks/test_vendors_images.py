"""The loopback server's edits follow from pixels, words and model, can be seen, and break as they are told to."""

import base64
import io

import httpx2
import numpy as np
import pytest
from benchmarks.vendors.faults import Faults
from benchmarks.vendors.images import PICTURES, bomb, edited, encoded
from benchmarks.vendors.server import running
from benchmarks.vendors.state import Vendors
from PIL import Image, UnidentifiedImageError

SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((64, 64))


def difference(one, two):
    return np.abs(np.asarray(one, dtype=float) - np.asarray(two, dtype=float)).mean()


def test_an_edit_is_a_pure_function_and_a_mild_one():
    assert edited(SOURCE, "Warm it.", "m").tobytes() == edited(SOURCE.copy(), "Warm it.", "m").tobytes()
    edits = [edited(SOURCE, words, model) for words in ("Warm it.", "Cool it.") for model in "ab"]
    assert len({edit.tobytes() for edit in edits}) == 4
    for k in range(200):
        assert 0.5 < difference(SOURCE, edited(SOURCE, f"Edit {k}.", "m")) < 40


def test_every_fault_leaves_something_that_is_not_the_edit():
    whole = encoded(SOURCE, None)
    assert Image.open(io.BytesIO(whole)).tobytes() == SOURCE.tobytes()
    assert len({encoded(SOURCE, kind) for kind in PICTURES} | {whole}) == len(PICTURES) + 1
    assert len(bomb(30_000, 30_000)) < 200
    with pytest.raises((OSError, SyntaxError, UnidentifiedImageError)):
        Image.open(io.BytesIO(encoded(SOURCE, "corrupt_image"))).verify()


def request_of(model="m", prompt="Warm it."):
    return {"model": model, "prompt": prompt}, {"image": ("source.png", encoded(SOURCE, None), "image/png")}


def test_questions_are_counted_once_for_each_good_answer():
    vendors = Vendors(faults=Faults(["bomb", "500"], share=1.0, in_a_row=2))
    with running(vendors) as address, httpx2.Client(base_url=address) as client:
        data, files = request_of()
        answers = [client.post("/v1/images/edits", data=data, files=files) for _ in range(6)]
        counts = client.get("/counts").json()
    assert sum(counts["faults"].values()) == 4
    assert (counts["questions"], counts["answers"], counts["most"]) == (1, 2, 2)
    assert counts["requests"] == {"/v1/images/edits": 6}
    good = base64.b64decode(answers[2].json()["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(good)).tobytes() == edited(SOURCE, "Warm it.", "m").tobytes()


def test_both_routes_and_both_vendors_make_the_same_edit():
    data, files = request_of()
    sent = base64.b64encode(files["image"][1]).decode()
    google = {
        "contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": sent}}, {"text": "Warm it."}]}],
        "generationConfig": {"responseModalities": ["IMAGE"]},
    }
    with running(Vendors()) as address, httpx2.Client(base_url=address) as client:
        form = client.post("/v1/images/edits", data=data, files=files).json()
        body = client.post("/v1/images/generations", json={**data, "image": f"data:image/png;base64,{sent}"}).json()
        other = client.post("/v1beta/models/m:generateContent", json=google).json()
    assert form == body
    assert form["data"][0]["b64_json"] == other["candidates"][0]["content"]["parts"][0]["inlineData"]["data"]


@pytest.mark.parametrize("missing", ["image", "prompt", "model"])
def test_what_the_vendor_would_refuse_is_refused(missing):
    data, files = request_of()
    data, files = ({k: v for k, v in part.items() if k != missing} for part in (data, files))
    with running(Vendors()) as address, httpx2.Client(base_url=address) as client:
        # `files` makes it a form even where the picture is missing.
        answer = client.post("/v1/images/edits", data=data, files=files or {"other": ("x", b"")})
        wrong = client.post("/v1/images/edits", data={"model": "m", "prompt": "p"}, files={"image": ("x.png", b"no")})
    assert answer.status_code == wrong.status_code == 400
    assert answer.json()["error"]["code"] == "missing_required_parameter"
    assert wrong.json()["error"]["code"] == "invalid_image_file"
