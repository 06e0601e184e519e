"""The parts: redaction, calls, the client, templates, the table of facts."""

import http.server
import json
import os
import pathlib
import random
import re
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from awscheck import facts, load, nodes, prices, steps  # noqa: E402
from awscheck.aws import Aws, AwsError, Control  # noqa: E402
from awscheck.redact import Redactor  # noqa: E402
from awscheck.run import Settings  # noqa: E402
from awscheck.state import State  # noqa: E402

LETTERS = string.ascii_letters + string.digits
CAPITALS = string.ascii_uppercase + string.digits


class Redaction(unittest.TestCase):
    """What must not be in a transcript is not there, whatever is around it."""

    def secrets(self, rng):
        def some(alphabet, count):
            return "".join(rng.choice(alphabet) for _ in range(count))

        account = some("123456789", 12)
        public = rng.choice(["8.8.8.8", "3.120.44.7", "52.95.255.1", "2a05:d014:1c20::7f", "2606:4700:4700::1111"])
        yield f"SWMTKN-1-{some(LETTERS, 50).lower()}-{some(LETTERS, 25).lower()}"
        yield f"SWMKEY-1-{some(LETTERS + '+/', 43)}"
        yield rng.choice(["AKIA", "ASIA"]) + some(CAPITALS, 16)
        yield rng.choice(["AROA", "AIDA"]) + some(CAPITALS, 17)
        yield account
        yield public
        yield f"skep-Balan-{some(CAPITALS, 12)}-{some('0123456789abcdef', 16)}.elb.eu-central-1.amazonaws.com"
        yield f"ec2-3-120-44-7.eu-central-1.compute.amazonaws.com"
        yield f"{some(LETTERS, 8)}@example.org"

    SHAPES = [
        "{}", "the value {} is there", '{{"a": "{}"}}', "x={};", "[{}]", "'{}'", "<{}>", "({})", "a,{},b", "\t{}\n", "http://{}/", "arn:aws:iam::{}:role/x",
        "{}:80", "--token {} 10.0.0.7:2377", "line\r\n{}\r\nline", '\\"{}\\"', "{}.", "Ü{}ß",
    ]  # fmt: skip

    def test_secrets_are_removed_in_every_shape(self):
        rng, redact = random.Random(7), Redactor()
        for _ in range(300):
            for secret in self.secrets(rng):
                shape = rng.choice(self.SHAPES)
                # Beside a colon it would be another address.
                if ":" in secret and (":{" in shape or "}:" in shape):
                    continue
                text = redact(shape.format(secret))
                self.assertNotIn(secret, text, shape)
                self.assertEqual(redact(text), text)
                self.assertNotIn(secret, json.dumps(redact.all_of({secret: [secret]})))

    def test_several_in_one_text(self):
        rng, redact = random.Random(8), Redactor()
        for _ in range(100):
            secrets = list(self.secrets(rng))
            rng.shuffle(secrets)
            text = redact(" and ".join(secrets))
            self.assertEqual([one for one in secrets if one in text], [])

    def test_values_with_a_name(self):
        redact = Redactor()
        for text in [
            "aws_secret_access_key = {}", '"SecretAccessKey": "{}"', "AWS_SESSION_TOKEN={}", "'Token', session_token: '{}'", "password={}",
            "Authorization: AWS4-HMAC-SHA256 Credential={}", "Authorization: Bearer {}",
        ]:  # fmt: skip
            value = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
            self.assertNotIn("wJalr", redact(text.format(value)), text)

    def test_keys_of_the_environment_and_hidden_values(self):
        with mock.patch.dict(os.environ, {"AWS_SECRET_ACCESS_KEY": "abcdEFGH12345678/+"}):
            redact = Redactor()
        redact.hide("my-balancer.example", "<load-balancer>")
        self.assertEqual(redact("abcdEFGH12345678/+ my-balancer.example"), "<secret> <load-balancer>")

    def test_private_keys(self):
        text = "before -----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY----- after"
        self.assertEqual(Redactor()(text), "before <pem> after")
        self.assertNotIn("MHcC", Redactor()("-----BEGIN CERTIFICATE-----\nMHcCAQEE"))

    def test_what_a_reader_needs_stays(self):
        text = "i-0123456789abcdef0 at 10.64.128.7, 172.31.0.2, 127.0.0.1; ami-0123456789abcdef0; 12:34:56; arn:aws:ec2:eu-central-1:<account>:instance/i-0123456789abcdef0; sha256 0123456789abcdef; 2026-11-30T02:27:00Z"
        self.assertEqual(Redactor()(text), text)
        self.assertEqual(
            Redactor()("arn:aws:sts::210987654321:assumed-role/Admin/jane.doe@example.org is not"), "arn:aws:sts::<account>:assumed-role/<role>/<name> is not"
        )

    def test_what_errors_of_aws_and_python_have(self):
        redact = Redactor()
        message = "You are not authorized to perform this operation. Encoded authorization failure message: 4GIOHlTkIaWHQD0Q_-m8s7JzN+/x= (Service)"
        self.assertEqual(redact(message), "You are not authorized to perform this operation. Encoded authorization failure message: <encoded> (Service)")
        policy = "with an explicit deny in arn:aws:organizations::210987654321:policy/o-a1b2c3d4e5/service_control_policy/p-9f8e7d6c"
        self.assertEqual(redact(policy), "with an explicit deny in arn:aws:organizations::<account>:policy/<organization>/service_control_policy/p-9f8e7d6c")
        with mock.patch.dict(os.environ, {"HOME": "/home/al"}):
            self.assertEqual(Redactor()('File "/home/al/skep/aws-check/run.py"'), 'File "~/skep/aws-check/run.py"')
        for home in ("/root", "/"):
            with mock.patch.dict(os.environ, {"HOME": home}):
                self.assertEqual(Redactor()('File "/root/run.py"'), 'File "/root/run.py"')


