"""Fetching from the Hugging Face hub: only ever from `vtbench weights fetch`, after the licence was shown."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtbench.errors import MissingPackage, MissingWeights, UsageError

_AUTOENCODER = [
    "config.json",
    "*.safetensors",
    "vae/*.json",
    "vae/*.safetensors",
    "vqvae/*.json",
    "vqvae/*.safetensors",
]


@dataclass(frozen=True)
class Wanted:
    """What to fetch of one repository. files: of it; empty: the autoencoder that it holds, or all of it (`whole`). licence: as on the card."""

    repository: str
    files: tuple[str, ...]
    licence: str
    whole: bool = False


def plan_fetch(name: str) -> list[Wanted]:
    """What fetching a model means, by repository; its parameters may follow a colon, where the files depend on them. `UsageError` when its weights are not on the hub, with where they are."""
    if name.startswith("hub:"):
        repository = name.removeprefix("hub:")
        if repository.count("/") != 1:
            raise UsageError(f"'{repository}' is no hub repository", "hub:OWNER/NAME")
        return [Wanted(repository, (), "none: the repository has no card here")]
    from vtbench.zoo.catalogue import card
    from vtbench.zoo.spec import parse

    asked = parse(name)
    found = card(asked.name)
    licence = found.weights_licence or "not stated"
    wanted = found.files_for(asked.params)
    if wanted and all(f.repository for f in wanted):
        by_repository: dict[str, list[str]] = {}
        for file in wanted:
            by_repository.setdefault(file.repository, []).append(
                f"{file.path}/*" if file.folder and file.path else file.path
            )
        return [Wanted(r, tuple(filter(None, files)), licence, not all(files)) for r, files in by_repository.items()]
    if found.hub and not wanted:
        return [Wanted(found.hub, (), licence)]
    places = ", ".join(dict.fromkeys(f.url for f in wanted if f.url)) or found.code
    raise UsageError(
        f"the weights of {found.title or name} are not on the hub",
        f"Get them from {places} and put them in a folder of VTBENCH_WEIGHTS" if places else "It has none",
    )


def _hub() -> Any:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingPackage("huggingface-hub", "hub", "fetching weights")
    import huggingface_hub

    return huggingface_hub


def _told(error: Exception, repository: str) -> MissingWeights:
    """A hub error as one line: gated, private or absent, no such file, no network."""
    kind = type(error).__name__
    if "Gated" in kind:
        return MissingWeights(
            f"the repository {repository} is gated",
            f"Accept its terms on huggingface.co/{repository}, then `hf auth login` or set HF_TOKEN",
        )
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError"):
        return MissingWeights(
            f"huggingface.co/{repository} does not exist, or is private", "Log in with `hf auth login` if it is yours"
        )
    if kind in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
        return MissingWeights(f"huggingface.co/{repository} has no such file: {' '.join(str(error).split())[:150]}")
    return MissingWeights(
        f"the hub cannot be reached for {repository} ({kind})",
        "Without a network, put the files in a folder of VTBENCH_WEIGHTS",
    )


def licence_of(repository: str) -> str:
    """The licence that the repository itself declares. Raises `MissingWeights` when the hub does not answer."""
    hub = _hub()
    try:
        info = hub.HfApi().model_info(repository, timeout=10)
    except (OSError, ValueError, RuntimeError, hub.errors.HfHubHTTPError) as error:
        raise _told(error, repository) from error
    except Exception as error:
        # httpx, which newer clients use, has errors of its own that derive from Exception alone.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests"):
            raise
        raise _told(error, repository) from error
    data = info.card_data.to_dict() if info.card_data is not None else {}
    return str(data.get("license_name") or data.get("license") or "none declared") + (" (gated)" if info.gated else "")


def retrieve(wanted: Wanted, out: Path | None) -> list[Path]:
    """Fetch, into the hub's cache or under `out` as ``OWNER/NAME/FILE``, where the weights path finds them."""
    hub = _hub()
    where: dict[str, Any] = {} if out is None else {"local_dir": str(out / wanted.repository)}
    try:
        if wanted.whole or any("*" in file for file in wanted.files):
            patterns = None if wanted.whole else list(wanted.files)
            return [Path(hub.snapshot_download(wanted.repository, allow_patterns=patterns, **where))]
        if wanted.files:
            return [Path(hub.hf_hub_download(wanted.repository, file, **where)) for file in wanted.files]
        return [Path(hub.snapshot_download(wanted.repository, allow_patterns=_AUTOENCODER, **where))]
    except (OSError, ValueError, RuntimeError) as error:
        raise _told(error, wanted.repository) from error
