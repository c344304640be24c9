"""A server that none of us wrote, `transformers serve`, answers the judge over HTTP.

It serves a LLaVA of random weights: Qwen's processors need torchvision. What it says is noise; the protocol is real.
"""

import os
import re
import subprocess
import sys
import time

import pytest
from tests.chat.tiny_llava import write_tiny_llava

from redaes.calls import Declined, UnusableAnswer, collecting
from redaes.chat.reading import Unreadable
from redaes.judges.chat import OpenAICompatibleJudge

pytestmark = pytest.mark.slow

END = "2"
"""The id of the tokenizer's end of a turn, made likelier: random weights hardly ever come to an end."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The folder of the model, and the address where it is served."""
    folder = write_tiny_llava(tmp_path_factory.mktemp("served") / "tiny-llava")
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    log = folder.parent / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0"], env=environment, stdout=file, stderr=file
        )
    try:
        until = time.monotonic() + 120
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield str(folder), found[1]
    finally:
        server.terminate()
        server.wait(timeout=20)


def judge(served, **settings):
    folder, address = served
    return OpenAICompatibleJudge(model=folder, base_url=f"{address}/v1", key_variable="", **settings)


def test_what_it_says_is_read_repaired_once_and_refused(served, photo):
    with collecting() as receipt, pytest.raises(Unreadable, match="no JSON object"):
        judge(served, max_tokens=60, parameters={"logit_bias": {END: 0.5}}).score(photo)
    assert len(receipt.replies) == 2
    assert all(receipt.replies)
    assert receipt.usage.input_tokens > 2 * 500
    assert 2 <= receipt.usage.output_tokens < 120
    assert receipt.model.endswith("tiny-llava@main")


def test_an_answer_that_is_cut_off_is_noted_and_not_repaired(served, photo, other):
    with collecting() as receipt, pytest.raises(UnusableAnswer, match="cut off after 16 tokens"):
        judge(served, max_tokens=16).compare(photo, other)
    assert (len(receipt.replies), receipt.usage.output_tokens) == (1, 16)


def test_what_it_does_not_take_is_declined_in_its_own_words(served, photo):
    with pytest.raises(Declined, match="mirror_universe"):
        judge(served, parameters={"mirror_universe": True}).score(photo)
