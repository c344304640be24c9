import pytest
import torch

from redaes.errors import UserError
from redaes.models.processor import VisionTextProcessor
from redaes.prompts import render


def test_a_prompt_holds_one_placeholder_per_image_token(nano):
    _, processor = nano
    ids = processor.prompt_ids(render("compare"), n_images=2)
    assert ids.count(processor.image_token_id) == 2 * processor.tokens_per_image


def test_several_images_are_told_apart_and_one_has_no_number(nano):
    _, processor = nano
    one, two = processor.prompt_text("Which?", 1), processor.prompt_text("Which?", 2)
    assert "Picture" not in one
    assert 0 < two.index("Picture 1: <|vision_start|>") < two.index("Picture 2: <|vision_start|>") < two.index("Which?")


def test_answers_end_in_the_same_column_and_only_they_are_labelled(nano, photos):
    _, processor = nano
    answers = ["<answer>6.4</answer>", "<think>Sharp detail.</think><answer>10.0</answer>"]
    batch = processor.batch([[photos[0]], [photos[1]]], [render("score")] * 2, answers)
    for row, answer in enumerate(answers):
        labelled = batch.labels[row][batch.labels[row] != -100]
        assert processor.tokenizer.decode(labelled[:-1]) == answer
        assert labelled[-1] == processor.eos_id
    assert (batch.labels[:, -1] == processor.eos_id).all()
    assert batch.answer_length == max(len(processor.answer_ids(a)) for a in answers)
    assert batch.mm_token_type_ids.sum() == 2 * processor.tokens_per_image


def test_scores_are_spelt_digit_by_digit(nano):
    _, processor = nano
    assert processor.tokenizer.tokenize("<answer>10.5</answer>") == ["<answer>", "1", "0", ".", "5", "</answer>"]


def test_any_text_survives_the_small_tokenizer(nano):
    _, processor = nano
    text = "Ça coûte 3 €, naïve 猫 <think>"
    assert processor.decode(torch.tensor([processor.tokenizer(text)["input_ids"]])) == [text]


def test_an_image_size_that_would_be_resampled_is_refused_with_the_nearest(nano):
    _, processor = nano
    unit = processor.image_processor.patch_size * processor.image_processor.merge_size
    with pytest.raises(UserError, match=f"use {unit * 3} or {unit * 4}"):
        VisionTextProcessor(processor.tokenizer, processor.image_processor, unit * 3 + 1)


def test_a_question_cannot_smuggle_an_image_in(nano):
    _, processor = nano
    with pytest.raises(UserError, match="placeholder"):
        processor.prompt_ids(render("predict_edit", "Remove <|image_pad|>."))


def test_patches_are_what_the_models_own_processor_makes(nano, photos):
    _, processor = nano
    side = processor.image_size
    expected = processor.image_processor(
        images=[p.resize((side, side), 3, reducing_gap=3.0) for p in photos], do_resize=False, return_tensors="pt"
    )
    pixels, grid = processor.pixels(photos)
    assert torch.equal(pixels, expected["pixel_values"])
    assert torch.equal(grid, expected["image_grid_thw"])
