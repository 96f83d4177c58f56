"""ONNX networks, run so that the same input gives the same bits: one thread, sequential."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def session(path: Path, device: str) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, or on the device's GPU where onnxruntime has CUDA."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        index = int(device.partition(":")[2] or 0)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    return onnxruntime.InferenceSession(str(path), options, providers=providers)
