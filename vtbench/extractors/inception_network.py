"""The Inception of 2015-12-05 that every FID uses, built for speed from its state dict.

Batch norm (eps 1e-3) is folded into the convolutions. All 1x1 convolutions that read the same input run as one; where a block averages
before its 1x1 convolution the order is turned round (both are linear, so the value is the same), which pools 32 to 192 channels
instead of up to 2048. TensorFlow's pools: averages leave the padding out, and the last block takes the maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vtbench.errors import BadWeights

SIZE = 299
SFID_CHANNELS = 7
FUSED = "fused"

# Convolutions that are not 1x1-and-fused: block -> (names, stride, whether padded to keep the size).
_PLAIN: tuple[tuple[str, tuple[str, ...], int, bool], ...] = (
    *((f"Mixed_{b}", ("branch5x5_2", "branch3x3dbl_2", "branch3x3dbl_3"), 1, True) for b in ("5b", "5c", "5d")),
    ("Mixed_6a", ("branch3x3", "branch3x3dbl_3"), 2, False),
    ("Mixed_6a", ("branch3x3dbl_1", "branch3x3dbl_2"), 1, True),
    *(
        (f"Mixed_{b}", ("branch7x7_2", "branch7x7_3", *(f"branch7x7dbl_{i}" for i in (2, 3, 4, 5))), 1, True)
        for b in ("6b", "6c", "6d", "6e")
    ),
    ("Mixed_7a", ("branch3x3_2", "branch7x7x3_4"), 2, False),
    ("Mixed_7a", ("branch7x7x3_2", "branch7x7x3_3"), 1, True),
    *(
        (
            f"Mixed_{b}",
            (*(f"branch3x3_2{h}" for h in "ab"), "branch3x3dbl_2", *(f"branch3x3dbl_3{h}" for h in "ab")),
            1,
            True,
        )
        for b in ("7b", "7c")
    ),
    ("Mixed_7c", ("branch_pool",), 1, True),
)
# 1x1 convolutions of one input, fused in this order; a pooled branch comes last.
_TOGETHER: Mapping[str, tuple[str, ...]] = {
    **{f"Mixed_{b}": ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool") for b in ("5b", "5c", "5d")},
    **{f"Mixed_{b}": ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool") for b in ("6b", "6c", "6d", "6e")},
    "Mixed_7a": ("branch3x3_1", "branch7x7x3_1"),
    "Mixed_7b": ("branch1x1", "branch3x3_1", "branch3x3dbl_1", "branch_pool"),
    "Mixed_7c": ("branch1x1", "branch3x3_1", "branch3x3dbl_1"),
}


def _folded(state: Mapping[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution with its batch norm folded in, float64."""
    try:
        weight = state[f"{name}.conv.weight"].double()
        gamma, beta, mean, variance = (
            state[f"{name}.bn.{k}"].double() for k in ("weight", "bias", "running_mean", "running_var")
        )
    except KeyError as error:
        raise BadWeights(
            f"the FID Inception's weights lack {error.args[0]}", "Put the whole original file there"
        ) from error
    factor = gamma / (variance + 1e-3).sqrt()
    return weight * factor.view(-1, 1, 1, 1), beta - mean * factor


