"""Docstrings of this package as mkdocstrings reads them: read by griffe (mkdocs.yml)."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """`Example:` opens a section of code, as `Examples:` does."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M)
