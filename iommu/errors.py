"""The exceptions this project raises.

    VtdError                    everything below; one readable line, for people
    ├── MisuseError             an argument or a combination of arguments is not allowed
    ├── FormatError             input bytes are malformed
    │   ├── DmarError           an ACPI DMAR table is malformed
    │   └── StateError          the saved state of a unit is malformed, or that of another unit
    ├── InputError              an input cannot be read at all, or is beyond a limit (iommu.files)
    ├── TraceError              a row of a trace is not a request (iommu.batch)
    ├── RoutingError            which unit a request or an access goes to is not known, or there is none
    └── MemoryAccessError       an access beyond the memory that exists

A fault that VT-d hardware would report is never an exception: it is an `Outcome` with a `FaultReason`.
"""


class VtdError(Exception):
    """Root of every error this project raises. `str()` is one line that can be shown to a user."""


class MisuseError(VtdError, ValueError):
    """An argument is out of its range; the message names it, its value and the range."""


class FormatError(VtdError):
    """Input bytes are malformed.

    Attributes:
        offset: where in the input, in bytes.
        where: the structure at that offset ("header", "DRHD", ...).
        field: the offending field's name.
        value: what the field holds; None when it is missing.
    """

    def __init__(self, message: str, *, offset: int, where: str, field: str, value: int | None = None) -> None:
        shown = "" if value is None else f" = {value:#x}"
        super().__init__(f"offset {offset:#x}, {where}.{field}{shown}: {message}")
        self.offset = offset
        self.where = where
        self.field = field
        self.value = value


class DmarError(FormatError):
    """A DMAR table cannot be parsed (spec chapter 8)."""


class StateError(FormatError):
    """A unit cannot be restored: the saved state is malformed, of another format, or of a unit that differs.

    `where` is the header or a section of the format (iommu.engine.state_format).
    """


class InputError(VtdError):
    """An input cannot be read at all, or is beyond a limit; the message is one line with its name and the reason."""


class TraceError(VtdError):
    """A row of a trace is not a request that a device could send. All rows before it have been read.

    Attributes:
        row: its number, from 0 on.
    """

    def __init__(self, name: str, row: int, message: str) -> None:
        super().__init__(f"{name}: row {row}: {message}")
        self.row = row


class RoutingError(VtdError):
    """A system of several units cannot say where a request or an access goes; the message says what is missing."""


class MemoryAccessError(VtdError):
    """Physical memory was read or written where there is none.

    Attributes:
        address: first byte of the access.
        length: its size in bytes.
    """

    def __init__(self, address: int, length: int) -> None:
        super().__init__(f"no memory at {address:#x}, {length} bytes")
        self.address = address
        self.length = length
