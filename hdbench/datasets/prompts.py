"""Prompts of images, from a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hdbench.core.errors import UserError, reason
from hdbench.core.files import read_text


def read_prompts(path: Path | None, ids: tuple[str, ...], protocol: str) -> list[dict[str, str]]:
    """Prompt (and category) of each id from JSON: {key: {"prompt", "category"}} or {key: prompt}.

    An id's key is the last part of its path.  Raises UserError for a missing file, another form, or
    an id without a prompt.
    """
    if path is None:
        raise UserError(
            f"{protocol} needs a prompt for each image; give --prompts meta_data.json, a JSON file "
            'of {key: {"prompt": ..., "category": ...}} where key is the name of the image without '
            "suffix"
        )
    try:
        table: dict[str, Any] = json.loads(read_text(path, "utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file ({reason(error)}); make it again") from None
    if not isinstance(table, dict):
        raise UserError(f"{path}: must hold a mapping of image names (without suffix) to prompts")
    rows = []
    for name in ids:
        row = table.get(name.rsplit("/", 1)[-1], table.get(name))
        prompt = described({"prompt": row} if isinstance(row, str) else row)
        if prompt is None:
            raise UserError(
                f"{path}: has no prompt for {name!r}; give the file that the images were made from"
            )
        rows.append(prompt)
    return rows


def described(row: Any) -> dict[str, str] | None:
    """The "prompt" and, where there is one, the "category" of a row; None without a prompt."""
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        return None
    return {key: str(row[key]) for key in ("prompt", "category") if row.get(key) is not None}
