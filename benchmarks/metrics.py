"""Speed of the image metrics as ratios against their peers, in one run, one thread, alternating.

    python benchmarks/metrics.py --images FOLDER [--count 24] [--rounds 3] [--json FILE]

Needs VTBENCH_WEIGHTS with the FID Inception and LPIPS's AlexNet, and the peers: torch-fidelity, pytorch-fid, lpips, torchmetrics.
Times are CPU seconds of this process, the best of the rounds; every peer computes on the same images with the same weights, and its
values are compared with ours before its time is. Whole commands against each other: `benchmarks/one_pass.py`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from vtbench import weights
from vtbench.api import Batch
from vtbench.extractors import inception, lpips
from vtbench.extractors.pixels import Pixels
from vtbench.metrics import _frechet

BATCH = 8


def best(rounds: int, jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """CPU seconds of each job, the least of `rounds`, taking turns."""
    out = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            out[name] = min(out[name], time.process_time() - start)
    return out


def photographs(folder: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(reference, JPEG quality 20), uint8 ``[N, 3, 256, 256]``."""
    import io

    pairs: list[list[np.ndarray]] = [[], []]
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg", ".png"))[:count]:
        image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        coarse = io.BytesIO()
        image.save(coarse, "JPEG", quality=20)
        for kept, one in zip(pairs, (image, Image.open(coarse))):
            kept.append(np.asarray(one))
    reference, fake = (torch.from_numpy(np.stack(p)).permute(0, 3, 1, 2).contiguous() for p in pairs)
    return reference, fake


class Peers:
    """The peers' networks with our weights."""

    def __init__(self) -> None:
        import lpips as lpips_package
        import pytorch_fid.inception as pytorch_fid
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        state = weights.load_state(inception.locate())
        state.setdefault("fc.weight", torch.zeros(1008, 2048))
        state.setdefault("fc.bias", torch.zeros(1008))
        with tempfile.NamedTemporaryFile(suffix=".pth") as file:
            torch.save(state, file.name)
            self.torch_fidelity = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=file.name)
        pytorch_fid.load_state_dict_from_url = lambda *a, **k: state
        self.pytorch_fid = pytorch_fid.InceptionV3([3]).eval()
        self.lpips = lpips_package.LPIPS(net="alex", pnet_rand=True, verbose=False)
        trunk = weights.load_state(lpips.LPIPS({})._files()[0])
        own = self.lpips.net.state_dict()
        self.lpips.net.load_state_dict({k: trunk["features." + k.split(".", 1)[1]] for k in own})


def batches(images: torch.Tensor) -> list[torch.Tensor]:
    """Batches of eight."""
    return list(images.split(BATCH))


class Ours:
    """Our extractors, open."""

    def __init__(self) -> None:
        self.inception, self.lpips = inception.Inception({}), lpips.LPIPS({})
        for extractor in (self.inception, self.lpips):
            extractor.open("cpu")
        self.pixels = Pixels({})

    def features(self, images: torch.Tensor) -> np.ndarray:
        """pool3 of uint8 images."""
        return np.concatenate(
            [self.inception(Batch([], images=x.float() / 255), ["pool3"])["pool3"].values for x in batches(images)]
        )


def networks(reference: torch.Tensor, fake: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Features and distances: images per CPU second and ratios, after checking that the values agree."""
    from torchmetrics.functional.image import structural_similarity_index_measure as peer_ssim

    ours, peers = Ours(), Peers()
    floats = [(a.float() / 255, b.float() / 255) for a, b in zip(batches(fake), batches(reference))]
    theirs = torch.cat([peers.torch_fidelity(x)[0] for x in batches(fake)]).numpy()
    mine = ours.features(fake)
    agreement = float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
    assert agreement < 1e-5, f"features differ by {agreement}"
    mapped = [(2 * a - 1, 2 * b - 1) for a, b in floats]
    jobs: dict[str, Callable[[], Any]] = {
        "inception: vtbench": lambda: ours.features(fake),
        "inception: torch-fidelity": lambda: [peers.torch_fidelity(x) for x in batches(fake)],
        "inception: pytorch-fid": lambda: [peers.pytorch_fid(x.float() / 255) for x in batches(fake)],
        "lpips: vtbench": lambda: [ours.lpips(Batch([], images=a, reference=b), ["distance"]) for a, b in floats],
        "lpips: lpips": lambda: [peers.lpips(a, b) for a, b in mapped],
        "ssim: vtbench": lambda: [ours.pixels(Batch([], images=a, reference=b), ["ssim"]) for a, b in floats],
        "ssim: torchmetrics": lambda: [peer_ssim(a, b, data_range=1.0, reduction="none") for a, b in floats],
    }
    with torch.inference_mode():
        seconds = best(rounds, jobs)
    return {"agreement": agreement, "seconds": seconds}


def distances(rounds: int, samples: int = 500, dimensions: int = 2048) -> dict[str, Any]:
    """The Fréchet distance itself, with fewer samples than dimensions and with more."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(dimensions) / 300)
    jobs: dict[str, Callable[[], Any]] = {}
    values: dict[str, float] = {}
    for n in (samples, dimensions + 1000):
        x = rng.normal(size=(n, dimensions)) * decay
        y = x + 0.1 * rng.normal(size=x.shape) * decay
        statistics = [{"mu": a.mean(0), "sigma": np.cov(a.T)} for a in (x, y)]
        sides = [_frechet.Sample(a, np.zeros(n, int)).gaussian() for a in (x, y)]
        flat = [v for s in statistics for v in (s["mu"], s["sigma"])]
        jobs[f"distance n={n}: vtbench"] = lambda sides=sides: _frechet.distance(*sides)  # type: ignore[misc]
        jobs[f"distance n={n}: torch-fidelity"] = lambda s=statistics: fid_statistics_to_metric(*s, False)  # type: ignore[misc]
        jobs[f"distance n={n}: pytorch-fid"] = lambda f=flat: calculate_frechet_distance(*f)  # type: ignore[misc]
        values[f"n={n}"] = _frechet.distance(*sides)
        values[f"n={n}, pytorch-fid"] = float(calculate_frechet_distance(*flat))
    return {"values": values, "seconds": best(rounds, jobs)}


def show(seconds: dict[str, float]) -> None:
    """Seconds, and as multiples of ours."""
    for name, value in seconds.items():
        mine = seconds[name.split(":")[0] + ": vtbench"]
        print(f"{name:34s} {value:8.2f} s   {value / mine:6.2f} x ours", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-distances", action="store_true")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with threadpool_limits(1):
        reference, fake = photographs(chosen.images, chosen.count)
        report: dict[str, Any] = {
            "machine": f"{platform.machine()} {platform.processor()}, one thread, torch {torch.__version__}",
            "images": len(fake),
            "networks": networks(reference, fake, chosen.rounds),
        }
        show(report["networks"]["seconds"])
        if not chosen.no_distances:
            report["distances"] = distances(1)
            show(report["distances"]["seconds"])
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
