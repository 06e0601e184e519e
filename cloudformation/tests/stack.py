"""Stacks of the templates in moto, created and looked at with the real `aws` command line."""

import contextlib
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import awscli.clidriver

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEMPLATES = {name: ROOT / "cloudformation" / f"{name}.yaml" for name in ("network", "skep", "workers")}
REGION = "eu-central-1"


class Moto:
    """One moto server, from the virtual environment of this interpreter."""

    def __init__(self, port):
        self.endpoint = f"http://127.0.0.1:{port}"
        self.image = None
        # A developer's own account must be out of reach; AWS_DATA_PATH is the command's own.
        for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_DATA_PATH"]:
            del os.environ[name]
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_DEFAULT_REGION": REGION,
        }
        # The command itself, in this process: starting one for each of some hundred calls takes minutes.
        self.command = awscli.clidriver.create_clidriver()

    def aws(self, *args):
        """The answer of one call of `aws`."""
        return json.loads(self.run(*args) or "null")

    def run(self, *args):
        """What `aws` prints."""
        arguments = ["--endpoint-url", self.endpoint, "--output", "json", *args]
        said, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            code = self.command.main(arguments)
        assert code == 0, f"aws {' '.join(args[:2])}: {complained.getvalue()}"
        return said.getvalue()

    def reset(self):
        """An empty account, but for one image."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=30).read()
        # The same images are there after every reset, and the list is long.
        if not self.image:
            self.image = self.aws("ec2", "describe-images", "--owners", "amazon")["Images"][0]["ImageId"]

    def fails(self, *args):
        """The complaint of a call of `aws` that must be refused."""
        try:
            self.run(*args)
        except AssertionError as complaint:
            return str(complaint)
        raise AssertionError(f"accepted: {args}")

    def creation(self, template, name, **parameters):
        """The arguments that create a stack."""
        pairs = [{"ParameterKey": key, "ParameterValue": str(value)} for key, value in parameters.items()]
        return (
            "cloudformation", "create-stack", "--stack-name", name, "--template-body", f"file://{TEMPLATES[template]}",
            "--parameters", json.dumps(pairs), "--capabilities", "CAPABILITY_IAM",
        )  # fmt: skip

    def create(self, template, name, **parameters):
        """Creates a stack and returns its resources: physical ids by logical ids."""
        self.aws(*self.creation(template, name, **parameters))
        stack = self.stack(name)
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
        resources = self.aws("cloudformation", "describe-stack-resources", "--stack-name", name)
        # What the conditions leave out is listed too, but nameless.
        made = (one for one in resources["StackResources"] if "LogicalResourceId" in one)
        return {one["LogicalResourceId"]: one.get("PhysicalResourceId") for one in made}

    def stack(self, name):
        return self.aws("cloudformation", "describe-stacks", "--stack-name", name)["Stacks"][0]

    def outputs(self, name):
        return {one["OutputKey"]: one["OutputValue"] for one in self.stack(name)["Outputs"]}


def said_in(log):
    log.seek(0)
    return log.read()


@contextlib.contextmanager
def moto():
    """A moto server that ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not a pipe: it has a line for each request, and a pipe that nobody reads stops the server once it is full.
    log = tempfile.TemporaryFile("w+")
    server = subprocess.Popen(
        [sys.executable, pathlib.Path(__file__).with_name("moto_server.py"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert server.poll() is None, said_in(log)
            time.sleep(0.1)
        yield Moto(port)
    finally:
        server.terminate()
        server.wait(timeout=30)
