"""Measure `tiny` and JPEG on the same images: PSNR, LPIPS (alex) and T-ACC against bits.

    python training/quality.py --weights tiny.safetensors --alexnet FILE --photos DIR... --text ROOT:SET...

Every photograph is resized (short side to 256, Lanczos) and centre-cropped to 256 x 256. Text images go through TokBench's own protocol: fitted into 256 x 256 on
black, reconstructed, cut out, resized back; words are read from their boxes in the original's pixels and counted when the string is exact; words outside the ratio bins
.02/.03/.04/1 or misread on the original are dropped; T-ACC is the mean of the three bins. JPEG is Pillow's (optimize, 4:2:0); its bits are the whole file's.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
SIDE = 256
BINS = (0.02, 0.03, 0.04, 1.0)

Codec = Callable[[np.ndarray], tuple[np.ndarray, float]]
"""uint8 [256, 256, 3] -> (reconstruction likewise, bits)."""
Reader = Callable[[np.ndarray], str]
"""uint8 [h, w, 3] crop of one word -> the string read."""


def rapid_reader() -> Reader:
    """rapidocr's recogniser on a word's box, without detection; its wheel carries the weights."""
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": 1})

    def read(crop: np.ndarray) -> str:
        found = engine(np.ascontiguousarray(crop[..., ::-1]), use_det=False, use_cls=False, use_rec=True)
        return found.txts[0] if found.txts else ""

    return read


def easyocr_reader(folder: Path) -> Reader:
    """EasyOCR's English recogniser from `folder`/english_g2.pth."""
    import easyocr

    engine = easyocr.Reader(
        ["en"], gpu=False, detector=False, model_storage_directory=str(folder), download_enabled=False, verbose=False
    )

    def read(crop: np.ndarray) -> str:
        grey = np.asarray(Image.fromarray(crop).convert("L"))
        found = engine.recognize(grey, [[0, grey.shape[1], 0, grey.shape[0]]], [])
        return found[0][1] if found else ""

    return read


