"""The model in use: ``model.name`` of the configuration decides; without it, the last
``diptych model use``; without that, the bundled default."""

from __future__ import annotations

from diptych.audit import models
from diptych.audit.store import Store
from diptych.config import Config
from diptych.embed.manifest import ModelEntry, load_model
from diptych.errors import ModelError

REGISTERED = "manifest.toml"


def model(config: Config, name: str | None = None) -> ModelEntry:
    """A bundled or registered model by name (None: the bundled default). Raises ModelError."""
    return load_model(name, registered=config.models_folder / REGISTERED)


def model_in_use(config: Config, store: Store | None) -> ModelEntry:
    """What embeds now; ``store`` None: no archive yet. Raises ModelError with the way out."""
    if config.model.name:
        return model(config, config.model.name)
    chosen = None
    if store is not None:
        with store.read() as connection:
            chosen = models.in_use(connection)
    if chosen is None:
        return model(config)
    try:
        entry = model(config, chosen.name)
    except ModelError as error:
        raise ModelError(
            f"{error}; the archive is embedded by it: bring it back with `diptych model add`, or "
            "switch with `diptych model use NAME`"
        ) from error
    if entry.fingerprint != chosen.fingerprint:
        raise ModelError(
            f"model {chosen.name!r} is another than the archive was embedded by (fingerprint "
            f"{entry.fingerprint[:12]}, not {chosen.fingerprint[:12]}): "
            f"`diptych model use {chosen.name}` embeds the archive again"
        )
    return entry
