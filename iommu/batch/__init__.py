"""Whole arrays of requests: what `iommu.engine` says of one, for millions a second (docs/batch.md)."""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from iommu.batch.arrays import NO_ADDRESS, NO_PASID
    from iommu.batch.replay import Replay, Statistics
    from iommu.batch.translator import BatchTranslator

__all__ = ["NO_ADDRESS", "NO_PASID", "BatchTranslator", "Replay", "Statistics"]

_HOMES = {
    "BatchTranslator": "translator",
    "NO_ADDRESS": "arrays",
    "NO_PASID": "arrays",
    "Replay": "replay",
    "Statistics": "replay",
}
__getattr__ = attributes("iommu.batch", _HOMES)
