"""docs/dmar.schema.json describes our JSON: real and damaged tables conform to it, wrong ones do not."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from iommu.dmar import Dmar
from iommu.dmar.header import Header
from iommu.dmar.scopes import DeviceScope
from iommu.dmar.structure import KINDS
from tests.dmar.hand import ROOT, TABLES, facts_of, needs_corpus
from tests.dmar.schema import schema
from tests.dmar.test_dmar_format import DAMAGED, EVERYTHING

SCHEMA = json.loads((ROOT / "docs" / "dmar.schema.json").read_text())
TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "integer": int}
KNOWN = {
    "$schema", "title", "description", "type", "properties", "required", "additionalProperties", "$defs", "$ref",
    "oneOf", "const", "items", "minimum", "maximum", "minItems", "maxItems", "maxLength", "pattern",
}  # fmt: skip


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    """Validation, for the JSON Schema keywords that our schema uses; any other is refused."""
    assert set(schema) <= KNOWN, schema
    if "$ref" in schema:
        return conforms(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    if "oneOf" in schema:
        return sum(conforms(value, one) for one in schema["oneOf"]) == 1
    if "const" in schema:
        return bool(value == schema["const"])
    if "type" in schema and (not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool)):
        return False
    match value:
        case dict():
            known = schema["properties"]
            return (
                set(schema.get("required", [])) <= set(value) <= set(known)
                and schema["additionalProperties"] is False
                and all(conforms(item, known[key]) for key, item in value.items())
            )
        case list():
            fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
            return fits and all(conforms(item, schema["items"]) for item in value)
        case str():
            right = re.search(schema.get("pattern", ""), value) is not None
            return right and len(value) <= schema.get("maxLength", len(value))
        case int():
            return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return False


@needs_corpus
@pytest.mark.parametrize("path", TABLES, ids=[path.stem for path in TABLES])
def test_iasls_facts_about_real_tables_conform_to_the_schema(path: Path) -> None:
    assert conforms(facts_of(path), SCHEMA)


@pytest.mark.parametrize("data", [EVERYTHING, *(case[0] for case in DAMAGED.values())])
def test_made_up_and_damaged_tables_conform(data: bytes) -> None:
    assert conforms(json.loads(json.dumps(Dmar.parse(data, strict=False).to_dict())), SCHEMA)


def test_wrong_data_does_not_conform() -> None:
    good = Dmar.parse(EVERYTHING).to_dict()
    for change in (
        lambda d: d.pop("header"),
        lambda d: d.update(extra=1),
        lambda d: d["header"].update(flags=256),
        lambda d: d["header"].update(reserved="00"),
        lambda d: d["header"].update(oem_id="SEVENLY"),
        lambda d: d["structures"][0].update(type=1),
        lambda d: d["structures"][0].pop("base"),
        lambda d: d["structures"][0].update(base=True),
        lambda d: d["structures"][0]["scopes"][0].update(path=[[1]]),
        lambda d: d["structures"][-1].update(data="x"),
    ):
        wrong = copy.deepcopy(good)
        change(wrong)  # type: ignore[no-untyped-call]
        assert not conforms(wrong, SCHEMA)


def test_it_is_what_the_declarations_give() -> None:
    assert schema() == SCHEMA, "run python -m tests.dmar.schema"


def test_every_field_and_its_width_are_as_declared() -> None:
    parts: list[tuple[Any, dict[str, Any]]] = [
        (Header.layout, SCHEMA["properties"]["header"]["properties"]),
        (DeviceScope.layout, SCHEMA["$defs"]["scope"]["properties"]),
        *((cls.layout, SCHEMA["$defs"][cls.kind.lower()]["properties"]) for cls in KINDS.values()),
    ]
    for layout, properties in parts:
        for name, part in layout.fields.items():
            stated = properties[name.lower()]
            if not part.octets and "const" not in stated:
                assert stated["maximum"] == (1 << part.width) - 1, (layout, name)
