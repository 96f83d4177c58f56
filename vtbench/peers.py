"""The field's own packages on folders of 8-bit images: what `vtbench audit` holds our values against. Nothing is downloaded.

Each peer is run as its authors run it, with the network's weights from the user's own weights path. A peer that is not installed or cannot run here says why.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vtbench import weights
from vtbench.errors import VtbenchError

BATCH = 16
TORCHSCRIPT = "inception-2015-12-05.pt"


class CannotRun(VtbenchError):
    """A peer that cannot run here, with the reason."""


@dataclass(frozen=True)
class Images:
    """Two folders of PNGs, ``000000.png`` on, of equal size; pairs when `paired`."""

    fake: Path
    reference: Path
    paired: bool

    def pixels(self, folder: Path) -> np.ndarray:
        """uint8 ``[N, H, W, 3]``."""
        from PIL import Image

        return np.stack([np.asarray(Image.open(p)) for p in sorted(folder.glob("*.png"))])


@dataclass(frozen=True)
class Theirs:
    """What a peer says. values: (metric, protocol of ours) -> value. features: protocol -> (of the images, of the reference).
    remark: what of the peer was run, where it was not all of it."""

    values: Mapping[tuple[str, str], float]
    features: Mapping[str, tuple[np.ndarray, np.ndarray]]
    remark: str = ""


def inception_pth(folder: Path) -> Path:
    """The FID Inception as the peers load it: the user's own file, or a head-less one with a head of zeros that features do not see."""
    import torch

    from vtbench.extractors.inception import locate

    found = locate()
    if found.suffix == ".pth":
        return found
    state = weights.load_state(found)
    state.setdefault("fc.weight", torch.zeros(1008, 2048))
    state.setdefault("fc.bias", torch.zeros(1008))
    path = folder / "inception.pth"
    if not path.is_file():
        torch.save(state, path)
    return path


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def _need_sqrtm(peer: str) -> None:
    major, minor = (int(n) for n in version("scipy").split(".")[:2])
    if (major, minor) >= (1, 18):
        raise CannotRun(
            f"{peer} computes its distance with an argument of sqrtm that SciPy 1.18 removed",
            "pip install 'scipy<1.18'",
        )


