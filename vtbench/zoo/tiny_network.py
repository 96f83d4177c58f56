"""The network of `tiny`: a convolutional encoder and decoder around finite scalar quantisation (FSQ, Mentzer et al., arXiv:2309.15505).

Four nested levels of tokens: every 32 x 32 block, every 16 x 16 block, then the 8 x 8 blocks of the half of the image with the strongest edges, and those once more,
finer: like a codec, it spends bits where strokes are. Which half is part of the second level's tokens. The sequence is trained with nested dropout (Rippel et
al., arXiv:1402.0915), so any prefix of it decodes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (32, 16, 8, 8)
"""Width in pixels of one token of each level, coarse to fine."""
FSQ_STEPS = (4, 4, 2, 2)
"""Values per quantised dimension; their product, 64, is the codebook size of every level. The last digit of the second level is no code but a flag."""


def dispersed_order(rows: int, columns: int) -> Tensor:
    """Raster positions of a grid in an order that covers it evenly from the first token on.

    Positions sort by the bit-reversed interleaving of (row ^ column, row): the rank of an ordered-dither (Bayer) matrix as large as the grid needs.

    Returns:
        LongTensor [rows * columns], a permutation.
    """
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    rank = torch.zeros_like(y)
    for bit in range(max(rows - 1, columns - 1, 1).bit_length()):
        rank = rank * 4 + ((x ^ y) >> bit & 1) * 2 + (y >> bit & 1)
    return torch.argsort(rank.flatten(), stable=True)


class _Block(nn.Module):
    """Residual block: 3x3 convolution, SiLU, 1x1 convolution. No normalisation: one image then never depends on its batch or its size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.silu(self.mix(x)))


class _Down(nn.Sequential):
    def __init__(self, source: int, target: int) -> None:
        super().__init__(nn.Conv2d(source, target, 2, stride=2))


class _Up(nn.Sequential):
    def __init__(self, source: int, target: int) -> None:
        super().__init__(nn.Conv2d(source, 4 * target, 1), nn.PixelShuffle(2))


