"""Words drawn onto images: training crops want many odd ones, the demo images want a few tidy ones."""

# ruff: noqa: SIM905  (a word list reads better as words)
from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_ONSETS = (*"b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sl st t th tr v w y z".split(), "")
_VOWELS = tuple("a e i o u ai ea ee ie oo ou ow".split())
_CODAS = (*"b ck d ft g k l ll m mp n nd ng nt p r rd rn rt s ss st t th x ze".split(), "", "")


def usable_fonts(places: list[Path]) -> list[str]:
    """TrueType and OpenType fonts (files, or folders to look through) that draw Latin letters, in the order of their names."""
    files = {
        p.name: p
        for place in places
        for p in ([place] if place.is_file() else place.rglob("*"))
        if p.suffix.lower() in {".ttf", ".otf"}
    }
    found = []
    for _, path in sorted(files.items()):
        font = _font(str(path), 24)
        masks = [bytes(font.getmask(letter)) for letter in ("A", "g", "7", "￿")]
        if len(set(masks)) == 4 and all(font.getlength(letter) > 4 for letter in "Ag7"):
            found.append(str(path))
    return found


@functools.lru_cache(maxsize=4096)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def random_word(rng: np.random.Generator) -> str:
    """A pronounceable non-word, a number or a mixed string. No dictionary, so that no test word is ever trained on as such."""
    kind = rng.random()
    if kind < 0.12:
        return str(rng.integers(0, 10 ** int(rng.integers(1, 7))))
    if kind < 0.22:
        alphabet = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789$%&#@.,:;!?-/+"))
        return "".join(rng.choice(alphabet, int(rng.integers(2, 8))))
    word = "".join(
        str(rng.choice(_ONSETS)) + str(rng.choice(_VOWELS)) + str(rng.choice(_CODAS))
        for _ in range(int(rng.integers(1, 4)))
    )
    case = rng.random()
    return word.upper() if case < 0.3 else word.capitalize() if case < 0.6 else word


def draw_word(
    image: Image.Image, word: str, font: str, size: int, left: int, top: int, colour: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Draw `word` with its ink's upper left corner at (left, top); returns the ink's box (x0, y0, x1, y1) in pixels."""
    box = word_box(word, font, size)
    ImageDraw.Draw(image).text((left - box[0], top - box[1]), word, font=_font(font, size), fill=colour)
    return left, top, left + box[2] - box[0], top + box[3] - box[1]


def word_box(word: str, font: str, size: int) -> tuple[int, int, int, int]:
    """Ink box of `word` drawn at the origin."""
    x0, y0, x1, y1 = _font(font, size).getbbox(word)
    return int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))


LUMA = np.array([0.299, 0.587, 0.114])


def contrasting_colour(
    rng: np.random.Generator, background: np.ndarray, distance: float = 90.0
) -> tuple[int, int, int]:
    """A random colour whose luma is at least `distance` (of 255) from the mean of `background` [h, w, 3]."""
    target = float(background.reshape(-1, 3).mean(0) @ LUMA)
    for _ in range(50):
        colour = rng.integers(0, 256, 3) if rng.random() < 0.6 else np.full(3, rng.integers(0, 256))
        if abs(float(colour @ LUMA) - target) >= distance:
            return int(colour[0]), int(colour[1]), int(colour[2])
    return (0, 0, 0) if target > 127 else (255, 255, 255)


def scatter_words(
    rng: np.random.Generator,
    pixels: np.ndarray,
    fonts: list[str],
    sizes: tuple[float, float] = (8, 46),
    plates: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Training text: several non-words, possibly cut by the border, in font sizes between `sizes`, on uint8 pixels [h, w, 3].

    plates: the share of words that get a plate of one colour behind them.

    Returns:
        New pixels, and what an error costs where: float32 [h, w], in a word's box 1 / contrast^2 (1 for black on white, 16 at most), elsewhere 0.
    """
    image = Image.fromarray(pixels)
    width, height = image.size
    costs = np.zeros((height, width), np.float32)

    def size_of_font() -> int:
        return int(np.exp(rng.uniform(np.log(sizes[0]), np.log(sizes[1]))))

    font, size = str(rng.choice(fonts)), size_of_font()
    small = size < 18 * sizes[1] / 46
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(int(rng.integers(2, 20 if small else 9))):
        if rng.random() < 0.3:
            font, size = str(rng.choice(fonts)), size_of_font()
        word = random_word(rng)
        x0, y0, x1, y1 = word_box(word, font, size)
        for _ in range(6):
            left, top = int(rng.integers(-10, max(width - 20, 1))), int(rng.integers(-2, max(height - size // 2, 1)))
            box = (left - 2, top - 2, left + x1 - x0 + 2, top + y1 - y0 + 2)
            if all(box[2] <= t[0] or box[0] >= t[2] or box[3] <= t[1] or box[1] >= t[3] for t in taken):
                taken.append(box)
                place = (slice(max(box[1], 0), max(box[3], 1)), slice(max(box[0], 0), max(box[2], 1)))
                under = pixels[place]
                if rng.random() < plates:
                    plate = rng.integers(0, 256, 3) if rng.random() < 0.5 else np.full(3, rng.choice([20, 245]))
                    ImageDraw.Draw(image).rectangle(box, fill=tuple(plate.tolist()))
                    under = plate[None, None]
                colour = contrasting_colour(rng, under)
                draw_word(image, word, font, size, left, top, colour)
                contrast = abs(float((under.reshape(-1, 3).mean(0) - colour) @ LUMA)) / 255
                costs[place] = 1 / max(contrast, 0.25) ** 2
                break
    return np.asarray(image), costs
