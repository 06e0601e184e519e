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
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent / "aws-check"
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

import fake  # noqa: E402
from awscheck import cli, load, steps  # noqa: E402
from awscheck.facts import FACTS  # noqa: E402

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
        arguments = ["run", "--package", package, "--stack", NAME, "--yes", "--json", "--only", "permissions", "--packer-var", "distribution=debian-13"]
        code, out, error = self.check(*arguments)
        facts = {one["id"]: one["answer"] for one in json.loads(out)["facts"]}
        self.assertEqual((code, facts["packer"]), (0, "yes"), error)
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

    def test_nobody_agrees(self):
        code, _, error = self.check("run", "--image", IMAGE)
        self.assertEqual(code, 3)
        self.assertIn("nobody can be asked here: give --yes", error)
        self.assertIn("US dollars an hour", error)
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
        self.assertEqual((code, result["left"]), (1, [f"the parameters of {NAME}"]))
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
        ("iam:create-role", 1, "spot"), ("fis:create-experiment-template", 2, "spot"), ("fis:start-experiment", 1, "spot"),
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

    def run_with(self, limit, *arguments):
        out, error = io.StringIO(), io.StringIO()
        given = ["run", "--image", IMAGE, "--stack", NAME, "--yes", "--json", "--region", fake.REGION, "--dir", str(self.directory), "--poll", "0.05", *arguments]
        original = cli.Settings

        def settings(**values):
            return original(**{**values, "limit": limit})

        with mock.patch.dict(os.environ, self.environment(), clear=True), mock.patch.object(cli, "Settings", settings), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):  # fmt: skip
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
