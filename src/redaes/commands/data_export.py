"""`redaes data export`: a dataset in a form that others open, with a dataset card."""

from pathlib import Path
from typing import Literal

from redaes.errors import UserError


def export(
    dataset: str,
    destination: str,
    format: Literal["hf", "parquet", "webdataset", "jsonl", "aescot"] = "hf",
    shard_mb: int = 500,
    overwrite: bool = False,
) -> None:
    """Write a dataset's pairs, groups, scored sources, calibration set and edits for readers other than redaes.

    Args:
        dataset: folder of a dataset.
        destination: folder to make; it appears when it is whole.
        format: hf (parquet with images, for the Hugging Face hub), parquet (images as plain bytes), webdataset (tar
            files), jsonl (JSON lines with image files beside them) or aescot (scored sources alone, in the form of
            Aes-R1's training data).
        shard_mb: megabytes of a shard at most, unless a single row has more.
        overwrite: replace an earlier export.

    Raises:
        UserError: no such dataset, or a destination that is taken or cannot be written.
    """
    from redaes.data.export import export as export_dataset
    from redaes.data.manifest import Manifest

    if shard_mb < 1:
        raise UserError(f"shard_mb is {shard_mb}; give 1 or more")
    written = export_dataset(
        Manifest(dataset), Path(destination), format, shard_bytes=shard_mb * 1_000_000, overwrite=overwrite
    )
    counts = {name: sum(split["rows"] for split in splits.values()) for name, splits in written["tables"].items()}
    print(f"{destination}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
