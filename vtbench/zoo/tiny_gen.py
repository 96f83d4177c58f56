"""`tiny-gen`: a generator of `tiny`'s tokens that the package carries, so that `vtbench generate` works after one install.

A toy: it shows the path (classes, seeds, prefixes, guidance, tokens with their images), not how good generators are. Its network is in `tiny_gen_network.py`;
`training/tiny_gen.py` makes its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vtbench.api import Capabilities, Condition, Generated, Generator, Stream, Tokens
from vtbench.errors import BadSample, UsageError
from vtbench.weights import joint_digest
from vtbench.zoo.guidance import scale
from vtbench.zoo.tiny import WEIGHTS as TOKENIZER
from vtbench.zoo.tiny import filled
from vtbench.zoo.tiny import load_net as load_tokenizer
from vtbench.zoo.tiny_gen_network import CLASSES, CODES, LENGTH, TinyGenNet
from vtbench.zoo.token_generator import Draws

WEIGHTS = Path(__file__).with_suffix(".safetensors")
SIDE = 256


def load_net(weights: Path = WEIGHTS) -> TinyGenNet:
    """The network with the weights of a file, as `tiny.filled` has it."""
    return filled(TinyGenNet(), weights, "tiny-gen")


class TinyGen(Generator):
    """The adapter: images of 256 x 256 from class labels, token by token, decoded by `tiny`.

    temperature: divides the logits; 0 takes the likeliest token. guidance: none (which is also its best), or a number, 1 meaning none. budget: the default number of tokens, all 320 when None. weights: another file
    from `training/tiny_gen.py`.
    """

    name = "tiny-gen"
    capabilities = Capabilities(
        prefix=True,
        max_tokens=LENGTH,
        any_resolution=False,
        resolution=SIDE,
        stochastic=True,
        classes=len(CLASSES),
        gives_tokens=True,
    )

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        guidance: str = "best",
        budget: int | None = None,
        weights: Path | None = None,
    ) -> None:
        if temperature < 0:
            raise UsageError(
                f"a temperature of {temperature:g}", "0 takes the likeliest token, 1 the distribution as learnt"
            )
        self._temperature = temperature
        self._guidance, said = scale(guidance, best=1.0, none=1.0, model=self.name)
        self.budget = self._checked(budget)
        self.steps = self.budget or LENGTH
        self.params = {"guidance": said, "temperature": temperature}
        self.revision = joint_digest([weights or WEIGHTS, TOKENIZER])
        self.net = load_net(weights or WEIGHTS)
        self.tokenizer = load_tokenizer()
        self._device = torch.device("cpu")

    @staticmethod
    def _checked(budget: int | None) -> int | None:
        if budget is not None and not 1 <= budget <= LENGTH:
            raise UsageError(f"tiny-gen makes 1 to {LENGTH} tokens, not {budget}", "Ask for fewer")
        return budget

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> Generated:
        """Images float32 [B, 3, 256, 256] in [0, 1] and their tokens. A condition without a label is generated without a class."""
        count = self._checked(budget if budget is not None else self.budget) or LENGTH
        labels = []
        for condition in conditions:
            if condition.label is not None and not 0 <= condition.label < len(CLASSES):
                raise BadSample(f"class {condition.label}: tiny-gen has 0 to {len(CLASSES) - 1} ({', '.join(CLASSES)})")
            labels.append(len(CLASSES) if condition.label is None else condition.label)
        ids = self.net.sample(
            torch.tensor(labels, device=self._device),
            Draws(seeds, self._device).uniform(LENGTH)[:, :count],
            temperature=self._temperature,
            guidance=self._guidance,
        )
        stream = Stream("tokens", "index", "seq1d", (CODES,), (count,), ordered=True)
        images = self.tokenizer.decode_ids(ids, SIDE, SIDE)
        return Generated(images, Tokens((stream,), {"tokens": ids}, len(ids), condition=list(conditions)))

    def modules(self) -> dict[str, torch.nn.Module]:
        """The generator, and the tokenizer that decodes its tokens."""
        return {"generator": self.net, "decoder": self.tokenizer}

    def to(self, device: str, dtype: str = "float32") -> TinyGen:
        """Move the networks; they always compute in float32."""
        self._device = torch.device(device)
        self.net.to(self._device)
        self.tokenizer.to(self._device)
        return self
