"""What a page of HTML holds, by the standard library's parser: elements, texts, and what it would ask others for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "link", "input", "hr", "image", "use", "path", "line", "rect", "circle", "base"}
_ADDRESSES = ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "formaction", "background")


class Page(HTMLParser):
    """Elements in document order with their attributes, and the text of each, that of elements inside included."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        content: list[str] = []
        self.handle_data(" ")  # texts of elements that stand side by side are apart
        self.elements.append((tag, {name: value or "" for name, value in attrs}, content))
        if tag not in _VOID:
            self._open.append((tag, content))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for _, content in self._open:
            content.append(data)

    def texts(self, tag: str, css: str = "") -> list[str]:
        """The texts of elements of a kind, and of a class where one is given."""
        return [
            " ".join("".join(content).split())
            for name, attributes, content in self.elements
            if name == tag and (not css or css in attributes.get("class", "").split())
        ]

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def addresses(self) -> Iterator[str]:
        """Everything that the page asks for or leads to outside of itself."""
        for name, attributes, content in self.elements:
            found = [attributes[key] for key in _ADDRESSES if key in attributes]
            style = attributes.get("style", "") + ("".join(content) if name == "style" else "")
            found += re.findall(r"url\(\s*['\"]?([^'\")]*)", style) + re.findall(r"@import\s+(\S+)", style)
            yield from (address for address in found if not address.startswith(("#", "data:image/png;base64,")))

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]
