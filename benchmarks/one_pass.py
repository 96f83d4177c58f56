"""All image metrics of one command against the peers one after another, on the same files: CPU seconds and peak memory of whole processes.

    python benchmarks/one_pass.py --images FOLDER [--count 200] [--rounds 2] [--memory 20,200] [--batch 16] [--json FILE]

Ours is `vtbench score` with PSNR, SSIM, MS-SSIM, LPIPS, FID under three protocols, KID, precision and recall. Each peer (torch-fidelity with FID
and KID, clean-fid, pytorch-fid, lpips) runs in a process of its own, through its own function for two folders with its own defaults (batches of 64, 32, 50
and 1), as somebody runs it who uses them one after another; their values are compared with ours before their time is. `--batch 16` gives all four that
batch, through the code of `vtbench audit`. `bare`: the network forwards that ours needs, on inputs that are ready, and nothing else. One thread everywhere, taking turns,
the least of the rounds. Needs VTBENCH_WEIGHTS as `benchmarks/metrics.py` does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PEERS = ("torch-fidelity", "clean-fid", "pytorch-fid", "lpips")
SUBSETS = 100
TOLERANCE = 2e-3
SUITE = """
name = "one-pass"
version = 1
task = "score"
title = "The image metrics of one pass"
resolutions = [0]
data = {{ reader = "images" }}
metrics = [
  {{ name = "psnr", protocols = ["vtbench"] }},
  {{ name = "ssim", protocols = ["vtbench"] }},
  {{ name = "ms_ssim", protocols = ["vtbench"] }},
  {{ name = "lpips", protocols = ["vtbench"] }},
  {{ name = "fid", protocols = ["torch-fidelity", "clean", "pytorch-fid"] }},
  {{ name = "kid", protocols = ["{kid}"] }},
  {{ name = "precision", protocols = ["torch-fidelity"] }},
  {{ name = "recall", protocols = ["torch-fidelity"] }},
]
"""


def write_pairs(folder: Path, into: Path, count: int) -> None:
    """`count` pairs of PNGs at 256 x 256: photographs, and the same through JPEG at quality 20. Beyond the folder's number they are mirrored or
    moved, so that no two are alike."""
    from PIL import Image, ImageOps

    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg", ".png"))
    for side in ("reference", "fake"):
        (into / side).mkdir(parents=True)
    for i in range(count):
        repeat, which = divmod(i, len(found))
        image = ImageOps.fit(Image.open(found[which]).convert("RGB"), (272, 272), Image.Resampling.BICUBIC)
        image = ImageOps.mirror(image) if repeat % 2 else image
        left = repeat // 2
        image = image.crop((left, left, left + 256, left + 256))
        coarse = io.BytesIO()
        image.save(coarse, "JPEG", quality=20)
        image.save(into / "reference" / f"{i:06d}.png")
        Image.open(coarse).save(into / "fake" / f"{i:06d}.png")


def measured(command: list[str]) -> tuple[dict[str, float], str]:
    """Run a process on one thread: its CPU seconds, wall seconds and peak memory in MiB; and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    start = time.time()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{said}")
    cpu, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return {"cpu": cpu, "wall": time.time() - start, "memory": memory}, said


def ours(pairs: Path, kid: str) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """`vtbench score` from an empty results folder: its cost and its values."""
    suite = pairs / "one-pass.toml"
    suite.write_text(SUITE.format(kid=kid))
    with tempfile.TemporaryDirectory() as out:
        images = [str(pairs / "fake"), "--reference", str(pairs / "reference")]
        command = [sys.executable, "-m", "vtbench", "score", *images, "--suite", str(suite), "--out", out, "--json"]
        cost, said = measured([*command, "--device", "cpu", "--workers", "1"])
    return cost, {(r["metric"], r["protocol"]): float(r["value"]) for r in json.loads(said) if r["slice"] == "all"}


def peer(
    name: str, pairs: Path, kid: str, size: int, batch: int
) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """A peer in a process of its own: its cost and its values."""
    command = [sys.executable, __file__, "--peer", name, "--pairs", str(pairs), "--kid", kid, "--kid-size", str(size)]
    cost, said = measured([*command, "--batch", str(batch)])
    return cost, {tuple(k): v for k, v in json.loads(said.splitlines()[-1])}


def run_peer(name: str, pairs: Path, kid: str, size: int, batch: int) -> None:
    """The peer itself. batch: images at once, through our audit; 0: as it comes."""
    import torch

    from vtbench import peers

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if batch:
            peers.BATCH = batch
            images = peers.Images(pairs / "fake", pairs / "reference", True)
            found = peers.PEERS[name][1](images, Path(scratch), (kid, SUBSETS, size)).values
        else:
            found = as_it_comes(name, pairs, kid, size, Path(scratch))
    print(json.dumps([[list(k), v] for k, v in found.items()]))


