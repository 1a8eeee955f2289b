"""Which parts of a unit may depart from the specification and are still followed in batches."""

from __future__ import annotations

from iommu.engine.parts import Parts
from iommu.engine.unit import RemappingUnit
from iommu.errors import MisuseError

_FOLLOWED = {
    "LegacyMode": {"context_entry", "read_root", "read_context", "translation_type", "levels", "context",
                   "pass_through"},
    "ScalableMode": {"context_entry", "read_root", "read_context", "check_context_entry", "decode_context",
                     "read_directory", "read_pasid", "pasid_entry", "pasid_context_of", "check_pasid_entry",
                     "decode_pasid", "second_root", "is_snooped", "pass_through"},
    "Translation": {"report"},
    "FirstStage": set(),
    "SecondStage": set(),
}  # fmt: skip
"""The methods that the batch engine calls itself, by part."""


def departures(unit: RemappingUnit) -> list[str]:
    """The methods of a unit that differ from the specification's and are not followed: "FirstStage.find"."""
    found = []
    for part, followed in _FOLLOWED.items():
        own, stock = getattr(unit, part), getattr(Parts, part)
        for name in dir(stock):
            if getattr(own, name) is not getattr(stock, name) and not name.startswith("__") and name not in followed:
                found.append(f"{part}.{name}")
    return found


def check_followed(unit: RemappingUnit) -> None:
    """Raises MisuseError if a unit departs from the specification in a way that batches do not follow."""
    if found := departures(unit):
        raise MisuseError(f"{type(unit).__name__} has its own {', '.join(found)}, which batches do not follow")
