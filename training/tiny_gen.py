"""Train `tiny-gen`, a token generator over `tiny`'s first 320 tokens, on the photographs of `photographs.py` and on rendered words.

    python training/tiny_gen.py --images PHOTOS --fonts FONTS --out tiny_gen.safetensors --steps N --seed 0 --threads 1

It first cuts crops (whole scenes and details, mirrored half of the time) and keeps their tokens beside OUT; then it learns each next token from those before it and the
class, which one time in ten it is not told. A crop in sixteen is held out; its loss is the second number of the log.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import Stage, export, text_crop
from words import usable_fonts

from vtbench.zoo.tiny import load_net
from vtbench.zoo.tiny_gen_network import CLASSES, LENGTH, TinyGenNet

SIDE = 256


def class_of(path: Path) -> str:
    """What a photograph shows, by the part of the package that it is from."""
    name = path.stem
    if name.startswith(("gcompris-erase", "gcompris-explore_world_animals", "gcompris-explore_farm")):
        return "animals"
    if name.startswith("gcompris-explore_monuments"):
        return "monuments"
    return "various" if name.startswith("gcompris-") else "nature"


def crop_of(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """A square of 60% to 100% of the short side at 256 x 256, mirrored half of the time: uint8 [256, 256, 3]."""
    side = int(min(image.size) * rng.uniform(0.6, 1.0))
    left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
    crop = np.asarray(
        image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side)).convert("RGB")
    )
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def pictures(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops of every photograph and crops with words -> ids [N, 320], labels [N], and the photograph of each (words: -1, -2, ...)."""
    rng = np.random.default_rng(args.seed)
    net = load_net(args.tokenizer)
    import matplotlib

    fonts = usable_fonts([*args.fonts, *(Path(matplotlib.get_data_path()) / "fonts/ttf").glob("DejaVu*.ttf")])
    ids, labels, sources = [], [], []
    grounds: list[list[np.ndarray]] = []

    def keep(crop: np.ndarray, label: str, source: int) -> None:
        image = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
        ids.append(net.encode_ids(image)[0, :LENGTH].numpy().astype(np.uint8))
        labels.append(CLASSES.index(label))
        sources.append(source)

    paths = sorted(args.images.glob("*.png"))
    for number, path in enumerate(paths):
        with Image.open(path) as opened:
            if opened.mode != "RGB" or min(opened.size) < SIDE // 2:
                continue  # cut-outs
            image = opened.convert("RGB")
        for _ in range(args.crops):
            crop = crop_of(rng, image)
            keep(crop, class_of(path), number)
        grounds.append([crop])
    stage = Stage((True,), (16, 60), True)
    for number in range(args.crops * 60):
        keep(text_crop(rng, grounds, fonts, SIDE, stage)[0], "words", -1 - number)
    return np.stack(ids), np.array(labels), np.array(sources)


def loss_of(net: TinyGenNet, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean nats per token."""
    logits = net(labels, ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten())


def train(args: argparse.Namespace) -> None:
    """Tokens (made once, kept beside OUT), then the steps; writes OUT."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    kept = args.out.with_name(args.out.name + ".tokens.npz")
    if not kept.exists():
        ids, labels, sources = pictures(args)
        np.savez_compressed(kept, ids=ids, labels=labels, sources=sources)
    with np.load(kept) as stored:
        ids, labels, sources = stored["ids"], stored["labels"], stored["sources"]
    held = sources % 16 == 0
    print(
        f"{len(ids)} crops, {int(held.sum())} held out",
        [int((labels == c).sum()) for c in range(len(CLASSES))],
        flush=True,
    )
    seen, told = torch.from_numpy(ids[~held]).long(), torch.from_numpy(labels[~held])
    test, test_told = torch.from_numpy(ids[held][:256]).long(), torch.from_numpy(labels[held][:256])

    net = TinyGenNet(drop=args.drop)
    ema = TinyGenNet().requires_grad_(False).eval()
    ema.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.05)
    began, total = time.monotonic(), 0.0
    for step in range(args.steps):
        rng = np.random.default_rng((args.seed, step))
        pick = torch.from_numpy(rng.integers(0, len(seen), args.batch))
        label = torch.where(torch.from_numpy(rng.random(args.batch) < 0.1), len(CLASSES), told[pick])
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / 100, (args.steps - step) / (0.5 * args.steps))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(net, seen[pick], label)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(0.995, (step + 1) / (step + 10))
            for slow, fast in zip(ema.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        total += float(loss.detach())
        if (step + 1) % args.log == 0 or step + 1 == args.steps:
            with torch.no_grad():
                apart = float(loss_of(ema, test, test_told))
            each = (time.monotonic() - began) / (step + 1)
            print(
                f"{step + 1}/{args.steps}  nats a token {total / args.log:.4f}  held out {apart:.4f}  {each:.3f} s/step",
                flush=True,
            )
            total = 0.0
            about: dict[str, object] = {"steps": step + 1, "seed": args.seed, "batch": args.batch, "crops": len(ids)}
            export(ema, args.out, {**about, "held_out_nats_per_token": round(apart, 4)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="what photographs.py wrote")
    parser.add_argument(
        "--fonts", type=Path, nargs="*", default=[], help="folders of fonts besides matplotlib's DejaVu"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=Path(__file__).parents[1] / "vtbench/zoo/tiny.safetensors")
    parser.add_argument("--crops", type=int, default=12, help="crops of every photograph")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--drop", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log", type=int, default=50)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
