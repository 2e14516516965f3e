"""A folder of exported files and its manifest: stable names, whole files, nothing made twice.

    manifest.json    for each part its key (a fingerprint of all that it was made from), and the size and SHA-256 of
                     each of its files

A part is there when the manifest names it with the same key and each of its files still has its checksum. The
manifest is written after the files of a part, so that a part that was interrupted is made again. Names come from
run folders of unknown origin: none leads out of the folder, through `..`, an absolute path or a link.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from interp_cnn.storage.files import save_json, write_bytes

MANIFEST = "manifest.json"


class ExportFolder:
    """Parts in a folder, each a number of files."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def parts(self) -> dict[str, Any]:
        """Part -> key and files, as the manifest has them; empty where there is none that can be read."""
        try:
            parts = json.loads((self.folder / MANIFEST).read_text("utf-8"))["parts"]
            return {name: {"key": part["key"], "files": dict(part["files"])} for name, part in parts.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def has(self, part: str, key: str) -> bool:
        """Whether a part is there, made from the same, with every file as it was written."""
        entry = self.parts.get(part)
        return entry is not None and entry["key"] == key and all(map(self._is_whole, entry["files"].items()))

    def write(self, part: str, key: str, files: Iterable[tuple[str, bytes]]) -> int:
        """Write a part and remove what an earlier one of that name left; returns the number of files.

        Args:
            part: its name in the manifest.
            key: what it was made from.
            files: names from the folder, such as "filters/sheet-1.png", with contents.

        Raises:
            ValueError: a name that leads out of the folder, or that another part has.
        """
        parts = self.parts
        former = parts.pop(part, {"files": {}})["files"]
        taken = {name for other in parts.values() for name in other["files"]}
        written: dict[str, dict[str, Any]] = {}
        for name, content in files:
            if name in taken or name in written or name == MANIFEST:
                raise ValueError(f"export: {name} would be written twice")
            write_bytes(self.place(name), content)
            written[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        parts[part] = {"key": key, "files": written}
        save_json(self.folder / MANIFEST, {"parts": dict(sorted(parts.items()))})
        for name in former.keys() - written.keys() - taken:
            self.place(name).unlink(missing_ok=True)
        return len(written)

    def place(self, name: str) -> Path:
        """Where a file of the folder lies.

        Raises:
            ValueError: a name that leads out of the folder.
        """
        path, folder = PurePosixPath(name), self.folder.resolve()
        place = (folder / path).resolve()
        inside = place != folder and place.is_relative_to(folder)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not inside:
            raise ValueError(
                f"export: the name {name!r} leads out of {self.folder}; expected a name inside it"
            )
        return self.folder / path

    def _is_whole(self, entry: tuple[str, Any]) -> bool:
        name, known = entry
        try:
            content = self.place(name).read_bytes()
        except (OSError, ValueError):
            return False
        return hashlib.sha256(content).hexdigest() == known.get("sha256")


def key_of(*things: Any) -> str:
    """A fingerprint of settings and texts."""
    return hashlib.sha256(json.dumps(things, sort_keys=True, default=str).encode("utf-8")).hexdigest()
