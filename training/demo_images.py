"""Make the demo data that the package carries: `vtbench/demo/`.

    python training/demo_images.py --lomiri DIR --out vtbench/demo

DIR is `usr/share/backgrounds` of Debian's package lomiri-wallpapers-16.04; the other photographs come with scikit-image 0.26. The words are drawn in matplotlib's
DejaVu fonts. A word is kept only where a recogniser (rapidocr, on the word's own box) reads it on the image as made; otherwise the next candidate is tried.
Deterministic for given versions of Pillow, matplotlib, scikit-image and rapidocr.
"""

# ruff: noqa: SIM905  (a word list reads better as words)
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from words import draw_word, word_box

SIDE = 256
PHOTOS = {
    # name: (file, box of the crop as fractions left, top of a square whose side is a fraction of the short side)
    "astronaut": ("skimage:astronaut.png", (0.0, 0.0, 1.0)),
    "brushes": ("lomiri:Picture_1A_by_freespace.jpg", (0.1, 0.0, 1.0)),
    "cat": ("skimage:chelsea.png", (0.2, 0.0, 1.0)),
    "coffee": ("skimage:coffee.png", (0.15, 0.0, 1.0)),
    "dandelions": ("lomiri:seeding_by_Clements_Engelhardt.jpg", (0.1, 0.0, 1.0)),
    "dogs": ("lomiri:friends_by_Aitzol_Berasategi.jpg", (0.1, 0.2, 0.7)),
    "mountains": ("lomiri:aitzgorri_by_Aitzol_Berasategi.jpg", (0.2, 0.0, 1.0)),
    "rocket": ("skimage:rocket.jpg", (0.17, 0.0, 1.0)),
    "wine": ("lomiri:Wine_by_Jakkub_Mede.jpg", (0.0, 0.04, 1.0)),
}
BACKGROUNDS = [
    "white",
    "gradient:20,40,90:90,140,200",
    "mountains",
    "cream",
    "dogs",
    "gradient:230,220,190:180,120,90",
    "coffee",
    "dark",
]
FLAT = {"white": (255, 255, 255), "cream": (246, 238, 214), "dark": (28, 30, 36)}
FONTS = ["DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf"]
BINS = {"small": (0.021, 0.029), "medium": (0.031, 0.039), "large": (0.042, 0.075)}
"""Ranges of `ratio` aimed at, inside TokBench's bins for 256 pixels: [.02, .03), [.03, .04), [.04, 1)."""
PLAN = ["large", "medium", "small", "medium", "small", "large", "small", "medium", "large", "small", "medium", "small"]
WORDS = """harbour Museum LIBRARY coffee Station market Bridge GARDEN window Summer Platform yellow Theatre orange School river Kitchen winter bakery Hotel Island copper
Saturday village paper Forest Castle purple London number silver Orchard station morning Tunnel basket Bicycle lantern Valley marble Friday camera Season planet
Harvest pocket violin Gallery ribbon Meadow Anchor bottle Cotton engine Feather ginger hammer Jacket ladder mirror needle Oyster pencil Quarter rocket saddle ticket
Umbrella velvet walnut Zebra author button candle doctor eleven Flower guitar honey Insect jungle kettle lemon magnet Nation ocean Pepper rabbit Signal teapot
unity Visitor whale Youth zone actor Beach cloud dance Earth field Grape house image Juice knife Light music night Olive piano queen Radio stone table""".split()


