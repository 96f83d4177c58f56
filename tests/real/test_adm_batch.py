"""A batch laid out as ADM's own (`arr_0`, `mu`, `sigma`, `mu_s`, `sigma_s`): gFID, sFID, precision and recall beside the definitions, written again on
features of torch-fidelity's network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench.evaluation import Evaluator
from vtbench.zoo.images import Images

pytestmark = pytest.mark.real
SUITE = """
name = "adm-in-small"
version = 1
task = "generate"
chunk = 8
resolutions = [256]
[data]
reader = "labels"
classes = 4
images = 8
exact = true
"""
METRICS = ("fid", "sfid", "precision", "recall")


@pytest.fixture(scope="module")
def arrays(assets):
    """uint8: 8 samples, 10 images of the batch, 14 from which its statistics are."""
    found = []
    for path in sorted((assets / "imagenet-200").glob("*.JPEG"))[::9][:22]:
        found.append(np.asarray(Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)))
    noise = np.random.default_rng(0).integers(-30, 31, (8, 256, 256, 3))
    return np.clip(np.stack(found[14:]) + noise, 0, 255).astype(np.uint8), np.stack(found[:10]), np.stack(found[:14])


def features(network, images):
    """pool3 and ADM's spatial features: the first seven channels of a convolution, in the order of a TensorFlow tensor."""
    seen = {}
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, o: seen.update(conv=o))
    with torch.inference_mode():
        (pooled,) = network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    hook.remove()
    spatial = seen["conv"][:, :7].permute(0, 2, 3, 1).flatten(1)
    return pooled.flatten(1).double().numpy(), spatial.double().numpy()


def moments(rows):
    """A mean and a covariance of full rank, as those of many images are."""
    return rows.mean(0), np.cov(rows, rowvar=False) + 1e-3 * np.eye(rows.shape[1])


def distance(rows, mean, covariance):
    """Of the Gaussians: the trace of the square root is the nuclear norm of the factors' product."""
    factor = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    cross = np.linalg.svd(factor @ np.linalg.cholesky(covariance), compute_uv=False).sum()
    return ((rows.mean(0) - mean) ** 2).sum() + (factor**2).sum() + np.trace(covariance) - 2 * cross


def apart(a, b):
    """Squared distances in half precision, as the evaluator's graph has them."""
    a, b = (torch.from_numpy(x).half() for x in (a, b))
    square = a.square().sum(1)[:, None] - 2 * (a @ b.T) + b.square().sum(1)[None]
    return square.clamp(min=0).float().numpy()


def covered(a, b, k=3):
    """The share of `a` within the radius of some point of `b`: the distance to its k-th neighbour, itself not counted."""
    return (apart(a, b) <= np.sort(apart(b, b), 1)[:, k]).any(1).mean()


def test_a_batch_of_adms_form_gives_the_evaluators_numbers(arrays, assets, tmp_path):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from safetensors.torch import load_file

    state = load_file(assets / "inception/fid_inception_v3_pool3.safetensors")
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(state, tmp_path / "inception.pth")
    path = str(tmp_path / "inception.pth")
    network = fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=path).eval()
    (pool, spatial), (ref_pool, _), (all_pool, all_spatial) = (features(network, images) for images in arrays)
    (mu, sigma), (mu_s, sigma_s) = moments(all_pool), moments(all_spatial)
    np.savez(tmp_path / "VIRTUAL.npz", arr_0=arrays[1], mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    np.savez(tmp_path / "samples.npz", arrays[0])

    suite = tmp_path / "adm-in-small.toml"
    suite.write_text(SUITE + "".join(f'[[metrics]]\nname = "{m}"\nprotocols = ["adm-gfid"]\n' for m in METRICS))
    evaluator = Evaluator(
        str(suite),
        reference=str(tmp_path / "VIRTUAL.npz"),
        reference_protocol="adm",
        out=str(tmp_path / "out"),
        device="cpu",
    )
    found = evaluator(Images(at=str(tmp_path / "samples.npz")))
    assert found["fid"].value == pytest.approx(distance(pool, mu, sigma), rel=1e-5)
    assert found["sfid"].value == pytest.approx(distance(spatial, mu_s, sigma_s), rel=1e-5)
    assert found["precision"].value == pytest.approx(covered(pool, ref_pool))
    assert found["recall"].value == pytest.approx(covered(ref_pool, pool))
    assert found.record.options["reference_statistics"].startswith("sha256:")
    assert found.record.dataset.counted() == "8 images against npz:VIRTUAL (n = 10)"
