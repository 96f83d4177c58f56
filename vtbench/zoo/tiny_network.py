"""The network of `tiny`: a convolutional encoder and decoder around finite scalar quantisation (FSQ, Mentzer et al., arXiv:2309.15505).

Six nested levels of tokens: every 32 x 32 block; every 16 x 16 block; the 8 x 8 blocks of the half of the image with the strongest edges; and the stronger half of those,
three times, finer each time: like a codec, it spends bits where strokes are. Which half is part of the second and third levels' tokens. The sequence is trained with nested
dropout (Rippel et al., arXiv:1402.0915), so any prefix of it decodes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (32, 16, 8, 8, 8, 8)
"""Width in pixels of one token of each level, coarse to fine."""
HIDDEN = (96, 96, 96, 96, 48, 48)
"""Width of the layer that chooses each level's codes."""
FSQ_STEPS = (4, 4, 2, 2)
"""Values per quantised dimension; their product, 64, is the codebook size of every level. The last digit of the second and third levels is no code but a flag."""


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


def strongest_half(energy: Tensor, among: Tensor) -> Tensor:
    """Of the blocks [B, 1, h, w] marked 1 in `among`, equally many in every image, the half with the most energy: int64, 1 = chosen."""
    flat = torch.where(among.bool(), energy, -1.0).flatten(1)
    count = int(among[:1].sum()) // 2
    best = torch.argsort(flat, dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat, dtype=torch.long).scatter_(1, best, 1).view(energy.shape)


def detail_flags(images: Tensor) -> list[Tensor]:
    """Where strokes and edges are, by gradient energy: the half of the 16 x 16 blocks, and of the 8 x 8 blocks inside that half the half.

    Returns:
        int64 [B, 1, H / 16, W / 16] and [B, 1, H / 8, W / 8], 1 = chosen.
    """
    grey = images.float().mean(1, keepdim=True)
    energy = F.pad(grey.diff(dim=3) ** 2, (0, 1)) + F.pad(grey.diff(dim=2) ** 2, (0, 0, 0, 1))
    wide = F.avg_pool2d(energy, 16)
    half = strongest_half(wide, torch.ones_like(wide))
    return [half, strongest_half(F.avg_pool2d(energy, 8), spread(half))]


def spread(blocks: Tensor) -> Tensor:
    """[B, 1, h, w] -> [B, 1, 2 h, 2 w]: each block's value for the four that it is made of."""
    return blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)


def positions_in(mask: Tensor, rank: Tensor, count: int) -> Tensor:
    """The `count` raster positions that are 1 in every image's `mask` [B, 1, h, w], by rank: int64 [B, count]."""
    return rank[torch.argsort(mask.flatten(1)[:, rank], dim=1, descending=True, stable=True)[:, :count]]


def chosen(flags: Tensor, among: Tensor, rank: Tensor) -> Tensor:
    """Half of the positions that are 1 in `among` [B, 1, h, w], flagged ones first, then by rank: int64 [B, 1, h, w], 1 = chosen."""
    count = int(among[:1].sum()) // 2
    best = positions_in(among * (1 + flags), rank, count)
    return torch.zeros_like(flags.flatten(1)).scatter_(1, best, 1).view(flags.shape)


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
                nn.Conv2d(coarse if level == 0 else 2 * coarse, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, dims, 1)
            )
            for level, hidden in enumerate(HIDDEN)
        )
        # One more input channel than the code has dimensions: 1 where the token is present, 0 where it is not.
        self.embed = nn.ModuleList(nn.Conv2d(dims + 1, coarse, 3, padding=1) for _ in STRIDES)
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
    def order(cls, flags: list[Tensor], height: int, width: int) -> list[Tensor]:
        """Per level, the raster positions that the sequence visits, in its order: int64 [B, n].

        The flagged blocks are chosen by flag, then by rank, so that exactly half are, whatever the flags: ids that no encoder made decode too.
        """
        grids = cls.grids(height, width)
        ranks = [dispersed_order(*grid).to(flags[0].device) for grid in grids[:3]]
        half = chosen(flags[0], torch.ones_like(flags[0]), ranks[1])
        quarter = chosen(flags[1], spread(half), ranks[2])
        detail = positions_in(half := spread(half), ranks[2], int(half[:1].sum()))
        finest = positions_in(quarter, ranks[2], detail.shape[1] // 2)
        many = len(flags[0])
        return [ranks[0].expand(many, -1), ranks[1].expand(many, -1), detail, finest, finest, finest]

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

    def encode_levels(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Images -> (values, digits) per level, each [B, 4, h, w], and the two maps of flags."""
        flags = detail_flags(images)
        wide, middle, near = self.features(images)
        value, digit = self.quantise(self.head[0](wide))
        values, digits = [value], [digit]
        below = self.ladder[0](self._token(0, value, torch.ones_like(value[:, :1])))
        present = [torch.ones_like(flags[0]), spread(flags[0]), flags[1], flags[1], flags[1]]
        for level, features in enumerate((middle, near, near, near, near), 1):
            value, digit = self.quantise(self.head[level](torch.cat([features, below], 1)))
            if level in (1, 2):
                flag = flags[level - 1]
                value, digit = torch.cat([value[:, :3], flag * 2.0 - 1], 1), torch.cat([digit[:, :3], flag], 1)
            values.append(value)
            digits.append(digit)
            below = below + self._token(level, value, present[level - 1].float())
            if level == 1:
                below = self.ladder[1](below)
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
        return self.paint(x + sum(tokens[2:])) * 0.5 + 0.5

    # -- ids -----------------------------------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_ids(self, images: Tensor) -> Tensor:
        """Images float32 [B, 3, H, W] in [0, 1] -> ids int64 [B, N], N = H * W * 25 / 1024."""
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
        wide, middle = (rows * columns for rows, columns in grids[:2])
        counts = [wide, middle, 4 * (middle // 2), *3 * [2 * (middle // 2)]]
        if ids.shape[1] > sum(counts):
            raise ValueError(f"{ids.shape[1]} tokens for a {height}x{width} image, which has {sum(counts)}")
        parts = F.pad(ids, (0, sum(counts) - ids.shape[1])).split(counts, 1)
        # The flags of a prefix that ends before or inside their level are wrong, and never used: nothing of the later levels is present.
        flags = [torch.zeros(len(ids), 1, *grids[level], dtype=torch.long, device=ids.device) for level in (1, 2)]
        for level in (1, 2):
            visited = self.order(flags, height, width)[level]
            flags[level - 1].flatten(1).scatter_(1, visited, parts[level] % 2)
        order = self.order(flags, height, width)
        present = self.presence(order, torch.full((len(ids),), ids.shape[1], device=ids.device), height, width)
        values = []
        for part, positions, (rows, columns) in zip(parts, order, grids, strict=True):
            value = torch.zeros(len(ids), len(FSQ_STEPS), rows * columns, device=ids.device)
            where = positions[:, None].expand(-1, len(FSQ_STEPS), -1)
            values.append(value.scatter_(2, where, self.values_of(part).transpose(1, 2)).unflatten(2, (rows, columns)))
        return self.decode_levels(values, present).clamp(0, 1)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters that encoding and decoding run; `embed` and `ladder` serve both, so the two overlap."""

        def count(*parts: nn.Module) -> int:
            return sum(p.numel() for part in parts for p in part.parameters())

        shared = count(self.embed[:-1], self.ladder)
        return {
            "encoder": shared + count(self.stem, self.down, self.head),
            "decoder": shared + count(self.embed[-1], self.paint),
            "total": count(self),
        }
