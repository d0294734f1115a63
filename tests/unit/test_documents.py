"""The documents keep to their size, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hdbench.suite.schema import RunConfig
from tests.support.tiny import REPOSITORY

LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *(REPOSITORY / "docs").rglob("*.md"),
    *(REPOSITORY / "plugins").glob("*/*.md"),
    REPOSITORY / "config/README.md",
]


def anchors(document: Path) -> set[str]:
    """What `#...` may name in it, by GitHub's rule."""
    titles = HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(document: Path, text: str) -> list[str]:
    """Links within the repository that lead nowhere."""
    links = [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]
    wrong = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_within_the_repository_lead_to_files_and_headings(document):
    assert not broken(document, document.read_text(encoding="utf-8"))


def test_a_broken_link_is_seen():
    text = "[a](docs/no.md) [b](docs/faq.md#no) [c](https://x.y) [d](docs/faq.md) [e](#no)"
    assert broken(REPOSITORY / "README.md", text) == ["docs/no.md", "docs/faq.md#no", "#no"]


def test_the_readme_is_one_that_is_read():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 900
    assert "<!--" not in text and "{{" not in text


def test_the_configuration_is_documented_key_by_key_with_its_defaults():
    text = (REPOSITORY / "config/README.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    defaults = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text(encoding="utf-8"))
    assert documented == defaults and documented.keys() == RunConfig.model_fields.keys()
