"""Cases: always the same by seed and number, the same from a file, and as scenarios that can be pasted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from iommu.errors import InputError, MisuseError
from iommu.registers import GCMD, GSTS
from qemu.vtd.conformance import setups
from qemu.vtd.conformance.scenario import _CATALOGUE, scenario
from qemu.vtd.fuzz.actions import ACTIONS, Peek, Poke, parse
from qemu.vtd.fuzz.case import SETUPS, Case, Found, flat, read_found, write_found
from qemu.vtd.fuzz.generate import MODES, make
from qemu.vtd.platform import ModelPlatform
from tests.command import vtd


def cases(mode: str, count: int) -> list[Case]:
    units = MODES[mode][0]
    return [make(7, mode, number, units[number % len(units)], {})[0] for number in range(count)]


@pytest.mark.parametrize("mode", MODES)
def test_a_case_is_its_seed_and_number(mode: str) -> None:
    unit = MODES[mode][0][0]
    forth = [make(7, mode, number, unit, {}) for number in range(30)]
    back = [make(7, mode, number, unit, {}) for number in reversed(range(30))]
    assert forth == back[::-1]
    others = [make(8, mode, number, unit, {}) for number in range(30)]
    assert all(case != other for (case, _), (other, _) in zip(forth, others, strict=True))


def test_weights_steer() -> None:
    """Only the number of a choice that the weights favour grows."""

    def count(weights: dict[str, int]) -> int:
        return sum("then: invalidate" in make(7, "legacy", n, "WIDE", weights)[1] for n in range(100))

    assert count({"then: invalidate": 1}) < count({}) <= count({"then: invalidate": 500})


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_possible_actions(mode: str) -> None:
    for case in cases(mode, 200):
        assert [action.check() for action in case.actions if action.check()] == []


def test_all_kinds_of_actions_are_made() -> None:
    made = {action.name for mode in MODES for case in cases(mode, 300) for action in case.actions}
    assert made == set(ACTIONS)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_holds_the_whole_case(mode: str, tmp_path: Path) -> None:
    for case in cases(mode, 20):
        found = Found(case, "7.2.22", (("a",), ()), (("b", "c"), ()), "seed 7", ("traced",))
        write_found(tmp_path / "found.json", found)
        again = read_found(tmp_path / "found.json")
        assert again == found
        assert again.trace == found.trace


@pytest.mark.parametrize("mode", MODES)
def test_the_scenario_that_is_printed_does_the_same(mode: str) -> None:
    for case in cases(mode, 10):
        expect = flat(case.observe(ModelPlatform(SETUPS[case.setup].capabilities))[0])
        names: dict[str, Any] = {"__name__": "pasted", "scenario": scenario, "setups": setups, "Bench": object}
        exec(compile(case.python(expect), "pasted", "exec"), names)
        pasted = _CATALOGUE.pop("fuzz.name-it")
        assert pasted.expect == expect
        assert pasted.run(ModelPlatform(pasted.setup.capabilities)) == expect


# Bad files.


def document() -> dict[str, Any]:
    case = Case("WIDE", "off", (Poke(GCMD.offset, GCMD.CFI.mask, 4), Peek(GSTS.offset, 4)))
    plain: dict[str, Any] = json.loads(json.dumps(Found(case, "7.2.22", ((), ("x",)), ((), ("y",)), "here").plain()))
    return plain


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": "x"}, "format: 'x' is not 'vtdlab fuzz case 1'"),
    "no such unit": ({"setup": "ROUND"}, "setup: 'ROUND' is not a kind of unit"),
    "no such start": ({"start": "late"}, "start: 'late' is not one of 'off', "),
    "an unknown key": ({"more": 1}, "unknown key 'more'"),
    "no list": ({"actions": 5}, "actions: 5 is not a list"),
    "an action that is none": ({"actions": [{"do": "dance"}]}, "actions[0].do: 'dance' is not one of store, "),
    "a number that is none": (
        {"actions": [{"do": "peek", "offset": "0xg", "size": "0x4"}]},
        "actions[0].offset: '0xg' is not a number in hex",
    ),
    "a field too many": (
        {"actions": [{"do": "peek", "offset": "0x0", "size": "0x4", "x": ""}]},
        "actions[0]: unknown key 'x'",
    ),
    "beyond memory": (
        {"actions": [{"do": "store", "address": "0xa00000", "value": "0x0", "size": "0x8"}]},
        "actions[0]: store: 0xa00000 is beyond memory",
    ),
    "lines that are none": ({"seen": [["x"], 3]}, "seen[1]: 3 is not a list of texts"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text(json.dumps({**document(), **change}))
    with pytest.raises(MisuseError) as error:
        read_found(file)
    assert str(error.value).startswith(f"{file}")
    assert message in str(error.value)
    ran = vtd("replay", file)
    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.decode() == f"vtd: {error.value}\n"


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text(json.dumps(document())[:100])
    with pytest.raises(InputError, match="not valid JSON"):
        read_found(file)


BAD_ACTIONS: list[tuple[dict[str, str], str]] = [
    ({"do": "store", "address": "0x0", "value": "0x100", "size": "0x1"}, "does not fit in 1 bytes"),
    ({"do": "load", "address": "0x0", "size": "0x41"}, "65 bytes: there can be 1 to 64"),
    ({"do": "peek", "offset": "0x0", "size": "0x3"}, "1, 2, 4 or 8 bytes, not 3"),
    ({"do": "poke", "offset": "0xffc", "value": "0x0", "size": "0x8"}, "0xffc is not in the register window"),
    ({"do": "submit", "descriptor": "0x1" + "0" * 64}, "a descriptor has 256 bits at most"),
    ({"do": "dma", "device": "A", "access": "eat", "address": "0x0"}, "'eat' is neither read nor write"),
    ({"do": "dma", "device": "B", "access": "read", "address": "0x0"}, "only A reads"),
    ({"do": "dma", "device": "A", "access": "read", "address": "0xffe"}, "not within one page"),
    ({"do": "dma", "device": "D", "access": "write", "address": "0x0"}, "'D' is none of the devices A, B, C"),
    (
        {"do": "msi", "device": "A", "address": "0xfed00000", "data": "0x0"},
        "not the address of a DWORD in the interrupt range",
    ),
    ({"do": "msi", "device": "A", "address": "0xfee00000", "data": "0x10000"}, "more than 16 bits"),
    ({"do": "pin", "pin": "0x18", "entry": "0x0"}, "24 is not a pin from 1 to 23"),
]


@pytest.mark.parametrize(("plain", "message"), BAD_ACTIONS, ids=[each[1] for each in BAD_ACTIONS])
def test_an_action_that_is_not_possible(plain: dict[str, str], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        parse(plain, "here")
