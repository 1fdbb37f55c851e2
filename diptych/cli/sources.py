"""What a verb reads: data sets by their names, and beside them what a detector saw in their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.cli.regions import seen_on_the_way

if TYPE_CHECKING:
    from diptych.contracts import Reader, System
    from diptych.data.mixture import Source as Mixed


def only(sources: list[Mixed]) -> Mixed:
    """A score is of one data set."""
    from diptych.config import UserError

    if len(sources) > 1:
        names = [source.name for source in sources]
        raise UserError(f"--data: {len(names)} data sets are there; name one: {' or '.join(names)}")
    return sources[0]


def regions_for(
    system: type[System],
    name: str,
    given: Path | None,
    saved: Mapping[str, Any] | None = None,
    task_reads: bool = False,
    pretraining: bool = False,
) -> Path | None:
    """What is read beside the data: the store given, that of the run started from (`saved`), or what the shipped detector sees.

    None where nothing is. Refused: a store that would not be read, and regions by another detector than a run has learnt to read.
    """
    from diptych import find
    from diptych.config import UserError

    if not (task_reads or system.reads_regions or (pretraining and system.taught_by_regions)):
        if given is not None:
            when = " after pre-training" if system.taught_by_regions else ""
            raise UserError(f"--regions {given}: {name} reads no region features{when}; leave it out")
        return None
    if given is not None or (saved or {}).get("regions"):
        return given or Path((saved or {})["regions"])
    if saved is not None and system.reads_regions:
        raise UserError(f"this {name} reads what a detector saw in the pictures, and its run does not say which: --regions STORE")
    return Path(find.SHIPPED)


def told_of(regions: Path | None, sources: list[Mixed]) -> dict[str, Any]:
    """Where regions come from, for `about`: only where there are any. The stores, if they were made on the way."""
    from diptych import find
    from diptych.regions.store import WithRegions

    if regions is None:
        return {}
    stores = [str(source.reader.store.path) for source in sources if isinstance(source.reader, WithRegions)]
    return {"regions": str(regions)} | ({"region_stores": stores} if str(regions) == find.SHIPPED else {})


def with_regions(sources: list[Mixed], regions: Path | None) -> list[Mixed]:
    """Sources whose samples bring what a detector saw in their pictures, where that is read."""
    from dataclasses import replace

    from diptych import find
    from diptych.regions.store import RegionStore, WithRegions

    if regions is None:
        return sources
    if str(regions) == find.SHIPPED:
        return seen_on_the_way(sources)
    store = RegionStore(regions)
    return [replace(source, reader=WithRegions(source.reader, store)) for source in sources]


def validation_of(spec: str, purpose: str, regions: Path | None, notes: list[str]) -> dict[str, Reader]:
    """The `val` split of a data set, where it has one."""
    from diptych import find
    from diptych.config import UserError

    try:
        return {"val": only(with_regions(find.readers([spec], "val", purpose), regions)).reader}
    except UserError as error:
        notes.append(f"no score on val at the end: {error}")
        return {}


def held_out_of(specs: list[str], system: type[System], regions: Path | None, notes: list[str]) -> list[Mixed]:
    """The `val` splits of data sets, where they all have one."""
    from diptych import find
    from diptych.config import UserError

    try:
        return with_regions(find.readers(specs, "val", system.purpose), regions)
    except UserError as error:
        notes.append(f"nothing is measured on val: {error}")
        return []
