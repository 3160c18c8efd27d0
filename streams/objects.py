"""Where this process keeps objects: in the data folder alone, or for all machines at `ESPER_OBJECTS_URL`."""

from __future__ import annotations

from pathlib import Path

from esper.leyline.objects import ObjectStore
from streams.settings import Settings


def object_store(data_dir: Path) -> ObjectStore:
    """The objects of a data folder; raises InvalidInput where no installed library knows such an address."""
    settings, folder = Settings.load(), data_dir / "objects"
    if settings.objects_url is None:
        return ObjectStore(folder)
    # Late, as it brings the clients of object stores, and most have none.
    from projections.addresses import Folder  # noqa: PLC0415
    from projections.shared_objects import SharedObjects  # noqa: PLC0415

    return SharedObjects(folder, Folder.at(settings.objects_url), int(settings.objects_cache_gb * 2**30))
