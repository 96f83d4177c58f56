"""Cards: what is known of a system, as data. `vtbench.zoo.catalogue` has them all.

Reading a card imports nothing heavy; whether a model runs here is decided by looking for its adapter, packages and files, not by loading it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench import parse, weights
from vtbench.errors import MissingWeights, UnknownName, UsageError

if TYPE_CHECKING:
    from vtbench.zoo.upstream.place import Recipe

ROUTES = {
    "control": "no network: a codec or a resize",
    "own": "vtbench's own implementation",
    "library": "through a published library",
    "upstream": "through its authors' code, in a process of its own",
    "catalogue": "known, not runnable",
    "external": "made elsewhere: arrays, a file or a function of the user's",
}


@dataclass(frozen=True)
class File:
    """One weights file. role: what the adapter calls it. names: relative paths on the weights path, the preferred one first. repository, path:
    where the hub has it. digest: of the published file, where known (``sha256:<64 hex>``). folder: it is a whole folder (a repository's, when path is empty). when: parameters of the
    model (``size = "large"``) without which the file is not needed. Names, repository and path may hold ``{param}``."""

    role: str = "weights"
    names: tuple[str, ...] = ()
    repository: str = ""
    path: str = ""
    digest: str = ""
    url: str = ""
    folder: bool = False
    when: Mapping[str, Any] = field(default_factory=dict)

    def wanted(self) -> tuple[str, ...]:
        """Every relative path that the file may lie at."""
        inside = f"{self.repository}/{self.path}".rstrip("/")
        hub = (inside,) if self.repository and (self.path or self.folder) else ()
        return (*self.names, *hub)

    def of(self, params: Mapping[str, Any]) -> File:
        """The file with parameters filled in: ``{size}`` in its names, repository, path and address."""
        if not params:
            return self
        texts = {n: getattr(self, n).format_map(_Left(params)) for n in ("repository", "path", "url")}
        return replace(self, names=tuple(n.format_map(_Left(params)) for n in self.names), **texts)


class _Left(dict[str, Any]):
    """Values to format with; a name that has none stays as it is."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


@dataclass(frozen=True)
class Card:
    """What is known of a system.

    name: as after ``--model``. adapter: ``module:attribute``, or the callable itself; absent until there is one, and then `missing` says in one line what is
    missing and `get` how to get it. generator: the adapter of the same name for `vtbench generate`, where there are two. form: ``1d``, ``2d``, ``multiscale``, ``codec``, ``latent2d``, ``latent1d``, ... kind: of the tokens. tokens: of one image at `resolution`
    (with `tokens_min` when it varies). codebook: sizes, one per codebook of a position. bits: nominal bits of one image at `resolution`. parameters: in millions.
    value_range: what the network itself wants; the adapter converts. in_domain: data sets that the model was trained on (or on whose distribution). packages:
    modules that the adapter imports beyond vtbench's own. signature: a few keys with shapes that tell the checkpoint from all others, where `vtbench.zoo.layout` has no full list. published: numbers that its
    authors claim, ``metric@dataset`` to value, as claims. golden: known `tokens` of a picture (`image`, its `source`). needs: what a user must give besides the name.
    upstream: for systems that run through their authors' code, the fields of `vtbench.zoo.upstream.place.Recipe`.
    """

    name: str
    title: str = ""
    family: str = ""
    route: str = "catalogue"
    adapter: Any = ""
    generator: str = ""
    missing: str = ""
    get: str = ""
    code: str = ""
    hub: str = ""
    code_licence: str = ""
    weights_licence: str = ""
    unofficial: bool = False
    paper: str = ""
    bibtex: str = ""
    files: tuple[File, ...] = ()
    needs: str = ""
    form: str = ""
    kind: str = ""
    tokens: int | None = None
    tokens_min: int | None = None
    codebook: tuple[int, ...] = ()
    bits: float | None = None
    resolution: int | None = None
    multiple: int | None = None
    value_range: tuple[float, ...] = ()
    trained_on: str = ""
    in_domain: tuple[str, ...] = ()
    parameters: float | None = None
    tensors: int | None = None
    decode: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    extra: str = "zoo"
    signature: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    golden: Mapping[str, Any] = field(default_factory=dict)
    upstream: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: str = "vtbench"

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> Card:
        """A card from a TOML table; unknown fields and routes are refused by name."""
        known = {f.name for f in fields(cls)}
        for key in table:
            if key not in known:
                raise UnknownName(f"field of the card {where}", key, known)
        parse.expect(table, _kinds(cls), f"the card {where}", UsageError)
        for file in table.get("files", ()):
            parse.expect(file, _kinds(File), f"a file of the card {where}", UsageError)
            for key in file.keys() - {f.name for f in fields(File)}:
                raise UnknownName(f"field of a file of the card {where}", key, [f.name for f in fields(File)])
        if table.get("route", "catalogue") not in ROUTES:
            raise UnknownName(f"route of the card {where}", str(table["route"]), ROUTES)
        made = _plain(table)
        made["files"] = tuple(File(**_plain(file)) for file in table.get("files", ()))
        return cls(**made)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain data, empty fields left out."""
        whole = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("files", "adapter")}
        out: dict[str, Any] = {k: v for k, v in whole.items() if v not in ("", None, (), {}, False)}
        if isinstance(self.adapter, str) and self.adapter:
            out["adapter"] = self.adapter
        if self.files:
            out["files"] = [{k: v for k, v in asdict(f).items() if v} for f in self.files]
        return {
            k: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v for k, v in out.items()
        }

    # ------------------------------------------------------------------------------------------- here

    def recipe(self) -> Recipe | None:
        """How the authors' code is had, for systems that run through it."""
        if not self.upstream:
            return None
        from vtbench.zoo.upstream.place import Recipe

        return Recipe.from_table(self.upstream, self.name)

    def files_for(self, params: Mapping[str, Any] | None = None) -> tuple[File, ...]:
        """The files that the model with these parameters needs; a parameter that is not given has the card's default."""
        chosen = {**self.defaults, **(params or {})}
        return tuple(f.of(chosen) for f in self.files if all(str(chosen.get(k)) == str(v) for k, v in f.when.items()))

    def locate(self, given: Path | str | None = None, params: Mapping[str, Any] | None = None) -> dict[str, Path]:
        """Where the model's files lie, by role.

        params: the model's, where its files depend on them. given: what stood after ``--weights``: the only file, a folder that holds all, or (several roles) the first role's file with the others beside it. Raises
        `MissingWeights` with the way to get them."""
        files = self.files_for(params) or (File(),)
        if given is not None:
            return _given(Path(given).expanduser(), files, self.name)
        found = {}
        for file in files:
            if not file.wanted():
                raise MissingWeights(f"{self.name} has no weights of its own", "Give a checkpoint with --weights")
            found[file.role] = weights.find(file.wanted(), what=self.title or self.name, way_out=self.how_to_get(file))
        return found

    def how_to_get(self, file: File) -> str:
        """The way out for a missing file."""
        ways = []
        if file.repository:
            ways.append(f"`vtbench weights fetch {self.name}` gets it from huggingface.co/{file.repository}")
        elif file.url:
            ways.append(f"Get it from {file.url}")
        elif self.get:
            ways.append(self.get)
        ways.append(f"{'or ' if ways else ''}put it in a folder of {weights.ENVIRONMENT}, or name it with --weights")
        return ", ".join(ways)

    def why_not(self) -> str:
        """Why the model does not run here, in one line; empty when it does. Loads nothing."""
        if not self.adapter:
            return self.missing or "no adapter yet"
        if isinstance(self.adapter, str) and not module_there(self.adapter.partition(":")[0]):
            return self.missing or "its adapter is not part of this version"
        if self.upstream:
            from vtbench.zoo.upstream import place

            if place.standing(self) is None:
                return f"no environment: vtbench models setup {self.name}"
        absent = [p for p in self.packages if not module_there(p)]
        if absent:
            return f"needs the package {', '.join(absent)}: pip install 'vtbench[{self.extra}]'"
        if self.files:
            try:
                self.locate()
            except MissingWeights:
                wanted = self.files_for()
                return f"no weights here ({', '.join(f.path or f.repository or f.names[0] for f in wanted)})"
        elif self.needs.startswith("--weights"):
            return f"give {self.needs}"
        elif self.route == "library" and self.hub and not weights.here(self.hub):
            return f"no weights here (hub repository {self.hub})"
        return ""


# the fields' annotations as what stands in a TOML table
_KINDS: dict[str, parse.Kind] = {
    "str": str, "bool": bool, "int | None": int, "float | None": float, "Mapping[str, Any]": dict, "Mapping[str, str]": dict,
    "tuple[str, ...]": [str], "tuple[int, ...]": [int], "tuple[float, ...]": [float], "tuple[File, ...]": [dict], "Any": str,
}  # fmt: skip


def _kinds(cls: Any) -> dict[str, parse.Kind]:
    return {f.name: _KINDS[str(f.type)] for f in fields(cls)}


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """A TOML table with its arrays as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _given(path: Path, files: tuple[File, ...], name: str) -> dict[str, Path]:
    if not path.exists():
        raise MissingWeights(f"no weights file {path}", "Look at what stands after --weights")
    if path.is_file() and len(files) == 1:
        return {files[0].role: path}
    root = path if path.is_dir() else path.parent
    found = {}
    for file in files:
        wanted = [Path(n) for n in file.wanted()]
        here = [root / w for w in wanted] + [root / w.name for w in wanted]
        there = next((p for p in here if (p.is_dir() if file.folder else p.is_file())), None)
        if there is None and file.folder and len(files) == 1:
            there = root
        if there is None:
            lying = sorted(p for p in root.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt"))
            if len(files) == 1 and len(lying) == 1:
                there = lying[0]
            else:
                names = " or ".join(dict.fromkeys(w.name for w in wanted)) or "a single weights file"
                raise MissingWeights(f"{root} does not hold the {file.role} of {name} ({names})")
        found[file.role] = there
    return found


@cache
def module_there(module: str) -> bool:
    """Whether a module can be imported; nothing is."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
