"""`python -m training.gather`: cut-outs and emoji out of unpacked free packages -> the layout of the data folder.

What to unpack stands in training/README.md. Every source is optional.
"""

from __future__ import annotations

import argparse
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from training.arguments import existing_folder

LONGEST_CUT_OUT, EMOJI_SIZE = 192, 96
MIN_OPAQUE_PIXELS = 1000
# Folders of tuxpaint's stamps without things that could stand in a photo.
NOT_THINGS = {"symbols", "flags", "roadsigns", "military", "us", "euro"}
# Opaque corners: a picture with its background, not a cut-out.
MAX_OPAQUE_CORNERS = 1


def cut_outs(stamps: Path, out: Path) -> int:
    """Copy the stamps of tuxpaint that have a transparent background; the kind is folder and name without numbers."""
    count = 0
    for path in sorted(stamps.rglob("*.png")):
        parts = path.relative_to(stamps).parts[:-1]
        if NOT_THINGS & set(parts) or path.stem.endswith(("_mirror", "_flip")):
            continue
        with Image.open(path) as stored:
            picture = stored.convert("RGBA")
        alpha = np.asarray(picture)[..., 3] > 127
        corners = int(alpha[0, 0]) + int(alpha[0, -1]) + int(alpha[-1, 0]) + int(alpha[-1, -1])
        if alpha.sum() < MIN_OPAQUE_PIXELS or corners > MAX_OPAQUE_CORNERS:
            continue
        rows, columns = np.nonzero(alpha)
        picture = picture.crop((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        picture.thumbnail((LONGEST_CUT_OUT, LONGEST_CUT_OUT))
        name = re.sub(r"[-_]*\d+[a-z]?$", "", path.stem)
        folder = out / "cutouts" / "_".join([*parts, name])
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{path.stem}.png")
        count += 1
    return count


def emoji_style(folder: Path, style: str, out: Path) -> int:
    """Copy a style's pictures, named by code points or by the names that Unicode gives single characters."""
    target = out / "emoji_styles" / style
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for path, points in _named_emoji(folder):
        with Image.open(path) as stored:
            picture = stored.convert("RGBA").resize((EMOJI_SIZE, EMOJI_SIZE), Image.Resampling.LANCZOS)
        picture.save(target / f"emoji_u{points}.png")
        count += 1
    return count


def _named_emoji(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted([*folder.rglob("*.png"), *folder.rglob("*.webp")]):
        parts = path.stem.lower().split("-")
        if all(re.fullmatch(r"[0-9a-f]{2,6}", part) for part in parts):
            points = [part.zfill(4) for part in parts if part != "fe0f"]
        else:
            try:
                points = [f"{ord(unicodedata.lookup(path.stem.replace('_', ' '))):04x}"]
            except KeyError:
                continue
        # Flags, digits, letters and geometry are no things.
        if points and int(points[0], 16) >= 0x2600 and not 0x1F1E6 <= int(points[0], 16) <= 0x1F1FF:
            yield path, "_".join(points)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and gather."""
    parser = argparse.ArgumentParser(prog="python -m training.gather", description=__doc__)
    parser.add_argument("--stamps", type=existing_folder, help="the folder stamps/ of tuxpaint-stamps-default")
    parser.add_argument("--emoji", type=existing_folder, nargs="*", default=[], help="folders of other emoji styles")
    parser.add_argument("--out", type=Path, required=True, help="the data folder")
    given = parser.parse_args(arguments)
    if given.stamps is None and not given.emoji:
        parser.error("nothing to gather: give --stamps, --emoji or both")
    if given.stamps is not None:
        print(f"{cut_outs(given.stamps, given.out)} cut-outs")
    for style in given.emoji:
        print(f"{emoji_style(style, style.name, given.out)} emoji of {style.name}")


if __name__ == "__main__":
    main()
