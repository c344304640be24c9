"""Both SDKs against servers that speak the vendors' protocols: what is asked, noted, learned, and what faults mean."""

import threading
import traceback

import pytest
from benchmarks.vendors.faults import TRANSPORT, WORDS

from redaes.calls import Declined, Transient, UnusableAnswer, collecting
from redaes.errors import UserError
from redaes.judges import Judge
from redaes.registry import create

KEY = "sk-planted-0123456789"
BOTH = ["openai_compatible", "anthropic"]

each_vendor = pytest.mark.parametrize("vendor", BOTH)


def judge(vendor, address, model="a-model", **settings):
    base_url = f"{address}/v1" if vendor == "openai_compatible" else address
    init_args = {"model": model, "base_url": base_url, "key_variable": "", "timeout": 1.0, **settings}
    return create("judges", {"class_path": vendor, "init_args": init_args})


@each_vendor
def test_a_judge_answers_and_its_usage_is_noted(vendor, address, photo, other):
    asked = judge(vendor, address)
    assert isinstance(asked, Judge)
    with collecting() as receipt:
        score, difference = asked.score(photo), asked.compare(photo, other)
    assert 0 <= score.value <= 10
    assert -10 <= difference.value <= 10
    assert score.judge == "a-model"
    assert (receipt.model, len(receipt.replies)) == ("a-model", 2)
    assert score.reasoning in receipt.replies[0]
    most = asked.largest_usage("score").input_tokens + asked.largest_usage("compare").input_tokens
    assert 0 < receipt.usage.input_tokens <= most
    assert receipt.usage.output_tokens > 0


@each_vendor
def test_the_same_pixels_get_the_same_answer(vendor, address, photo, other):
    asked = judge(vendor, address)
    assert asked.compare(photo, other) == judge(vendor, address).compare(photo.copy(), other)
    assert asked.score(photo) != asked.score(other)


@each_vendor
@pytest.mark.parametrize("fault", TRANSPORT)
def test_every_fault_on_the_way_is_named_by_what_is_to_be_done(vendor, address, vendors, photo, fault):
    vendors.faults.kinds, vendors.faults.share, vendors.faults.retry_after = (fault,), 1.0, 7.0
    asked = judge(vendor, address)
    wanted = UnusableAnswer if fault == "huge" else Transient
    with pytest.raises(wanted) as caught:
        asked.score(photo)
    assert "\n" not in str(caught.value)
    assert getattr(caught.value, "retry_after", None) == (7.0 if fault == "429_retry_after" else None)
    vendors.faults.share = 0
    assert 0 <= asked.score(photo).value <= 10  # the client is as good as before


@each_vendor
@pytest.mark.parametrize("fault", WORDS)
def test_every_fault_in_the_words_is_noticed_after_it_was_paid(vendor, address, vendors, photo, other, fault):
    asked = judge(vendor, address)
    right = asked.score(photo), asked.score(other)
    vendors.faults.kinds, vendors.faults.share, vendors.faults.in_a_row = (fault,), 1.0, 2
    with collecting() as receipt:
        if fault == "number_as_text":
            assert asked.score(photo) == right[0]
        else:
            with pytest.raises(UnusableAnswer):
                asked.score(photo)
    # What cannot be read is repaired once; a refusal and an answer to another question are not.
    once = fault in ("number_as_text", "refusal", "other_image")
    assert len(receipt.replies) == (1 if once else 2)
    assert receipt.usage.input_tokens > 0
    vendors.faults.share = 0
    assert (asked.score(photo), asked.score(other)) == right


@each_vendor
def test_one_repair_mends_an_answer_that_cannot_be_read(vendor, address, vendors, photo):
    right = judge(vendor, address).score(photo)
    vendors.faults.kinds, vendors.faults.share, vendors.faults.in_a_row = ("truncated_json",), 1.0, 1
    with collecting() as receipt:
        assert judge(vendor, address).score(photo) == right
    assert len(receipt.replies) == 2


