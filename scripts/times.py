#!/usr/bin/env python3
"""Records the durations of steps and tests in target/test/times.json, and reports them.

times.py expect FILE STEP      prints the seconds that a step took the last time; nothing if there is no record
times.py report FOLDER JUNIT   records FOLDER/steps and the test runner's report; prints the summary
times.py compare OLD NEW       prints the steps and tests that are slower or faster in the second of two records
"""

import json
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

SLOWEST = 10
# Number of waits that are recorded for each test, the longest first.
WAITS = 3
# Seconds below which a difference between two runs is noise.
NOISE = 5
WAITED = re.compile(r"^waited ([0-9.]+) s for (.*)$", re.MULTILINE)
# Characters of a failure's message in the summary.
MESSAGE = 300


def load(path):
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return {"steps": {}, "tests": {}}


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def message(failure):
    """Returns what a failed test says: its error, or the line after the place where it panicked."""
    lines = [line.strip() for line in "".join(failure.itertext()).splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith("Error: "):
            return line.removeprefix("Error: ")[:MESSAGE]
        if " panicked at " in line:
            return " ".join(lines[number + 1 : number + 3])[:MESSAGE]
    return (failure.get("message") or "").strip()[:MESSAGE]


def tests_of(junit):
    """Returns by name: seconds, outcome, what it said if it failed, and the longest waits as [seconds, what]."""
    tests = {}
    if not pathlib.Path(junit).exists():
        return tests
    for suite in ElementTree.parse(junit).getroot():
        for case in suite.iter("testcase"):
            waits = [(float(s), what) for s, what in WAITED.findall("".join(case.itertext()))]
            outcome, why = "passed", ""
            for tag, means in (("failure", "failed"), ("error", "failed"), ("flakyFailure", "unsteady")):
                if (failure := case.find(tag)) is not None:
                    outcome, why = means, message(failure)
                    break
            tests[f"{suite.get('name')} {case.get('name')}"] = {
                "seconds": float(case.get("time")),
                "outcome": outcome,
                "message": why,
                "waits": sorted(waits, reverse=True)[:WAITS],
            }
    return tests


def report(folder, junit):
    folder = pathlib.Path(folder)
    steps = [line.split() for line in (folder / "steps").read_text().splitlines()]
    tests = tests_of(junit)
    known = load(folder / "times.json")
    known["steps"].update({step: int(seconds) for step, code, seconds in steps if code == "0"})
    known["tests"].update(tests)
    (folder / "times.json").write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")

    slowest = sorted(tests.items(), key=lambda item: -item[1]["seconds"])[:SLOWEST]
    if slowest:
        print(f"\n== the {len(slowest)} slowest tests, and what each waited for")
    for name, test in slowest:
        waits = "; ".join(f"{seconds:.0f} s for {what}" for seconds, what in test["waits"])
        print(f"{clock(test['seconds']):>6}  {name}" + (f"\n        {waits}" if waits else ""))

    outcomes = {outcome: [n for n, t in tests.items() if t["outcome"] == outcome] for outcome in ("failed", "unsteady")}
    print(f"\n== summary ({clock(sum(int(seconds) for *_, seconds in steps))}; logs in {folder})")
    for step, code, seconds in steps:
        print(f"{step:15} {'ok' if code == '0' else 'FAILED':7} {clock(int(seconds)):>6}")
    for outcome, names in outcomes.items():
        for name in names:
            print(f"{outcome}: {name}" + (f"\n        {why}" if (why := tests[name]["message"]) else ""))
    print(f"{len(tests) - len(outcomes['failed'])} passed, {len(outcomes['failed'])} failed")


def compare(old, new):
    old, new = load(old), load(new)
    pairs = [(old[kind][n], new[kind][n], n) for kind in ("steps", "tests") for n in old[kind].keys() & new[kind].keys()]
    seconds = [(a, b, n) if not isinstance(a, dict) else (a["seconds"], b["seconds"], n) for a, b, n in pairs]
    for a, b, name in sorted(seconds, key=lambda row: row[1] - row[0]):
        if abs(b - a) >= NOISE:
            print(f"{clock(a):>6} -> {clock(b):>6}  {name}")
    for sign, there, other in (("-", old, new), ("+", new, old)):
        for name in sorted(there["tests"].keys() - other["tests"].keys()):
            print(f"{sign} {name}")


match sys.argv[1:]:
    case ["expect", path, step]:
        print(load(path)["steps"].get(step, ""))
    case ["report", folder, junit]:
        report(folder, junit)
    case ["compare", old, new]:
        compare(old, new)
    case _:
        sys.exit(__doc__)