class Calls(unittest.TestCase):
    def call(self, script):
        with tempfile.TemporaryDirectory() as directory:
            program = pathlib.Path(directory, "aws")
            program.write_text("#!/bin/sh\n" + script)
            program.chmod(0o755)
            with mock.patch.dict(os.environ, {"PATH": f"{directory}:{os.environ['PATH']}"}):
                return Aws(Control(), "eu-central-1").call("ec2", "describe-images", Owners=["self"])

    def error(self, text):
        with self.assertRaises(AwsError) as caught:
            self.call(f"cat >&2 <<'END'\n{text}\nEND\nexit 254")
        return caught.exception

    def test_arguments(self):
        answer = self.call("""printf '{"said": "%s"}' "$1 $2 $3 $4 $9 ${10}" """)
        self.assertEqual(answer, {"said": "ec2 describe-images --output json --region eu-central-1"})

    def test_no_output_is_an_empty_answer(self):
        self.assertEqual(self.call("true"), {})

    def test_errors_of_the_command_line(self):
        # The texts that version 1.45 prints.
        denied = self.error("\nAn error occurred (AccessDenied) when calling the CreateStack operation: User: x is not authorized")
        self.assertEqual((denied.code, denied.is_denied, denied.is_not_offered, denied.may_pass), ("AccessDenied", True, False, False))
        self.assertEqual(denied.message, "User: x is not authorized")
        slow = self.error("\nAn error occurred (Throttling) when calling the X operation (reached max retries: 4): Rate exceeded")
        self.assertEqual((slow.code, slow.message, slow.may_pass), ("Throttling", "Rate exceeded", True))
        for code in ("Unknown", "404", "InvalidAction", "UnknownOperationException"):
            self.assertTrue(self.error(f"\nAn error occurred ({code}) when calling the X operation: x").is_not_offered)
        self.assertTrue(self.error("\nAn error occurred (UnauthorizedOperation) when calling the X operation: x").is_denied)
        for code in ("ExpiredToken", "ExpiredTokenException", "RequestExpired"):
            ended = self.error(f"\nAn error occurred ({code}) when calling the X operation: x")
            self.assertEqual((ended.is_expired, ended.may_pass), (True, False))
        for text in ("Error loading SSO Token: Token for x does not exist", "Error when retrieving token from sso: Token has expired and refresh failed"):
            ended = self.error(text)
            self.assertEqual((ended.is_expired, ended.may_pass), (True, False))
        self.assertFalse(denied.is_expired)
        away = self.error("Could not connect to the endpoint URL: \"https://ec2.eu-central-1.amazonaws.com/\"")
        self.assertEqual((away.code, away.may_pass), ("", True))
        self.assertIn("Could not connect", str(away))

    def test_an_answer_that_is_not_json(self):
        with self.assertRaisesRegex(AwsError, "not JSON"):
            self.call("echo hello")


