"""The whole schema under schemathesis: valid and invalid requests made from it, every answer checked against it."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.serve.endpoint import picture, running
from tests.serve.scorers import Brightness

from redaes.serve.app import create_app
from redaes.serve.settings import Settings

TOKEN = "the-token-of-these-tests"

# The schema cannot say that bytes must be an image: these are what it calls binary and byte.
PICTURES = [picture(level, kind=kind) for level in (0, 99, 255) for kind in ("PNG", "JPEG", "WEBP", "GIF")]
schemathesis.openapi.format("binary", st.sampled_from(PICTURES))
schemathesis.openapi.format("byte", st.sampled_from([base64.b64encode(data).decode() for data in PICTURES]))


LIMITS = {"max_images": 4}
schema = schemathesis.openapi.from_dict(
    create_app(Brightness(), Settings(**LIMITS), model="a-model", token=TOKEN).openapi()
)


@schema.auth()
class Token:
    def get(self, case: Any, context: Any) -> str:
        return TOKEN

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers["authorization"] = f"Bearer {data}"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(Brightness(), token=TOKEN, **LIMITS) as client:
        described = client.get("/openapi.json").json()
        assert described == schema.raw_schema
        yield str(client.base_url)
        assert client.get("/health").status_code == 200


@schema.parametrize()
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_schema_says(case: Any, address: str) -> None:
    case.call_and_validate(base_url=address)
