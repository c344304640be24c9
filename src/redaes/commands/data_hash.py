"""`redaes data hash`: a list of images by their hashes, to keep them out of a dataset."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from redaes.errors import UserError


def hash_(
    folders: list[str],
    output: str = "hashes.csv",
    source: str = "folder",
    workers: int | None = None,
    overwrite: bool = False,
) -> int:
    """List images with their exact and perceptual hashes, such as those of benchmarks that must not be trained on.

    The list is given to the source `filtered` as `exclude`. What was hashed before an interruption is not hashed again
    by the same command.

    Args:
        folders: folders of images; with --source, what that source's `root` may be.
        output: the list to write, ending in .csv or .parquet.
        source: which source plug-in reads them: folder, parquet or webdataset.
        workers: threads; default one per core.
        overwrite: replace a list that is there.

    Returns:
        The exit code: 1 if an image could not be read.

    Raises:
        UserError: no such folder, or a list that cannot be written.
    """
    from redaes.registry import create, optional
    from redaes.sources.facts import Facts, FactsFile, write_list
    from redaes.sources.listing import printable

    path = Path(output)
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"--output is {output!r}; it must end in .csv or .parquet")
    if path.exists() and not overwrite:
        raise UserError(f"{output} is there already; name another file or pass --overwrite")
    for module in ("imagehash", *(["pyarrow.parquet"] if path.suffix == ".parquet" else [])):
        optional(module)
    sources = {folder: create("sources", {"class_path": source, "init_args": {"root": folder}}) for folder in folders}
    listed = {folder: photos.photographs() for folder, photos in sources.items()}
    counts = Counter(failed=sum(sum(getattr(photos, "left_out", {}).values()) for photos in sources.values()))
    partial = path.with_name(f"{path.name}.partial")

    def facts() -> Iterator[Facts]:
        for folder, photos in sources.items():
            names = (photograph.name for photograph in listed[folder])
            for found in file.examine(photos, names, workers, f"{folder.rstrip('/')}/"):
                if found.error:
                    print(printable(f"cannot be hashed: {found.name}: {found.error}"), file=sys.stderr)
                counts["failed" if found.error else "hashed"] += 1
                yield found

    with FactsFile(partial) as file:
        write_list(path, facts())
    partial.unlink()
    print(f"{output}: {counts['hashed']} images hashed, {counts['failed']} could not be read")
    return 1 if counts["failed"] else 0
