"""What the build adds to the metadata: README, and addresses once there is a repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A relative link or picture. What has a scheme, and a place in the page itself, stay as they are.
_LINK = re.compile(r"(!?)(\[[^]]*\])\((?![a-z]+:|#)")


class MetadataHook(MetadataHookInterface):  # type: ignore[misc]
    """Takes the repository's address from pyproject.toml; it is empty while there is none."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add README, whose relative links an index could not follow, and the project's URLs."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if address := self.config["address"]:

            def absolute(match: re.Match[str]) -> str:
                kind = "raw" if match[1] else "blob"
                return f"{match[1]}{match[2]}({address}/{kind}/v{metadata['version']}/"

            text = _LINK.sub(absolute, text)
            metadata["urls"] = {
                "Repository": address,
                "Documentation": f"{address}/tree/main/docs",
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
