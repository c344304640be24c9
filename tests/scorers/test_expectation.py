"""One forward pass, read as an expectation."""

from itertools import combinations

import pytest
from PIL import Image
from tests.chat.tiny_llava import write_tiny_llava

from redaes.errors import UserError
from redaes.models.nano import build_nano
from redaes.models.vlm import export
from redaes.registry import create
from redaes.scorers.expectation import WORDS, answer_tokens


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


@pytest.mark.parametrize("family", ["qwen", "llava"])
def test_levels_of_images_of_many_sizes_come_back_in_their_order(family, tmp_path):
    # In float32; nano's weights are saved in bfloat16, in which padding moves the third digit.
    if family == "qwen":
        export(*build_nano(WORDS["levels"], hidden=64, layers=2, vision=64), tmp_path / "model")
    else:
        write_tiny_llava(tmp_path / "model")
    photo = Image.radial_gradient("L").convert("RGB")
    photos = [photo.resize(size) for size in ((140, 112), (56, 56), (112, 56), (200, 60), (84, 140))]
    scorer = create(
        "scorers", "logit_expectation", model=str(tmp_path / "model"), tokens="levels", device="cpu", batch_size=2
    )
    together = scorer.score(photos)
    alone = [scorer.score([photo])[0] for photo in photos]
    apart = min(abs(a.value - b.value) for a, b in combinations(alone, 2))
    assert apart > 1e-5
    assert [score.value for score in together] == pytest.approx([score.value for score in alone], abs=apart / 4)
    assert [score.text for score in together] == [score.text for score in alone]


def tokenizer_of(merges, prepend):
    """A tokenizer that writes a space as \u2581, as SentencePiece does: in whole words, or in letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    bare.decoder = decoders.Metaspace(prepend_scheme=prepend)
    words = [word for words in WORDS.values() for word in words]
    letters = sorted(set("".join(words + [word.title() for word in words]) + "<answer>\n\u2581"))
    trainer = trainers.BpeTrainer(vocab_size=len(letters) + merges, initial_alphabet=letters)
    bare.train_from_iterator([" ".join(words)] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bare)


@pytest.mark.parametrize("merges", [0, 200])
@pytest.mark.parametrize("prepend", ["always", "first", "never"])
def test_answers_are_found_where_a_space_belongs_to_a_word_or_is_a_token(merges, prepend):
    tokenizer = tokenizer_of(merges, prepend)
    for name, words in WORDS.items():
        for word, ids in zip(words, answer_tokens(tokenizer, name), strict=True):
            begins = [tokenizer.convert_ids_to_tokens(token).strip("\u2581").lower() for token in ids]
            assert all(begin and word.startswith(begin) for begin in begins)


def test_a_tokenizer_that_begins_all_words_alike_is_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    blind = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    with pytest.raises(UserError, match="do not tell bad, poor"):
        answer_tokens(PreTrainedTokenizerFast(tokenizer_object=blind, unk_token="?"), "levels")
