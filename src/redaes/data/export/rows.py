"""What a dataset is exported as: five tables, their columns, and the row that a record becomes.

Columns of images hold paths within the dataset here; each writer puts the pixels in its own way. A verdict says itself
whether the consensus took it for an outlier, so that every column has one type in every row of a table, also where JSON
is all a reader has. Nothing else is renamed or rounded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redaes.data.manifest import Manifest, read_records
from redaes.errors import UserError
from redaes.records import Edit, Fused, GroupRecord, PairRecord, ScoreRecord, Source, Split, Verdict
from redaes.registry import optional

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]

# Types of columns: a name, a list of one type, or a mapping of fields.
VERDICT = {"judge": "text", "value": "number", "reasoning": "text", "outlier": "flag"}
CONSENSUS = {"verdicts": [VERDICT], "consensus_level": "text", "consensus_method": "text"}
INSTRUCTION = {name: "text" for name in ("instruction", "category", "orientation", "analysis")}
VERIFICATION = {"verifier": "text", "success": "number", "over_editing": "number", "perceptual_quality": "number"}
VERIFICATIONS = {"verifications": [VERIFICATION]}
ORIGIN = {"photograph": "text", "license": "text"}
SCORED = {"id": "text", "image": "image", "score": "number", "reasoning": "text", **CONSENSUS, **ORIGIN}


@dataclass(frozen=True)
class Table:
    """One table of an export.

    Attributes:
        about: what a row is, for the card.
        kind: the record it is made of.
        columns: their types.
        row: from record to row.
        images_may_lack: some rows have no image.
    """

    about: str
    kind: type[Any]
    columns: dict[str, Any]
    row: Callable[[Any], Row]
    images_may_lack: bool = False

    @property
    def images(self) -> list[str]:
        """The columns that hold an image, or several."""
        return [name for name, type in self.columns.items() if type in ("image", ["image"])]


def _consensus(verdicts: tuple[Verdict, ...], fused: Fused | None) -> Row:
    outliers = fused.outliers if fused else ()
    return {
        "verdicts": [{**v.model_dump(), "outlier": place in outliers} for place, v in enumerate(verdicts)],
        "consensus_level": fused.level if fused else None,
        "consensus_method": fused.method if fused else None,
    }


def _origin(source: Source) -> Row:
    return {"photograph": source.photograph, "license": source.license}


def _instruction(edit: Edit) -> Row:
    row = edit.instruction.model_dump()
    return {"instruction": row.pop("text"), **row}


def _verifications(edit: Edit) -> Row:
    return {"verifications": [v.model_dump() for v in edit.verifications]}


def _pair(record: PairRecord) -> Row:
    edit = record.edit
    return {
        "id": record.id,
        "source_image": record.source.image,
        "edited_image": edit.image,
        "delta": record.delta,
        "reasoning": record.reasoning,
        "source_score": record.score,
        "editor": edit.editor,
        **_instruction(edit),
        **_verifications(edit),
        **_consensus(edit.verdicts, edit.fused),
        **_origin(record.source),
    }


def _group(record: GroupRecord) -> Row:
    edits = [member.edit for member in record.members if member.edit]
    return {
        "id": record.id,
        "images": [member.image for member in record.members],
        "g": [member.g for member in record.members],
        "source_score": record.score,
        "edits": [
            {"id": e.id, "editor": e.editor, **_instruction(e), **_consensus(e.verdicts, e.fused)} for e in edits
        ],
        **_origin(record.source),
    }


def _score(record: ScoreRecord) -> Row:
    return {
        "id": record.source.id,
        "image": record.source.image,
        "score": record.fused.value,
        "reasoning": record.reasoning,
        **_consensus(record.verdicts, record.fused),
        **_origin(record.source),
    }


def _edit(record: Edit) -> Row:
    return {
        "id": record.id,
        "source_id": record.source_id,
        "image": record.image or None,
        "editor": record.editor,
        **_instruction(record),
        "passed": record.passed,
        **_verifications(record),
        "delta": record.fused.value if record.fused else None,
        **_consensus(record.verdicts, record.fused),
    }


TABLES = {
    "pairs": Table(
        "a source, an edit that every judge finds better, the instruction, the difference and a judge's words (Eq. 3)",
        PairRecord,
        {
            **{"id": "text", "source_image": "image", "edited_image": "image", "delta": "number", "reasoning": "text"},
            **{"source_score": "number", "editor": "text"},
            **INSTRUCTION,
            **VERIFICATIONS,
            **CONSENSUS,
            **ORIGIN,
        },
        _pair,
    ),
    "groups": Table(
        "a source and its variants; g is each image's difference from the first, the source (Eq. 4); edits tells of "
        "the images from the second on",
        GroupRecord,
        {
            **{"id": "text", "images": ["image"], "g": ["number"], "source_score": "number"},
            "edits": [{"id": "text", "editor": "text", **INSTRUCTION, **CONSENSUS}],
            **ORIGIN,
        },
        _group,
    ),
    "sources": Table("a source with its consensus score S(x) in [0, 10]", ScoreRecord, SCORED, _score),
    "calibration": Table("the sources of the calibration set", ScoreRecord, SCORED, _score),
    "edits": Table(
        "every edit that was made, kept or not, as far as it was verified and judged; images of rejected ones may be "
        "missing",
        Edit,
        {
            **{"id": "text", "source_id": "text", "image": "image", "editor": "text"},
            **INSTRUCTION,
            "passed": "flag",
            **VERIFICATIONS,
            "delta": "number",
            **CONSENSUS,
        },
        _edit,
        images_may_lack=True,
    ),
}


def rows(manifest: Manifest, name: str) -> Iterator[tuple[Split, Row]]:
    """The rows of one table with their splits, one by one.

    Raises:
        UserError: a record that is damaged, or an edit of no source.
    """
    table = TABLES[name]
    records = read_records(manifest.root / f"{name}.jsonl", table.kind)
    if table.kind is Edit:
        # Edits are written in the order of their sources, so that both files are gone through once, side by side.
        sources = (record.source for record in read_records(manifest.root / "sources.jsonl", ScoreRecord))
        source = next(sources, None)
        for edit in records:
            while source is not None and source.id != edit.source_id:
                source = next(sources, None)
            if source is None:
                raise UserError(
                    f"{manifest.root / 'edits.jsonl'}: edit {edit.id!r} belongs to no source, or is out of order"
                )
            yield source.split, table.row(edit)
    else:
        for record in records:
            yield record.source.split, table.row(record)


def arrow_type(type: Any, image: "pyarrow.DataType") -> "pyarrow.DataType":
    """The Arrow type of a column.

    Args:
        type: as in `Table.columns`.
        image: the type of images.
    """
    pa = optional("pyarrow")
    match type:
        case [element]:
            return pa.list_(arrow_type(element, image))
        case dict():
            return pa.struct([(name, arrow_type(field, image)) for name, field in type.items()])
    return {"text": pa.string(), "number": pa.float64(), "flag": pa.bool_(), "image": image}[type]
