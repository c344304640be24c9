import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

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


def test_the_squares_that_patches_were_cut_from_are_had_back_to_the_last_bit(nano, photos):
    _, processor = nano
    side = processor.image_size
    batch = processor.batch([photos[:2], photos[2:3]], ["Which?", "Score?"])
    back = processor.images(batch)
    assert len(back) == 3
    for square, photo in zip(back, photos, strict=False):
        expected = photo.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
        assert square.mode == "RGB"
        assert np.array_equal(np.asarray(square), np.asarray(expected))
    pixels, _ = processor.pixels(back)
    assert torch.equal(pixels, batch.pixel_values)


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_any_square_survives_the_way_through_patches(nano, data):
    _, processor = nano
    side = processor.image_size
    shape = (side, side, 3)
    square = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 255), fill=st.integers(0, 255)))
    batch = processor.batch([[Image.fromarray(square)]], ["Score?"])
    assert np.array_equal(np.asarray(processor.images(batch)[0]), square)


@pytest.mark.parametrize("mean_and_std", [((0.5,) * 3, (0.5,) * 3), ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))])
def test_every_level_of_every_channel_survives_both_normalisations(nano, mean_and_std):
    _, processor = nano
    levels = np.arange(256, dtype=np.uint8).repeat(-(-(processor.image_size**2) // 256))[: processor.image_size**2]
    square = np.stack([levels, levels[::-1], np.roll(levels, 77)], -1).reshape(*[processor.image_size] * 2, 3)
    cut = type(processor.image_processor)(
        **{**processor.image_processor.to_dict(), "image_mean": mean_and_std[0], "image_std": mean_and_std[1]}
    )
    other = VisionTextProcessor(processor.tokenizer, cut, processor.image_size)
    batch = other.batch([[Image.fromarray(square)]], ["Score?"])
    assert np.array_equal(np.asarray(other.images(batch)[0]), square)


def test_prompts_are_had_back_with_one_placeholder_for_each_image_and_as_questions(nano, photos):
    _, processor = nano
    questions = [render("compare"), "  Ça vaut 3 € ?\n", ""]
    batch = processor.batch([photos[:2], photos[2:3], photos[3:4]], questions)
    tokenize = processor.tokenizer
    for ids, question, count in zip(processor.collapsed_ids(batch), questions, (2, 1, 1), strict=True):
        assert ids == tokenize(processor.prompt_text(question, count), add_special_tokens=False)["input_ids"]
        assert ids.count(processor.image_token_id) == count
    assert processor.questions(batch) == questions


def test_a_prompt_of_another_template_has_no_question(nano):
    _, processor = nano
    batch = processor.batch_without_pixels([1], ["Score?"])
    batch.input_ids[0, -1] = processor.pad_id
    with pytest.raises(UserError, match="is not one of this model's chat template"):
        processor.questions(batch)
