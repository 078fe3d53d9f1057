"""YAML from untrusted files: plain values only, with one kind of error.

No tags that build objects, no aliases (ROS' own parameter parser takes none either; they allow
loops, and documents that grow without bound). 3e-4 is a number, as people expect; YAML 1.1 asks
for 3.0e-4.
"""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4_000_000  # of a file that people write


class YamlError(ValueError):
    """A text that is not a plain YAML document; the text says where and why."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias *{event.anchor} is not supported", event.start_mark
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Return the one document of a text as plain Python values; raises YamlError."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:
        # PyYAML lets errors of its constructors through, as for the date 2020-99-99.
        raise YamlError(f"not valid YAML: {error}") from error


def read_yaml(path: Path) -> Any:
    """Return the one document of a UTF-8 file; raises YamlError that names it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise YamlError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise YamlError(f"{path} is larger than {MAX_BYTES} bytes; that is not written by hand")
    try:
        return parse_yaml(content.decode())
    except UnicodeDecodeError as error:
        raise YamlError(f"{path} is not UTF-8 text: {error}") from error
    except YamlError as error:
        raise YamlError(f"{path}: {error}") from error
