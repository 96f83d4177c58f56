"""Train the `tiny` tokenizer on a folder of photographs.

    python training/tiny.py --images DIR --out tiny.safetensors --steps N --seed 0 --threads 1

Half of the crops get rendered words, later more. The loss is L1 + gradients + LPIPS (alex) on decodes of random prefixes (nested dropout); on words, pixels weigh more later
on. A second stage (--start, --reading-from 0) holds words to squared errors. Learning rate: warm up, hold, decay over the last 45%. Every step draws its crops from
(seed, step), so a resumed run sees the same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from lpips_alex import Lpips
from words import scatter_words, usable_fonts

from vtbench.zoo.tiny_network import TinyNet

SCALES = (144, 224, 352, 560)
"""Short sides in pixels at which every photograph is kept (never enlarged beyond the first): a crop may be a whole scene or a detail."""


def load_photographs(folder: Path) -> list[list[np.ndarray]]:
    """Every readable image under `folder`, as uint8 [h, w, 3] at the scales that it is large enough for; transparency goes over a colour made from its name."""
    photographs = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}):
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * SCALES[-1], 2 * SCALES[-1]))
            image = opened.convert("RGBA")
        colour = tuple(np.random.default_rng(list(path.name.encode())).integers(0, 256, 3).tolist())
        flat = Image.new("RGB", image.size, colour)
        flat.paste(image, mask=image.getchannel("A"))
        sizes = [s for s in SCALES if s <= min(flat.size)] or [SCALES[0]]
        kept = []
        for short in sizes:
            ratio = short / min(flat.size)
            kept.append(
                np.asarray(
                    flat.resize(
                        (max(short, round(flat.width * ratio)), max(short, round(flat.height * ratio))),
                        Image.Resampling.LANCZOS,
                    )
                )
            )
        photographs.append(kept)
    if not photographs:
        raise SystemExit(f"no images under {folder}")
    return photographs


def photo_crop(rng: np.random.Generator, photographs: list[list[np.ndarray]], size: int) -> np.ndarray:
    """A crop [size, size, 3], mirrored half of the time, with its brightness, contrast and (rarely) channels changed."""
    scales = photographs[rng.integers(len(photographs))]
    photo = scales[rng.integers(len(scales))]
    top, left = rng.integers(photo.shape[0] - size + 1), rng.integers(photo.shape[1] - size + 1)
    crop = photo[top : top + size, left : left + size]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.15:
        crop = crop[..., rng.permutation(3)]
    if rng.random() < 0.5:
        crop = np.clip(
            (crop.astype(np.float32) - 128) * rng.uniform(0.7, 1.25) + 128 + rng.uniform(-25, 25), 0, 255
        ).astype(np.uint8)
    return np.ascontiguousarray(crop)


def text_crop(
    rng: np.random.Generator, photographs: list[list[np.ndarray]], fonts: list[str], size: int, stage: Stage
) -> tuple[np.ndarray, np.ndarray]:
    """Words on a photograph, a flat colour or a gradient: uint8 [size, size, 3], and the cost of an error in a word float32 [size, size] (`scatter_words`)."""
    kind = rng.random()
    if kind < 0.4:
        ground = photo_crop(rng, photographs, size)
        if stage.reads and rng.random() < 0.5:
            ground = np.asarray(Image.fromarray(ground).filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3))))
    else:
        ends = (
            rng.integers(0, 256, (2, 3))
            if kind > 0.75
            else np.repeat(rng.integers(0, 256, (1, 3)) if kind > 0.5 else rng.choice([0, 255, 240, 30], (1, 1)), 2, 0)
        )
        ramp = np.linspace(0, 1, size)[:, None, None] * (ends[1] - ends[0]) + ends[0]
        ground = np.broadcast_to(ramp, (size, size, 3)).astype(np.uint8)
        ground = np.ascontiguousarray(ground if rng.random() < 0.5 else ground.transpose(1, 0, 2))
    # In the end some words are drawn large and reduced, as those of a larger picture are.
    times = float(rng.choice([1.0, 1.0, 1.6, 2.5])) if stage.reads else 1.0
    plates = float(rng.choice([0.0, 0.0, 0.8])) if stage.reads else 0.0
    large = round(size * times)
    if times > 1:
        ground = np.asarray(Image.fromarray(ground).resize((large, large), Image.Resampling.BILINEAR))
    crop, costs = scatter_words(rng, ground, fonts, (stage.sizes[0] * times, stage.sizes[1] * times), plates)
    if times > 1:
        crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.LANCZOS))
        costs = np.asarray(Image.fromarray(costs).resize((size, size), Image.Resampling.BILINEAR))
    return crop, costs


@dataclass(frozen=True)
class Stage:
    """What the crops of a step are like."""

    text: tuple[bool, ...]
    """Which crops of the batch have words: every second one, later three of four, in the end seven of eight."""
    sizes: tuple[int, int]
    """Smallest and largest font size; in the end those at which letters are neither hopeless nor easy."""
    reads: bool
    """Whether words are held to squared errors."""

    @classmethod
    def at(cls, step: int, args: argparse.Namespace) -> Stage:
        """The stage of this step."""
        reads = step >= args.reading_from
        late = reads or step >= args.middle_sizes_from
        every = 8 if late else 4 if step >= args.mostly_text_from else 2
        sizes = (11, 30) if reads else (11, 32) if late else (8, 46)
        return cls(tuple(i % every > 0 for i in range(args.batch)), sizes, reads)


def batch_at(
    step: int, args: argparse.Namespace, photographs: list[list[np.ndarray]], fonts: list[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, 3, size, size] in [0, 1], costs of errors in words [B, size, size], and the fraction of the tokens that each keeps [B].

    A function of (seed, step) only.
    """
    rng = np.random.default_rng((args.seed, step))
    stage = Stage.at(step, args)
    crops, costs, keep = [], [], []
    for text in stage.text:
        crop, cost = photo_crop(rng, photographs, args.crop), np.zeros((args.crop, args.crop), np.float32)
        if text:
            crop, cost = text_crop(rng, photographs, fonts, args.crop, stage)
        crops.append(crop)
        costs.append(cost)
        # Text needs every token to be readable, so its prefixes are shorter than full less often.
        keep.append(1.0 if rng.random() < (0.7 if text else 0.5) else float(np.exp(rng.uniform(np.log(0.01), 0.0))))
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(np.stack(costs)), torch.tensor(keep)