class Scripts(unittest.TestCase):
    """The script that runs on nodes, in a shell."""

    def run_it(self, script):
        done = subprocess.run(["sh", "-c", nodes.wrapped(script)], capture_output=True, text=True, check=True)
        return nodes.unwrapped("a line of another program\n" + done.stdout)

    def test_output_error_and_code(self):
        output = self.run_it("echo \"a 'b' $HOME\" | tr a c; printf 'no newline' >&2; exit 7")
        self.assertEqual((output.code, output.error), (7, "no newline"))
        self.assertEqual(output.out, f"c 'b' {os.environ['HOME'].replace('a', 'c')}\n")

    def test_long_and_empty_output(self):
        self.assertEqual(len(self.run_it("seq 20000").out.splitlines()), 20000)
        self.assertEqual(self.run_it("true"), nodes.Output(0, "", ""))

    def test_output_that_was_cut(self):
        whole = subprocess.run(["sh", "-c", nodes.wrapped("seq 99")], capture_output=True, text=True, check=True).stdout
        for end in range(0, len(whole) - 2, 7):
            with self.assertRaises(nodes.NoAnswer):
                nodes.unwrapped(whole[:end])


class Answering(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


class Requests(unittest.TestCase):
    def serve(self, status):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), {"status": status}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server.server_port

    def listener(self, act):
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)

        def accept():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                act(connection)

        threading.Thread(target=accept, daemon=True).start()
        return listening.getsockname()[1]

    def test_each_outcome(self):
        held = []
        closed = socket.create_server(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        closed.close()
        self.assertEqual(load.outcome("127.0.0.1", self.serve(200)), "answered")
        self.assertEqual(load.outcome("127.0.0.1", self.serve(404)), "answered")
        self.assertEqual(load.outcome("127.0.0.1", self.serve(503)), "status 503")
        self.assertEqual(load.outcome("127.0.0.1", port), "refused")
        self.assertEqual(load.outcome("127.0.0.1", self.listener(held.append), 0.2), "timed out")
        self.assertEqual(load.outcome("127.0.0.1", self.listener(lambda one: one.close())), "reset")
        self.assertEqual(load.outcome("no-such-host.invalid", 80), "name not found")

    def test_counts_of_parts_are_apart(self):
        client = load.Client("127.0.0.1", self.serve(200), pause=0.01)
        for _ in range(1000):
            time.sleep(0.01)
            first = client.take()
            if first.answered:
                break
        second = client.take()
        client.stop()
        self.assertGreater(first.answered, 0)
        self.assertEqual((first.lost, second.lost), (0, 0))
        counts = load.Counts()
        counts.add(1.0, "answered")
        counts.add(2.0, "reset")
        self.assertEqual((counts.answered, counts.lost, counts.failures, str(counts)), (1, 1, [(2.0, "reset")], "1 answered, 1 reset"))


class Templates(unittest.TestCase):
    def test_the_parameters_are_those_of_the_template(self):
        import yaml

        class Loader(yaml.SafeLoader):
            pass

        Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
        known = yaml.load((ROOT / "cloudformation/skep.yaml").read_text(), Loader)["Parameters"]
        network = yaml.load((ROOT / "cloudformation/network.yaml").read_text(), Loader)["Outputs"]
        settings = Settings("trial", "ami-1", 3, 2, "t3.small", "t3.small", "nginx", 80, 60, 5.0, ROOT)
        given = steps.stack_parameters(settings, "/dev/xvda", {"VpcId": "vpc-1", "Subnets": "a,b", "LoadBalancerSubnets": "c"})
        self.assertEqual(set(given) - set(known), set())
        self.assertEqual({name for name, of in known.items() if "Default" not in of} - set(given), set())
        self.assertLessEqual({"VpcId", "Subnets", "LoadBalancerSubnets"}, set(network))
        for name, value in given.items():
            pattern = known[name].get("AllowedPattern")
            if pattern:
                self.assertRegex(value.replace("ami-1", "ami-0123456789abcdef0"), pattern, name)

    def test_the_template_fits_into_a_call(self):
        # CloudFormation's limit of a template in a request.
        for name in ("skep.yaml", "network.yaml", "workers.yaml"):
            self.assertLessEqual((ROOT / "cloudformation" / name).stat().st_size, 51_200, name)


class Facts(unittest.TestCase):
    def test_the_page_has_the_same_table(self):
        page = (ROOT / "docs/deploy.md").read_text()
        self.assertIn(facts.table(), page, f"docs/deploy.md needs this table:\n{facts.table()}")

    def test_every_fact_has_a_step_that_exists_or_none(self):
        known = {*steps.STEPS, "delete", "image", ""}
        self.assertEqual({fact.step for fact in facts.FACTS} - known, set())
        self.assertEqual(len({fact.id for fact in facts.FACTS}), len(facts.FACTS))
        # Each step answers something.
        self.assertEqual(set(steps.STEPS) - {fact.step for fact in facts.FACTS}, set())
        for step, fact in steps.MAIN_FACT.items():
            self.assertIn((step, fact), {(one.step, one.id) for one in facts.FACTS})

    def test_the_code_answers_only_facts_of_the_table(self):
        text = "".join(path.read_text() for path in (HERE.parent / "awscheck").glob("*.py"))
        named = set(re.findall(r'(?:give|not_tried|none_lost)\(\s*"([\w.-]+)"', text)) | set(re.findall(r'_verdict\(run, "([\w-]+)"', text))
        self.assertEqual(named - {fact.id for fact in facts.FACTS}, set())

    def test_a_no_stays(self):
        answers = facts.Answers()
        answers.give("leader", False, "first")
        answers.give("leader", True, "second")
        answers.not_tried("leader", "third")
        self.assertEqual([(answer, evidence) for fact, answer, evidence in answers.all() if fact.id == "leader"], [("no", "first")])


class Costs(unittest.TestCase):
    def test_hours_of_instances_and_the_network(self):
        meter = prices.Meter(volume=30, zones=2)
        with mock.patch("time.time") as now:
            for at in (0, 1800, 3600):
                now.return_value = at
                meter.network_is_up()
                meter.saw({"i-1": "t3.small"} if at < 3600 else {"i-2": "x9.huge"})
        lines, dollars = meter.lines()
        expected = 0.5 * (0.0208 + 30 * 0.08 / 730) + prices.NAT_GATEWAY + prices.LOAD_BALANCER + 3 * prices.PUBLIC_ADDRESS
        self.assertAlmostEqual(dollars, expected)
        self.assertIn("t3.small: 0.50 hours", lines[0])
        self.assertIn("x9.huge: 0.00 hours, 0.000 US dollars (not in the list", lines[1])


class States(unittest.TestCase):
    def test_written_at_once_and_readable_again(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "state.json")
            self.assertIsNone(State.load(path))
            state = State(path, {"run": "1", "created": []})
            state.creating("stack")
            again = State.load(path)
            self.assertTrue(again.has("stack"))
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            again.deleted("stack")
            self.assertFalse(State.load(path).has("stack"))
            for wrong in ("", "[]", '{"run": 1, "created": []}', '{"run": "1"}'):
                path.write_text(wrong)
                with self.assertRaisesRegex(SystemExit, "cannot be read"):
                    State.load(path)


if __name__ == "__main__":
    unittest.main()
