"""A firmware image that halts the processor, used instead of a BIOS."""

from iommu.errors import MisuseError

SIZE = 64 * 1024
# The processor starts 16 bytes below the end of the image.
RESET_VECTOR = SIZE - 16

_CLI = b"\xfa"
_HLT = b"\xf4"
_BACK_TO_HLT = b"\xeb\xfd"


def halting() -> bytes:
    """An image that disables interrupts and halts at the reset vector, for machines that are driven from outside."""
    return image(_CLI + _HLT + _BACK_TO_HLT)


def image(reset_code: bytes, payload: bytes = b"") -> bytes:
    """A 64 KiB image: `payload` at its start, `reset_code` at the reset vector (at most 16 bytes).

    Raises MisuseError when either is too long.
    """
    if len(reset_code) > SIZE - RESET_VECTOR:
        raise MisuseError(f"reset code of {len(reset_code)} bytes does not fit in {SIZE - RESET_VECTOR}")
    if len(payload) > RESET_VECTOR:
        raise MisuseError(f"payload of {len(payload)} bytes does not fit in {RESET_VECTOR}")
    return payload.ljust(RESET_VECTOR, b"\0") + reset_code.ljust(SIZE - RESET_VECTOR, b"\0")
