"""Builds an image with Packer, as docs/deploy.md describes."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import signal
import subprocess
import threading

from .aws import Interrupted
from .run import Run, StepFailed

OLDEST_PACKER = (1, 9)
# Packer ends its builder and removes its resources before it ends.
PACKERS_CLEAN_UP = 600
# aws-check sets them itself, and the clean-up needs them as they are.
RESERVED = ("tags", "manifest", "ami_regions", "region", "architecture", "skep_package")


def packer_version(program: str) -> tuple[int, int]:
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v?(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def problem(package: pathlib.Path, variables: list[str]) -> str:
    """Why no image can be built; empty if one can."""
    program = shutil.which("packer")
    given = dict(one.partition("=")[::2] for one in variables)
    for name in RESERVED:
        if name in given:
            return f"--packer-var cannot set {name}: aws-check sets it, or could not delete what it makes"
    if not all("=" in one for one in variables):
        return "--packer-var needs NAME=VALUE"
    if not package.is_file():
        return f"{package} does not exist: `make package` builds it"
    if package.suffix not in (".deb", ".rpm"):
        return f"{package} is neither a .deb nor a .rpm"
    if not program:
        return "Packer is not installed: https://developer.hashicorp.com/packer/install"
    is_debian = package.suffix == ".deb" and given.get("distribution", "debian-12").startswith("debian-")
    if is_debian and not given.get("ssm_agent_version") and not given.get("source_ami"):
        return (
            "the image would have no agent of Session Manager, and its nodes would answer nothing: Debian's images have none. "
            "Give --packer-var ssm_agent_version=… and ssm_agent_sha256=…; packer/ssm-agent.sh prints both"
        )
    version = packer_version(program)
    if version < OLDEST_PACKER:
        return f"Packer {'.'.join(map(str, version))} is too old: 1.9 or newer is needed"
    return ""


def architecture(package: pathlib.Path) -> str:
    return "arm64" if re.search(r"arm64|aarch64", package.name) else "x86_64"


def build(run: Run, package: pathlib.Path, variables: list[str], directory: pathlib.Path) -> str:
    """Returns the id of the new image."""
    run.transcript.heading(f"image: Packer builds it from {package.name}")
    program = shutil.which("packer") or "packer"
    template = run.settings.templates.parent / "packer" / ("amazon-linux" if package.suffix == ".rpm" else "debian")
    manifest = directory / "image.json"
    given = {
        "skep_package": str(package.resolve()), "manifest": str(manifest), "region": run.aws.region or "",
        "architecture": architecture(package),
        "tags": json.dumps(run.state.tags),
    }  # fmt: skip
    options = [f"-var={key}={value}" for key, value in given.items()] + [f"-var={one}" for one in variables]
    run.state.creating("image")
    _packer(run, [program, "init", str(template)])
    _packer(run, [program, "build", "-color=false", *options, str(template)])
    artifact = json.loads(manifest.read_text(encoding="utf-8"))["builds"][-1]["artifact_id"]
    run.has_created = True
    image = artifact.split(",")[0].split(":")[-1]
    run.answers.give("packer", True, f"Packer {'.'.join(map(str, packer_version(program)))} has built {image}")
    run.say(f"   {image}")
    return image


def _packer(run: Run, command: list[str]) -> None:
    # In a session of its own: Packer receives a signal once, from here, and then removes what it has created.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    lines: list[str] = []

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip())
            run.say(f"   packer: {line.rstrip()}", quiet=True)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            run.control.sleep(0.5)
    except Interrupted:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PACKERS_CLEAN_UP)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    reader.join(10)
    if process.returncode:
        raise StepFailed(f"packer {command[1]} ended with {process.returncode}: {' '.join(lines[-3:])}")
