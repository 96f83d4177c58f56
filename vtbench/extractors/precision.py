"""The arithmetic of metric networks: float32 means float32, also on a GPU; and no more images at once than a CPU likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_PIECE = 4
"""Images at once on a CPU: the maps of more leave the cache, and the allocator gives them back to the system after every layer, which costs
a sixth of the time."""


def pieces(images: torch.Tensor, on_cpu: int = CPU_PIECE) -> tuple[torch.Tensor, ...]:
    """A batch as the parts that one forward takes: all of it on a GPU, `on_cpu` images on a CPU. No extractor's value depends on it."""
    return images.split(on_cpu) if images.device.type == "cpu" else (images,)


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
