"""The page itself: which button calls which of the plain functions, and where their answers go.

Nothing is decided here. Uploads go in as `Upload`s, so that a file that is no photograph reaches the functions, which
say so, and is not refused by Gradio with a traceback.
"""

import logging
from abc import ABCMeta
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar, cast

import gradio as gr
from gradio.component_meta import ComponentMeta

from redaes.app import judging, pages
from redaes.app.browsing import KINDS, Browser, Kind, Wanted
from redaes.app.judging import Proposals
from redaes.app.uploads import Refused, Upload, opened
from redaes.errors import UserError
from redaes.evaluation.run_folder import open_run
from redaes.evaluation.words import signed
from redaes.inference.advice import Advice
from redaes.inference.scorer import Scorer

F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger(__name__)

SESSION_SECONDS = 3600
"""For how long uploads and what was made of them are kept."""
PRIVATE = {"api_visibility": "private"}


class _WithoutStub(ComponentMeta):
    """Gradio's metaclass writes a stub file beside the source of every class it makes; these need none."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> Any:
        return ABCMeta.__new__(cls, name, bases, attributes)


async def _kept(self: Any, path: Any) -> str | None:
    """Where an upload lies. Gradio would fetch an address that stands in its place; this server fetches nothing."""
    if "://" in str(path):
        raise _told("Only files from this computer can be used.")
    kept: str | None = await gr.components.Component.async_move_resource_to_block_cache(self, path)
    return kept


class Photographs(gr.File, metaclass=_WithoutStub):
    """A place to drop many files; they reach the functions as `Upload`s, not opened."""

    is_template = True  # for Gradio: it looks like a File
    async_move_resource_to_block_cache = _kept

    def preprocess(self, payload: Any) -> list[Upload]:
        """What was dropped."""
        return [_upload(file) for file in payload or ()]


class OnePhotograph(gr.Image, metaclass=_WithoutStub):
    """A place to drop one photograph, which it shows; it reaches the functions as an `Upload`, not opened."""

    is_template = True
    async_move_resource_to_block_cache = _kept

    def preprocess(self, payload: Any) -> Upload | None:
        """What was dropped."""
        return _upload(payload) if payload and payload.path else None


def _upload(file: Any) -> Upload:
    return Upload(file.path, file.orig_name or Path(file.path).name)


def spoken(function: F) -> F:
    """Failures in one line for a person: no traceback, no folder of this computer."""

    @wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        try:
            return function(*values, **named)
        except gr.Error:
            raise
        except UserError as error:
            raise _told(pages.without_folders(" ".join(str(error).split()))) from error
        except Exception as error:
            log.exception("the page could not answer")
            raise _told("Something went wrong; the terminal says what.") from error

    return cast(F, call)


def _told(message: str) -> gr.Error:
    return gr.Error(message, title="That did not work", print_exception=False)


def page(scorer: Scorer, data: Path | None = None, run: Path | None = None) -> gr.Blocks:
    """The page, ready to be served.

    Args:
        scorer: answers the questions.
        data: a dataset to browse.
        run: a run to look at.

    Raises:
        UserError: no dataset or no run there.
    """
    with gr.Blocks(title="redaes", analytics_enabled=False, delete_cache=(SESSION_SECONDS, SESSION_SECONDS)) as made:
        with gr.Row(elem_classes="top"):
            _html(pages.intro(scorer.fingerprint))
            _theme_button()
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Score"):
                _score_tab(scorer)
            with gr.Tab("Compare"):
                _compare_tab(scorer)
            with gr.Tab("Advice"):
                _advice_tab(scorer)
            with gr.Tab("Data"):
                _data_tab(made, data)
            with gr.Tab("Run"):
                _run_tab(made, run)
    return made


def _html(value: str = "", **settings: Any) -> gr.HTML:
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_classes="redaes", **settings)


def _theme_button() -> None:
    button = gr.Button("Dark or light", size="sm", scale=0, min_width=120)
    button.click(None, js="() => { document.body.classList.toggle('dark'); }", **PRIVATE)


# --- score -----------------------------------------------------------------------------------------------------------


def _score_tab(scorer: Scorer) -> None:
    files = Photographs(label="Photographs", file_count="multiple", height=180, elem_id="photographs")
    with gr.Row():
        button = gr.Button("Score", variant="primary", scale=0, min_width=140)
        download = gr.DownloadButton("Download CSV", visible=False, scale=0, min_width=190)
    answer = _html(pages.hint())
    model = scorer.fingerprint

    @spoken
    def score(uploads: Sequence[Upload], progress: gr.Progress = gr.Progress()) -> tuple[str, Any]:  # noqa: B008
        if not uploads:
            raise UserError("Drop one or more photographs first.")
        scored = judging.score_uploads(uploads, scorer, model, lambda done, of: progress((done, of), desc="scored"))
        path = Path(mkdtemp(dir=answer.GRADIO_CACHE)) / "scores.csv"
        path.write_text(judging.as_csv(scored), encoding="utf-8")
        return pages.ranking(scored, model), gr.DownloadButton(value=str(path), visible=True)

    button.click(score, files, [answer, download], concurrency_id="model", **PRIVATE)
    files.clear(lambda: (pages.hint(), gr.DownloadButton(visible=False)), None, [answer, download], **PRIVATE)


# --- compare ---------------------------------------------------------------------------------------------------------


def _compare_tab(scorer: Scorer) -> None:
    with gr.Row():
        first, second = _photograph("First photograph"), _photograph("Second photograph")
    with gr.Row():
        button = gr.Button("Compare", variant="primary", scale=0, min_width=140)
    answer = _html()

    @spoken
    def compare(a: Upload | None, b: Upload | None) -> str:
        if a is None or b is None:
            raise UserError("Choose two photographs first.")
        found = judging.compare_uploads(a, b, scorer)
        return pages.refusals(found) if isinstance(found, list) else pages.comparison(found)

    button.click(compare, [first, second], answer, concurrency_id="model", **PRIVATE)
    for one in (first, second):
        one.upload(_look, one, [one, answer], **PRIVATE)
        one.clear(lambda: "", None, answer, **PRIVATE)


@spoken
def _look(upload: Upload) -> tuple[Any, str]:
    """A file that is no photograph is taken out again, and why is said in place of an answer to another question."""
    file = opened(upload)
    return (None, pages.refusals([file])) if isinstance(file, Refused) else (gr.skip(), "")


def _photograph(label: str) -> OnePhotograph:
    return OnePhotograph(label=label, type="filepath", sources=["upload"], buttons=[], height=320, alt_text=label)


# --- advice ----------------------------------------------------------------------------------------------------------


def _advice_tab(scorer: Scorer) -> None:
    found = gr.State(time_to_live=SESSION_SECONDS)
    with gr.Row():
        with gr.Column():
            photograph = _photograph("Photograph")
            with gr.Row():
                button = gr.Button("Advise", variant="primary", scale=0, min_width=140)
        with gr.Column():
            waiting = pages.missing("What would help it, and by how much, will stand here.")
            answer = _html(waiting)
    with gr.Column(visible=False) as trial:
        choice = gr.Dropdown([], label="Make this edit and look at it")
        outcome = _html()

    @spoken
    def advise(upload: Upload | None) -> tuple[Any, ...]:
        if upload is None:
            raise UserError("Choose a photograph first.")
        proposals = judging.advise_on(upload, scorer)
        if isinstance(proposals, Refused):
            return None, pages.refusals([proposals]), gr.Column(visible=False), gr.Dropdown([]), ""
        labels = [(_label(one), index) for index, one in enumerate(proposals.advice)]
        chosen = gr.Dropdown(labels, value=0)
        return proposals, pages.proposals(proposals), gr.Column(visible=True), chosen, show(proposals, 0)

    @spoken
    def show(proposals: Proposals | None, index: int | None) -> str:
        if proposals is None or index is None:
            raise UserError("Ask for advice again: this photograph is no longer here.")
        return pages.tried(judging.try_out(proposals.photograph, proposals.advice[index], scorer))

    @spoken
    def begin(upload: Upload | None) -> tuple[Any, ...]:
        """Another photograph, or none: the answers to the one before are gone."""
        kept, words = _look(upload) if upload else (gr.skip(), "")
        return None, kept, words or waiting, gr.Column(visible=False)

    gr.on([photograph.upload, photograph.clear], begin, photograph, [found, photograph, answer, trial], **PRIVATE)
    outputs = [found, answer, trial, choice, outcome]
    button.click(advise, photograph, outputs, concurrency_id="model", **PRIVATE)
    choice.input(show, [found, choice], outcome, concurrency_id="model", **PRIVATE)


def _label(advice: Advice) -> str:
    gain = "" if advice.predicted.value is None else f" ({signed(advice.predicted.value)})"
    return advice.instruction.text.rstrip(".") + gain


# --- data ------------------------------------------------------------------------------------------------------------


def _data_tab(made: gr.Blocks, root: Path | None) -> None:
    if root is None:
        _html(pages.missing("No dataset was named. Start the page with: redaes app --data FOLDER"))
        return
    browser = Browser(root)
    everything = [("all", "")]
    with gr.Row():
        kind = gr.Dropdown([(words, key) for key, words in KINDS.items()], value="pairs", label="Show", min_width=120)
        split = gr.Dropdown([*everything, "train", "validation", "test"], value="", label="Split", min_width=120)
        editor = gr.Dropdown(everything, value="", label="Editor", min_width=140)
        category = gr.Dropdown(everything, value="", label="Category", min_width=140)
        words = gr.Textbox(label="Words in the instruction", min_width=160, submit_btn=False)
    number = gr.State(1)
    with gr.Row(elem_classes="turn"):
        back = gr.Button("Previous", size="sm", scale=0, min_width=100)
        where = _html()
        on = gr.Button("Next", size="sm", scale=0, min_width=100)
    answer = _html()
    filters = [kind, split, editor, category, words]

    @spoken
    def look(at: int, *wanted: Any) -> tuple[Any, ...]:
        leaf = browser.leaf(Wanted(cast(Kind, wanted[0]), *wanted[1:]), at)
        return leaf.number, pages.where(leaf), pages.cards(leaf, browser.threshold)

    @spoken
    def begin() -> tuple[Any, ...]:
        choices = (gr.Dropdown([*everything, *names]) for names in (browser.editors(), browser.categories()))
        return *choices, *look(1, "pairs", "", "", "", "")

    shown = [number, where, answer]
    made.load(begin, None, [editor, category, *shown], **PRIVATE)
    gr.on(
        [kind.change, split.change, editor.change, category.change, words.submit],
        lambda *wanted: look(1, *wanted), filters, shown, **PRIVATE,
    )  # fmt: skip
    back.click(lambda at, *wanted: look(at - 1, *wanted), [number, *filters], shown, **PRIVATE)
    on.click(lambda at, *wanted: look(at + 1, *wanted), [number, *filters], shown, **PRIVATE)


# --- run -------------------------------------------------------------------------------------------------------------


def _run_tab(made: gr.Blocks, root: Path | None) -> None:
    if root is None:
        _html(pages.missing("No run was named. Start the page with: redaes app --run FOLDER"))
        return
    open_run(root)  # what is wrong with it is said before the page is served
    with gr.Row():
        again = gr.Button("Read again", size="sm", scale=0, min_width=120)
    overview = _html()
    step = gr.Dropdown([], label="Completions at step")
    answer = _html()

    @spoken
    def read() -> tuple[Any, ...]:
        run = open_run(root)
        steps = sorted({row["step"] for row in run.completions})
        last = steps[-1] if steps else None
        return pages.run_overview(run), gr.Dropdown(steps, value=last), pages.completions(run, last)

    @spoken
    def look(at: int | None) -> str:
        return pages.completions(open_run(root), at)

    made.load(read, None, [overview, step, answer], **PRIVATE)
    again.click(read, None, [overview, step, answer], **PRIVATE)
    step.input(look, step, answer, **PRIVATE)
