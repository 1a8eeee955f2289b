import pytest

from iommu.errors import MisuseError
from qemu.vtd import firmware


def test_the_reset_vector_halts() -> None:
    image = firmware.halting()
    assert len(image) == firmware.SIZE
    # cli; hlt; jump back to hlt
    assert image[firmware.RESET_VECTOR :][:4] == b"\xfa\xf4\xeb\xfd"


def test_a_payload_starts_the_image() -> None:
    image = firmware.image(b"\xeb\xfe", b"payload")
    assert image.startswith(b"payload\0")
    assert image[-16:-14] == b"\xeb\xfe"


@pytest.mark.parametrize(("code", "payload"), [(bytes(17), b""), (b"", bytes(0xFFF1))])
def test_what_does_not_fit_is_refused(code: bytes, payload: bytes) -> None:
    with pytest.raises(MisuseError, match="does not fit"):
        firmware.image(code, payload)
