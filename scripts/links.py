"""Checks that every relative link of the Markdown files leads to a file of the tree, and its anchor to a heading."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent


def anchors(page):
    """Returns the anchors of a page, as GitHub makes them from its headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page):
    """Yields the links of a page whose target does not exist."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or anchor and anchor not in anchors(goal):
            yield target


skipped = {"target", ".venv", ".git"}
pages = [page for page in ROOT.rglob("*.md") if not skipped.intersection(page.relative_to(ROOT).parts)]
wrong = [f"{page.relative_to(ROOT)}: {target}" for page in pages for target in broken(page)]
print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
sys.exit(1 if wrong or not pages else 0)
