"""An evaluation inside a training loop leaves no trace: mode, gradients, random states, cudnn and TF32 flags, memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def untouched(modules: Iterable[Any] = ()) -> Iterator[None]:
    """Put modules into eval mode inside, and give back everything as it was: the mode of every submodule, Python's, NumPy's
    and torch's random states (CPU and every CUDA device in use), the cudnn and TF32 flags, gradient mode."""
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
