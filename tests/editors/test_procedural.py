"""Five editors attempt every instruction, each sure in its own family and clumsy elsewhere."""

import random

import numpy as np
import pytest
from PIL import Image

from redaes.editors import Editor
from redaes.editors.operations import OPERATIONS, STRENGTHS, request, strength_of
from redaes.editors.procedural import ColourEditor, GeometryEditor, PlainEditor, ProceduralEditor, ToneEditor
from redaes.errors import UserError
from redaes.judges import measures as m
from redaes.judges.measures import Pixels
from redaes.records import Instruction
from redaes.registry import create, find
from redaes.sources.skimage_photos import SkimagePhotos
from redaes.verifiers.pixel import EFFECTS, tint_shift, visible_change

EDITORS = [name for name in find("editors") if name.startswith("procedural/")]


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return SkimagePhotos(["astronaut"]).open("astronaut").resize((112, 112), Image.Resampling.LANCZOS)


def instruction(category: str, strength: str = "clearly") -> Instruction:
    return request(category, strength)


def applied(category: str, image: Image.Image, strength: float = 1.0) -> Image.Image:
    return OPERATIONS[category].operator(image, strength, random.Random(0))


def change(before: Image.Image, after: Image.Image) -> float:
    return visible_change(Pixels.of(before), Pixels.of(after))


def test_there_are_five_families_each_with_improving_or_harming_and_tagged_operations() -> None:
    assert len(EDITORS) == 5
    assert {op.family for op in OPERATIONS.values()} == {"tone", "colour", "detail", "geometry", "content"}
    for orientation in ("quality", "content"):
        assert {op.improving for op in OPERATIONS.values() if op.orientation == orientation} == {True, False}


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("category", OPERATIONS)
def test_every_editor_attempts_every_instruction_deterministically(
    name: str, category: str, photo: Image.Image
) -> None:
    editor = create("editors", name)
    assert isinstance(editor, Editor)
    edited = editor.edit(photo, instruction(category), seed=3)
    assert edited.size == photo.size
    assert edited.mode == "RGB"
    assert edited.tobytes() == editor.edit(photo.copy(), instruction(category), seed=3).tobytes()


def test_the_plain_editor_does_what_is_asked_and_nothing_else(photo: Image.Image) -> None:
    for category, strength in (("brighten", "strongly"), ("saturate", "slightly"), ("sharpen", "clearly")):
        edited = PlainEditor().edit(photo, instruction(category, strength), seed=1)
        assert edited.tobytes() == applied(category, photo, STRENGTHS[strength]).tobytes()
    with pytest.raises(UserError, match=r"procedural cannot do 'brightn'.*brighten"):
        PlainEditor().edit(photo, instruction("brighten").model_copy(update={"category": "brightn"}), seed=1)


@pytest.mark.parametrize("name", EDITORS)
def test_another_seed_edits_otherwise(name: str, photo: Image.Image) -> None:
    editor = create("editors", name)
    assert len({editor.edit(photo, instruction("brighten"), seed).tobytes() for seed in range(5)}) == 5


@pytest.mark.parametrize("category", OPERATIONS)
def test_an_edit_leaves_its_source_alone_and_is_visible_at_112_pixels(category: str, photo: Image.Image) -> None:
    untouched = photo.tobytes()
    edited = applied(category, photo)
    assert photo.tobytes() == untouched
    assert change(photo, edited) > 0.001


@pytest.mark.parametrize("category", [name for name, effect in EFFECTS.items() if effect.measure])
def test_an_operation_moves_the_statistic_it_is_about_and_a_strong_one_more(category: str, photo: Image.Image) -> None:
    fault = {"denoise": ("add_noise", 1.0), "balance_white": ("warm", 3.0), "stretch_levels": ("flatten_contrast", 1.4)}
    source = applied(
        *((fault[category][0], photo, fault[category][1]) if category in fault else ("brighten", photo, 0.0))
    )
    slight, strong = (
        EFFECTS[category].done(Pixels.of(source), Pixels.of(applied(category, source, strength)))
        for strength in (0.6, 1.5)
    )
    assert 0 < slight < strong


