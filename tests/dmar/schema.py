"""The JSON Schema of our JSON, from the declarations: `python -m tests.dmar.schema` writes docs/dmar.schema.json."""

import json
from typing import Any

from iommu.dmar.declared import Part
from iommu.dmar.header import TEXTS, Header
from iommu.dmar.kinds import Andd, Unknown
from iommu.dmar.scopes import DeviceScope, ScopeType
from iommu.dmar.structure import KINDS, Scoped, Structure, StructureHead
from iommu.fields import Layout
from tests.dmar.hand import ROOT

FILE = ROOT / "docs" / "dmar.schema.json"

Schema = dict[str, Any]


def number(description: str, bits: int) -> Schema:
    return {"description": description, "type": "integer", "minimum": 0, "maximum": (1 << bits) - 1}


def in_hex(description: str, pattern: str = "^([0-9a-f]{2})*$") -> Schema:
    return {"description": description, "type": "string", "pattern": pattern}


def object_of(description: str, properties: dict[str, Schema], required: list[str]) -> Schema:
    demanded = {"required": required} if required else {}
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        **demanded,
        "additionalProperties": False,
    }


OFFSET = {"description": "Bytes from the table's start; ignored when building.", "type": "integer", "minimum": 0}
REST = in_hex("Bytes that belong to no field; only in damaged tables.")


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def bits_of(layout: type[Layout]) -> str:
    """Each named run of bits, from the lowest on."""
    named = []
    for part in reversed(layout.fields.values()):
        where = f"bit {part.lsb}" if part.msb == part.lsb else f"bits {part.msb}:{part.lsb}"
        named.append(f"{where} {part.name} ({part.meaning})")
    return ", ".join(named)


def numbers_of(part: type[Part]) -> dict[str, Schema]:
    """The properties of all fields that are numbers, in memory order."""
    return {
        name.lower(): number(
            "Filled in when left out."
            if name in {"LENGTH", "CHECKSUM"}
            else sentence(bits_of(part.flag_layouts[name.lower()]))
            if name.lower() in part.flag_layouts
            else sentence(field.meaning),
            field.width,
        )
        for name, field in reversed(part.layout.fields.items())
        if not field.octets
    }


def header() -> Schema:
    texts = {
        name.lower(): {
            "description": f"{sentence(Header.layout.fields[name].meaning)} Latin-1, without trailing NULs.",
            "type": "string",
            "maxLength": size,
        }
        for name, size in TEXTS.items()
    }
    properties = {**numbers_of(Header), **texts, "reserved": in_hex("Ten bytes in hex.", "^[0-9a-f]{20}$")}
    in_order = {name.lower(): properties[name.lower()] for name in reversed(Header.layout.fields)}
    return object_of("The table's header (section 8.1). Fields left out take defaults.", in_order, [])


def scope() -> Schema:
    hop = {"description": "Device or function.", "type": "integer", "minimum": 0, "maximum": 255}
    pair = {"type": "array", "items": hop, "minItems": 2, "maxItems": 2}
    types = ", ".join(f"{kind.value} {kind.name}" for kind in ScopeType)
    properties = {
        "offset": OFFSET,
        **numbers_of(DeviceScope),
        "type": number(f"{types}.", 8),
        "path": {"description": "[device, function] of each hop.", "type": "array", "items": pair},
        "padding": in_hex("Half a hop; only in damaged tables."),
    }
    return object_of("A device scope entry (section 8.3.1).", properties, ["type", "path"])


def structure(cls: type[Structure]) -> Schema:
    """A structure type: its declared fields, and what follows them."""
    properties: dict[str, Schema] = {
        "kind": {"const": cls.kind},
        "type": {"const": cls.type_code},
        "offset": OFFSET,
        **{name: schema for name, schema in numbers_of(cls).items() if name != "type"},
    }
    required = ["kind", *cls.fixed_fields]
    if issubclass(cls, Scoped):
        properties["scopes"] = {
            "description": "The devices it names.",
            "type": "array",
            "items": {"$ref": "#/$defs/scope"},
        }
    if cls is Andd:
        properties["object_name"] = {"description": "A full ACPI path; bytes read as Latin-1.", "type": "string"}
        properties["padding"] = in_hex("Everything from the name's NUL to the end, where it is not zeros.")
        required.append("object_name")
    first = (cls.__doc__ or "").splitlines()[0]
    return object_of(f"{first.rstrip('.')} (section {cls.layout.section}).", properties | {"rest": REST}, required)


def unknown() -> Schema:
    properties = {
        "kind": {"const": Unknown.kind},
        "type": number("The type field.", StructureHead.TYPE.width),
        "offset": OFFSET,
        "length": number("Filled in when left out.", StructureHead.LENGTH.width),
        "data": in_hex("Everything after type and length."),
        "rest": REST,
    }
    return object_of("A structure of unknown type, or one too short for its type.", properties, ["kind", "type"])


def schema() -> Schema:
    """The whole schema."""
    structures = {cls.kind.lower(): structure(cls) for cls in KINDS.values()} | {"unknown": unknown()}
    one_of = [{"$ref": f"#/$defs/{name}"} for name in structures]
    properties = {
        "header": header(),
        "structures": {"type": "array", "items": {"oneOf": one_of}},
        "trailing": in_hex("Bytes after the last structure; only in damaged tables."),
        "source": {"description": "Where the data is from; ignored.", "type": "string"},
    }
    description = "An ACPI DMAR table as `vtd dmar show --json` prints it and `vtd dmar build` reads it."
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DMAR",
        **object_of(description, properties, ["header"]),
        "$defs": {"scope": scope(), **structures},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(schema(), indent=1) + "\n")
