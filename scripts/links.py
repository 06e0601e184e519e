"""Checks that every relative link of the Markdown files leads to a file of the tree, and its anchor to a heading; and that
every alert has a section of its own in the runbooks, and a link to it."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
# The packages install the documents there.
RUNBOOKS = "file:///usr/share/doc/skep/docs/runbooks.md"


def anchors(page):
    """Returns the anchors of a page, as GitHub makes them from its headings."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


def headings(page):
    """Returns the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)


def broken(page):
    """Yields the links of a page whose target does not exist."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or anchor and anchor not in anchors(goal):
            yield target


def without_runbook(alerts, runbooks):
    """Yields the alerts without a runbook or without the link to it, and the runbooks without an alert."""
    sections = [heading for heading in headings(runbooks) if re.fullmatch(r"Skep\w+", heading)]
    rules = re.split(r"^ +- alert: ", alerts.read_text(), flags=re.MULTILINE)[1:]
    names = [rule.split()[0] for rule in rules]
    for name, rule in zip(names, rules):
        links = re.findall(r"^ +runbook_url: (.*)$", rule, flags=re.MULTILINE)
        if links != [f"{RUNBOOKS}#{name.lower()}"]:
            yield f"alerts.yaml: {name} must have the runbook_url {RUNBOOKS}#{name.lower()}"
        if sections.count(name) != 1:
            yield f"runbooks.md: {name} must have one section"
    for name in sorted(set(sections) - set(names)):
        yield f"runbooks.md: {name} is not an alert"
    if not names:
        yield "alerts.yaml: no alerts"


skipped = {"target", ".venv", ".git"}
pages = [page for page in ROOT.rglob("*.md") if not skipped.intersection(page.relative_to(ROOT).parts)]
wrong = [f"{page.relative_to(ROOT)}: {target}" for page in pages for target in broken(page)]
wrong += without_runbook(ROOT / "docs/alerts.yaml", ROOT / "docs/runbooks.md")
print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
sys.exit(1 if wrong or not pages else 0)
