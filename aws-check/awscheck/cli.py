"""The command line: what is asked for, what is shown, and the exit code."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import secrets
import shlex
import sys
import time
import traceback

from . import image as packer
from .aws import Aws, AwsError, Control, Interrupted
from .cleanup import CleanUp
from .facts import NO, NOT_TRIED, YES
from .prices import LISTED, an_hour
from .redact import Redactor
from .run import Run, Settings, StepFailed
from .stack import Stack
from .state import TAG, TAG_OF_STACK, State
from .steps import STEPS, delete, play
from .transcript import Transcript, stamp

ROOT = pathlib.Path(__file__).resolve().parents[2]
OK, FAILED, USAGE, NOTHING_DONE, INTERRUPTED = 0, 1, 2, 3, 130
DEFAULT_SERVICE = "public.ecr.aws/nginx/nginx:stable-alpine"
# Without these, no later step means anything.
ALWAYS = ["stack", "permissions"]
TYPES = {"x86_64": "t3.small", "arm64": "t4g.small"}
DURATION = "about two hours"
# The run, and the clean-up of a run that fails late.
HOURS_OF_CREDENTIALS = 3

EXIT_CODES = """
exit codes:
  0    no fact was answered with no, no step failed, and nothing is left
  1    a fact was answered with no, a step failed, or something is left
  2    wrong arguments
  3    nothing was created: a refusal, or something is missing
  130  interrupted; everything was deleted, or the last line is the command that does it
