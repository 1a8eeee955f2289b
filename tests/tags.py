"""The tags of an HTML page, for tests of pages."""

from __future__ import annotations

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Every start tag of a page with its attributes, and whether all tags are closed."""

    VOID = frozenset({"meta", "input", "br", "img", "link"})

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    @classmethod
    def alone(cls, page: bytes) -> Tags:
        """The tags of a page that is whole and loads nothing: asserted."""
        tags = cls(page)
        assert tags.open == []
        assert {tag for tag, _ in tags.found} & {"link", "img", "iframe", "object", "embed"} == set()
        assert all("src" not in attributes for _, attributes in tags.found)
        assert b"url(" not in page and b"@import" not in page
        assert b"default-src 'none'" in page
        return tags

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
