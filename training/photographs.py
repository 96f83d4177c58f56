"""Gather the photographs of Debian 12 packages that the second stage of `tiny` is trained on.

    python training/photographs.py --unpacked DIR --out PHOTOS

DIR holds the unpacked packages (`apt-get download PACKAGE; dpkg -x FILE.deb DIR`): gcompris-qt-data, tuxpaint-stamps-default, plasma-workspace-wallpapers, mate-backgrounds,
lomiri-wallpapers-16.04, lomiri-wallpapers-20.04. GCompris keeps its photographs in Qt resource files, as they are: they are found there by their first bytes. Five photographs
of lomiri-wallpapers-16.04 are left out, since the demo's images are cut from them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SHORTEST = 144
"""Short side in pixels of the smallest photograph that training takes."""
LARGEST = 1120
"""Short side to which larger ones are reduced."""
GCOMPRIS = (
    "categorization",
    "details",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
"""Activities illustrated by photographs; those of them with transparency are cut-outs or drawings."""
PLASMA = tuple(
    "Autumn BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf FlyingKonqui Grey Kite OneStandsOut Path summer_1am".split()  # noqa: SIM905
)
DEMO = ("Picture_1A_by", "Wine_by", "aitzgorri_by", "friends_by", "seeding_by")
STARTS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)


def embedded(file: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, image) of every opaque image that lies in a resource file; what only looks like the start of one is passed over."""
    content = file.read_bytes()
    for found in STARTS.finditer(content):
        try:
            with Image.open(io.BytesIO(content[found.start() :])) as image:
                if image.convert("RGBA").getextrema()[3][0] == 255:
                    yield f"{file.stem}-{found.start()}", image.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError):
            continue


def photographs(root: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, image) of every photograph under the unpacked packages, duplicates included."""
    share = root / "usr/share"
    for name in GCOMPRIS:
        for where, image in embedded(share / f"gcompris-qt/rcc/{name}.rcc"):
            yield f"gcompris-{where}", image
    files = [
        *(p for kind in ("animals", "plants") for p in (share / "tuxpaint/stamps" / kind).rglob("*.png") if "cartoon" not in str(p)),
        *(max((share / "wallpapers" / name / "contents/images").iterdir(), key=lambda p: p.stat().st_size) for name in PLASMA),
        *(share / "backgrounds/mate/nature").glob("*.jpg"),
        *(p for p in (share / "backgrounds").glob("*.jpg") if not p.name.startswith(DEMO)),
    ]  # fmt: skip
    for path in sorted(files):
        with Image.open(path) as image:
            name = path.parents[2].name if path.parent.name == "images" else path.stem
            yield name, image.convert("RGBA") if image.mode in ("RGBA", "P", "LA") else image.convert("RGB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpacked", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, image in photographs(args.unpacked):
        content = hashlib.sha256(image.tobytes()).hexdigest()
        if min(image.size) < SHORTEST or content in seen:
            continue
        seen.add(content)
        if min(image.size) > LARGEST:
            scale = LARGEST / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        image.save(args.out / f"{name}.png", compress_level=1)
    print(f"{len(seen)} photographs")


if __name__ == "__main__":
    main()
