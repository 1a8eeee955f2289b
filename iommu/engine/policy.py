"""Freedom has a name: where the architecture lets hardware choose, or public sources leave a doubt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How one unit uses its freedom. The defaults are the strictest reading.

    Attributes:
        compress_faults: a fault is dropped, without overflow, while another from its source-id is pending
            (spec 7.2.1 allows it).
        permission_per_level: a missing permission is reported at the entry that lacks it, not at the leaf; a
            reserved bit further down then goes unseen (doubt D-4).
    """

    compress_faults: bool = False
    permission_per_level: bool = False
