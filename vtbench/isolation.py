"""An evaluation inside a training loop leaves no trace: mode, gradients, random states, cudnn and TF32 flags, memory. Nor does the loop leave one in the
evaluation: its autocast, default dtype and default device end where it begins."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np


@contextmanager
def untouched(modules: Iterable[Any] = ()) -> Iterator[None]:
    """Put modules into eval mode inside, and give back everything as it was: the mode of every submodule, Python's, NumPy's
    and torch's random states (CPU and every CUDA device in use), the cudnn and TF32 flags, gradient mode.

    Autocast is off inside, and tensors are float32 on the CPU unless asked otherwise: whoever wants a model under autocast says so in its own functions."""
    import torch

    modes = [(m, m.training) for module in modules for m in module.modules()]
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    cudnn = torch.backends.cudnn
    flags = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    precision, threads, grad = torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.is_grad_enabled()
    try:
        for module, _ in modes:
            module.training = False
        with plain():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
            torch.cuda.empty_cache()
        torch.set_float32_matmul_precision(precision)
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags
        if (
            torch.get_num_threads() != threads
        ):  # setting it starts a pool of threads, for which torch 2.2 waits for ever when memory is short
            torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)


@contextmanager
def plain() -> Iterator[None]:
    """No autocast, float32 and the CPU as torch's defaults, whatever surrounds it."""
    import torch

    dtype = torch.get_default_dtype()
    with ExitStack() as inside:
        for device in ("cpu", "cuda"):
            if _autocasting(device):
                inside.enter_context(torch.autocast(device, enabled=False))
        if torch.empty(0).device.type != "cpu":  # torch.get_default_device came with 2.3
            inside.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            inside.callback(torch.set_default_dtype, dtype)
        yield


def _autocasting(device: str) -> bool:
    import torch

    try:
        return bool(torch.is_autocast_enabled(device))
    except TypeError:  # before torch 2.4 there was a function for each
        return bool({"cuda": torch.is_autocast_enabled, "cpu": torch.is_autocast_cpu_enabled}[device]())
