"""The loopback world answers by pixels alone, at the paper's rates, and its server breaks what it is told to break."""

import json
import subprocess
import sys
import urllib.request
from itertools import combinations

from benchmarks.vendors.faults import TRANSPORT, WORDS, Faults
from benchmarks.vendors.world import Question, answer, edit_passes

from redaes.prompts.chat import PICTURES, render_chat

FIELDS = {"instruction": '"Warm it."', "categories": "- noise (quality)\n- sky (content): blue", "count": "2"}


def question(kind, images, model="m"):
    return Question(model, render_chat(kind, reference="bcdfgh", **FIELDS), tuple(images))


def test_every_question_is_understood():
    for kind, names in PICTURES.items():
        asked = question(kind, [f"pixels of {name}" for name in names])
        assert asked.role == kind
        assert answer(asked) == answer(asked)
        assert answer(asked)["reference"] == "bcdfgh"
    assert question("diversify", ["x"]).categories == ["noise", "sky"]


def test_rates_are_near_the_papers():
    pairs = [(f"source {k}", f"edit {k}") for k in range(4000)]
    passed = sum(edit_passes(*pair, "Warm it.") for pair in pairs) / len(pairs)
    assert abs(passed - 0.637) < 0.03
    signs = [[answer(question("compare", p, model))["difference"] > 0 for p in pairs] for model in "abc"]
    for one, two in combinations(signs, 2):
        agreement = sum(x == y for x, y in zip(one, two, strict=True)) / len(pairs)
        assert abs(agreement - 0.678) < 0.03


def test_two_verifiers_together_say_what_the_world_says():
    for k in range(500):
        pair = (f"source {k}", f"edit {k}")
        checks = [answer(question("verify", pair, model)) for model in "ab"]
        mean = sum(min(check["success"], check["over_editing"]) for check in checks) / 2
        assert (mean >= 7.5) == edit_passes(*pair, FIELDS["instruction"])


def test_faults_come_in_their_share_and_never_for_ever():
    faults = Faults((*TRANSPORT, *WORDS), share=0.2, in_a_row=2)
    drawn = [faults.draw(f"question {k}", (*TRANSPORT, *WORDS)) for k in range(3000)]
    assert abs(sum(kind is not None for kind in drawn) / 3000 - 0.2) < 0.03
    assert set(drawn) == {None, *TRANSPORT, *WORDS}
    always = Faults(("500",), share=1.0, in_a_row=2)
    assert [always.draw("q", TRANSPORT) for _ in range(6)] == ["500", "500", None] * 2


def test_the_command_line_says_where_it_is():
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.vendors.server", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            address = json.loads(server.stdout.readline())["address"]
            with urllib.request.urlopen(f"{address}/counts", timeout=10) as response:
                assert json.load(response)["questions"] == 0
        finally:
            server.terminate()
