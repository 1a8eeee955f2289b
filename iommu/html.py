"""Pages that need nothing else: elements, built as a tree. Writing it escapes every text and every attribute."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str | None


def element(tag: str, *children: Child | Iterable[Child], **attributes: str | bool | None) -> Element:
    """An element. Attributes are written `class_`, `data_chapter`, `aria_label`; None and False leave one out."""
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            made.set(name.rstrip("_").replace("_", "-"), "" if value is True else value)
    for child in _flat(children):
        append(made, child)
    return made


def _flat(children: Iterable[Child | Iterable[Child]]) -> Iterable[Child]:
    for child in children:
        if child is None or isinstance(child, (str, Element)):
            yield child
        else:
            yield from child


def append(parent: Element, child: Child) -> None:
    """Add a child, or a text, at the end."""
    if isinstance(child, Element):
        parent.append(child)
    elif child and len(parent):
        parent[-1].tail = (parent[-1].tail or "") + child
    elif child:
        parent.text = (parent.text or "") + child


def document(root: Element) -> bytes:
    """The page as bytes. Characters that UTF-8 cannot encode, from the name of a file, are written as escapes."""
    text = ElementTree.tostring(root, encoding="unicode", method="html")
    return f"<!doctype html>\n{text}\n".encode("utf-8", "backslashreplace")


def head(title: str, style: str, script: str) -> Element:
    """The head of a page with this style and script: nothing is loaded from anywhere, and nothing else runs."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    policy = "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", style),
    )