def jpeg(quality: int) -> Codec:
    """Pillow's JPEG at this quality."""

    def run(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
        return np.asarray(Image.open(buffer).convert("RGB")), 8.0 * buffer.tell()

    return run


def tiny(weights: Path, tokens: int) -> Codec:
    """The tokenizer with a prefix of `tokens` tokens."""
    from vtbench.zoo.tiny import load_net

    net = load_net(weights)

    def run(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        ids = net.encode_ids(images)[:, :tokens]
        output = net.decode_ids(ids, SIDE, SIDE)[0].permute(1, 2, 0)
        return (output * 255).round().byte().numpy(), ids.shape[1] * math.log2(len(net.codebook()))

    return run


def square(path: Path) -> np.ndarray:
    """Short side to 256, centre crop."""
    image = Image.open(path).convert("RGB")
    scale = SIDE / min(image.size)
    image = image.resize(
        (max(SIDE, round(image.width * scale)), max(SIDE, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def photo_quality(paths: list[Path], codec: Codec, distance: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Means over images of bits, PSNR (8-bit pixels, per image) and LPIPS."""
    rows = []
    for path in paths:
        original = square(path)
        output, bits = codec(original)
        mse = ((original.astype(np.float64) - output) ** 2).mean()
        with torch.no_grad():
            rows.append(
                (bits, 10 * math.log10(255**2 / max(mse, 1e-9)), float(distance(tensor(output), tensor(original))))
            )
    bits, psnr, lpips = np.mean(rows, 0)
    return {"bits": bits, "bpp": bits / SIDE**2, "psnr": psnr, "lpips": lpips}


def text_samples(root: Path, name: str) -> list[tuple[Image.Image, list[dict[str, object]]]]:
    """TokBench's layout: (image, annotations) pairs of one text set."""
    meta = json.loads((root / f"annotations/text_{name}.json").read_text())
    return [
        (Image.open(root / "images/text_data" / name / m["file_name"]).convert("RGB"), m["annotations"]) for m in meta
    ]


def through(image: Image.Image, codec: Codec) -> tuple[Image.Image, float]:
    """TokBench's frame: fit into 256 x 256 on black, reconstruct, cut out, resize back."""
    scale = SIDE / max(image.size)
    width, height = math.ceil(image.width * scale), math.ceil(image.height * scale)
    canvas = Image.new("RGB", (SIDE, SIDE))
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    canvas.paste(image.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    output, bits = codec(np.asarray(canvas))
    return Image.fromarray(output).crop((left, top, left + width, top + height)).resize(
        image.size, Image.Resampling.LANCZOS
    ), bits


def readable(
    samples: list[tuple[Image.Image, list[dict[str, object]]]], read: Reader
) -> list[tuple[Image.Image, list[tuple[str, list[int], int]]]]:
    """Words (string, box, bin) inside the bins that the recogniser reads on the original."""
    kept = []
    for image, boxes in samples:
        pixels, words = np.asarray(image), []
        for a in boxes:
            place = int(np.searchsorted(BINS, a["ratio"], side="right")) - 1
            x0, y0, x1, y1 = (int(v) for v in a["bbox"])  # type: ignore[union-attr]
            if 0 <= place < 3 and read(pixels[y0:y1, x0:x1]) == a["rec"]:
                words.append((str(a["rec"]), [x0, y0, x1, y1], place))
        kept.append((image, words))
    return kept


def text_quality(
    samples: list[tuple[Image.Image, list[tuple[str, list[int], int]]]], codec: Codec, read: Reader
) -> dict[str, float]:
    """T-ACC per bin (large is the last), their mean, and mean bits per image."""
    right, count, bits = np.zeros(3), np.zeros(3), []
    for image, words in samples:
        output, used = through(image, codec)
        bits.append(used)
        pixels = np.asarray(output)
        for word, (x0, y0, x1, y1), place in words:
            count[place] += 1
            right[place] += read(pixels[y0:y1, x0:x1]) == word
    share = right[count > 0] / count[count > 0]
    return {
        "bits": float(np.mean(bits)),
        "t_acc": float(share.mean()),
        "words": int(count.sum()),
        "per_bin": [round(float(v), 3) for v in right / np.maximum(count, 1)],
    }  # type: ignore[dict-item]


def main() -> None:
    """Command line; prints one JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--alexnet", type=Path)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--text", nargs="*", default=[], help="ROOT:SET in TokBench's layout")
    parser.add_argument("--easyocr", type=Path, help="folder of english_g2.pth; rapidocr without it")
    parser.add_argument("--tokens", type=int, nargs="*", default=[16, 64, 128, 320, 640, 1344])
    parser.add_argument("--jpeg", type=int, nargs="*", default=[1, 2, 3, 5, 7, 10, 15, 20, 30])
    args = parser.parse_args()
    torch.set_num_threads(1)
    codecs = {f"tiny:tokens={n}": tiny(args.weights, n) for n in args.tokens} | {
        f"jpeg:quality={q}": jpeg(q) for q in args.jpeg
    }
    if args.photos:
        from lpips_alex import Lpips

        distance = Lpips(args.alexnet)
        for folder in args.photos:
            paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg"})
            for name, codec in codecs.items():
                print(
                    json.dumps(
                        {"data": folder.name, "n": len(paths), "model": name, **photo_quality(paths, codec, distance)}
                    ),
                    flush=True,
                )
    read = (easyocr_reader(args.easyocr) if args.easyocr else rapid_reader()) if args.text else None
    for place in args.text:
        root, _, name = place.rpartition(":")
        samples = readable(text_samples(Path(root), name), read)
        for label, codec in codecs.items():
            print(
                json.dumps(
                    {
                        "data": f"{Path(root).name}:{name}",
                        "reader": "easyocr" if args.easyocr else "rapidocr",
                        "model": label,
                        **text_quality(samples, codec, read),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