def as_it_comes(name: str, pairs: Path, kid: str, size: int, scratch: Path) -> dict[tuple[str, str], float]:
    """A peer's own function for two folders, with its own defaults but for the device, the weights' place and KID's subsets."""
    import torch

    from vtbench import peers

    fake, reference = str(pairs / "fake"), str(pairs / "reference")
    if name == "torch-fidelity":
        from torch_fidelity import calculate_metrics

        weights = str(peers.inception_pth(scratch))
        found = calculate_metrics(
            input1=fake, input2=reference, fid=True, kid=True, kid_subset_size=size, cuda=False, feature_extractor_weights_path=weights,
        )  # fmt: skip
        distance, kernel = found["frechet_inception_distance"], found["kernel_inception_distance_mean"]
        return {("fid", "torch-fidelity"): distance, ("kid", kid): kernel}
    if (
        name == "clean-fid"
    ):  # what `compute_fid` calls with its defaults, on pytorch-fid's network: its own is downloaded
        from cleanfid.fid import compare_folders

        network = peers._pytorch_fid_network(scratch, resize_input=False, normalize_input=False)
        value = compare_folders(
            fake, reference, lambda x: network((x - 128) / 128)[0].flatten(1), "clean", 12, 32, torch.device("cpu")
        )
        return {("fid", "clean"): float(value)}
    if name == "pytorch-fid":
        from pytorch_fid import fid_score, inception

        inception.load_state_dict_from_url = lambda *a, **k: torch.load(peers.inception_pth(scratch), weights_only=True)
        workers = min(len(os.sched_getaffinity(0)), 8)
        value = fid_score.calculate_fid_given_paths([fake, reference], 50, torch.device("cpu"), 2048, workers)
        return {("fid", "pytorch-fid"): float(value)}
    peers.BATCH = 1  # lpips_2dirs.py takes one pair after another
    images = peers.Images(pairs / "fake", pairs / "reference", True)
    return dict(peers.lpips(images, scratch, (kid, SUBSETS, size)).values)


def run_bare(pairs: Path) -> None:
    """The forwards alone: CPU seconds of six Inceptions and one LPIPS a pair."""
    import numpy as np
    import torch
    from PIL import Image

    from vtbench.extractors import inception, lpips
    from vtbench.extractors.precision import CPU_PIECE

    torch.set_num_threads(1)
    network, distance = inception.Inception({}), lpips.LPIPS({})
    network.open("cpu")
    distance.open("cpu")
    seconds = 0.0
    names = sorted(p.name for p in (pairs / "fake").iterdir())
    with torch.inference_mode():
        for first in range(0, len(names), CPU_PIECE):
            sides = []
            for side in ("fake", "reference"):
                arrays = [np.asarray(Image.open(pairs / side / n)) for n in names[first : first + CPU_PIECE]]
                sides.append(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255)
            ready = [network.prepared(x).contiguous(memory_format=torch.channels_last) for x in sides]
            mapped = [2 * x - 1 for x in sides]
            start = time.process_time()
            for x in ready:
                for _ in range(3):
                    network._network(x)
            distance._distance(*mapped)  # type: ignore[misc]
            seconds += time.process_time() - start
    print(seconds)


def compare(mine: dict[tuple[str, str], float], theirs: dict[tuple[str, str], float], name: str) -> None:
    """Stop when a peer's value is not ours."""
    for key, value in theirs.items():
        if key in mine and abs(mine[key] - value) > TOLERANCE * max(1.0, abs(value)):
            raise SystemExit(f"{name}: {key} is {value} there and {mine[key]} here")


def costs(pairs: Path, count: int, rounds: int, batch: int) -> dict[str, dict[str, float]]:
    """The least cost of each job, taking turns."""
    size = min(1000, count // 2)
    kid = f"torch-fidelity+kid_subset_size={size}"
    best: dict[str, dict[str, float]] = {}

    def note(name: str, cost: dict[str, float]) -> None:
        if name not in best or cost["cpu"] < best[name]["cpu"]:
            best[name] = cost
        print(f"  {name:16s} {cost['cpu']:8.1f} CPU s  {cost['memory']:6.0f} MiB", flush=True)

    for _ in range(rounds):
        cost, mine = ours(pairs, kid)
        note("vtbench", cost)
        bare, said = measured([sys.executable, __file__, "--bare", "--pairs", str(pairs)])
        note("bare forwards", {**bare, "cpu": float(said.split()[-1])})
        for name in PEERS:
            cost, theirs = peer(name, pairs, kid, size, batch)
            compare(mine, theirs, name)
            note(name, cost)
    return best


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", default="", help="numbers of pairs whose peak memory is compared, such as 20,200")
    parser.add_argument("--batch", type=int, default=0, help="images at once in every peer (0: as each comes)")
    parser.add_argument("--json", type=Path)
    for inner in ("--peer", "--kid"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kid-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.bare:
        return run_bare(chosen.pairs)
    if chosen.peer:
        return run_peer(chosen.peer, chosen.pairs, chosen.kid, chosen.kid_size, chosen.batch)
    if chosen.images is None:
        parser.error("--images FOLDER")
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "pairs": chosen.count,
    }
    with tempfile.TemporaryDirectory() as folder:
        if chosen.rounds:
            pairs = Path(folder) / "pairs"
            write_pairs(chosen.images, pairs, chosen.count)
            best = report["costs"] = costs(pairs, chosen.count, chosen.rounds, chosen.batch)
            mine = best["vtbench"]["cpu"]
            report["over bare forwards"] = mine / best["bare forwards"]["cpu"]
            report["peers over ours"] = sum(best[name]["cpu"] for name in PEERS) / mine
            print(f"one pass / bare forwards {report['over bare forwards']:.2f}")
            print(f"peers one after another / one pass {report['peers over ours']:.2f}")
        sizes = [int(n) for n in chosen.memory.split(",") if n]
        for n in sizes:
            pairs = Path(folder) / str(n)
            write_pairs(chosen.images, pairs, n)
            cost, _ = ours(pairs, f"torch-fidelity+kid_subset_size={min(1000, n // 2)}")
            report.setdefault("memory", {})[n] = cost["memory"]
            print(f"peak memory of {n} pairs: {cost['memory']:.0f} MiB", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
