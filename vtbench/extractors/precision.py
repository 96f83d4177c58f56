"""The arithmetic of metric networks: float32 means float32, also on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exact(device: str) -> Iterator[None]:
    """No gradients; on a GPU no TF32 (torch allows it in convolutions by default, and it moves features by 1e-4) and no search for
    algorithms, whose choice may differ from run to run. The flags are put back."""
    import torch

    if not device.startswith("cuda"):
        with torch.inference_mode():
            yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32
    cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = False, False, False
    try:
        with torch.inference_mode():
            yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = flags
