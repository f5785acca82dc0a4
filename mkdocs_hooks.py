"""What is made while the documentation site is built: the page of the API, and docstrings with their doctests."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto
from grpc_tools import protoc
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).parent
PROTO = "proponent/v1/explanation.proto"
_PACKAGE = ".proponent.v1."
_SERVICE, _MESSAGE, _ENUM = 6, 4, 5  # numbers of these lists in a FileDescriptorProto, which comments are found by
_FIELD, _NESTED_ENUM, _VALUE, _METHOD = 2, 4, 2, 2
_KINDS = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}
Location = tuple[int, ...]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages that the navigation does not name to its end, so that a new one can be reached at once."""
    named = str(config.nav)
    missing = [path.name for path in sorted(Path(config.docs_dir).glob("*.md")) if f"'{path.name}'" not in named]
    config.nav = [*(config.nav or []), *missing]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page of the API to those of docs/."""
    files.append(File.generated(config, "api.md", content=api_page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Names files of the repository that a page links to: they are not part of the site."""
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)[^)]*\)", lambda link: _file(link[1], link[2]), markdown)


def _file(text: str, path: str) -> str:
    return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}` in the repository)"


def api_page() -> str:
    """The reference of the service, in Markdown."""
    return "".join([_TOP, *_http_paths(), *Proto(_described()).page()])


_TOP = """# gRPC and HTTP

The contract is `proto/proponent/v1/explanation.proto`; this page is made of it. gRPC clients ask for it by
reflection; HTTP clients find the same calls described at `/openapi.json` and, to read, at `/docs`. Bodies of HTTP are
the messages below as JSON, with the field names of the proto and bytes in base64; errors are
`application/problem+json` with the same `reason`. Clients of other servers speak the
[Open Inference Protocol](serving.md#clients-of-other-servers) to the same ports. In Python,
[`Client`](python_reference.md#proponent.Client) does all of it.

"""


def _http_paths() -> Iterator[str]:
    """A table of the paths that the gateway answers, from its own description."""
    yield "## HTTP paths\n\n| method and path | what it does |\n|---|---|\n"
    for path, methods in _openapi()["paths"].items():
        for method, operation in methods.items():
            text = " ".join((operation.get("description") or operation.get("summary", "")).split())
            yield f"| `{method.upper()} {path}` | {_cell(text)} |\n"
    yield "\n"


def _openapi() -> dict[str, Any]:
    from proponent.gateway.http.app import create_app
    from proponent.gateway.metrics import Metrics
    from proponent.gateway.served_model import Readiness
    from proponent.gateway.settings import Settings

    nobody: Any = None  # routes are described without anybody who answers them
    return create_app(nobody, Metrics(), Readiness({}), Settings()).openapi()


def _described() -> descriptor_pb2.FileDescriptorProto:
    """The proto with its comments; the generated stubs have none."""
    rules = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    with tempfile.TemporaryDirectory() as work:
        known, image = Path(work, "rules.binpb"), Path(work, "image.binpb")
        known.write_bytes(descriptor_pb2.FileDescriptorSet(file=[rules]).SerializeToString())
        folders = [f"--proto_path={folder}" for folder in (ROOT / "proto", Path(protoc.__file__).parent / "_proto")]
        flags = [f"--descriptor_set_in={known}", *folders, "--include_source_info"]
        if protoc.main(["protoc", *flags, f"--descriptor_set_out={image}", PROTO]) != 0:
            raise RuntimeError(f"{PROTO} cannot be read")
        return descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file[0]


class Proto:
    """A proto file as Markdown: calls, messages, enums."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): " ".join(location.leading_comments.split())
            for location in file.source_code_info.location
            if location.leading_comments
        }

    def page(self) -> Iterator[str]:
        """The parts of the page."""
        for place, service in enumerate(self._file.service):
            yield f"## {service.name}\n\n{self._comment(_SERVICE, place)}\n\n"
            for number, method in enumerate(service.method):
                asked = f"{'stream of ' if method.client_streaming else ''}{self._link(method.input_type)}"
                answered = f"{'stream of ' if method.server_streaming else ''}{self._link(method.output_type)}"
                comment = self._comment(_SERVICE, place, _METHOD, number)
                yield f"### {method.name}\n\n{asked} → {answered}\n\n{comment}\n\n"
        yield "## Messages\n\n"
        for place, message in enumerate(self._file.message_type):
            yield from self._message(message, message.name, (_MESSAGE, place))
        yield "## Enums\n\n"
        for place, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, enum.name, (_ENUM, place))

    def _message(self, message: DescriptorProto, name: str, path: Location) -> Iterator[str]:
        yield f"### {name} {{#{_anchor(name)}}}\n\n{self._comment(*path)}\n\n"
        if message.field:
            yield "| field | type | |\n|---|---|---|\n"
        for number, field in enumerate(message.field):
            comment = self._comment(*path, _FIELD, number)
            if field.HasField("oneof_index") and not field.proto3_optional:
                comment = f"One of `{message.oneof_decl[field.oneof_index].name}`. {comment}"
            yield f"| `{field.name}` | {self._type(field, message)} | {_cell(comment)} |\n"
        yield "\n"
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, f"{name}.{enum.name}", (*path, _NESTED_ENUM, number))

    def _enum(self, enum: EnumDescriptorProto, name: str, path: Location) -> Iterator[str]:
        yield f"### {name} {{#{_anchor(name)}}}\n\n{self._comment(*path)}\n\n| value | |\n|---|---|\n"
        for number, value in enumerate(enum.value):
            yield f"| `{value.name}` | {_cell(self._comment(*path, _VALUE, number))} |\n"
        yield "\n"

    def _type(self, field: FieldDescriptorProto, message: DescriptorProto) -> str:
        for nested in message.nested_type:
            if nested.options.map_entry and field.type_name.endswith(f"{message.name}.{nested.name}"):
                key, value = nested.field
                return f"map from {self._type(key, nested)} to {self._type(value, nested)}"
        name = self._link(field.type_name) if field.type_name else _KINDS[field.type]
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {name}"
        return f"optional {name}" if field.proto3_optional else name

    def _link(self, type_name: str) -> str:
        if not type_name.startswith(_PACKAGE):
            return f"`{type_name.removeprefix('.')}`"
        name = type_name.removeprefix(_PACKAGE)
        return f"[{name}](#{_anchor(name)})"

    def _comment(self, *path: int) -> str:
        return _escaped(self._comments.get(path, ""))


def _anchor(name: str) -> str:
    return "type-" + name.lower().replace(".", "-")


def _escaped(text: str) -> str:
    """Comments are prose: what Markdown or HTML would take for markup is not."""
    for mark in ("\\", "<", "*", "_", "["):
        text = text.replace(mark, "\\" + mark if mark != "<" else "&lt;")
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


class FencedDoctests(griffe.Extension):
    """Shows the doctests of docstrings as code: outside of a section of examples they would be quotations."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fences the doctests of one docstring."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Text whose doctests, each up to an empty line, stand in fences."""
    parts = re.split(r"\n\s*\n", text)
    return "\n\n".join(_fence(part) if part.lstrip().startswith(">>>") else part for part in parts)


def _fence(part: str) -> str:
    indent = " " * (len(part) - len(part.lstrip()))
    return f"{indent}```pycon\n{part}\n{indent}```"