def _conv(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], stride: int = 1, padded: bool = True) -> nn.Conv2d:
    weight, bias = torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts])
    out, into, high, wide = weight.shape
    made = nn.Conv2d(into, out, (high, wide), stride, (high // 2, wide // 2) if padded else 0)
    made.weight.data, made.bias.data = weight, bias  # type: ignore[union-attr]
    return made


class FIDInception(nn.Module):
    """Features of ``[B, 3, 299, 299]`` in about [-1, 1]: (`pool3` ``[B, 2048]``, `sfid` ``[B, 2023]``, `logits` ``[B, 1008]``).

    `sfid` holds seven channels of mixed_6/conv, height by width by channel. `logits` carry no bias; ``[B, 0]`` when the weights have no
    head. state: torchvision's key names (pytorch-fid's and torch-fidelity's too); `BadWeights` for a missing tensor.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        self.splits: dict[str, list[int]] = {}
        for name, stride, padded in (
            ("Conv2d_1a_3x3", 2, False),
            ("Conv2d_2a_3x3", 1, False),
            ("Conv2d_2b_3x3", 1, True),
            ("Conv2d_3b_1x1", 1, False),
            ("Conv2d_4a_3x3", 1, False),
        ):
            self.convs[name] = _conv([_folded(state, name)], stride, padded)
        for block, names, stride, padded in _PLAIN:
            for name in names:
                self.convs[f"{block}_{name}"] = _conv([_folded(state, f"{block}.{name}")], stride, padded)
        for block, names in _TOGETHER.items():
            parts = [_folded(state, f"{block}.{name}") for name in names]
            self.convs[f"{block}_{FUSED}"] = _conv(parts)
            self.splits[block] = [len(bias) for _, bias in parts]
        head = state.get("fc.weight")
        self.head: torch.Tensor
        self.register_buffer("head", torch.zeros(0, 2048, dtype=torch.float64) if head is None else head.double())
        self._packed: dict[str, tuple[torch.Tensor, torch.Tensor, list[int], list[int]]] = {}
        self.eval().requires_grad_(False)

    def prepack(self, batch: int = 4) -> bool:
        """Let oneDNN lay out the weights for this CPU and join every ReLU to its convolution, as torch's own compiler does.

        About a third faster on an idle core. batch: what the layout is chosen for (a constant, so that values do not depend on the first
        batch). Returns whether this torch offers it and agrees with the plain convolutions to 1e-5; otherwise nothing changes.
        """
        shapes: dict[str, list[int]] = {}
        hooks = [
            conv.register_forward_hook(
                lambda _, given, __, name=name: shapes.update({name: [batch, *given[0].shape[1:]]})
            )
            for name, conv in self.convs.items()
        ]
        probe = (
            torch.linspace(-1, 1, 3 * SIZE * SIZE).view(1, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
        )
        with torch.inference_mode():
            plain = self(probe)[0]
            for hook in hooks:
                hook.remove()
            try:
                for name, conv in self.convs.items():
                    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
                    padding, stride = list(map(int, conv.padding)), list(conv.stride)
                    weight = conv.weight.detach().contiguous().to_mkldnn()
                    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
                    weight = reorder(weight, padding, stride, [1, 1], 1, shapes[name])
                    self._packed[name] = weight, conv.bias.detach(), padding, stride
                agrees = torch.allclose(self(probe)[0], plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))
            except (AttributeError, NotImplementedError, RuntimeError, TypeError):
                agrees = False  # a torch without oneDNN, or with other signatures: the plain convolutions serve
        if not agrees:
            self._packed.clear()
        return agrees

    def _conv(self, x: torch.Tensor, name: str, relu: bool) -> torch.Tensor:
        if self._packed:
            weight, bias, padding, stride = self._packed[name]
            joined = "relu" if relu else "none"
            out: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, padding, stride, [1, 1], 1, joined, [], ""
            )
            return out
        x = self.convs[name](x)
        return F.relu_(x) if relu else x

    def _run(self, x: torch.Tensor, *names: str) -> torch.Tensor:
        for name in names:
            x = self._conv(x, name, relu=True)
        return x

    def _fork(self, x: torch.Tensor, block: str, pooled: bool) -> list[torch.Tensor]:
        """The 1x1 branches of a block; with `pooled` the last one is averaged after its convolution instead of before."""
        parts = list(self._conv(x, f"{block}_{FUSED}", relu=not pooled).split(self.splits[block], 1))
        if not pooled:
            return parts
        parts[-1] = F.avg_pool2d(parts[-1], 3, 1, 1, count_include_pad=False)
        return [F.relu(p) for p in parts]

    def _block_a(self, x: torch.Tensor, b: str) -> torch.Tensor:
        one, five, three, pool = self._fork(x, b, pooled=True)
        five = self._run(five, f"{b}_branch5x5_2")
        three = self._run(three, f"{b}_branch3x3dbl_2", f"{b}_branch3x3dbl_3")
        return torch.cat([one, five, three, pool], 1)

    def _block_b(self, x: torch.Tensor) -> torch.Tensor:
        b = "Mixed_6a"
        three = self._run(x, f"{b}_branch3x3")
        double = self._run(x, *(f"{b}_branch3x3dbl_{i}" for i in (1, 2, 3)))
        return torch.cat([three, double, F.max_pool2d(x, 3, 2)], 1)

    def _block_c(self, x: torch.Tensor, b: str) -> tuple[torch.Tensor, torch.Tensor]:
        one, seven, double, pool = self._fork(x, b, pooled=True)
        seven = self._run(seven, f"{b}_branch7x7_2", f"{b}_branch7x7_3")
        double = self._run(double, *(f"{b}_branch7x7dbl_{i}" for i in (2, 3, 4, 5)))
        return torch.cat([one, seven, double, pool], 1), one

    def _block_d(self, x: torch.Tensor) -> torch.Tensor:
        b = "Mixed_7a"
        three, seven = self._fork(x, b, pooled=False)
        three = self._run(three, f"{b}_branch3x3_2")
        seven = self._run(seven, *(f"{b}_branch7x7x3_{i}" for i in (2, 3, 4)))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)

    def _block_e(self, x: torch.Tensor, b: str, average: bool) -> torch.Tensor:
        one, three, double, *pool = self._fork(x, b, pooled=average)
        double = self._run(double, f"{b}_branch3x3dbl_2")
        if not average:
            pool = [self._run(F.max_pool2d(x, 3, 1, 1), f"{b}_branch_pool")]
        three_ab = [self._run(three, f"{b}_branch3x3_2{h}") for h in "ab"]
        double_ab = [self._run(double, f"{b}_branch3x3dbl_3{h}") for h in "ab"]
        return torch.cat([one, *three_ab, *double_ab, *pool], 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The three heads, float of the input's dtype."""
        x = self._run(x, "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(self._run(x, "Conv2d_3b_1x1", "Conv2d_4a_3x3"), 3, 2)
        for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._block_a(x, block)
        x = self._block_b(x)
        spatial = x
        for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x, one = self._block_c(x, block)
            if block == "Mixed_6d":
                spatial = one[:, :SFID_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self._block_d(x)
        x = self._block_e(x, "Mixed_7b", average=True)
        x = self._block_e(x, "Mixed_7c", average=False)
        pool3 = x.mean((2, 3))
        return pool3, spatial, pool3 @ self.head.to(pool3.dtype).T