def gradient_l1(x: Tensor, y: Tensor) -> Tensor:
    """L1 between the images' horizontal and vertical differences, per image [B]: strokes and edges."""
    d = x - y
    return d.diff(dim=3).abs().mean((1, 2, 3)) + d.diff(dim=2).abs().mean((1, 2, 3))


def luma(x: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]: what makes a letter a letter."""
    return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def rate(step: int, args: argparse.Namespace) -> float:
    """Factor on the learning rate: 200 steps of warm-up, constant, linear to zero over the last 45%."""
    return min(1.0, (step + 1) / 200, max(args.steps - step, 0) / (0.45 * args.steps))


def begin(net: TinyNet, weights: dict[str, Tensor]) -> None:
    """Load weights that may lack the last levels (of a network that had fewer); those then begin by saying little."""
    missing = net.load_state_dict(weights, strict=False).missing_keys
    with torch.no_grad():
        for key in missing:
            if key.startswith("embed"):
                net.get_parameter(key).mul_(0.3)
    print(f"begun from {len(weights)} tensors, {len(missing)} new", flush=True)


def export(net: nn.Module, path: Path, config: dict[str, object]) -> None:
    """float16 safetensors whose metadata is {"config": JSON}; written aside and renamed."""
    part = path.with_name(path.name + ".part")
    save_file(
        {key: value.half().contiguous().cpu() for key, value in net.state_dict().items()},
        part,
        metadata={"config": json.dumps(config, sort_keys=True)},
    )
    os.replace(part, path)


def train(args: argparse.Namespace) -> None:
    """Train (or go on from `OUT.checkpoint`) and write OUT."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    photographs = load_photographs(args.images)
    import matplotlib

    fonts = usable_fonts([*args.fonts, *(Path(matplotlib.get_data_path()) / "fonts/ttf").glob("DejaVu*.ttf")])
    print(f"{len(photographs)} photographs, {len(fonts)} fonts", flush=True)

    net = TinyNet().to(device, memory_format=torch.channels_last)
    if args.start:
        begin(net, {key: value.float() for key, value in load_file(args.start).items()})
    ema = TinyNet().to(device).requires_grad_(False)
    ema.load_state_dict(net.state_dict())
    distance = Lpips(args.alexnet).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    checkpoint = args.out.with_name(args.out.name + ".checkpoint")
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
        print(f"resumed at step {first}", flush=True)

    def save(step: int) -> None:
        part = checkpoint.with_name(checkpoint.name + ".part")
        torch.save(
            {"net": net.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, part
        )
        os.replace(part, checkpoint)
        about = {
            "steps": step,
            "planned_steps": args.steps,
            "seed": args.seed,
            "batch": args.batch,
            "crop": args.crop,
            "photographs": len(photographs),
            "fonts": len(fonts),
        }
        export(ema, args.out, {**ema.config, **about})

    began = time.monotonic()
    sums = dict.fromkeys(("loss", "photo", "text", "l1", "lpips"), 0.0)
    for step in range(first, args.steps):
        images, costs, keep = batch_at(step, args, photographs, fonts)
        costs = costs.to(device)
        images = images.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            values, digits, flags = net.encode_levels(images)
            order = net.order(flags, args.crop, args.crop)
            counts = (keep * sum(o.shape[1] for o in order)).round().clamp_min(1).to(device)
            output = net.decode_levels(values, net.presence(order, counts, args.crop, args.crop)).float()
        stage = Stage.at(step, args)
        text = torch.tensor(stage.text, device=device)
        perceptual = output.new_zeros(len(images))
        look = torch.ones_like(text) if not stage.reads else ~text | (torch.arange(len(text), device=device) % 4 == 1)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            perceptual[look] = distance(output[look], images[look]).float()
        l1 = (output - images).abs().mean((1, 2, 3))
        # LPIPS alone is content with strokes that look like text; once they do, text is held to its pixels.
        strict = text & (step >= args.strokes_from)
        mostly = text & (step >= args.mostly_text_from)
        pixels, seen = torch.where(strict, 2.0, 1.0), torch.where(strict, 0.25, 1.0)
        each = (
            pixels * (l1 + 0.5 * gradient_l1(output, images) + mostly * gradient_l1(luma(output), luma(images)))
            + seen * args.perceptual * perceptual
        )
        if stage.reads:
            # An absolute error would rather leave out a thin stroke that it is unsure of; a squared one draws it faintly, and "e" stays "e".
            # Inside words it is relative to their contrast: what is pale must be read too.
            grey = (luma(output) - luma(images))[:, 0] ** 2
            inside = (costs * grey).sum((1, 2)) / (costs > 0).sum((1, 2)).clamp_min(500)
            squared = ((output - images) ** 2).mean((1, 2, 3)) + grey.mean((1, 2))
            each = torch.where(text, 10 * squared + args.words * inside + 0.25 * args.perceptual * perceptual, each)
        loss = each.mean()
        for group in optimiser.param_groups:
            group["lr"] = args.rate * rate(step, args)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            # The average starts short, so that early weights are forgotten.
            decay = min(0.999, (step + 1) / (step + 10))
            for slow, fast in zip(ema.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        whole = (keep == 1).to(device)
        for key, value in (
            ("loss", loss),
            ("photo", each[whole & ~text].mean()),
            ("text", each[whole & text].mean()),
            ("l1", l1[whole].mean()),
            ("lpips", perceptual[whole].mean()),
        ):
            sums[key] += float(value.detach()) if value == value else 0.0
        if (step + 1) % args.log == 0:
            used = [len(d.mul(net.place[:, None, None]).sum(1).unique()) for d in digits]
            means = "  ".join(f"{key} {value / args.log:.4f}" for key, value in sums.items())
            print(
                f"{step + 1}/{args.steps}  {means}  ids in the batch {used}  {(time.monotonic() - began) / (step + 1 - first):.3f} s/step",
                flush=True,
            )
            sums = dict.fromkeys(sums, 0.0)
        if (step + 1) % args.save == 0:
            save(step + 1)
    save(args.steps)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument(
        "--out", type=Path, required=True, help="safetensors file to write; its .checkpoint beside it is resumed from"
    )
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128, help="side of a training crop, a multiple of 32, at most 144")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--perceptual", type=float, default=0.4, help="weight of LPIPS")
    parser.add_argument("--words", type=float, default=1.0, help="weight of errors inside words, in the end")
    parser.add_argument("--mostly-text-from", type=int, default=2750, help="step from which 3 of 4 crops have words")
    parser.add_argument("--start", type=Path, help="weights to start from, of an earlier stage")
    parser.add_argument(
        "--middle-sizes-from", type=int, default=5250, help="from which 7 of 8 do, 11 to 32 pixels high"
    )
    parser.add_argument("--reading-from", type=int, default=10**9, help="from which words are held to squared errors")
    parser.add_argument("--strokes-from", type=int, default=1750, help="step from which text crops weigh pixels more")
    parser.add_argument(
        "--fonts", type=Path, nargs="*", default=[], help="folders of fonts besides matplotlib's DejaVu"
    )
    parser.add_argument(
        "--alexnet",
        type=Path,
        help="torchvision's AlexNet features.* as safetensors; without it torchvision downloads them",
    )
    parser.add_argument("--log", type=int, default=50)
    parser.add_argument("--save", type=int, default=250)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