"""


class NotPossible(Exception):
    """Nothing was created; the text says what is missing."""


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    control = Control()
    control.listen()
    aws = Aws(control)
    try:
        if not aws.program:
            raise NotPossible("the `aws` command line is not installed: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html")
        aws.region = aws.find_region(given.region)
        if not aws.region:
            raise NotPossible("no region: give --region")
        return given.command(given, aws)
    except NotPossible as error:
        print(f"aws-check: error: {error}", file=sys.stderr)
        return NOTHING_DONE
    except Interrupted as error:
        print(f"aws-check: {error}: nothing was created", file=sys.stderr)
        return INTERRUPTED


# --- arguments ---


def _matching(pattern: str, what: str):
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return text

    return check


def _within(least: float, most: float, kind: type = int):
    def check(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    return check


def _steps(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no step {unknown[0]!r}; the steps are {', '.join(STEPS)}")
    return names


def parse(arguments: list[str]) -> argparse.Namespace:
    stack = _matching(r"[A-Za-z][A-Za-z0-9-]{2,49}", "a name of 3 to 50 letters, digits and hyphens that begins with a letter")
    kind = _matching(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", "an instance type such as t3.small")
    parser = argparse.ArgumentParser(
        prog="aws-check", description="Tries skep in an AWS account of your own, and deletes everything afterwards.", epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="deploy a stack, try everything, delete it, and answer the facts", epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = run.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", metavar="AMI", type=_matching(r"ami-[0-9a-f]{8,17}", "the id of an image"), help="an image with skep and the agent of Session Manager")
    source.add_argument("--package", metavar="FILE", type=pathlib.Path, help="build an image from this .deb or .rpm with Packer, and delete it at the end")
    run.add_argument("--packer-var", metavar="NAME=VALUE", action="append", default=[], help="a variable for Packer, such as distribution=debian-13")
    run.add_argument("--stack", type=stack, help="name of the stack [default: skep-check-<run>]")
    run.add_argument("--managers", type=int, choices=(1, 3, 5), default=3, help="number of managers [default: 3]")
    run.add_argument("--workers", type=_within(2, 20), default=2, help="number of workers, 2 to 20 [default: 2]")
    run.add_argument("--manager-type", metavar="TYPE", type=kind, help="[default: t3.small, or t4g.small for arm64]")
    run.add_argument("--worker-type", metavar="TYPE", type=kind, help="[default: the same]")
    service = _matching(r"[a-z0-9][A-Za-z0-9._/:@-]*", "the name of an image")
    run.add_argument("--service-image", metavar="NAME", type=service, default=DEFAULT_SERVICE, help=f"an image that answers HTTP on port 80 [default: {DEFAULT_SERVICE}]")
    run.add_argument("--port", type=_within(1, 65535), default=80, help="port of the load balancer [default: 80]")
    run.add_argument("--limit", metavar="SECONDS", type=_within(60, 7200), default=1200, help="for each wait, 60 to 7200 [default: 1200]")
    run.add_argument("--only", metavar="STEP,…", type=_steps, help=f"only these steps, after {' and '.join(ALWAYS)}; the steps are {', '.join(STEPS)}")
    run.add_argument("--keep", action="store_true", help="delete nothing; the last line is the command that does it")
    run.add_argument("--yes", action="store_true", help="do not ask")
    run.set_defaults(command=run_all)

    clean = commands.add_parser("clean", help="delete what a run has left")
    clean.add_argument("--stack", type=stack, required=True, help="name of the stack")
    clean.add_argument("--run", type=_matching(r"[0-9a-f]{8}", "a run, such as the first line of the transcript has"), help="the run, if it cannot be found by the stack's name")
    clean.set_defaults(command=clean_up)

    for one in (run, clean):
        one.add_argument("--region", type=_matching(r"[a-z]{2}(-[a-z]+)+-\d+", "a region such as eu-central-1"), help="[default: that of the `aws` command line]")
        one.add_argument("--dir", type=pathlib.Path, default=pathlib.Path(), help="where the directory aws-check-<stack> with the transcript is [default: here]")
        one.add_argument("--poll", metavar="SECONDS", type=_within(0.05, 60, float), default=5.0, help="pause between two looks [default: 5]")
        one.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


# --- run ---


def run_all(given: argparse.Namespace, aws: Aws) -> int:
    run_id = secrets.token_hex(4)
    name = given.stack or f"skep-check-{run_id}"
    directory = given.dir / f"aws-check-{name}"
    identity = _look_before(given, aws, name, directory)
    types = TYPES.get(identity.get("architecture", "x86_64"), "t3.small")
    settings = Settings(
        stack=name, image=given.image or "", managers=given.managers, workers=given.workers, manager_type=given.manager_type or types,
        worker_type=given.worker_type or given.manager_type or types, service_image=given.service_image, port=given.port,
        limit=given.limit, pause=given.poll, templates=ROOT / "cloudformation",
    )  # fmt: skip
    _ask(given, aws, settings)

    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    redact = Redactor()
    redact.hide(identity.get("account", ""), "<account>")
    transcript = Transcript(directory, redact)
    state = State(directory / "state.json", {"run": run_id, "stack": name, "region": aws.region, "started": stamp(), "created": []})
    state.write()
    aws.control.last_words = f"To delete what is left: {_clean_command(given, name, aws)}"
    aws.waits_for_credentials, aws.pause, aws.say = True, given.poll, transcript.line
    run = Run(settings, aws, transcript, state)
    run.identity = identity
    for line in _header(settings, run_id, aws):
        transcript.line(line)

    clean = CleanUp(aws, transcript, state, name, given.poll)
    interrupted = _play_all(run, given, directory)
    aws.control.clean_up()
    if given.keep and not interrupted:
        run.answers.step_ended("delete", "--keep")
    else:
        transcript.heading("delete: deletes everything that the run has created")
        if run.stack.id:
            try:
                delete(run, clean)
            except (AwsError, KeyError, IndexError, TypeError) as error:
                run.failed.append(f"delete: {error}")
                transcript.line(f"   error: {error}")
        else:
            clean.everything()
        run.answers.step_ended("delete", "it could not be seen")
    if run.client:
        run.client.stop()
    return _report(run, given, clean, interrupted)


def _look_before(given: argparse.Namespace, aws: Aws, name: str, directory: pathlib.Path) -> dict[str, str]:
    """Looks at everything that can be seen before something is created."""
    found: dict[str, str] = {}
    if (directory / "state.json").exists():
        raise NotPossible(f"{directory} is of an earlier run: choose another --stack, or clean up: {_clean_command(given, name, aws)}")
    if given.packer_var and not given.package:
        raise NotPossible("--packer-var needs --package")
    if given.package:
        problem = packer.problem(given.package, given.packer_var)
        if problem:
            raise NotPossible(problem)
        found["architecture"] = packer.architecture(given.package)
    try:
        caller = aws.call("sts", "get-caller-identity")
        found.update(account=caller["Account"], arn=caller["Arn"])
    except AwsError as error:
        if not error.is_not_offered:
            raise NotPossible(f"the account cannot be used: {error}") from None
    try:
        for stack in (name, f"{name}-network", f"{name}-group"):
            if Stack(aws, stack).owner() is not None:
                raise NotPossible(f"the stack {stack} exists already: choose another --stack")
        filters = [{"Key": "Name", "Option": "BeginsWith", "Values": [f"/skep/{name}/"]}]
        parameters = aws.call("ssm", "describe-parameters", ParameterFilters=filters)["Parameters"]
        if any(one["Name"].startswith(f"/skep/{name}/") for one in parameters):
            raise NotPossible(f"there are parameters below /skep/{name}/ of another swarm: choose another --stack")
        if given.image:
            found.update(_image(aws, given.image))
    except AwsError as error:
        raise NotPossible(str(error)) from None
    return found


def _image(aws: Aws, image: str) -> dict[str, str]:
    images = aws.call("ec2", "describe-images", ImageIds=[image])["Images"]
    if not images or images[0].get("State", "available") != "available":
        raise NotPossible(f"the image {image} is not available in {aws.region}")
    found = {"architecture": images[0].get("Architecture", "x86_64"), "root_device": images[0].get("RootDeviceName", "")}
    return {key: value for key, value in found.items() if value}


def _ask(given: argparse.Namespace, aws: Aws, settings: Settings) -> None:
    """Shows what is created and what it costs, and asks for consent."""
    types = [settings.manager_type] * settings.managers + [settings.worker_type] * settings.workers
    dollars = an_hour(types, settings.volume, settings.zones)
    image = f"an image, built by Packer from {given.package.name}" if given.package else f"instances of {settings.image}"
    print(
        f"In {aws.region}, aws-check creates and afterwards deletes:\n"
        f"  the stack {settings.stack}: {settings.managers} managers ({settings.manager_type}), {settings.workers} workers ({settings.worker_type}, all but one spot),\n"
        f"  a VPC with a NAT gateway, a network load balancer on port {settings.port} that is open to the Internet, a DynamoDB table, roles;\n"
        f"  {image}; an experiment of Fault Injection Service, with a role.\n"
        f"It costs about {dollars:.2f} US dollars an hour (list prices of {LISTED}; an estimate), and takes {DURATION}.",
        file=sys.stderr,
    )
    print(_credentials(aws.credentials_end()), file=sys.stderr)
    if given.yes:
        return
    if not sys.stdin.isatty():
        raise NotPossible("nobody can be asked here: give --yes")
    try:
        with aws.control.question():
            answer = input("Go on? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise NotPossible("you did not agree")


def _credentials(end: float | None) -> str:
    """What the run needs of its credentials, and when the present ones end."""
    needs = f"It needs credentials for {HOURS_OF_CREDENTIALS} hours"
    if end is None:
        return f"{needs}. When the present ones end cannot be told."
    minutes = int((end - time.time()) // 60)
    if minutes >= HOURS_OF_CREDENTIALS * 60:
        return f"{needs}; the present ones are valid for {minutes // 60} h {minutes % 60} min."
    return f"{needs}, and the present ones end in {max(minutes, 0)} minutes: the `aws` command line must be able to renew them, as it does for roles of a profile and for SSO."


def _header(settings: Settings, run_id: str, aws: Aws) -> list[str]:
    template = (settings.templates / "skep.yaml").read_bytes()
    return [
        f"aws-check of skep, run {run_id}, {stamp()}, {aws.region}",
        f"stack {settings.stack}; {settings.managers} managers {settings.manager_type}, {settings.workers} workers {settings.worker_type}; image {settings.image or 'of Packer'}",
        f"skep.yaml: sha256 {hashlib.sha256(template).hexdigest()[:16]}; Python {sys.version.split()[0]}",
        "Secrets, account ids, public addresses and names of load balancers are removed from this transcript.",
    ]


def _play_all(run: Run, given: argparse.Namespace, directory: pathlib.Path) -> bool:
    """Plays the steps. Returns whether a signal has ended them."""
    chosen = [name for name in STEPS if not given.only or name in given.only or name in ALWAYS]
    try:
        if given.package:
            run.settings = dataclasses.replace(run.settings, image=packer.build(run, given.package, given.packer_var, directory))
            run.identity.update(_image(run.aws, run.settings.image))
        else:
            run.answers.step_ended("image", "an image was given")
        for number, name in enumerate(chosen):
            if not play(run, name):
                for skipped in chosen[number + 1 :]:
                    run.answers.step_ended(skipped, f"the step {name} has failed")
                break
            # A signal at the end of a step has interrupted no wait.
            run.control.check()
        for name in set(STEPS) - set(chosen):
            run.answers.step_ended(name, "the step was not chosen")
    except Interrupted as error:
        run.say(f"   interrupted by {error}")
        return True
    except (StepFailed, NotPossible, AwsError, OSError, ValueError, KeyError) as error:
        run.failed.append(str(error))
        run.say(f"   error: {error}")
    except Exception as error:  # a fault of aws-check must not leave anything behind
        run.failed.append(f"{type(error).__name__}: {error}")
        run.say(traceback.format_exc())
    return False


def _report(run: Run, given: argparse.Namespace, clean: CleanUp, interrupted: bool) -> int:
    say, answers = run.say, run.answers
    run.transcript.heading("requests")
    for step, counts in run.counts.items():
        say(f"   {step}: {counts}")
    if not run.counts:
        say("   no client requested the service")
    run.transcript.heading("facts")
    for fact, answer, evidence in answers.all():
        say(f"   {answer:9}  {fact.id}: {fact.question}")
        say(f"              {evidence}")
    numbers = {word: sum(answer == word for _, answer, _ in answers.all()) for word in (YES, NO, NOT_TRIED)}
    lines, dollars = run.meter.lines()
    run.transcript.heading("cost")
    for line in lines:
        say(f"   {line}")
    say(f"   about {dollars:.2f} US dollars: an estimate from list prices of {LISTED}. Traffic, DynamoDB and Packer's builder are not in it.")
    run.transcript.heading("result")
    for failed in run.failed:
        say(f"   failed: {failed}")
    say(f"   {numbers[YES]} yes, {numbers[NO]} no, {numbers[NOT_TRIED]} not tried; {run.aws.calls} calls of aws")
    kept = given.keep and not interrupted
    if clean.left:
        say(f"   left, and can cost money: {'; '.join(clean.left)}")
    elif not kept:
        say("   nothing is left")
    say(f"   transcript: {run.transcript.path}")
    if clean.left or kept:
        say(f"   To delete what is left: {_clean_command(given, run.settings.stack, run.aws)}")
    else:
        run.state.path.unlink(missing_ok=True)
    result = {
        "run": run.state.run, "stack": run.settings.stack, "region": run.aws.region, "interrupted": interrupted,
        "facts": [{"id": fact.id, "answer": answer, "evidence": evidence} for fact, answer, evidence in answers.all()],
        "requests": {step: counts.outcomes for step, counts in run.counts.items()},
        "failed": run.failed, "left": clean.left, "kept": kept, "dollars": round(dollars, 3),
    }  # fmt: skip
    text = json.dumps(run.transcript.redact.all_of(result), indent=1)
    (run.transcript.path.parent / "result.json").write_text(text + "\n", encoding="utf-8")
    if given.json:
        print(text)
    if interrupted:
        return INTERRUPTED
    if not run.has_created and not clean.left:
        return NOTHING_DONE
    return FAILED if numbers[NO] or run.failed or clean.left else OK


# --- clean ---


def clean_up(given: argparse.Namespace, aws: Aws) -> int:
    directory = given.dir / f"aws-check-{given.stack}"
    state = State.load(directory / "state.json")
    if state and state.region and not given.region:
        aws.region = state.region
    if state and given.run and state.run != given.run:
        raise NotPossible(f"{state.path} is of the run {state.run}")
    if state is None:
        run_id = given.run or _find_run(aws, given.stack)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = State(directory / "state.json", {"run": run_id, "stack": given.stack, "region": aws.region, "created": ["stack", "network", "group", "tokens", "parameters", "image"]})
        if given.run and not any(_owners(aws, given.stack)):
            # Parameters have no tag: another swarm can have this name.
            state.deleted("tokens")
        state.write()
    transcript = Transcript(directory, Redactor())
    transcript.heading(f"clean: {stamp()}")
    aws.control.clean_up()
    aws.control.last_words = f"To delete what is left: {_clean_command(given, given.stack, aws)}"
    aws.waits_for_credentials, aws.pause, aws.say = True, given.poll, transcript.line
    clean = CleanUp(aws, transcript, state, given.stack, given.poll)
    done = clean.everything()
    transcript.line("nothing is left" if done else f"left, and can cost money: {'; '.join(clean.left)}")
    if done:
        state.path.unlink(missing_ok=True)
    if given.json:
        print(json.dumps({"run": state.run, "stack": given.stack, "left": clean.left}))
    return OK if done else FAILED


def _owners(aws: Aws, stack: str) -> list[str | None]:
    try:
        return [Stack(aws, name).owner() for name in (stack, f"{stack}-network", f"{stack}-group")]
    except AwsError as error:
        raise NotPossible(str(error)) from None


def _find_run(aws: Aws, stack: str) -> str:
    """The run that has created a stack or anything else for it, by the tags."""
    owners = _owners(aws, stack)
    runs = {owner for owner in owners if owner}
    if not runs:
        # A crash while Packer works, or after the stacks were deleted.
        filters = [{"Name": f"tag:{TAG_OF_STACK}", "Values": [stack]}]
        live = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
        for operation, parameters in {
            "describe-images": {"Owners": ["self"], "Filters": filters}, "describe-snapshots": {"OwnerIds": ["self"], "Filters": filters},
            "describe-instances": {"Filters": [*filters, live]},
        }.items():  # fmt: skip
            try:
                answer = aws.call("ec2", operation, **parameters)
            except AwsError as error:
                if error.is_not_offered:
                    continue
                raise NotPossible(str(error)) from None
            found = [one for of in answer.values() if isinstance(of, list) for one in of]
            found += [one for of in found for one in of.get("Instances", [])]
            runs |= {tag["Value"] for one in found for tag in one.get("Tags", []) if tag["Key"] == TAG}
    if len(runs) == 1:
        return runs.pop()
    if runs:
        raise NotPossible(f"several runs had the stack {stack}: give --run, one of {', '.join(sorted(runs))}")
    taken = any(owner == "" for owner in owners)
    raise NotPossible(f"the stack {stack} was not created by aws-check" if taken else f"there is nothing of a run with the stack {stack}")


def _clean_command(given: argparse.Namespace, stack: str, aws: Aws) -> str:
    program = os.path.relpath(ROOT / "aws-check" / "aws-check")
    words = [program, "clean", "--stack", stack, "--region", aws.region or ""]
    if given.dir != pathlib.Path():
        words += ["--dir", str(given.dir)]
    return shlex.join(words)
