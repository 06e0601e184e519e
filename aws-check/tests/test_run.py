"""Whole runs against the account of fake.py."""

import contextlib
import http.server
import io
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = HERE.parent / "aws-check"
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import fake  # noqa: E402
from awscheck import cli, load, steps  # noqa: E402
from awscheck.aws import Aws, Control  # noqa: E402
from awscheck.facts import FACTS  # noqa: E402
from awscheck.redact import Redactor  # noqa: E402
from awscheck.run import Run, Settings  # noqa: E402
from awscheck.state import State  # noqa: E402
from awscheck.transcript import Transcript  # noqa: E402

FAKE = (HERE / "fake.py").read_text()
IMAGE = "ami-0123456789abcdef0"
# Facts about other images than the one of the run, and facts that have no step.
OTHERS = {"debian-12", "debian-13", "ubuntu-24.04", "amazon-linux-2023", "arm64", "packer"} | {fact.id for fact in FACTS if not fact.step}
NAME = "trial"


class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass


class Account(unittest.TestCase):
    """A directory with the programs and an account."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="aws-check-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.bin = self.directory / "bin"
        self.bin.mkdir()
        for name in ("aws", "docker", "skep", "packer"):
            # A start without site-packages takes a third of the time, and there are thousands.
            program = self.bin / name
            program.write_text(f"#!{sys.executable} -IS\n{FAKE}")
            program.chmod(0o755)
        self.world = self.directory / "world.json"
        self.write({"images": {IMAGE: {"architecture": "x86_64", "tags": {}}}})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def write(self, data):
        self.world.write_text(json.dumps(data))

    def set(self, **values):
        self.write({**self.read(), **values})

    def read(self):
        return json.loads(self.world.read_text())

    def environment(self):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        return {
            **kept, "PATH": f"{self.bin}:{os.environ['PATH']}", "FAKE_WORLD": str(self.world), "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
            "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def check(self, *arguments):
        """Runs aws-check as a user does; returns the exit code, and what it printed."""
        command = [sys.executable, "-S", PROGRAM, *arguments, "--region", fake.REGION, "--dir", self.directory, "--poll", "0.05"]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stdout, done.stderr

    def run_it(self, *arguments):
        code, out, error = self.check("run", "--image", IMAGE, "--stack", NAME, "--yes", "--json", "--port", str(self.server.server_port), *arguments)
        result = json.loads(out) if out else {}
        facts = {one["id"]: one for one in result.get("facts", [])}
        return code, result, facts, error

    def nothing_is_left(self):
        data = self.read()
        self.assertEqual([one["name"] for one in data.get("stacks", {}).values() if one["status"] != "DELETE_COMPLETE"], [])
        self.assertEqual([name for name, one in data.get("instances", {}).items() if one["state"] == "InService"], [])
        for kind in ("roles", "experiments", "parameters"):
            self.assertFalse(data.get(kind), kind)
        self.assertEqual(list(data["images"]), [IMAGE])

    def transcript(self):
        return (self.directory / f"aws-check-{NAME}" / "transcript.txt").read_text()


class WholeRuns(Account):
    def test_everything_is_tried_and_deleted(self):
        self.set(outputs={"LoadBalancerName": "127.0.0.1"})
        code, result, facts, error = self.run_it()
        self.assertEqual(code, 0, error)
        wrong = {name: (one["answer"], one["evidence"]) for name, one in facts.items() if one["answer"] != "yes" and name not in OTHERS}
        self.assertEqual(wrong, {})
        self.assertEqual({one["id"] for one in result["facts"]}, {fact.id for fact in FACTS})
        self.assertEqual({facts[fact.id]["answer"] for fact in FACTS if not fact.step}, {"not tried"})
        self.assertGreater(result["requests"]["leader"]["answered"], 0)
        self.assertGreater(result["dollars"], 0)
        self.nothing_is_left()
        self.assertFalse((self.directory / f"aws-check-{NAME}" / "state.json").exists())

    def test_the_transcript_has_no_secrets_and_belongs_to_its_user(self):
        self.set(outputs={"LoadBalancerName": fake.BALANCER}, creation_fails=True)
        code, _, facts, error = self.run_it()
        text = self.transcript()
        for secret in (fake.ACCOUNT, fake.BALANCER, "SWMTKN-1", "jane.doe", "wJalrXUtnFEMI"):
            self.assertNotIn(secret, text)
            self.assertNotIn(secret, error)
        self.assertIn("Received 1 FAILURE signal(s)", text)
        self.assertEqual((code, facts["template"]["answer"]), (1, "no"))
        directory = self.directory / f"aws-check-{NAME}"
        self.assertEqual(stat.S_IMODE(directory.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE((directory / "transcript.txt").stat().st_mode), 0o600)
        self.nothing_is_left()

    def test_what_the_endpoint_does_not_have_is_not_tried(self):
        self.set(not_offered=["sts", "iam", "fis", "elbv2", "cloudformation:update-stack", "autoscaling:describe-warm-pool"])
        code, _, facts, error = self.run_it()
        self.assertEqual(code, 0, error)
        for fact, why in {
            "balancer": "there is no load balancer", "scale-in-requests": "no client", "spot-notice": "this endpoint has no fis:list-experiment-templates",
            "update": "this endpoint has no cloudformation:update-stack", "warm-pool": "this endpoint has no cloudformation:update-stack", "deregistered": "was not seen as a target",
        }.items():  # fmt: skip
            self.assertEqual(facts[fact]["answer"], "not tried", facts[fact])
            self.assertIn(why, facts[fact]["evidence"])
        for fact in ("template", "source-instance", "foreign-rows", "scale-in", "leader", "delete", "charter-closed", "nothing-left"):
            self.assertEqual(facts[fact]["answer"], "yes", facts[fact])
        self.nothing_is_left()

    def test_a_boundary_that_is_open_is_a_no(self):
        self.set(verdicts={"another worker's rows": "failed"})
        code, _, facts, _ = self.run_it("--only", "permissions")
        self.assertEqual((code, facts["foreign-rows"]["answer"], facts["cluster-rows"]["answer"]), (1, "no", "yes"))
        self.assertIn("another worker's rows", facts["foreign-rows"]["evidence"])
        self.assertEqual((facts["scale-out"]["answer"], facts["scale-out"]["evidence"]), ("not tried", "the step was not chosen"))
        self.nothing_is_left()

    def test_an_image_is_built_and_deleted(self):
        package = self.directory / "skep_0.1.0-1_arm64.deb"
        package.touch()
        variables = ["--packer-var", "distribution=debian-13", "--packer-var", "ssm_agent_version=3.3.3270.0", "--packer-var", f"ssm_agent_sha256={'0' * 64}"]
        arguments = ["run", "--package", package, "--stack", NAME, "--yes", "--json", "--only", "permissions", *variables]
        code, out, error = self.check(*arguments)
        facts = {one["id"]: one["answer"] for one in json.loads(out)["facts"]}
        self.assertEqual((code, facts["packer"]), (0, "yes"), error)
        self.nothing_is_left()

    def test_an_image_that_a_crash_has_left_is_found_by_the_name_of_the_stack(self):
        left = {"architecture": "x86_64", "tags": {"skep:aws-check": "0123abcd", "skep:aws-check-stack": NAME}}
        self.set(images={**self.read()["images"], "ami-0feedfacefeedface": left})
        code, _, error = self.check("clean", "--stack", "other")
        self.assertEqual(code, 3, error)
        code, _, error = self.check("clean", "--stack", NAME)
        self.assertEqual(code, 0, error)
        self.nothing_is_left()

    def test_clean_takes_the_run(self):
        left = {"architecture": "x86_64", "tags": {"skep:aws-check": "0123abcd"}}
        self.set(images={**self.read()["images"], "ami-0feedfacefeedface": left}, parameters=[f"/skep/{NAME}/worker-token/1"])
        self.assertEqual(self.check("clean", "--stack", NAME)[0], 3)
        code, _, error = self.check("clean", "--stack", NAME, "--run", "0123abcd")
        self.assertEqual(code, 0, error)
        # Without a stack of the run, the parameters can be another swarm's.
        self.assertEqual(self.read()["parameters"], [f"/skep/{NAME}/worker-token/1"])
        self.set(parameters=[])
        self.nothing_is_left()

    def test_kept_and_cleaned_later(self):
        code, result, facts, error = self.run_it("--only", "permissions", "--keep")
        self.assertEqual((code, result["kept"], facts["delete"]["evidence"]), (0, True, "--keep"), error)
        self.assertIn(f"clean --stack {NAME} --region {fake.REGION}", error)
        code, _, error = self.check("clean", "--stack", NAME)
        self.assertEqual(code, 0, error)
        self.nothing_is_left()
        code, _, error = self.check("clean", "--stack", NAME)
        self.assertEqual(code, 3)
        self.assertIn("there is nothing of a run", error)


class Doubts(Account):
    """What was not seen, or went wrong without an error."""

    def test_what_was_not_seen_is_not_tried(self):
        self.set(no_wait=True, reason="rebalance", no_labels=True)
        with_limit = mock.patch.object(steps, "LABELS", 1)
        code, facts, error = InProcess.run_with(self, 30, "--only", "scale-out,scale-in,manager,leader,spot", patches=[with_limit])
        for fact in ("scale-in", "manager", "leader"):
            self.assertEqual(facts[fact]["answer"], "not tried", facts[fact])
            self.assertIn("its hook was not seen", facts[fact]["evidence"])
        self.assertEqual(facts["spot-notice"]["answer"], "not tried")
        self.assertIn("the reason rebalance came first", facts["spot-notice"]["evidence"])
        self.assertEqual((code, facts["settings-in-ssm"]["answer"]), (1, "no"), error)
        self.nothing_is_left()

    def test_a_departure_that_has_failed_is_a_no(self):
        self.set(departure="failed")
        code, _, facts, error = self.run_it("--only", "scale-in")
        self.assertEqual((code, facts["scale-in"]["answer"]), (1, "no"), error)
        self.assertIn("in the ledger its departure is failed", facts["scale-in"]["evidence"])
        self.nothing_is_left()

    def test_a_charter_that_stays_open_is_a_no(self):
        self.set(never_closes=True)
        code, _, facts, error = self.run_it("--only", "permissions")
        self.assertEqual((code, facts["charter-closed"]["answer"]), (1, "no"), error)
        self.assertIn("it was open when the managers' group was gone", facts["charter-closed"]["evidence"])

    def test_what_is_left_is_a_no_and_what_cannot_be_told_is_not_tried(self):
        gone = f"arn:aws:ec2:{fake.REGION}:{fake.ACCOUNT}:natgateway/nat-1"
        volume = f"arn:aws:ec2:{fake.REGION}:{fake.ACCOUNT}:volume/vol-9"
        for values, left, untold in [
            ({}, [], []),
            ({"volumes_left": ["vol-1"]}, ["volume vol-1"], []),
            ({"logs_left": [f"/skep/{NAME}"]}, [f"log group /skep/{NAME}"], []),
            ({"tagged": [gone, volume], "volumes_left": ["vol-9"]}, ["volume vol-9"], []),
            ({"tagged": [gone, volume, f"arn:aws:fis:{fake.REGION}:{fake.ACCOUNT}:experiment/EXP1"]}, [], []),
            ({"tagged": [f"arn:aws:kms:{fake.REGION}:{fake.ACCOUNT}:key/1"]}, [], ["the Tagging API lists kms key/1, which can be deleted already"]),
            ({"not_offered": ["resourcegroupstaggingapi"]}, [], ["this endpoint has no resourcegroupstaggingapi:get-resources"]),
            ({"do": {"logs:describe-log-groups": {"error": ["AccessDeniedException", ""]}}}, [], ["no permission for logs:describe-log-groups"]),
        ]:  # fmt: skip
            with self.subTest(values=values), mock.patch.dict(os.environ, self.environment(), clear=True):
                self.write(values)
                directory = pathlib.Path(tempfile.mkdtemp(dir=self.directory))
                settings = Settings(NAME, IMAGE, 1, 2, "t3.small", "t3.small", "nginx", 80, 60, 0.05, ROOT / "cloudformation")
                state = State(directory / "state.json", {"run": "0123abcd", "stack": NAME, "created": []})
                transcript = Transcript(directory, Redactor())
                self.addCleanup(transcript.close)
                run = Run(settings, Aws(Control(), fake.REGION), transcript, state)
                self.assertEqual(steps.leftovers(run, ["vol-1"]), (left, untold))

    def test_the_answer_about_leftovers(self):
        for values, answer, text in [
            ({"logs_left": [f"/skep/{NAME}"]}, "no", f"left: log group /skep/{NAME}"),
            ({"not_offered": ["resourcegroupstaggingapi"]}, "not tried", "nothing was found, but this endpoint has no resourcegroupstaggingapi"),
        ]:  # fmt: skip
            self.write({"images": self.read()["images"], **values})
            code, _, facts, error = self.run_it("--only", "permissions")
            self.assertEqual((code, facts["nothing-left"]["answer"]), (int(answer == "no"), answer), error)
            self.assertIn(text, facts["nothing-left"]["evidence"])

    def test_an_update_may_go_down_to_the_minimum_of_the_group(self):
        # With scale-out, one worker is above the minimum.
        code, _, facts, error = self.run_it("--only", "scale-out,update")
        self.assertEqual((code, facts["update"]["answer"]), (0, "yes"), error)


class Refusals(Account):
    def created(self):
        return [call for call in self.read().get("calls", []) if not call.split(":")[1].startswith(("describe", "get", "list"))]

    def test_arguments_out_of_range(self):
        for arguments, text in [
            (["--workers", "1"], "1 is not between 2 and 20"), (["--managers", "2"], "invalid choice"), (["--stack", "a b"], "is not a name"),
            (["--port", "0"], "not between"), (["--worker-type", "big"], "not an instance type"), (["--only", "dance"], "there is no step 'dance'"),
            (["--service-image", "x; reboot"], "not the name of an image"), (["--limit", "5"], "not between"),
        ]:  # fmt: skip
            code, _, error = self.check("run", "--image", IMAGE, "--yes", *arguments)
            self.assertEqual(code, 2, error)
            self.assertIn(text, error)
        code, _, error = self.check("run", "--yes")
        self.assertEqual(code, 2)
        self.assertEqual(self.created(), [])

    def test_a_stack_name_that_is_taken(self):
        for taken in (NAME, f"{NAME}-network"):
            stack = {"name": taken, "id": "other", "status": "CREATE_COMPLETE", "tags": [], "looks": 9, "events": [], "parameters": {}}
            self.set(stacks={"other": stack})
            code, _, _, error = self.run_it()
            self.assertEqual(code, 3, error)
            self.assertIn(f"the stack {taken} exists already", error)
            self.assertEqual(self.created(), [])
            code, _, error = self.check("clean", "--stack", NAME)
            self.assertEqual(code, 3)
            self.assertIn("was not created by aws-check", error)
            self.assertEqual(self.read()["stacks"]["other"]["status"], "CREATE_COMPLETE")

    def test_a_stack_that_somebody_else_has_created_in_the_meantime_stays(self):
        self.set(race=NAME)
        code, result, _, error = self.run_it()
        self.assertEqual((code, result["left"]), (1, []), error)
        self.assertIn(f"the stack {NAME} is not of this run, and stays", error)
        data = self.read()
        self.assertEqual(data["stacks"]["other"]["status"], "CREATE_COMPLETE")
        self.assertEqual(data["parameters"], [f"/skep/{NAME}/worker-token/1"])

    def test_tokens_of_another_swarm_stay(self):
        self.set(parameters=[f"/skep/{NAME}/worker-token/1"])
        code, _, _, error = self.run_it()
        self.assertEqual(code, 3, error)
        self.assertIn(f"parameters below /skep/{NAME}/", error)
        self.assertEqual(self.created(), [])

    def test_an_image_that_does_not_exist(self):
        self.set(images={})
        code, _, _, error = self.run_it()
        self.assertEqual(code, 3)
        self.assertIn("InvalidAMIID.NotFound", error)

    def test_an_image_that_could_not_be_used_or_deleted(self):
        package = self.directory / "skep_0.1.0-1_amd64.deb"
        package.touch()
        for variables, text in [
            ([], "the image would have no agent of Session Manager"), (["distribution=debian-13"], "no agent"),
            (["distribution=ubuntu-24.04", "tags={}"], "cannot set tags"), (["manifest=x"], "cannot set manifest"),
            (["ami_regions=[]"], "cannot set ami_regions"), (["region=eu-west-1"], "cannot set region"), (["upgrade"], "needs NAME=VALUE"),
        ]:  # fmt: skip
            given = [word for one in variables for word in ("--packer-var", one)]
            code, _, error = self.check("run", "--package", package, "--stack", NAME, "--yes", *given)
            self.assertEqual(code, 3, error)
            self.assertIn(text, error)
        code, _, _, error = self.run_it("--packer-var", "upgrade=false")
        self.assertEqual(code, 3)
        self.assertIn("--packer-var needs --package", error)
        self.assertEqual(self.created(), [])

    def test_nobody_agrees(self):
        code, _, error = self.check("run", "--image", IMAGE)
        self.assertEqual(code, 3)
        self.assertIn("nobody can be asked here: give --yes", error)
        self.assertIn("US dollars an hour", error)
        self.assertIn("needs credentials for 3 hours. When the present ones end cannot be told.", error)
        self.assertEqual(self.created(), [])
        for hours, text in ((0.5, "the present ones end in 29 minutes"), (8, "valid for 7 h 59 min")):
            self.set(credentials_end=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + hours * 3600 - 1)))
            self.assertIn(text, self.check("run", "--image", IMAGE)[2])

    def test_a_signal_at_the_question_ends_at_once(self):
        terminal, other = os.openpty()
        self.addCleanup(os.close, terminal)
        command = [sys.executable, "-S", PROGRAM, "run", "--image", IMAGE, "--region", fake.REGION, "--dir", self.directory]
        process = subprocess.Popen(command, env=self.environment(), stdin=other, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.close(other)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.read(1), "G")  # Go on?
        # Python does not see a signal between the question and the call that reads the answer.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, error)
        self.assertIn("SIGINT: nothing was created", error)
        self.assertNotIn("cleaning up", error)
        self.assertEqual(self.created(), [])

    def test_no_permission_to_create_the_stack(self):
        self.set(do={"cloudformation:create-stack": {"error": ["AccessDenied", f"User: arn:aws:iam::{fake.ACCOUNT}:user/jane.doe is not authorized to perform: cloudformation:CreateStack"]}})
        code, result, _, error = self.run_it()
        self.assertEqual(code, 3, error)
        self.assertIn("is not authorized to perform: cloudformation:CreateStack", error)
        self.assertNotIn("jane.doe", error)
        self.assertEqual(result["left"], [])
        self.nothing_is_left()

    def test_no_permission_after_the_network_was_created(self):
        self.set(do={"cloudformation:create-stack": {"at": 2, "error": ["AccessDenied", "not authorized"]}})
        code, result, _, error = self.run_it()
        self.assertEqual((code, result["left"]), (1, []), error)
        self.nothing_is_left()

    def test_no_permission_for_one_step(self):
        denied = ["AccessDeniedException", "not authorized"]
        self.set(outputs={"LoadBalancerName": "127.0.0.1"}, do={"fis:create-experiment-template": {"error": denied}})
        code, _, facts, error = self.run_it("--only", "spot,scale-out")
        self.assertEqual(code, 1, error)
        self.assertEqual(facts["spot-notice"]["evidence"], "no permission for fis:create-experiment-template")
        self.assertEqual(facts["scale-out"]["answer"], "yes")
        self.nothing_is_left()

    def test_no_permission_for_commands_on_nodes(self):
        self.set(do={"ssm:send-command": {"error": ["AccessDeniedException", "not authorized"]}})
        code, _, facts, error = self.run_it("--only", "scale-out,scale-in,manager")
        self.assertEqual(facts["run-command"]["answer"], "not tried", error)
        for fact in ("run-command", "scale-out", "scale-in", "manager"):
            self.assertIn("no permission for ssm:send-command", facts[fact]["evidence"])
        self.nothing_is_left()

    def test_what_cannot_be_deleted_is_named(self):
        self.set(do={"ssm:delete-parameters": {"error": ["AccessDeniedException", "not authorized"]}})
        code, result, facts, error = self.run_it("--only", "permissions")
        self.assertEqual((code, result["left"]), (1, [f"the parameters of {NAME}", "the parameters of the run"]))
        self.assertIn(f"clean --stack {NAME}", error)
        self.assertEqual(facts["nothing-left"]["answer"], "no")
        self.set(do={})
        self.assertEqual(self.check("clean", "--stack", NAME)[0], 0)
        self.nothing_is_left()


class Interruptions(Account):
    # An operation, the number of its call, and the step to which it belongs.
    PLACES = [
        ("cloudformation:create-stack", 1, "stack"), ("cloudformation:describe-stacks", 6, "stack"), ("ssm:send-command", 3, "permissions"),
        ("autoscaling:set-desired-capacity", 1, "scale-out"), ("autoscaling:terminate-instance-in-auto-scaling-group", 1, "leader"),
        ("cloudformation:create-stack", 3, "group"), ("iam:create-role", 1, "spot"), ("fis:create-experiment-template", 2, "spot"), ("fis:start-experiment", 1, "spot"),
        ("cloudformation:update-stack", 1, "update"), ("cloudformation:delete-stack", 1, "stack"),
    ]  # fmt: skip

    def test_a_signal_in_the_middle_leaves_nothing(self):
        for number, (place, at, step) in enumerate(self.PLACES):
            with self.subTest(place):
                kind = (signal.SIGINT, signal.SIGTERM)[number % 2]
                self.write({"images": self.read()["images"], "do": {place: {"at": at, "signal": kind}}})
                code, result, _, error = self.run_it("--only", step)
                if place == "cloudformation:delete-stack":
                    # Everything was tried already.
                    self.assertEqual(code, 0, error)
                else:
                    self.assertEqual((code, result["interrupted"]), (130, True), error)
                self.assertIn("cleaning up. To delete what is left: ", error)
                self.nothing_is_left()
                shutil.rmtree(self.directory / f"aws-check-{NAME}")

    def test_before_anything_is_created(self):
        self.set(do={"sts:get-caller-identity": {"signal": signal.SIGINT}})
        code, _, _, error = self.run_it()
        self.assertEqual(code, 130)
        self.assertIn("nothing was created", error)

    def test_credentials_that_end_are_waited_for(self):
        expired = ["ExpiredTokenException", "The security token included in the request is expired"]
        self.set(do={
            "autoscaling:set-desired-capacity": {"error": expired, "until": 2}, "cloudformation:delete-stack": {"error": expired, "until": 3},
            "autoscaling:describe-auto-scaling-instances": {"error": expired, "at": 2, "until": 3},
        })  # fmt: skip
        code, result, facts, error = self.run_it("--only", "scale-out,scale-in")
        self.assertEqual((code, facts["scale-out"]["answer"], result["left"]), (0, "yes", []), error)
        # Nobody saw the hook meanwhile.
        self.assertEqual(facts["scale-in"]["answer"], "not tried", facts["scale-in"])
        self.assertEqual(error.count("the credentials have expired"), 3)
        self.assertIn(f"clean --stack {NAME}", error)
        self.nothing_is_left()
        # Before anything was created, nobody waits.
        self.write({"images": self.read()["images"], "do": {"sts:get-caller-identity": {"error": expired}}})
        code, _, _, error = self.run_it()
        self.assertEqual(code, 3, error)

    def test_a_second_signal_names_the_command_that_cleans_up(self):
        # The signal of the deletion comes after that of the creation.
        self.set(do={"cloudformation:create-stack": {"signal": signal.SIGINT}, "cloudformation:delete-stack": {"signal": signal.SIGINT}})
        code, result, _, error = self.run_it("--only", "stack")
        self.assertEqual((code, result), (130, {}))
        last = error.strip().splitlines()[-1]
        self.assertIn(f"clean --stack {NAME} --region {fake.REGION}", last)
        self.set(do={})
        code, _, error = self.check("clean", "--stack", NAME)
        self.assertEqual(code, 0, error)
        self.nothing_is_left()

    def test_after_a_crash_the_state_file_or_the_tag_is_enough(self):
        for place in ("cloudformation:create-stack", "fis:create-experiment-template", "cloudformation:delete-stack"):
            for has_file in (True, False):
                with self.subTest(place, has_file=has_file):
                    at = 2 if place.startswith("fis") else 1
                    self.write({"images": self.read()["images"], "do": {place: {"at": at, "signal": signal.SIGKILL}}})
                    code, _, _, _ = self.run_it("--only", "spot" if place.startswith("fis") else "stack")
                    self.assertEqual(code, -signal.SIGKILL)
                    self.set(do={})
                    if not has_file:
                        shutil.rmtree(self.directory / f"aws-check-{NAME}")
                    code, _, error = self.check("clean", "--stack", NAME)
                    self.assertEqual(code, 0, error)
                    self.nothing_is_left()
                    shutil.rmtree(self.directory / f"aws-check-{NAME}")


class InProcess(Account):
    """Runs with shorter limits than a user can choose."""

    def run_with(self, limit, *arguments, patches=()):
        out, error = io.StringIO(), io.StringIO()
        given = ["run", "--image", IMAGE, "--stack", NAME, "--yes", "--json", "--region", fake.REGION, "--dir", str(self.directory), "--poll", "0.05", *arguments]
        original = cli.Settings

        def settings(**values):
            return original(**{**values, "limit": limit})

        with mock.patch.dict(os.environ, self.environment(), clear=True), mock.patch.object(cli, "Settings", settings), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), contextlib.ExitStack() as stack:  # fmt: skip
            for patch in patches:
                stack.enter_context(patch)
            code = cli.main(given)
        result = json.loads(out.getvalue())
        return code, {one["id"]: one for one in result["facts"]}, error.getvalue()

    def test_a_node_that_does_not_come_is_a_no_and_ends_the_run(self):
        self.set(stuck=True)
        code, facts, error = self.run_with(2, "--only", "scale-out,leader")
        self.assertEqual((code, facts["scale-out"]["answer"]), (1, "no"), error)
        self.assertIn("2 of 3 workers in service", facts["scale-out"]["evidence"])
        self.assertEqual(facts["leader"]["evidence"], "the step scale-out has failed")
        self.nothing_is_left()

    def test_nodes_without_an_agent(self):
        self.set(do={"ssm:send-command": {"error": ["InvalidInstanceId", ""]}})
        with mock.patch.object(steps, "REGISTRATION", 1):
            code, facts, error = self.run_with(2, "--only", "scale-out")
        self.assertEqual((code, facts["run-command"]["answer"], facts["scale-out"]["answer"]), (1, "no", "not tried"), error)
        self.assertEqual((facts["describe-instances"]["answer"], facts["scale-out"]["evidence"]), ("not tried", "the step permissions has failed"))
        self.assertNotIn("autoscaling:set-desired-capacity", self.read()["calls"])
        self.nothing_is_left()

    def test_a_service_that_does_not_answer(self):
        self.set(outputs={"LoadBalancerName": "127.0.0.1"})
        self.server.shutdown()
        self.server.server_close()
        with mock.patch.object(steps, "FIRST_ANSWER", 1):
            code, facts, error = self.run_with(5, "--only", "service", "--port", str(self.server.server_port))
        self.assertEqual((code, facts["balancer"]["answer"]), (1, "no"), error)
        self.assertIn("refused", facts["balancer"]["evidence"])
        self.nothing_is_left()

    def test_lost_requests_are_a_no(self):
        self.set(outputs={"LoadBalancerName": "127.0.0.1"})
        answers = iter(["answered"] * 40)
        with mock.patch.object(load, "outcome", lambda *_: next(answers, "reset")), mock.patch.object(load, "PAUSE", 0.01):
            code, facts, error = self.run_with(20, "--only", "service,scale-in")
        self.assertEqual((code, facts["scale-in-requests"]["answer"]), (1, "no"), error)
        self.assertIn("reset", facts["scale-in-requests"]["evidence"])


if __name__ == "__main__":
    unittest.main()