@each_vendor
def test_with_a_third_of_the_answers_broken_every_question_gets_its_right_answer(vendor, address, vendors, photo):
    asked = judge(vendor, address)
    images = [photo.rotate(angle) for angle in range(0, 360, 9)]
    right = [asked.score(image) for image in images]
    quick = [kind for kind in (*TRANSPORT, *WORDS) if kind not in ("timeout", "huge")]
    vendors.faults.kinds, vendors.faults.share = quick, 0.33

    def insist(image):
        for _ in range(vendors.faults.in_a_row + 1):
            try:
                return asked.score(image)
            except (Transient, UnusableAnswer):
                continue
        return None

    assert [insist(image) for image in images] == right
    assert vendors.faults.injected.total() > 5


@each_vendor
def test_a_huge_answer_is_not_read_to_its_end(vendor, address, vendors, photo):
    vendors.faults.huge = 2**40  # a terabyte: had it to be read, the test would not end
    vendors.faults.kinds, vendors.faults.share = ("huge",), 1.0
    with pytest.raises(UnusableAnswer, match="too large"):
        judge(vendor, address, timeout=20.0).score(photo)


@each_vendor
def test_a_wrong_key_stops_the_build_and_is_not_shown(vendor, address, vendors, photo, monkeypatch):
    vendors.key = "another"
    monkeypatch.setenv("A_KEY", KEY)
    asked = judge(vendor, address, key_variable="A_KEY")
    with pytest.raises(UserError, match="refuses the key") as caught:
        asked.score(photo)
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(asked)) + repr(asked.identity("score"))
    assert KEY not in shown
    monkeypatch.setenv("A_KEY", "another")
    assert judge(vendor, address, key_variable="A_KEY").score(photo)


