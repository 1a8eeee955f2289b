"""Whole arrays of requests: what `iommu.engine` says of one, for millions a second (docs/batch.md)."""

from typing import TYPE_CHECKING

from iommu.lazy import attributes

if TYPE_CHECKING:
    from iommu.batch.arrays import NO_ADDRESS, NO_PASID
    from iommu.batch.reach import Reachable, reachable
    from iommu.batch.reach_domains import who_can_reach
    from iommu.batch.replay import Replay, Statistics
    from iommu.batch.translator import BatchTranslator

__all__ = [
    "NO_ADDRESS",
    "NO_PASID",
    "BatchTranslator",
    "Reachable",
    "Replay",
    "Statistics",
    "reachable",
    "who_can_reach",
]

_HOMES = {
    "BatchTranslator": "translator",
    "NO_ADDRESS": "arrays",
    "NO_PASID": "arrays",
    "Reachable": "reach",
    "Replay": "replay",
    "Statistics": "replay",
    "reachable": "reach",
    "who_can_reach": "reach_domains",
}
__getattr__ = attributes("iommu.batch", _HOMES)
