"""Pages keep up with the code: made pages are current, links and named files exist."""

import re

import pytest

from tools import config_docs, room_map
from tools.readme_commands import ROOT

PAGES = sorted(
    [*ROOT.glob("docs/*.md"), *(ROOT / f"{n}.md" for n in ("README", "CHANGELOG", "CONTRIBUTING"))]
)


def anchors(markdown):
    """Returns GitHub's anchors of a page's headings."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page, text):
    """Returns links to missing files or headings; `page` is where the text lies."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
        link = "".join(target)
        path, _, anchor = link.partition("#")
        file = page.parent / path if path else page
        if re.match(r"[a-z]+:", link):
            continue
        heads = anchors(file.read_text() if path and anchor and file.exists() else text)
        if not file.exists() or (anchor and anchor not in heads):
            broken.append(link)
    return broken


def missing_files(text):
    """Returns Python files that a text names in backticks, but which do not exist."""
    names = re.findall(r"`([\w./]+\.py)[`:]", text)
    roots = [ROOT, ROOT / "codeformer_jax", ROOT / "configs", ROOT / "benchmarks", ROOT / "tests"]
    return [name for name in names if not any((root / name).exists() for root in roots)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    assert broken_links(page, text) == []
    assert page.name == "CHANGELOG.md" or missing_files(text) == []


def test_broken_links_and_missing_files_are_found():
    page = ROOT / "docs" / "config.md"
    text = "## A `b`: c\n[a](#a-b-c) [b](#d) [c](none.png) [d](../README.md#nowhere) [e](https://x)"
    assert broken_links(page, text) == ["#d", "none.png", "../README.md#nowhere"]
    assert missing_files("`nn/vqgan.py` `nn/gone.py` `configs/demo.py:vqgan`") == ["nn/gone.py"]


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def unknown_messages(page, source):
    """Returns quoted messages of a page's tables that a program's source does not hold."""
    joined = re.sub(r"[\"']\s*\n\s*f?[\"']", "", source)
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    quoted = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    return [text for text in quoted if " " in text and text not in joined]


def test_every_quoted_message_is_one_of_the_package():
    files = [*(ROOT / "codeformer_jax").rglob("*.py"), ROOT / "Makefile"]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert unknown_messages(page, source) == []


def test_an_unknown_message_is_found():
    page = "| `no image here` or `no such thing` | why |\n"
    assert unknown_messages(page, 'f"no image "\n    f"here"') == ["no such thing"]


def test_the_page_of_settings_is_current():
    page = config_docs.page(config_docs.collect())
    assert config_docs.PAGE.read_text(encoding="utf-8") == page, "run tools/config_docs.py"


def test_a_setting_takes_the_comment_above_or_behind_it():
    source = "# Two\n# lines.\nconfig.a = config.e = 1\nconfig.b = 2  # Behind.\nx = 3  # No."
    assert config_docs.meanings(source) == {
        "a": "Two lines.",
        "e": "Two lines.",
        "b": "Behind.",
    }


def test_the_map_of_rooms_is_current_and_small():
    pairs = room_map.arrows()
    assert len(pairs) <= room_map.MOST_ARROWS
    assert room_map.PICTURE.read_text() == room_map.draw(pairs), "run tools/room_map.py"


def test_the_map_leaves_out_what_a_path_replaces():
    pairs = {("cli", "tasks"), ("tasks", "nn"), ("nn", "ops"), ("tasks", "ops"), ("cli", "ops")}
    assert room_map.needed(pairs) == {("cli", "tasks"), ("tasks", "nn"), ("nn", "ops")}


@pytest.mark.parametrize("pair", [("ops", "nn"), ("losses", "metrics"), ("nn", "attic")])
def test_the_map_refuses_what_it_cannot_draw(pair):
    with pytest.raises(ValueError, match=r"do not lead down|without a place"):
        room_map.draw({pair})