def detail_flags(images: Tensor) -> Tensor:
    """The half of the 16 x 16 blocks with the most gradient energy, where strokes and edges are: int64 [B, 1, H / 16, W / 16], 1 = chosen."""
    grey = images.float().mean(1, keepdim=True)
    energy = F.pad(grey.diff(dim=3) ** 2, (0, 1)) + F.pad(grey.diff(dim=2) ** 2, (0, 0, 0, 1))
    blocks = F.avg_pool2d(energy, 16)
    flat = blocks.flatten(1)
    best = torch.argsort(flat, dim=1, descending=True, stable=True)[:, : flat.shape[1] // 2]
    return torch.zeros_like(flat, dtype=torch.long).scatter_(1, best, 1).view(blocks.shape)


class TinyNet(nn.Module):
    """The network. Images are float32 [B, 3, H, W] in [0, 1] with H and W multiples of 32; ids are int64 [B, N] in [0, 64).

    A level is coded given the decoder's own picture of the levels before it (`ladder`), which a prefix that reaches the level always holds in full.
    """

    steps: Tensor
    place: Tensor

    def __init__(self, fine: int = 64, coarse: int = 96) -> None:
        super().__init__()
        dims = len(FSQ_STEPS)
        self.config = {"fine": fine, "coarse": coarse, "strides": list(STRIDES), "fsq": list(FSQ_STEPS)}
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, fine, 3, padding=1), _Block(fine), _Block(fine))
        self.down = nn.ModuleList(
            [
                nn.Sequential(_Down(fine, coarse), _Block(coarse), _Block(coarse)),
                nn.Sequential(_Down(coarse, coarse), _Block(coarse)),
                nn.Sequential(_Down(coarse, coarse), _Block(coarse)),
            ]
        )
        self.head = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(coarse if level == 0 else 2 * coarse, coarse, 1), nn.SiLU(), nn.Conv2d(coarse, dims, 1)
            )
            for level in range(4)
        )
        # One more input channel than the code has dimensions: 1 where the token is present, 0 where it is not.
        self.embed = nn.ModuleList(nn.Conv2d(dims + 1, coarse, 3, padding=1) for _ in range(4))
        self.ladder = nn.ModuleList(nn.Sequential(_Block(coarse), _Up(coarse, coarse)) for _ in range(2))
        self.paint = nn.Sequential(
            *(_Block(coarse) for _ in range(4)),
            _Up(coarse, fine),
            *(_Block(fine) for _ in range(3)),
            _Up(fine, 32),
            _Block(32),
            nn.Conv2d(32, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("steps", torch.tensor(FSQ_STEPS, dtype=torch.float32), persistent=False)
        self.register_buffer("place", torch.tensor([16, 4, 2, 1]), persistent=False)

    # -- codebook ------------------------------------------------------------------------------------------------------------------------------------

    def codebook(self) -> Tensor:
        """The FSQ grid: float32 [64, 4] with values in [-1, 1], row = id."""
        return self.values_of(torch.arange(int(self.steps.prod()), device=self.steps.device))

    def values_of(self, ids: Tensor) -> Tensor:
        """ids int64 [...] -> code values float32 [..., 4] in [-1, 1]."""
        digits = ids[..., None] // self.place % self.steps.long()
        return digits.float() / (self.steps - 1) * 2 - 1

    def quantise(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Unbounded [B, 4, h, w] -> (values in [-1, 1] with straight-through gradients, digits int64), the same shape both."""
        top = (self.steps - 1)[:, None, None]
        bounded = torch.tanh(raw.float())
        digits = torch.round((bounded + 1) / 2 * top)
        values = digits / top * 2 - 1
        return bounded + (values - bounded).detach(), digits.long()

    # -- the sequence --------------------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def grids(height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of every level's grid for an image of this size."""
        if height % STRIDES[0] or width % STRIDES[0]:
            raise ValueError(f"height and width must be multiples of {STRIDES[0]}, got {height}x{width}")
        return [(height // stride, width // stride) for stride in STRIDES]

    @classmethod
    def order(cls, flags: Tensor, height: int, width: int) -> list[Tensor]:
        """Per level, the raster positions that the sequence visits, in its order: int64 [B, n].

        The flagged blocks are chosen by flag, then by rank, so that exactly half are, whatever the flags: ids that no encoder made decode too.
        """
        grids = cls.grids(height, width)
        ranks = [dispersed_order(*grid).to(flags.device) for grid in grids]
        marked = flags.flatten(1)[:, ranks[1]]
        best = ranks[1][torch.argsort(marked, dim=1, descending=True, stable=True)[:, : marked.shape[1] // 2]]
        chosen = torch.zeros_like(marked).scatter_(1, best, 1).unflatten(1, grids[1])
        inside = chosen.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)[:, ranks[2]]
        detail = ranks[2][torch.argsort(inside, dim=1, descending=True, stable=True)[:, : 4 * best.shape[1]]]
        return [ranks[0].expand(len(flags), -1), ranks[1].expand(len(flags), -1), detail, detail]

    @classmethod
    def presence(cls, order: list[Tensor], counts: Tensor, height: int, width: int) -> list[Tensor]:
        """Per level, float32 masks [B, 1, h, w] of the positions that the first `counts` [B] tokens of each image reach."""
        masks, start = [], 0
        for (rows, columns), positions in zip(cls.grids(height, width), order, strict=True):
            here = start + torch.arange(positions.shape[1], device=positions.device)
            mask = torch.zeros(len(positions), rows * columns, device=positions.device)
            masks.append(mask.scatter_(1, positions, (here < counts[:, None]).float()).view(-1, 1, rows, columns))
            start += positions.shape[1]
        return masks

    # -- networks ------------------------------------------------------------------------------------------------------------------------------------

    def features(self, images: Tensor) -> list[Tensor]:
        """Encoder features [B, C, h, w] at 32, 16 and 8 pixels per position."""
        x = self.stem(images * 2 - 1)
        maps = []
        for down in self.down:
            x = down(x)
            maps.append(x)
        return maps[::-1]

    def encode_levels(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Images -> (values, digits) per level, each [B, 4, h, w], and the flags [B, 1, H / 16, W / 16]."""
        flags = detail_flags(images)
        wide, middle, near = self.features(images)
        value, digit = self.quantise(self.head[0](wide))
        values, digits = [value], [digit]

        def code(level: int, features: Tensor, below: Tensor) -> None:
            value, digit = self.quantise(self.head[level](torch.cat([features, below], 1)))
            if level == 1:
                value, digit = torch.cat([value[:, :3], flags * 2.0 - 1], 1), torch.cat([digit[:, :3], flags], 1)
            values.append(value)
            digits.append(digit)

        below = self.ladder[0](self._token(0, values[0], torch.ones_like(values[0][:, :1])))
        code(1, middle, below)
        below = self.ladder[1](below + self._token(1, values[1], torch.ones_like(values[1][:, :1])))
        code(2, near, below)
        below = below + self._token(2, values[2], flags.float().repeat_interleave(2, 2).repeat_interleave(2, 3))
        code(3, near, below)
        return values, digits, flags

    def _token(self, level: int, value: Tensor, present: Tensor) -> Tensor:
        return self.embed[level](torch.cat([value * present, present], 1))

    def decode_levels(self, values: list[Tensor], present: list[Tensor]) -> Tensor:
        """Values [B, 4, h, w] and masks [B, 1, h, w] (1 = present) per level -> images [B, 3, H, W], not clamped."""
        tokens = [
            self._token(level, value, mask) for level, (value, mask) in enumerate(zip(values, present, strict=True))
        ]
        x = self.ladder[0](tokens[0])
        x = self.ladder[1](x + tokens[1])
        return self.paint(x + tokens[2] + tokens[3]) * 0.5 + 0.5

    # -- ids -----------------------------------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_ids(self, images: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] -> ids int64 [B, N], N = H * W * 21 / 1024."""
        height, width = images.shape[-2:]
        self.grids(height, width)
        _, digits, flags = self.encode_levels(images)
        ids = [(digit * self.place[:, None, None]).sum(1).flatten(1) for digit in digits]
        return torch.cat(
            [level.gather(1, order) for level, order in zip(ids, self.order(flags, height, width), strict=True)], 1
        )

    @torch.no_grad()
    def decode_ids(self, ids: Tensor, height: int, width: int) -> Tensor:
        """Any prefix of the ids, int64 [B, k], 0 <= k <= N -> images float32 [B, 3, height, width] in [0, 1]."""
        grids = self.grids(height, width)
        blocks = [rows * columns for rows, columns in grids]
        total = blocks[0] + blocks[1] + 2 * 4 * (blocks[1] // 2)
        if ids.shape[1] > total:
            raise ValueError(f"{ids.shape[1]} tokens for a {height}x{width} image, which has {total}")
        padded = F.pad(ids, (0, total - ids.shape[1]))
        # The flags of a prefix that ends before or inside the second level are wrong, and never used: nothing of the later levels is present.
        second = dispersed_order(*grids[1]).to(ids.device)
        flags = torch.zeros_like(padded[:, : blocks[1]])
        flags[:, second] = padded[:, blocks[0] : blocks[0] + blocks[1]] % 2
        order = self.order(flags, height, width)
        present = self.presence(order, torch.full((len(ids),), ids.shape[1], device=ids.device), height, width)
        values = []
        for part, positions, (rows, columns) in zip(
            padded.split([o.shape[1] for o in order], 1), order, grids, strict=True
        ):
            value = torch.zeros(len(ids), len(FSQ_STEPS), rows * columns, device=ids.device)
            where = positions[:, None].expand(-1, len(FSQ_STEPS), -1)
            values.append(value.scatter_(2, where, self.values_of(part).transpose(1, 2)).unflatten(2, (rows, columns)))
        return self.decode_levels(values, present).clamp(0, 1)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters that encoding and decoding run; `embed` and `ladder` serve both, so the two overlap."""

        def count(*parts: nn.Module) -> int:
            return sum(p.numel() for part in parts for p in part.parameters())

        shared = count(self.embed[:3], self.ladder)
        return {
            "encoder": shared + count(self.stem, self.down, self.head),
            "decoder": shared + count(self.embed[3], self.paint),
            "total": count(self),
        }
