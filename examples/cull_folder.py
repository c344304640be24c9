"""Cull a shoot: the best frame of every burst goes into a folder of keepers, and every frame gets its stars.

    python examples/cull_folder.py ~/Pictures/wedding keepers             # --link: hard links, which take no room
    python examples/cull_folder.py ~/Pictures/wedding keepers --top 40    # only the 40 best of them
    python examples/cull_folder.py                                        # a small shoot that is made on the spot

Frames are a burst if they were taken within --gap seconds of each other and look alike. The stars go into XMP
sidecars for photo programs: by score for the best of a burst, one for the others. The photographs are not touched, and
a rating that you gave yourself stays. Without a line of Python, but without the copies: `redaes rank FOLDER --bursts
--xmp`.
"""

import argparse
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

from redaes.data.images import list_images
from redaes.errors import UserError
from redaes.inference.bursts import find_bursts
from redaes.inference.listing import fingerprint, load_scorer, score_files
from redaes.inference.xmp import rated_by_person, sidecars, stars, write_rating
from redaes.sources.skimage_photos import SkimagePhotos


def score(files: list[Path], model: str) -> dict[Path, float]:
    """The score of every file that can be opened; of the others a line says why not."""
    batches = score_files(files, load_scorer(model), fingerprint(model))
    rows = dict(zip(files, (row for batch in batches for row in batch), strict=True))
    for path, row in rows.items():
        if row.score is None:
            print(f"{path}: {row.error}")
    return {path: row.score for path, row in rows.items() if row.score is not None}


def put(photograph: Path, target: Path, link: bool) -> None:
    """Copy or link a photograph, and copy its sidecars, so that a photo program shows the keepers with their stars."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if link:
        os.link(photograph, target)
    else:
        shutil.copy2(photograph, target)
    for sidecar, beside in zip(sidecars(photograph), sidecars(target), strict=True):
        if sidecar.is_file():
            shutil.copy2(sidecar, beside)


def make_shoot(folder: Path) -> Path:
    """Four scenes of three frames, as a camera writes them: one out of focus, one too dark, one as it should be."""
    folder.mkdir(parents=True, exist_ok=True)
    photographs = SkimagePhotos(["astronaut", "chelsea", "coffee", "rocket"])
    began = datetime(2026, 5, 1, 12)
    for scene, name in enumerate(photographs.names):
        photograph = photographs.open(name)
        for frame in range(3):
            shake = 4 * frame  # no hand is quite still
            image = photograph.crop((shake, shake, photograph.width - 12 + shake, photograph.height - 12 + shake))
            if frame == scene % 3:
                image = image.filter(ImageFilter.GaussianBlur(5))
            elif frame == (scene + 1) % 3:
                image = ImageEnhance.Brightness(image).enhance(0.4)
            exif = Image.Exif()
            exif.get_ifd(0x8769)[0x9003] = f"{began + timedelta(minutes=5 * scene, seconds=frame):%Y:%m:%d %H:%M:%S}"
            image.save(folder / f"IMG_{3 * scene + frame + 1:04}.jpg", exif=exif, quality=92)
    return folder


def main() -> None:
    """Score, group, rate, copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="photographs; searched recursively")
    parser.add_argument("keepers", nargs="?", type=Path, default=Path("keepers"), help="folder for the best")
    parser.add_argument("--model", default="nano", help="a checkpoint folder, or nano")
    parser.add_argument("--gap", type=float, default=3.0, help="seconds between two frames of a burst, at most")
    parser.add_argument("--top", type=int, help="how many to keep, at most")
    parser.add_argument("--link", action="store_true", help="hard links instead of copies; on the same disk only")
    options = parser.parse_args()

    folder = options.folder or make_shoot(Path("shoot"))
    if options.keepers.resolve().is_relative_to(folder.resolve()):
        raise SystemExit(f"{options.keepers}: name a folder outside {folder}")
    files = list_images([str(folder)])
    scores, mark = score(files, options.model), fingerprint(options.model)
    bursts = [sorted(b, key=scores.__getitem__, reverse=True) for b in find_bursts(sorted(scores), options.gap)]
    bursts.sort(key=lambda burst: -scores[burst[0]])

    best = {burst[0] for burst in bursts}
    for path in sorted(scores, key=lambda path: (path in best, scores[path])):  # the better of two that share one wins
        if any(map(rated_by_person, sidecars(path))):
            continue
        for sidecar in sidecars(path):
            try:
                write_rating(sidecar, stars(scores[path]) if path in best else 1, scores[path], mark)
            except UserError as error:  # somebody else's file of that name
                print(error)

    for place, burst in enumerate(bursts, 1):
        kept = options.top is None or place <= options.top
        if kept:
            put(burst[0], options.keepers / burst[0].relative_to(folder), options.link)
        others = ", ".join(f"{path.name} {scores[path]:.1f}" for path in burst[1:])
        words = f"{burst[0].relative_to(folder)}  {scores[burst[0]]:4.1f}  {'★' * stars(scores[burst[0]]):5}"
        print(f"{'keep' if kept else '    '}  {words}{f'  better than {others}' if others else ''}".rstrip())
    print(f"{len(files)} photographs, {len(bursts)} bursts, {min(len(bursts), options.top or len(bursts))} keepers")
    print(f"they are in {options.keepers}; the stars lie beside the photographs in {folder}")


if __name__ == "__main__":
    main()