@each_vendor
def test_no_key_is_said_when_it_is_needed_and_not_before(vendor, address, photo, monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    asked = judge(vendor, address, key_variable="A_KEY")
    with pytest.raises(UserError, match="A_KEY"):
        asked.score(photo)


@each_vendor
def test_an_address_may_come_from_the_environment(vendor, address, photo, monkeypatch):
    suffix = "/v1" if vendor == "openai_compatible" else ""
    asked = create("judges", {"class_path": vendor, "model": "m", "base_url": "$AN_ADDRESS", "key_variable": ""})
    assert asked.endpoint == "AN_ADDRESS"
    with pytest.raises(UserError, match="AN_ADDRESS"):
        asked.score(photo)
    monkeypatch.setenv("AN_ADDRESS", address + suffix)
    assert 0 <= asked.score(photo).value <= 10


@each_vendor
def test_neither_errors_nor_debug_logs_show_a_key(vendor, address, vendors, photo, monkeypatch, caplog):
    """The server repeats the key in an error whose words are shown."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("A_KEY", KEY)
    asked = judge(vendor, address, model="missing-model", key_variable="A_KEY")
    vendors.echo = True
    with pytest.raises(UserError, match=r"\*\*\*") as caught:
        asked.score(photo)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert caplog.records
    assert KEY not in caplog.text


@each_vendor
def test_a_model_that_is_not_there_stops_the_build(vendor, address, photo):
    with pytest.raises(UserError, match="missing-model"):
        judge(vendor, address, model="missing-model").score(photo)


@each_vendor
def test_a_refused_connection_is_worth_another_try(vendor, photo):
    with pytest.raises(Transient, match=r"^127\.0\.0\.1:9: "):
        judge(vendor, "http://127.0.0.1:9").score(photo)


@each_vendor
def test_threads_share_one_judge(vendor, address, vendors, photo, other):
    vendors.latency = 0.05
    asked, alone = judge(vendor, address), judge(vendor, address)
    expected = [alone.score(image) for image in (photo, other)] * 6
    found = [None] * len(expected)

    def ask(k):
        with collecting() as receipt:
            found[k] = asked.score((photo, other)[k % 2])
        assert len(receipt.replies) == 1

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(len(expected))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert found == expected
    assert vendors.peak > 2


@pytest.mark.parametrize("structured", ["schema", "json", "none"])
def test_the_form_is_asked_for_as_the_server_takes_it(address, vendors, photo, caplog, structured):
    vendors.structured = structured
    asked = judge("openai_compatible", address)
    for _ in range(2):
        with collecting() as receipt:
            asked.score(photo)
        assert len(receipt.replies) == 1  # what was refused was not billed
    refused = {"schema": 0, "json": 1, "none": 2}[structured]
    assert vendors.requests["/v1/chat/completions"] == 2 + refused  # learned once
    assert len(caplog.records) == refused


@pytest.mark.parametrize("model", ["gpt-5", "openai/gpt-5-mini", "o3"])
def test_what_thinking_models_refuse_is_known_by_name(address, vendors, photo, model):
    judge("openai_compatible", address, model=model).score(photo)
    assert vendors.requests["/v1/chat/completions"] == 1
    assert "temperature" not in judge("openai_compatible", address, model=model).identity("score")["parameters"]


def test_what_a_model_refuses_is_learned(address, vendors, photo, caplog):
    """The server refuses the temperature and the limit's name, one after the other, of a model nobody knows."""
    vendors.thinking = ("unheard-of",)
    asked = judge("openai_compatible", address, model="unheard-of")
    asked.score(photo)
    asked.score(photo)
    assert vendors.requests["/v1/chat/completions"] == 4
    assert [("temperature" in r.getMessage(), "max_tokens" in r.getMessage()) for r in caplog.records] == [
        (False, True),
        (True, False),
    ]


def test_a_parameter_of_the_configuration_is_not_dropped(address, vendors, photo):
    vendors.thinking = ("unheard-of",)
    asked = judge("openai_compatible", address, model="unheard-of", temperature=None, parameters={"temperature": 0.5})
    with pytest.raises(Declined, match="temperature"):
        asked.score(photo)


def test_claude_without_structured_output_is_asked_in_words(address, vendors, photo):
    asked = judge("anthropic", address, model="claude-3-haiku")
    asked.score(photo)
    asked.score(photo)
    assert vendors.requests["/v1/messages"] == 3


@each_vendor
def test_identity_is_what_answers_depend_on(vendor):
    def identity(role="score", **settings):
        return judge(vendor, "http://somewhere", **settings).identity(role)

    assert identity() == identity(timeout=9.0, endpoint="elsewhere", key_variable="X", name="other")
    changed = [
        identity("compare"),
        identity(model="b"),
        identity(max_tokens=9),
        identity(longer_side=512),
        identity(picture_format="png"),
        identity(parameters={"top_p": 0.5}),
    ]
    if vendor == "openai_compatible":
        changed += [identity(temperature=0.5), identity(structured="none")]
    assert all(other != identity() for other in changed)


@each_vendor
def test_settings_are_checked_like_any_plug_ins(vendor):
    for settings, said in [
        ({"modle": "x"}, "did you mean 'model'"),
        ({"max_tokens": "many"}, "must be int"),
        ({"max_tokens": 0}, "above 0"),
        ({"base_url": "http://user:secret@host/v1"}, "environment variable"),
        ({"base_url": "nowhere"}, "must be an address"),
        ({"picture_format": "gif"}, "jpeg or png"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            create("judges", {"class_path": vendor, "init_args": {"model": "m", **settings}})
        assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="model"):
        create("judges", vendor)
    own = {"class_path": vendor, "init_args": {"model": "m", "perceptual_qualty": True}}
    with pytest.raises(UserError, match="did you mean 'perceptual_quality'"):
        create("verifiers", own)


@each_vendor
def test_limits_are_set_by_host_unless_named(vendor):
    assert judge(vendor, "https://example.org:8443").endpoint == "example.org:8443"
    assert judge(vendor, "https://example.org").endpoint == "example.org"
    assert judge(vendor, "https://example.org", endpoint="mine").endpoint == "mine"
