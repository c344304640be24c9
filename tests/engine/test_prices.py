"""A model's price is found by its name and where it is asked; the reader's own table comes first."""

import pytest

from redaes.calls import Usage
from redaes.engine.prices import BUILT_IN, PriceTable, how_to_add
from redaes.errors import UserError

OPENAI = "api.openai.com"


def table(tmp_path, text):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return PriceTable(str(path))


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        ("gpt-5", OPENAI),
        ("gpt-5-2025-08-07", OPENAI),
        ("gpt-4o-2024-11-20", OPENAI),
        ("gpt-image-1", OPENAI),
        ("Qwen/Qwen3-VL-235B-A22B-Instruct", "openrouter.ai"),
        ("qwen/qwen2.5-vl-72b-instruct", "openrouter.ai"),
        ("claude-sonnet-4-5-20250929", "api.anthropic.com"),
        ("gemini-2.5-flash-image", "generativelanguage.googleapis.com"),
        ("doubao-seedream-4-5-251128", "ark.ap-southeast.bytepluses.com"),
    ],
)
def test_the_models_of_the_paper_have_a_dated_price_with_a_source(model, endpoint):
    price = PriceTable().find(model, endpoint)
    assert price is not None
    assert price.of(Usage(1000, 1000, 1)) > 0
    assert str(price.as_of).startswith("20")
    assert price.source.startswith("https://")
    assert price.image_tokens or price.image


def test_every_entry_is_dated_and_says_where_to_check_it_and_the_file_says_that_it_must_be_checked():
    for row in PriceTable().rows:
        assert str(row.as_of)
        assert row.source.startswith("https://") or "own GPU" in row.note
    assert "TO BE CHECKED" in BUILT_IN.read_text()


@pytest.mark.parametrize("endpoint", ["localhost:8000", "127.0.0.1:43211", "[::1]:8000", "local", "192.168.1.7:8000"])
def test_a_machine_of_ones_own_costs_nothing(endpoint):
    price = PriceTable().find("Qwen/Qwen3-VL-235B-A22B-Instruct", endpoint)
    assert price.of(Usage(10**9, 10**9, 10**6)) == 0


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5-mini", "gpt-4o-mini"])
def test_a_small_model_is_not_taken_for_its_larger_sibling(model):
    rate = {"gpt-5": 1.25, "gpt-5-mini": 0.25, "gpt-4o-mini": 0.15}[model]
    assert PriceTable().find(model, OPENAI).input == rate


def test_an_unknown_model_has_no_price():
    assert PriceTable().find("gpt-99", OPENAI) is None


def test_costs_are_per_million_tokens_and_per_image(tmp_path):
    price = table(tmp_path, "prices: [{models: [m], input: 2, output: 10, image: 0.5, as_of: 2026-01}]").find("M", "x")
    assert price.of(Usage(500_000, 100_000, 3)) == pytest.approx(1.0 + 1.0 + 1.5)


def test_ones_own_table_comes_first_also_for_a_server_of_ones_own(tmp_path):
    own = table(tmp_path, "prices: [{models: ['gpt-5*'], input: 9, output: 9, as_of: 2026-01-31}]")
    assert own.currency == "USD"
    assert own.find("gpt-5", "127.0.0.1:80").input == 9
    assert own.find("gpt-4o", OPENAI).input == PriceTable().find("gpt-4o", OPENAI).input


def test_a_table_in_another_currency_stands_alone(tmp_path):
    own = table(tmp_path, "{currency: EUR, prices: [{models: [gpt-5], input: 1, output: 9, as_of: 2026-01}]}")
    assert own.currency == "EUR"
    assert own.find("gpt-4o", OPENAI) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prices: [{models: [m], input: -1, output: 2, as_of: 2026-01}]", "prices.0.input"),
        ("prices: [{models: [m], input: .nan, output: 2, as_of: 2026-01}]", "prices.0.input"),
        ("prices: [{models: [m], in: 1, output: 2, as_of: 2026-01}]", "prices.0.in"),
        ("prices: [{models: [m], input: 1, output: 2, as_of: x, image_tokens: {patch: 1, fixed: 2}}]", "one of patch"),
        ("[1, 2", "cannot read"),
        ("17", "price table"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem) as error:
        table(tmp_path, text)
    assert "\n" not in str(error.value)
    assert "prices.yaml" in str(error.value)


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"nowhere.yaml: .*No such file"):
        PriceTable("nowhere.yaml")


def test_the_advice_for_a_model_without_a_price_works(tmp_path):
    row = how_to_add("my-model")
    written = row[row.index("{") : row.rindex("}") + 1]
    assert table(tmp_path, written).find("my-model", "anywhere") is not None


def test_images_count_as_their_models_rule_says():
    def tokens(model, endpoint, *size):
        return PriceTable().find(model, endpoint).image_tokens.count(*size)

    assert tokens("gpt-4o", OPENAI, 1024, 1024) == 85 + 4 * 170
    assert tokens("gpt-5", OPENAI, 512, 512) == 70 + 140
    assert tokens("qwen2.5-vl-72b-instruct", "x.ai", 504, 504) == 18 * 18
    assert tokens("qwen3-vl-235b-a22b-instruct", "x.ai", 512, 512) == 16 * 16
    assert tokens("claude-sonnet-4-5", "api.anthropic.com", 750, 1000) == 1000
    assert tokens("gemini-2.5-pro", "x", 768, 769) == 2 * 258
