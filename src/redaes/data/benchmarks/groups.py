"""The groups of a dataset of the engine: how well a scorer orders a photograph and its edits, within groups."""

from pathlib import Path

from redaes.data.benchmarks import About, Benchmark, Item
from redaes.data.benchmarks.lists import DUPLICATE, NO_IMAGE
from redaes.data.manifest import Manifest
from redaes.errors import UserError
from redaes.records import Split


class Groups:
    """Groups of one split; an image's score is S(x) + g, clipped to [0, 10].

    Args:
        root: a dataset written by `redaes data build`.
        split: which photographs.
    """

    about = About(
        "groups of a redaes dataset",
        None,
        "redaes data build",
        "of its sources",
        "manifest.json, groups.jsonl, images/",
    )

    def __init__(self, root: str, split: Split = "test") -> None:
        self.root = Path(root)
        self.split = split

    def load(self) -> Benchmark:
        """See `BenchmarkProtocol.load`."""
        manifest = Manifest(self.root)
        items: dict[str, Item] = {}
        left_out: dict[str, list[str]] = {}
        n_listed = 0
        for group in manifest.groups(self.split):
            for member in group.members:
                n_listed += 1
                path = manifest.path(member.image)
                if member.image in items:
                    left_out.setdefault(DUPLICATE, []).append(member.image)
                elif not path.is_file():
                    left_out.setdefault(NO_IMAGE, []).append(member.image)
                else:
                    mos = min(10.0, max(0.0, group.score + member.g))
                    items[member.image] = Item(member.image, path, mos, group=group.id)
        if not items:
            raise UserError(f"{self.root} has no image of a {self.split} group ({n_listed} listed); another split?")
        return Benchmark("groups", self.split, (0.0, 10.0), list(items.values()), n_listed, left_out)
