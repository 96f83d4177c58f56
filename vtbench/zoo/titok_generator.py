"""TiTok's generators (Yu et al., arXiv:2406.07550): MaskGIT-style masked decoding of TiTok's tokens, class-conditional.

Layout and numbers: https://github.com/bytedance/1d-tokenizer. Two networks have one sampler: a BERT (L-32, B-64) and a transformer with long skips (S-128). The vocabulary is
codes, a mask, classes, and "no class"; the class stands before the tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Tokenizer
from vtbench.errors import BadWeights, UsageError
from vtbench.zoo.card import Card
from vtbench.zoo.guidance import power_cosine, scale
from vtbench.zoo.published import Shapes, count, wanted
from vtbench.zoo.token_generator import Draws, TokenGenerator

Decay = Literal["constant", "linear", "power-cosine"]
HEADS = 16
"""Of every published network; no tensor tells."""


@dataclass(frozen=True)
class BertConfig:
    """Sizes, as the tensors' shapes give them. skips: whether it is the transformer with long skips."""

    width: int
    depth: int
    heads: int
    hidden: int
    codes: int
    tokens: int
    classes: int
    skips: bool


class BertLayer(nn.Module):
    """Attention and feed-forward, a norm after each, under BERT's names."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads

        def out(inner: int) -> nn.ModuleDict:
            return nn.ModuleDict({"dense": nn.Linear(inner, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({n: nn.Linear(width, width) for n in ("query", "key", "value")}),
                "output": out(width),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, config.hidden)})
        self.output = out(config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        own = self.attention["self"]
        q, k, v = (own[n](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for n in ("query", "key", "value"))  # type: ignore[index, operator]
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        for block, inner in ((self.attention["output"], attended), (self.output, None)):
            if inner is None:
                inner = F.gelu(self.intermediate["dense"](x))
            x = block["LayerNorm"](block["dense"](inner) + x)  # type: ignore[index, operator]
        return x


class BertNet(nn.Module):
    """The BERT, under the names that its files use."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.model = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(
                    {
                        "word_embeddings": nn.Embedding(config.codes + config.classes + 2, width),
                        "position_embeddings": nn.Embedding(config.tokens + 1, width),
                        "token_type_embeddings": nn.Embedding(2, width),
                        "LayerNorm": nn.LayerNorm(width, eps=1e-12),
                    }
                ),
                "encoder": nn.ModuleDict({"layer": nn.ModuleList(BertLayer(config) for _ in range(config.depth))}),
                "lm_head": nn.Linear(width, config.codes),
            }
        )

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Logits ``[B, N, K]`` of every token. ids: codes and masks ``[B, N]``. classes: ``[B]``; `config.classes` for none."""
        table: Any = self.model["embeddings"]
        x = table["word_embeddings"](torch.cat([(classes + self.config.codes + 1)[:, None], ids], 1))
        x = x + table["position_embeddings"].weight[: x.shape[1]] + table["token_type_embeddings"].weight[0]
        x = table["LayerNorm"](x)
        for layer in self.model["encoder"]["layer"]:  # type: ignore[index]
            x = layer(x)
        out: Tensor = self.model["lm_head"](x[:, 1:])
        return out


class SkipBlock(nn.Module):
    """A transformer block; in the second half of the network it first joins the output of its partner in the first."""

    def __init__(self, config: BertConfig, *, joins: bool = False) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width, bias=False), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, config.hidden), "fc2": nn.Linear(config.hidden, width)})
        self.skip_linear = nn.Linear(2 * width, width) if joins else None

    def forward(self, x: Tensor, partner: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None and partner is not None:
            x = self.skip_linear(torch.cat([x, partner], -1))
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.attn["proj"](F.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class SkipNet(nn.Module):
    """The transformer with long skips."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.codes + config.classes + 2, config.width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens + 1, config.width))
        self.in_blocks = nn.ModuleList(SkipBlock(config) for _ in range(config.depth // 2))
        self.mid_block = SkipBlock(config)
        self.out_blocks = nn.ModuleList(SkipBlock(config, joins=True) for _ in range(config.depth // 2))
        self.norm, self.lm_head = nn.LayerNorm(config.width), nn.Linear(config.width, config.codes)

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """As `BertNet`."""
        x = self.embeddings(torch.cat([(classes + self.config.codes + 1)[:, None], ids], 1))
        x = x + self.pos_embed[:, : x.shape[1]]
        kept = []
        for block in self.in_blocks:
            x = block(x)
            kept.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, kept.pop())
        out: Tensor = self.lm_head(self.norm(x)[:, 1:])
        return out


class TiTokGenerator(TokenGenerator):
    """The adapter. guidance: the scale, over the steps as `decay` says (`constant`; `linear`, from 0; `power-cosine`, of exponent `power`); temperature: of the Gumbel noise on choices
    and on what stays masked, falling to 0; steps: rounds of decoding."""

    family = "titok-generator"
    drop = ("*position_ids",)
    grid = False

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        guidance: str = "best",
        best: float = 4.5,
        decay: Decay = "linear",
        power: float = 3.0,
        temperature: float = 9.5,
        steps: int = 8,
        decoder: str = "titok-l32",
        decoder_weights: str = "",
    ) -> None:
        self._set(
            guidance=guidance,
            best=best,
            decay=decay,
            power=power,
            temperature=temperature,
            steps=steps,
            decoder=decoder,
        )
        self._open(card, weights, state_key, allow_code, decoder, decoder_weights)

    def _set(  # type: ignore[override]
        self,
        *,
        guidance: str = "best",
        best: float = 4.5,
        decay: Decay = "linear",
        power: float = 3.0,
        temperature: float = 9.5,
        steps: int = 8,
        decoder: str = "",
    ) -> None:
        if steps < 1 or temperature < 0:
            raise UsageError("titok-generator: at least one step, and a temperature of 0 or more")
        self._scale, said = scale(guidance, best=best, none=0.0, model="titok-generator")
        self._decay, self._power, self._temperature, self.steps = decay, power, temperature, steps
        self.params = {
            "guidance": said,
            "decay": decay,
            **({"power": power} if decay == "power-cosine" else {}),
            "temperature": temperature,
            "steps": steps,
            "decoder": decoder,
        }

    @classmethod
    def infer(cls, shapes: Shapes, *, heads: int = HEADS) -> BertConfig:  # type: ignore[override]
        """From the tensors' shapes; the number of heads is not among them."""
        skips = "pos_embed" in shapes
        head = wanted(shapes, "lm_head.weight" if skips else "model.lm_head.weight", cls.family)
        words = "embeddings.weight" if skips else "model.embeddings.word_embeddings.weight"
        vocabulary, width = wanted(shapes, words, cls.family)
        if skips:
            depth, first = 2 * count(shapes, "in_blocks.{}."), "in_blocks.0.mlp.fc1.weight"
            positions = wanted(shapes, "pos_embed", cls.family)[1]
        else:
            depth = count(shapes, "model.encoder.layer.{}.")
            first = "model.encoder.layer.0.intermediate.dense.weight"
            positions = wanted(shapes, "model.embeddings.position_embeddings.weight", cls.family)[0]
        if width % heads:
            raise BadWeights(f"a width of {width} does not divide into {heads} heads")
        hidden = wanted(shapes, first, cls.family)[0]
        return BertConfig(width, depth, heads, hidden, head[0], positions - 1, vocabulary - head[0] - 2, skips)

    @classmethod
    def build(cls, config: BertConfig) -> nn.Module:
        return SkipNet(config) if config.skips else BertNet(config)

    def facts(self) -> tuple[int, int, int]:
        config = self.loaded.config
        return config.classes, config.tokens, config.codes

    def _join(self, decoder: Tokenizer, revision: str) -> None:
        super()._join(decoder, revision)
        known = decoder.capabilities.max_tokens
        if known is not None and known != self.facts()[1]:
            raise UsageError(f"{decoder.name} decodes {known} tokens, and this network makes {self.facts()[1]}")

    def _guidance(self, step: int) -> float:
        """The scale at a step; 0 when the class alone is asked."""
        if self._scale == 0:
            return 0.0
        if self._decay == "power-cosine":
            return power_cosine(self._scale, self._power, step / self._rounds)
        return self._scale if self._decay == "constant" else self._scale * step / self._rounds

    @property
    def _rounds(self) -> int:
        assert self.steps is not None
        return self.steps

    def sample(self, labels: Tensor, draws: Draws) -> Tensor:
        """Every round chooses all masked tokens and masks the least certain of them again, fewer each time."""
        config = self.loaded.config
        mask, length, rounds = config.codes, config.tokens, self._rounds
        ids = labels.new_full((len(labels), length), mask)
        none = torch.full_like(labels, config.classes)
        for step in range(rounds):
            ratio = (step + 1) / rounds
            heat = self._temperature * (1 - ratio)
            masked = ids == mask
            guided = self._guidance(step)
            if guided:
                with_, without = self.net(torch.cat([ids, ids]), torch.cat([labels, none])).float().chunk(2)
                base = without if self._decay == "power-cosine" else with_
                logits = base + (with_ - without) * guided
            else:
                logits = self.net(ids, labels).float()
            chosen = (logits + heat * _gumbel(draws.uniform(length, config.codes))).argmax(-1)
            sure = logits.gather(-1, chosen[..., None])[..., 0]
            chosen = torch.where(masked, chosen, ids)
            if step == rounds - 1:
                return chosen
            sure = sure.masked_fill(~masked, float("inf")) + heat * _gumbel(draws.uniform(length))
            # As many masks stay as the arc cosine says, at least one, and fewer than there were: counted on each image.
            left = torch.full((len(ids),), math.floor(length * math.acos(ratio) / (math.pi / 2)), device=ids.device)
            left = torch.minimum(masked.sum(-1) - 1, left).clamp(min=1)
            least = sure.sort(-1).values.gather(-1, left[:, None] - 1)
            ids = torch.where(sure <= least, mask, chosen)
        return ids


def _gumbel(uniform: Tensor) -> Tensor:
    tiny = 1e-20
    return -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()