def photograph(name: str, lomiri: Path) -> Image.Image:
    """The named photograph's square crop at 256 x 256."""
    source, (left, top, side) = PHOTOS[name]
    where, file = source.split(":")
    if where == "skimage":
        import skimage

        path = Path(skimage.__file__).parent / "data" / file
    else:
        path = lomiri / file
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    edge = round(min(image.size) * side)
    x, y = round(min(left * image.width, image.width - edge)), round(min(top * image.height, image.height - edge))
    return image.crop((x, y, x + edge, y + edge)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def background(spec: str, lomiri: Path) -> Image.Image:
    """A flat colour, a vertical gradient, or a photograph blurred by two pixels."""
    if spec in FLAT:
        return Image.new("RGB", (SIDE, SIDE), FLAT[spec])
    if spec.startswith("gradient:"):
        first, last = (np.array([int(v) for v in part.split(",")]) for part in spec.split(":")[1:])
        ramp = np.linspace(0, 1, SIDE)[:, None, None] * (last - first) + first
        return Image.fromarray(np.broadcast_to(ramp.round(), (SIDE, SIDE, 3)).astype(np.uint8))
    return photograph(spec, lomiri).filter(ImageFilter.GaussianBlur(2))


def ink_colour(under: np.ndarray, number: int) -> tuple[int, int, int]:
    """Dark inks on light ground and light inks on dark ground, a few hues in turn."""
    dark, light = (
        [(15, 15, 20), (120, 10, 20), (10, 50, 120), (10, 80, 40)],
        [(255, 255, 255), (255, 235, 120), (200, 240, 255), (255, 255, 255)],
    )
    return (dark if under.mean() > 120 else light)[number % 4]


def font_size(word: str, font: str, aim: tuple[float, float]) -> int:
    """The font size whose word box has a ratio in the middle of `aim`."""
    middle = sum(aim) / 2
    sizes = range(7, 60)
    ratios = [(word_box(word, font, s)[2] - word_box(word, font, s)[0]) / (len(word) * SIDE) for s in sizes]
    return min(zip(sizes, ratios, strict=True), key=lambda pair: abs(pair[1] - middle))[0]


def write_words(
    index: int, ground: Image.Image, fonts: list[str], words: list[str], read: object
) -> tuple[Image.Image, list[dict[str, object]]]:
    """Words top to bottom in rows, two a row where they fit; takes what it uses from the front of `words`."""
    rng = np.random.default_rng(index)
    image, annotations = ground.copy(), []
    cursor_y, cursor_x, row = 8, 8, 0
    for number, size_name in enumerate(PLAN):
        for _ in range(min(8, len(words))):
            word, font = words[0], fonts[(number + index) % len(fonts)]
            size = font_size(word, font, BINS[size_name])
            x0, y0, x1, y1 = word_box(word, font, size)
            w, h = x1 - x0, y1 - y0
            if cursor_x + w > SIDE - 6:
                cursor_x, cursor_y, row = int(rng.integers(6, 24)), cursor_y + row + int(rng.integers(15, 24)), 0
            if cursor_y + h > SIDE - 6:
                return image, annotations
            if cursor_x + w > SIDE - 6:
                words.append(words.pop(0))
                continue
            under = np.asarray(ground.crop((cursor_x, cursor_y, cursor_x + w, cursor_y + h)))
            trial = image.copy()
            box = draw_word(trial, word, font, size, cursor_x, cursor_y, ink_colour(under, number + index))
            ratio = max(w, h) / (len(word) * SIDE)
            words.append(words.pop(0))
            if read(np.asarray(trial.crop(box))) == word:  # type: ignore[operator]
                image = trial
                annotations.append({"rec": word, "bbox": [float(v) for v in box], "ratio": ratio})
                words.pop()
                cursor_x, row = cursor_x + w + int(rng.integers(12, 30)), max(row, h)
                break
    return image, annotations


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lomiri", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    import matplotlib
    from quality import rapid_reader

    read = rapid_reader()
    (args.out / "images/photos").mkdir(parents=True, exist_ok=True)
    (args.out / "images/text_data/demo").mkdir(parents=True, exist_ok=True)
    (args.out / "annotations").mkdir(exist_ok=True)
    for name in PHOTOS:
        photograph(name, args.lomiri).save(args.out / f"images/photos/{name}.png", optimize=True)
    fonts = [os.path.join(matplotlib.get_data_path(), "fonts/ttf", name) for name in FONTS]
    words = list(WORDS)
    meta = []
    for index, spec in enumerate(BACKGROUNDS):
        image, annotations = write_words(index, background(spec, args.lomiri), fonts, words, read)
        file = f"words_{index}.png"
        image.save(args.out / "images/text_data/demo" / file, optimize=True)
        meta.append({"file_name": file, "height": SIDE, "width": SIDE, "annotations": annotations})
    (args.out / "annotations/text_demo.json").write_text(json.dumps(meta, indent=1) + "\n")
    ratios = np.array([a["ratio"] for m in meta for a in m["annotations"]])
    print(f"{len(ratios)} words; per bin", np.histogram(ratios, [0.02, 0.03, 0.04, 1.0])[0].tolist())


if __name__ == "__main__":
    main()