@pytest.mark.parametrize("category", OPERATIONS)
@pytest.mark.parametrize("size", [(16, 16), (40, 17), (90, 131)])
def test_operations_keep_the_size_of_any_picture(category: str, size: tuple[int, int], photo: Image.Image) -> None:
    for strength in (0.1, 2.2):
        assert applied(category, photo.resize(size), strength).size == size


def test_a_strong_edit_changes_more_than_a_slight_one(photo: Image.Image) -> None:
    for name in ("brighten", "saturate", "sharpen", "vignette", "sepia"):
        slight, strong = (applied(name, photo, strength_of(word)) for word in ("slightly", "strongly"))
        assert change(photo, slight) < change(photo, strong)


def test_denoising_takes_the_noise_and_leaves_the_edges(photo: Image.Image) -> None:
    noisy = applied("add_noise", photo)
    before, after = Pixels.of(noisy), Pixels.of(applied("denoise", noisy))
    assert m.grain(after) < 0.7 * m.grain(before)
    assert m.edge_contrast(after) > 0.9 * m.edge_contrast(before)


def test_straightening_undoes_a_tilt() -> None:
    """A level chessboard-like scene, tilted by 6 degrees, stands upright again to within a degree or so."""
    board = np.kron(np.indices((9, 9)).sum(0) % 2, np.ones((20, 20))) * 200 + 20
    level = Image.fromarray(board.astype(np.uint8)).convert("RGB").resize((180, 180))

    def crookedness(image: Image.Image) -> float:
        dy, dx = np.gradient(np.asarray(image.convert("L"), dtype=float)[30:-30, 30:-30])
        return abs(float(np.degrees(np.angle(np.sum(np.hypot(dx, dy) * np.exp(4j * np.arctan2(dy, dx)))) / 4)))

    tilted = level.rotate(6, Image.Resampling.BICUBIC)
    assert crookedness(tilted) > 4
    assert crookedness(applied("straighten", tilted)) < 1.5


def test_removing_an_object_touches_a_small_region_only(photo: Image.Image) -> None:
    edited = applied("remove_object", photo)
    changed = np.any(np.asarray(edited) != np.asarray(photo), axis=-1)
    assert 0.005 < changed.mean() < 0.05


def test_an_editor_outside_its_family_is_less_sure(photo: Image.Image) -> None:
    """Its strength varies more from seed to seed than that of the editor whose family it is."""

    def spread(editor: ProceduralEditor) -> float:
        seeds = range(20)
        return float(np.std([m.brightness(Pixels.of(editor.edit(photo, instruction("brighten"), s))) for s in seeds]))

    assert spread(GeometryEditor()) > 2 * spread(ToneEditor())
    assert spread(GeometryEditor(clumsiness=0.9)) > spread(GeometryEditor(clumsiness=0.1))


def test_an_editor_outside_its_family_leaves_its_mark(photo: Image.Image) -> None:
    def mean_tint(editor: ProceduralEditor) -> float:
        edits = [editor.edit(photo, instruction("sharpen"), seed) for seed in range(10)]
        return float(np.mean([tint_shift(Pixels.of(photo), Pixels.of(edited)) for edited in edits]))

    assert mean_tint(ColourEditor()) > 0.03 > mean_tint(GeometryEditor())


def test_an_unknown_category_is_named_with_the_nearest(photo: Image.Image) -> None:
    strange = Instruction(text="Brightn it.", category="brightn", orientation="quality")
    with pytest.raises(UserError, match="did you mean 'brighten'"):
        ToneEditor().edit(photo, strange, 0)


@pytest.mark.parametrize(
    ("text", "strength"), [("Blur it slightly.", 0.6), ("Strongly blur it", 1.5), ("Blur it", 1.0)]
)
def test_the_strength_is_read_from_the_words(text: str, strength: float) -> None:
    assert strength_of(text) == strength


@pytest.mark.parametrize("word", STRENGTHS)
@pytest.mark.parametrize("category", OPERATIONS)
def test_every_request_carries_its_strength(category: str, word: str) -> None:
    assert strength_of(instruction(category, word).text) == STRENGTHS[word]