def _pytorch_fid_network(folder: Path, **options: Any) -> Any:
    import torch
    from pytorch_fid import inception

    original = inception.load_state_dict_from_url
    inception.load_state_dict_from_url = lambda *a, **k: torch.load(inception_pth(folder), weights_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return inception.InceptionV3([3], **options).eval()
    finally:
        inception.load_state_dict_from_url = original


def _batched(images: np.ndarray, forward: Callable[[Any], Any]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        parts = [forward(images[i : i + BATCH]).flatten(1).numpy() for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def torch_fidelity(images: Images, scratch: Path, kid: tuple[str, int, int]) -> Theirs:
    """FID and KID by `calculate_metrics`. kid: our protocol's name, subsets, subset size."""
    import torch_fidelity as peer

    found = peer.calculate_metrics(
        input1=str(images.fake), input2=str(images.reference), fid=True, kid=True, kid_subsets=kid[1], kid_subset_size=kid[2], cuda=False,
        verbose=False, cache=False, feature_extractor_weights_path=str(inception_pth(scratch)), batch_size=BATCH, save_cpu_ram=True,
    )  # fmt: skip
    values = {("fid", "torch-fidelity"): found["frechet_inception_distance"]}
    values["kid", kid[0]] = found["kernel_inception_distance_mean"]
    return Theirs(values, {})


def clean_fid(images: Images, scratch: Path, kid: tuple[str, int, int]) -> Theirs:
    """FID with clean-fid's resize and distance, and its TorchScript network where the weights path has it."""
    from cleanfid.fid import frechet_distance
    from cleanfid.resize import build_resizer

    _need_sqrtm("clean-fid")
    resize = build_resizer("clean")
    if weights.here(TORCHSCRIPT):
        from cleanfid.inception_torchscript import InceptionV3W

        network = InceptionV3W(str(weights.find(TORCHSCRIPT).parent), download=False).eval()
        remark = ""

        def forward(batch: np.ndarray) -> Any:
            return network(_tensor(np.stack([resize(x) for x in batch])))
    elif importlib.util.find_spec("pytorch_fid"):
        net = _pytorch_fid_network(scratch, resize_input=False, normalize_input=False)
        remark = f"its resize and distance; pytorch-fid's network, since {TORCHSCRIPT} is not on the weights path"

        def forward(batch: np.ndarray) -> Any:
            return net((_tensor(np.stack([resize(x) for x in batch])) - 128) / 128)[0]
    else:
        raise CannotRun(
            f"clean-fid's network {TORCHSCRIPT} is not on the weights path", "Put it there, or install pytorch-fid"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fake, reference = (_batched(images.pixels(f), forward) for f in (images.fake, images.reference))
        value = frechet_distance(
            fake.mean(0), np.cov(fake, rowvar=False), reference.mean(0), np.cov(reference, rowvar=False)
        )
    return Theirs({("fid", "clean"): float(value)}, {"clean": (fake, reference)}, remark)


def pytorch_fid(images: Images, scratch: Path, kid: tuple[str, int, int]) -> Theirs:
    """FID with pytorch-fid's network and distance."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    _need_sqrtm("pytorch-fid")
    network = _pytorch_fid_network(scratch)

    def forward(batch: np.ndarray) -> Any:
        return network(_tensor(batch).float() / 255)[0]

    fake, reference = (_batched(images.pixels(f), forward).astype(np.float64) for f in (images.fake, images.reference))
    moments = (fake.mean(0), np.cov(fake, rowvar=False), reference.mean(0), np.cov(reference, rowvar=False))
    return Theirs(
        {("fid", "pytorch-fid"): float(calculate_frechet_distance(*moments))}, {"pytorch-fid": (fake, reference)}
    )


def torchmetrics(images: Images, scratch: Path, kid: tuple[str, int, int]) -> Theirs:
    """FID by its class (which needs torch-fidelity); PSNR and SSIM by its functions, per image and averaged."""
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    values: dict[tuple[str, str], float] = {}
    remark = ""
    fake, reference = images.pixels(images.fake), images.pixels(images.reference)
    if importlib.util.find_spec("torch_fidelity"):
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature_extractor_weights_path=str(inception_pth(scratch)))
        for array, real in ((fake, False), (reference, True)):
            for i in range(0, len(array), BATCH):
                metric.update(_tensor(array[i : i + BATCH]), real=real)
        values["fid", "torchmetrics"] = float(metric.compute())
    else:
        remark = "without FID, for which it needs torch-fidelity"
    if images.paired:
        psnr, ssim = [], []
        with torch.inference_mode():
            for i in range(0, len(fake), BATCH):
                a, b = (_tensor(x[i : i + BATCH]).float() / 255 for x in (fake, reference))
                psnr += [float(peak_signal_noise_ratio(x[None], y[None], data_range=1.0)) for x, y in zip(a, b)]
                found = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
                ssim += np.atleast_1d(found.numpy()).tolist()  # type: ignore[union-attr]
        values["psnr", "vtbench"], values["ssim", "vtbench"] = float(np.mean(psnr)), float(np.mean(ssim))
    return Theirs(values, {}, remark)


def lpips(images: Images, scratch: Path, kid: tuple[str, int, int]) -> Theirs:
    """LPIPS (alex) by its class, with the trunk of the user's weights path."""
    import torch
    from lpips import LPIPS

    from vtbench.extractors.lpips import LPIPS as OURS

    if not images.paired:
        raise CannotRun("LPIPS compares pairs, and the images are not paired")
    path = OURS({})._files()[0]
    trunk = {k.removeprefix("features."): v for k, v in weights.load_state(path).items() if k.startswith("features.")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    network.net.load_state_dict({k: trunk[k.split(".", 1)[1]] for k in network.net.state_dict()})
    fake, reference = images.pixels(images.fake), images.pixels(images.reference)
    found: list[float] = []
    with torch.inference_mode():
        for i in range(0, len(fake), BATCH):
            a, b = (_tensor(x[i : i + BATCH]).float() / 127.5 - 1 for x in (fake, reference))
            found += network(a, b).flatten().tolist()
    return Theirs({("lpips", "vtbench"): float(np.mean(found))}, {})


def scikit_image(images: Images, scratch: Path, kid: tuple[str, int, int]) -> Theirs:
    """PSNR, SSIM with Gaussian windows (whole ones only), and SSIM with 7 x 7 windows as seed-voken takes it."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    if not images.paired:
        raise CannotRun("PSNR and SSIM compare pairs, and the images are not paired")
    fake, reference = images.pixels(images.fake), images.pixels(images.reference)
    psnr = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(fake, reference)]
    gauss = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    wide = [structural_similarity(b, a, channel_axis=2, data_range=255, **gauss) for a, b in zip(fake, reference)]
    seven = [structural_similarity(b, a, channel_axis=2, data_range=255) for a, b in zip(fake, reference)]
    return Theirs(
        {
            ("psnr", "vtbench"): float(np.mean(psnr)),
            ("ssim", "vtbench+ssim_border=valid"): float(np.mean(wide)),
            ("ssim", "seed-voken"): float(np.mean(seven)),
        },
        {},
    )


Peer = Callable[[Images, Path, "tuple[str, int, int]"], Theirs]
PEERS: dict[str, tuple[str, Peer]] = {
    "torch-fidelity": ("torch_fidelity", torch_fidelity),
    "clean-fid": ("cleanfid", clean_fid),
    "pytorch-fid": ("pytorch_fid", pytorch_fid),
    "torchmetrics": ("torchmetrics", torchmetrics),
    "lpips": ("lpips", lpips),
    "scikit-image": ("skimage", scikit_image),
}
"""Package -> (module, what runs it)."""


def installed(names: Sequence[str] = ()) -> dict[str, str]:
    """The peers that are installed, with their versions, or "" for those that are not."""
    return {n: version(n) if importlib.util.find_spec(PEERS[n][0]) else "" for n in names or PEERS}
