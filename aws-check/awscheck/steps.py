"""The steps of a run, in their order. Each answers facts; `facts.py` says which."""

from __future__ import annotations

import json
import re
import time
from typing import Callable

from .aws import AwsError, NotTried
from .cleanup import CleanUp
from .load import Client
from .nodes import NoAnswer
from .run import SERVICE, Departure, Run, Settings, StepFailed, Useless
from .stack import GONE, Stack
from .state import TAG

# The templates' time-out of the termination hooks, in seconds.
HOOK_TIMEOUT = 300
# For the agent of Session Manager to register a new instance.
REGISTRATION = 420
# For a load balancer to be provisioned and to find its targets healthy.
FIRST_ANSWER = 900
# For a spot notice to reach the node: the instance ends two minutes after it.
NOTICE_PATIENCE = 90
# How often skep doctor is asked while a check fails.
DOCTOR_LOOKS = 3
# For managers to set the labels that a node requests.
LABELS = 180
# The settings of the workers, in an SSM parameter, and the label that they give a node.
SETTINGS, SETTINGS_LABEL = '[labels]\naws-check = "settings"\n', ("aws-check", "settings")
# Resources that AWS lists for a while after their end have one of these states.
ENDED_STATES = {"terminated", "shutting-down", "deleted", "deleting"}
# How a resource is described that the Tagging API names, which also names some that are deleted: by the service and the
# kind in its ARN, the operation and its parameter.
DESCRIBED = {
    ("ec2", "instance"): ("ec2", "describe-instances", "InstanceIds"), ("ec2", "volume"): ("ec2", "describe-volumes", "VolumeIds"),
    ("ec2", "network-interface"): ("ec2", "describe-network-interfaces", "NetworkInterfaceIds"),
    ("ec2", "natgateway"): ("ec2", "describe-nat-gateways", "NatGatewayIds"), ("ec2", "elastic-ip"): ("ec2", "describe-addresses", "AllocationIds"),
    ("ec2", "security-group"): ("ec2", "describe-security-groups", "GroupIds"), ("ec2", "subnet"): ("ec2", "describe-subnets", "SubnetIds"),
    ("ec2", "vpc"): ("ec2", "describe-vpcs", "VpcIds"), ("ec2", "internet-gateway"): ("ec2", "describe-internet-gateways", "InternetGatewayIds"),
    ("ec2", "route-table"): ("ec2", "describe-route-tables", "RouteTableIds"), ("ec2", "vpc-endpoint"): ("ec2", "describe-vpc-endpoints", "VpcEndpointIds"),
    ("ec2", "launch-template"): ("ec2", "describe-launch-templates", "LaunchTemplateIds"), ("ec2", "image"): ("ec2", "describe-images", "ImageIds"),
    ("ec2", "snapshot"): ("ec2", "describe-snapshots", "SnapshotIds"), ("ssm", "parameter"): ("ssm", "get-parameters", "Names"),
    ("elasticloadbalancing", "loadbalancer"): ("elbv2", "describe-load-balancers", "LoadBalancerArns"),
    ("elasticloadbalancing", "targetgroup"): ("elbv2", "describe-target-groups", "TargetGroupArns"),
    ("elasticloadbalancing", "listener"): ("elbv2", "describe-listeners", "ListenerArns"),
}  # fmt: skip
# Stacks end with a status; the table and the log group are looked at by their names; an experiment is a record.
KNOWN_OTHERWISE = {"cloudformation", "dynamodb", "logs", "fis"}
# For a new IAM role to be known everywhere.
ROLE_PATIENCE = 60
# The fact that is a no when a step does not reach its end in time.
MAIN_FACT = {
    "stack": "template", "permissions": "describe-instances", "scale-out": "scale-out", "scale-in": "scale-in",
    "manager": "manager", "leader": "leader", "group": "references", "spot": "spot-notice", "update": "update", "warm-pool": "warm-pool",
}  # fmt: skip


def stack(run: Run) -> None:
    """Creates a network, and the stack in it."""
    parameters = stack_parameters(run.settings, run.identity.get("root_device", "/dev/xvda"), _network(run))
    parameters["WorkerSettings"] = _parameter(run, "worker-settings", SETTINGS)
    run.say(f"   {', '.join(f'{key}={value}' for key, value in sorted(parameters.items()))}", quiet=True)
    run.state.creating("stack")
    run.stack.create(parameters, run.state.tags)
    seconds = _until(run, run.stack, "CREATE_COMPLETE", "complete stack")
    run.say(f"   complete after {seconds:.0f} s")
    run.answers.give("template", True, f"CREATE_COMPLETE after {seconds:.0f} s")
    for role, count in (("manager", run.settings.managers), ("worker", run.settings.workers)):
        if len(run.in_service(role)) != count:
            run.answers.give("signals", False, f"{run.group_name(role)}: {run.group(role)[1]}")
    run.answers.give("signals", True, "both groups are complete, and their instances in service")
    _groups_order(run, "CREATE", "groups-order", first="Managers", second="Workers")
    run.why_no_nodes = "Run Command has not reached a node"


def stack_parameters(settings: Settings, root_device: str, network: dict[str, str]) -> dict[str, str]:
    """The parameters of skep.yaml that differ from their defaults."""
    return {
        "ImageId": settings.image,
        "RootDevice": root_device,
        "ManagerCount": str(settings.managers),
        "ManagerInstanceType": settings.manager_type,
        "WorkerInstanceType": settings.worker_type,
        "WorkersMin": str(settings.workers),
        # One for the step that adds one, one for the update, one for a spot instance at risk.
        "WorkersMax": str(settings.workers + 3),
        # One worker stays; the others are spot instances, for the spot notice.
        "WorkersOnDemandBase": "1",
        "WorkersOnDemandPercent": "0",
        "VolumeSize": str(settings.volume),
        "HookTimeout": str(HOOK_TIMEOUT),
        "Shell": "session-manager",
        "TableName": settings.stack,
        "LogRetentionDays": "1",
        "Ports": str(settings.port),
        **network,
    }


def _network(run: Run) -> dict[str, str]:
    """Creates the network in a stack of its own, and returns the parameters that name it."""
    network = Stack(run.aws, f"{run.settings.stack}-network", run.settings.templates / "network.yaml")
    run.state.creating("network")
    network.create({"Zones": str(run.settings.zones), "NatGateways": "one"}, run.state.tags)
    run.has_created = True
    _until(run, network, "CREATE_COMPLETE", "complete network")
    outputs = network.outputs()
    return {key: outputs[key] for key in ("VpcId", "Subnets", "LoadBalancerSubnets")}


def _parameter(run: Run, name: str, value: str) -> str:
    """Creates an SSM parameter, and returns its name."""
    name = run.state.parameters + name
    run.state.creating("parameters")
    run.aws.call("ssm", "put-parameter", Name=name, Type="String", Value=value, Overwrite=True)
    return name


def _until(run: Run, of: Stack, wanted: str, what: str) -> float:
    """Waits for a status of a stack; another end of it fails the step, with the reasons."""
    begun = time.time()

    def missing() -> str:
        status = of.status()
        run.meter.network_is_up()
        if status == wanted:
            return ""
        if not status.endswith("_IN_PROGRESS"):
            reasons = of.failures()
            for reason in reasons:
                run.say(f"   {reason}")
            _consoles(run)
            raise StepFailed(f"the stack {of.name} is {status}: {reasons[0] if reasons else 'no reason'}")
        if of is run.stack:
            run.types()
        return status

    run.wait(what, missing, max(run.settings.limit, 3600))
    return time.time() - begun


def _consoles(run: Run) -> None:
    """Writes the last lines of skep on the consoles of the instances into the transcript."""
    for role in ("manager", "worker"):
        for member in run.group(role)[1]:
            try:
                output = run.aws.call("ec2", "get-console-output", InstanceId=member.id, Latest=True).get("Output", "")
            except AwsError as error:
                run.say(f"   no console of {member.id}: {error}", quiet=True)
                continue
            lines = [line for line in output.splitlines() if "skep" in line]
            for line in lines[-15:]:
                run.say(f"   {member.id}: {line}", quiet=True)


def _groups_order(run: Run, what: str, fact: str, *, first: str, second: str) -> None:
    """Answers whether `first` was complete before `second` began, by the events of the stack."""
    done = begun = None
    for number, event in enumerate(run.stack.events()):
        if event["LogicalResourceId"] == first and event["ResourceStatus"] == f"{what}_COMPLETE":
            done = number
        if event["LogicalResourceId"] == second and event["ResourceStatus"] == f"{what}_IN_PROGRESS" and begun is None:
            begun = number
    if done is None or begun is None:
        run.answers.not_tried(fact, f"the events of the stack have no {what} of both groups")
    else:
        run.answers.give(fact, done < begun, f"{second} began {'after' if done < begun else 'before'} {first} was complete")


def permissions(run: Run) -> None:
    """Reaches the nodes, and tries every permission of both roles with `skep doctor`."""
    run.why_no_nodes = ""
    try:
        seconds = run.wait("node that answers Run Command", lambda: _silent(run), REGISTRATION)
    except StepFailed as error:
        run.why_no_nodes = f"no node answers Run Command ({error})"
        run.answers.give("run-command", False, f"{error}. The image needs the agent of Session Manager")
        # Every later step asks nodes, and costs money.
        raise Useless(run.why_no_nodes) from None
    except AwsError as error:
        run.why_no_nodes = f"no command can be sent to nodes: {_reason(error)}"
        raise NotTried(run.why_no_nodes) from None
    run.answers.give("run-command", True, f"a node answered after {seconds:.0f} s")
    seconds = run.whole("whole swarm")
    run.answers.give("describe-instances", True, f"all nodes have the label skep.instance, of their own instance, after {seconds:.0f} s")
    _image_facts(run)
    _settings_in_ssm(run)
    _doctor_of_worker(run)
    _doctor_of_manager(run)


def _settings_in_ssm(run: Run) -> None:
    """Answers whether the workers have the label of the settings in the SSM parameter."""
    if not run.stack.resources("AWS::SSM::Parameter"):
        run.answers.not_tried("settings-in-ssm", "this endpoint creates no parameter of the stack's own")
        return
    key, value = SETTINGS_LABEL

    def missing() -> str:
        without = [one.id for one in run.swarm() if one.role == "worker" and one.labels.get(key) != value]
        return f"the label {key} of {len(without)} workers" if without else ""

    try:
        run.wait("labels of the settings", missing, LABELS)
    except StepFailed as error:
        run.answers.give("settings-in-ssm", False, str(error))
    else:
        run.answers.give("settings-in-ssm", True, f"every worker has the label {key}={value}")


def _silent(run: Run) -> str:
    for instance in run.in_service("manager"):
        try:
            run.nodes.run(instance, "true", 30)
            return ""
        except NoAnswer as error:
            missing = str(error)
    return missing if run.in_service("manager") else "no manager is in service"


def _image_facts(run: Run) -> None:
    """Answers whether this image works, which it does here."""
    _, text = run.on_manager(". /etc/os-release; echo $ID $VERSION_ID; uname -m; docker version --format '{{.Server.Version}}'; skep --version")
    run.say(f"   the image: {'; '.join(text.splitlines())}")
    system, machine = text.splitlines()[0].split(), text.splitlines()[1]
    names = {("debian", "12"): "debian-12", ("debian", "13"): "debian-13", ("ubuntu", "24.04"): "ubuntu-24.04", ("amzn", "2023"): "amazon-linux-2023"}
    fact = names.get((system[0], system[1] if len(system) > 1 else ""))
    if fact:
        run.answers.give(fact, True, "the nodes of this run have it")
    if machine == "aarch64":
        run.answers.give("arm64", True, "the nodes of this run have it")
    for fact in (*names.values(), "arm64"):
        run.answers.not_tried(fact, f"the image of this run is {' '.join(system)} on {machine}")


def _doctor(run: Run, role: str) -> list[dict]:
    instance = run.in_service(role)[0]
    for look in range(DOCTOR_LOOKS):
        report = run.nodes.json(instance, "skep doctor --json")
        findings = report["findings"] if isinstance(report, dict) else []
        if findings and all(one["verdict"] != "failed" for one in findings):
            break
        # What fails on a busy node, such as an answer in time, can pass; what IAM refuses stays refused.
        if look + 1 < DOCTOR_LOOKS:
            run.control.sleep(run.settings.pause)
    for one in findings:
        quiet = one["verdict"] in ("ok", "skipped")
        run.say(f"   {role} {instance}: {one['verdict']} {one['check']}: {one['evidence']}", quiet=quiet)
    return findings


def _verdict(run: Run, fact: str, findings: list[dict], wanted: Callable[[dict], bool]) -> None:
    """A fact is a yes if every wanted check is ok, and a no if one has failed."""
    found = [one for one in findings if wanted(one)]
    bad = [one for one in found if one["verdict"] == "failed"]
    if bad:
        run.answers.give(fact, False, f"{bad[0]['check']}: {bad[0]['evidence']}")
    elif found and all(one["verdict"] == "ok" for one in found):
        run.answers.give(fact, True, f"skep doctor: {len(found)} checks")
    else:
        run.answers.not_tried(fact, "skep doctor has not checked it: " + "; ".join(f"{one['check']}: {one['evidence']}" for one in found))


def _doctor_of_worker(run: Run) -> None:
    findings = _doctor(run, "worker")
    own = re.compile(r"^rows of \S+#arn:")
    _verdict(run, "source-instance", findings, lambda one: one["check"].startswith("dynamodb:") and bool(own.search(one["evidence"])))
    _verdict(run, "foreign-rows", findings, lambda one: one["check"] == "another worker's rows")
    _verdict(run, "cluster-rows", findings, lambda one: one["check"] == "charter")
    _verdict(run, "manager-token", findings, lambda one: one["check"] == "manager token")
    _verdict(run, "worker-role", findings, lambda one: ":" in one["check"] or one["check"] == "worker token")


def _doctor_of_manager(run: Run) -> None:
    findings = _doctor(run, "manager")
    _verdict(run, "group-tags", findings, lambda one: one["check"] in ("autoscaling:CompleteLifecycleAction", "autoscaling:SetInstanceHealth"))
    _verdict(run, "manager-role", findings, lambda one: ":" in one["check"] or one["check"].endswith("token"))


def service(run: Run) -> None:
    """Runs a service, and a client that requests it."""
    # On workers alone, so that managers have no task of it.
    command = (
        f"docker service create --detach --quiet --name {SERVICE} --replicas {run.workers * 2} --constraint node.role==worker "
        f"--publish {run.settings.port}:80 --stop-grace-period 20s {run.settings.service_image}"
    )
    run.on_manager(f"docker service inspect {SERVICE} >/dev/null 2>&1 || {command}")
    run.wait("running tasks of the service", lambda: _tasks(run))
    address = run.stack.outputs().get("LoadBalancerName")
    if not address:
        raise NotTried("the stack has no output LoadBalancerName: there is no load balancer")
    run.transcript.redact.hide(address, "<load-balancer>")
    run.client = Client(address, run.settings.port)

    def missing() -> str:
        counts = run.client.take() if run.client else None
        return "" if counts and counts.answered > counts.lost else f"answers ({counts})"

    try:
        seconds = run.wait("first answers", missing, FIRST_ANSWER)
    except StepFailed as error:
        run.answers.give("balancer", False, str(error))
        raise
    # The count begins when all targets are healthy.
    run.control.sleep(10 * run.settings.pause)
    run.client.take()
    run.control.sleep(4 * run.settings.pause)
    counts = run.counted("service")
    assert counts
    run.answers.give("balancer", counts.answered > 0 and not counts.lost, f"first answers after {seconds:.0f} s; then {counts}")
    port = run.settings.port
    ask = f"exec 3<>/dev/tcp/$a/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3"
    script = f'for a in 127.0.0.1 $(hostname -I); do export a; timeout 10 bash -c \'{ask.replace(chr(39), chr(34))}\' && break; done'
    said = run.nodes.run(run.in_service("manager")[0], script, 60)
    run.answers.give("mesh", said.out.startswith("HTTP/"), f"a manager's own port {port}: {(said.out or said.error).strip()[-200:]}")


def _tasks(run: Run) -> str:
    _, text = run.on_manager(f"docker service ps {SERVICE} --filter desired-state=running --format '{{{{.CurrentState}}}}'")
    states = text.splitlines()
    running = sum(state.startswith("Running") for state in states)
    return "" if running == run.workers * 2 or running >= len(states) > 0 else f"{running} of {len(states)} run"


def scale_out(run: Run) -> None:
    """Adds a worker to the group."""
    run.workers += 1
    run.aws.call("autoscaling", "set-desired-capacity", AutoScalingGroupName=run.group_name("worker"), DesiredCapacity=run.workers)
    seconds = run.whole("Ready worker")
    if run.why_no_nodes:
        raise NotTried(f"{run.why_no_nodes}; the instance is in service after {seconds:.0f} s")
    run.answers.give("scale-out", True, f"in service and ready in the swarm after {seconds:.0f} s")
    run.counted("scale-out")


def scale_in(run: Run) -> None:
    """Removes a worker from the group."""
    worker = run.in_service("worker")[0]
    # The group cannot be smaller than at the start.
    decrement = run.workers > run.settings.workers
    run.workers -= decrement
    departure = run.terminate(worker, decrement=decrement)
    _left(run, "scale-in", departure)
    if departure.target:
        is_out = departure.target in ("draining", "unused", "not registered")
        run.answers.give("deregistered", is_out, f"in Terminating:Wait the target is {departure.target}")
    else:
        run.answers.not_tried("deregistered", "the instance was not seen as a target of a load balancer in Terminating:Wait")
    run.none_lost("scale-in-requests", "scale-in")


def _left(run: Run, fact: str, departure: Departure) -> None:
    """Answers whether an instance has left in order and the swarm is whole without it."""
    seconds = run.whole("whole swarm")
    evidence = f"gone after {departure.states['gone']:.0f} s, whole again {seconds:.0f} s later"
    if run.why_no_nodes:
        raise NotTried(f"{run.why_no_nodes}; the instance: {evidence}")
    state = _recorded(run, departure.instance)
    evidence += f"; in the ledger its departure is {state}" if state else "; its departure could not be read in the ledger"
    waited = departure.states.get("Terminating:Wait")
    if state == "failed":
        run.answers.give(fact, False, evidence)
    elif waited is None:
        run.answers.not_tried(fact, f"its hook was not seen (Terminating:Wait); {evidence}")
    else:
        # A hook that nobody completes ends by its time-out. Heartbeats can make a true departure longer: the transcript
        # has the times.
        hook = departure.states["gone"] - waited
        in_time = hook < HOOK_TIMEOUT
        run.answers.give(fact, in_time, evidence + ("" if in_time else f"; its hook waited for {hook:.0f} s"))


def _recorded(run: Run, instance: str) -> str:
    """The state of a departure in the ledger, which keeps it for an hour; empty if it cannot be told."""
    try:
        found = run.aws.call(
            "dynamodb", "scan", TableName=_table(run), FilterExpression="#item = :item", ConsistentRead=True,
            ExpressionAttributeNames={"#item": "item"}, ExpressionAttributeValues={":item": {"S": f"departure#{instance}"}},
        )["Items"]  # fmt: skip
        return found[0]["state"]["S"] if found else ""
    except (AwsError, KeyError) as error:
        run.say(f"   the departure cannot be read in the ledger: {error}", quiet=True)
        return ""


def _table(run: Run) -> str:
    return run.stack.outputs().get("Table", run.stack.parameters.get("TableName") or run.settings.stack)


def manager(run: Run) -> None:
    """Terminates a manager that is not the leader."""
    leader = run.leader()
    others = [one for one in run.in_service("manager") if one != leader]
    if not others:
        raise NotTried("the only manager is the leader")
    _left(run, "manager", run.terminate(others[0], decrement=False))
    run.counted("manager")


def leader(run: Run) -> None:
    """Terminates the leader."""
    run.counted("before the leader")
    _left(run, "leader", run.terminate(run.leader(), decrement=False))
    run.none_lost("leader-requests", "leader")


def group(run: Run) -> None:
    """Adds a group of workers by a stack of workers.yaml, with a worker, and deletes it."""
    name = f"{run.settings.stack}-group"
    further = Stack(run.aws, name, run.settings.templates / "workers.yaml")
    parameters = {
        "SwarmStack": run.settings.stack, "ImageId": _parameter(run, "image", run.settings.image),
        "RootDevice": run.identity.get("root_device", "/dev/xvda"), "VolumeSize": str(run.settings.volume), "HookTimeout": str(HOOK_TIMEOUT),
        "WorkerInstanceType": run.settings.worker_type, "WorkersMin": "0", "WorkersMax": "1",
    }  # fmt: skip
    run.state.creating("group")
    further.create(parameters, run.state.tags)
    _until(run, further, "CREATE_COMPLETE", "complete group")
    groups = further.resources("AWS::AutoScaling::AutoScalingGroup")
    if groups:
        run.aws.call("autoscaling", "set-desired-capacity", AutoScalingGroupName=groups[0], DesiredCapacity=1)

        def missing() -> str:
            ready = [one for one in run.swarm() if one.labels.get("skep.group") == groups[0] and one.is_ready]
            run.meter.saw({one.instance: run.settings.worker_type for one in ready})
            return "" if ready else f"a node with the label skep.group={groups[0]}"

        if not run.why_no_nodes:
            seconds = run.wait("Ready worker of the group", missing)
            run.answers.give("references", True, f"a worker of {groups[0]} was ready after {seconds:.0f} s")
    further.delete()
    run.wait("deleted group", lambda: "" if (status := further.status()) == GONE else status, 3600)
    run.state.deleted("group")
    run.whole("whole swarm")
    if not groups:
        raise NotTried("this endpoint creates nothing of workers.yaml")
    if run.why_no_nodes:
        raise NotTried(run.why_no_nodes)


def spot(run: Run) -> None:
    """Interrupts a spot instance by Fault Injection Service."""
    run.aws.call("fis", "list-experiment-templates")
    filters = [{"Name": "instance-lifecycle", "Values": ["spot"]}, {"Name": "instance-state-name", "Values": ["running"]}]
    workers = run.in_service("worker")
    if not workers:
        raise NotTried("there is no worker")
    found = run.aws.call("ec2", "describe-instances", InstanceIds=workers, Filters=filters)
    instances = [one["InstanceId"] for of in found["Reservations"] for one in of["Instances"] if one.get("InstanceLifecycle") == "spot"]
    account, arn = run.identity.get("account"), run.identity.get("arn", "")
    if not account:
        raise NotTried("the account is not known: Security Token Service does not answer")
    if not instances:
        raise NotTried("no worker is a spot instance")
    victim, partition = instances[0], arn.split(":")[1]
    template = _experiment(run, f"arn:{partition}:ec2:{run.aws.region}:{account}:instance/{victim}")
    run.counted("before spot")
    run.say(f"   interrupting {victim}")
    experiment = run.aws.call("fis", "start-experiment", experimentTemplateId=template, clientToken=f"{run.state.run}-start", tags=run.state.tags)["experiment"]["id"]

    def running() -> str:
        state = run.aws.call("fis", "get-experiment", id=experiment)["experiment"]["state"]
        if state["status"] in ("failed", "stopped", "cancelled"):
            raise StepFailed(f"the experiment is {state['status']}: {state.get('reason', '')}")
        # It runs until the interruption; the notice comes at its start.
        return "" if state["status"] in ("running", "completed") else state["status"]

    run.wait("experiment", running)
    reason, end = "", time.monotonic() + NOTICE_PATIENCE
    while time.monotonic() < end:
        try:
            status = run.nodes.json(victim, "skep status --json")
            departure = status["node"].get("departure") if isinstance(status, dict) else None
            reason = (departure or {}).get("reason", "")
        except (NoAnswer, AwsError) as error:
            run.say(f"   {victim}: {error}")
        if reason:
            break
        run.control.sleep(run.settings.pause)
    # The notice comes two minutes before the end.
    seconds = run.wait("node off the list", lambda: "it is listed" if any(one.instance == victim for one in run.swarm()) else "", 300)
    state = _state_of(run, victim)
    run.say(f"   off the list after {seconds:.0f} s, when the instance was {state}; the reason of the departure was {reason or 'not seen'}")
    run.whole("whole swarm")
    evidence = f"the node was off the list {seconds:.0f} s after the notice, when the instance was {state}"
    if reason == "spot":
        run.answers.give("spot-notice", state == "running", evidence)
    else:
        # Auto Scaling can be faster than the notice: it replaces an instance at risk.
        why = f"the reason {reason} came first" if reason else "the reason of the departure was not seen"
        run.answers.not_tried("spot-notice", f"{why}; {evidence}")
    run.none_lost("spot-requests", "spot")


def _state_of(run: Run, instance: str) -> str:
    found = run.aws.call("ec2", "describe-instances", InstanceIds=[instance])
    return next((one["State"]["Name"] for of in found["Reservations"] for one in of["Instances"]), "gone")


def _experiment(run: Run, instance: str) -> str:
    """Creates the role and the template of an experiment, and returns the template's id."""
    name, tags = f"{run.settings.stack}-fis", [{"Key": key, "Value": value} for key, value in run.state.tags.items()]
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "fis.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    allowed = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "ec2:SendSpotInstanceInterruptions", "Resource": instance},
        {"Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*"},
    ]}  # fmt: skip
    run.state.creating("role")
    role = run.aws.call("iam", "create-role", RoleName=name, AssumeRolePolicyDocument=json.dumps(trust), Tags=tags)["Role"]["Arn"]
    run.aws.call("iam", "put-role-policy", RoleName=name, PolicyName="interrupt", PolicyDocument=json.dumps(allowed))
    run.state.creating("experiment")
    end = time.monotonic() + ROLE_PATIENCE
    while True:
        try:
            return run.aws.call(
                "fis", "create-experiment-template", clientToken=run.state.run, description="A spot interruption for aws-check of skep", roleArn=role,
                stopConditions=[{"source": "none"}], tags=run.state.tags,
                targets={"spot": {"resourceType": "aws:ec2:spot-instance", "resourceArns": [instance], "selectionMode": "ALL"}},
                actions={"interrupt": {
                    "actionId": "aws:ec2:send-spot-instance-interruptions", "parameters": {"durationBeforeInterruption": "PT2M"},
                    "targets": {"SpotInstances": "spot"},
                }},
            )["experimentTemplate"]["id"]  # fmt: skip
        except AwsError as error:
            # The new role is not known everywhere at once.
            if error.is_denied or error.is_not_offered or time.monotonic() > end:
                raise
            run.control.sleep(run.settings.pause)


def update(run: Run) -> None:
    """Updates the stack so that every node is replaced."""
    run.counted("before the update")
    before = {role: set(run.in_service(role)) for role in ("manager", "worker")}
    run.stack.update(VolumeSize=str(run.settings.volume + 1))
    fewest = {role: len(of) for role, of in before.items()}

    def missing() -> str:
        for role in fewest:
            fewest[role] = min(fewest[role], len(run.in_service(role)))
        status = run.stack.status()
        if status.endswith("_FAILED") or "ROLLBACK" in status:
            raise StepFailed(f"the stack is {status}: {'; '.join(run.stack.failures()[-3:])}")
        return "" if status == "UPDATE_COMPLETE" else status

    seconds = run.wait("complete update", missing, 7200)
    run.say(f"   complete after {seconds:.0f} s")
    run.whole("whole swarm")
    kept = [one for role, of in before.items() for one in set(run.in_service(role)) & of]
    # CloudFormation keeps all managers and the workers' minimum in service, and above that it can remove old ones first.
    promised = {"manager": len(before["manager"]), "worker": min(run.settings.workers, len(before["worker"]))}
    too_few = [role for role, count in fewest.items() if count < promised[role]]
    evidence = f"complete after {seconds:.0f} s; at the least {fewest['manager']} managers and {fewest['worker']} workers were in service"
    run.answers.give("update", not kept and not too_few, evidence + (f"; not replaced: {', '.join(kept)}" if kept else ""))
    run.none_lost("update-requests", "update")


def warm_pool(run: Run) -> None:
    """Gives the workers a warm pool, and adds a worker from it."""
    run.stack.update(WorkersOnDemandPercent="100", WarmPool="1")
    _until(run, run.stack, "UPDATE_COMPLETE", "complete update")
    group = run.group_name("worker")
    pool: list[str] = []

    def missing() -> str:
        found = run.aws.call("autoscaling", "describe-warm-pool", AutoScalingGroupName=group)["Instances"]
        run.meter.saw({one["InstanceId"]: one.get("InstanceType", "") for one in found})
        pool[:] = [one["InstanceId"] for one in found if one["LifecycleState"] == "Warmed:Stopped"]
        return "" if pool else f"the pool has {', '.join(one['LifecycleState'] for one in found) or 'nothing'}"

    run.wait("prepared instance", missing)
    run.whole("whole swarm")
    waits_outside = not any(one.instance in pool for one in run.swarm())
    prepared = pool[0]
    run.workers += 1
    run.aws.call("autoscaling", "set-desired-capacity", AutoScalingGroupName=group, DesiredCapacity=run.workers)
    seconds = run.whole("Ready worker from the pool")
    is_member = prepared in run.in_service("worker")
    run.answers.give("warm-pool", waits_outside and is_member, f"{prepared} waited outside of the swarm: {waits_outside}; it was ready after {seconds:.0f} s: {is_member}")


def delete(run: Run, clean: CleanUp) -> None:
    """Deletes everything that the run has created."""
    table = _table(run)
    phases: list[str] = []
    # The phases that were read when the managers' group was gone.
    after: list[str] = []
    is_over: list[str] = []
    volumes = _volumes(run)

    def watch() -> None:
        run.meter.network_is_up()
        try:
            run.types()
            if is_over:
                return
            # In this order: the group is gone before the row is read.
            are_gone = not run.has_group["manager"]
            key = {"cluster": {"S": run.settings.stack}, "item": {"S": "charter"}}
            row = run.aws.call("dynamodb", "get-item", TableName=table, Key=key, ConsistentRead=True)
            phase = row.get("Item", {}).get("phase", {}).get("S", "none")
            if not phases or phases[-1] != phase:
                phases.append(phase)
            if are_gone:
                after.append(phase)
        except AwsError as error:
            # Also when the table is gone.
            if not error.may_pass:
                is_over.append(_reason(error))

    clean.watch = watch
    done = clean.everything()
    _groups_order(run, "DELETE", "delete", first="Workers", second="Managers")
    if "closed" in phases:
        run.answers.give("charter-closed", True, f"its phases: {', '.join(phases)}")
    elif after:
        run.answers.give("charter-closed", False, f"it was {after[-1]} when the managers' group was gone")
    else:
        run.answers.not_tried("charter-closed", f"the last phase that could be read was {phases[-1] if phases else 'none'}")
    left, untold = leftovers(run, volumes)
    left += [] if done else clean.left
    if left:
        run.answers.give("nothing-left", False, f"left: {', '.join(left)}")
    elif untold:
        run.answers.not_tried("nothing-left", f"nothing was found, but {'; '.join(untold)}")
    else:
        run.answers.give("nothing-left", True, "no instance, volume, log group or table, and nothing with the tag of the run; DynamoDB keeps a backup of the table for 35 days, at no cost")


def _volumes(run: Run) -> list[str]:
    """The volumes of the instances that exist at present: a volume has no tag of the run."""
    try:
        instances = [member.id for role in ("manager", "worker") for member in run.group(role)[1]]
        found = run.aws.call("ec2", "describe-volumes", Filters=[{"Name": "attachment.instance-id", "Values": instances}]) if instances else {}
        return [one["VolumeId"] for one in found.get("Volumes", [])]
    except (AwsError, KeyError) as error:
        run.say(f"   the volumes of the instances cannot be listed: {error}")
        return []


def leftovers(run: Run, volumes: list[str]) -> tuple[list[str], list[str]]:
    """What is left of the run, and what cannot be told."""
    left: list[str] = []
    untold: list[str] = []

    def look(what: Callable[[], list[str]]) -> None:
        try:
            left.extend(what())
        except AwsError as error:
            untold.append(_reason(error))
        except (KeyError, TypeError) as error:
            untold.append(f"an answer could not be read ({error})")

    def tagged() -> list[str]:
        filters = [{"Key": TAG, "Values": [run.state.run]}]
        found = run.aws.call("resourcegroupstaggingapi", "get-resources", TagFilters=filters)["ResourceTagMappingList"]
        for arn in (one["ResourceARN"] for one in found):
            _, _, service, _, _, resource = arn.split(":", 5)
            kind, _, name = resource.partition("/")
            if (service, kind) in DESCRIBED:
                id = {"ec2": name, "ssm": f"/{name}"}.get(service, arn)
                look(lambda service=service, kind=kind, id=id: _described(run, service, kind, id))
            elif service not in KNOWN_OTHERWISE:
                untold.append(f"the Tagging API lists {service} {resource}, which can be deleted already")
        return []

    look(lambda: _instances_left(run))
    for volume in volumes:
        look(lambda volume=volume: _described(run, "ec2", "volume", volume))
    look(lambda: _log_groups(run))
    look(lambda: _tables(run))
    look(tagged)
    return sorted(set(left)), sorted(set(untold))


def _described(run: Run, service: str, kind: str, id: str) -> list[str]:
    """The resource, if its service still has it."""
    service, operation, parameter = DESCRIBED[service, kind]
    try:
        answer = run.aws.call(service, operation, **{parameter: [id]})
    except AwsError as error:
        if "NotFound" in error.code:
            return []
        raise
    found = [one for key, of in answer.items() if isinstance(of, list) and key != "InvalidParameters" for one in of]
    if kind == "instance":
        found = [one for of in found for one in of["Instances"]]
    states = [one.get("State", "") for one in found]
    live = [state for state in states if (state.get("Name", state.get("Code")) if isinstance(state, dict) else state) not in ENDED_STATES]
    return [f"{kind} {id}"] if live else []


def _log_groups(run: Run) -> list[str]:
    name = f"/skep/{run.settings.stack}"
    found = run.aws.call("logs", "describe-log-groups", logGroupNamePrefix=name)["logGroups"]
    return [f"log group {name}" for one in found if one["logGroupName"] == name]


def _tables(run: Run) -> list[str]:
    name = run.stack.parameters.get("TableName") or run.settings.stack
    try:
        status = run.aws.call("dynamodb", "describe-table", TableName=name)["Table"].get("TableStatus", "")
    except AwsError as error:
        if error.code == "ResourceNotFoundException":
            return []
        raise
    return [] if status == "DELETING" else [f"table {name}"]


def _instances_left(run: Run) -> list[str]:
    filters = [
        {"Name": "tag:skep:cluster", "Values": [run.settings.stack]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    found = run.aws.call("ec2", "describe-instances", Filters=filters)
    return [f"instance {one['InstanceId']}" for of in found["Reservations"] for one in of["Instances"]]


def _reason(error: AwsError) -> str:
    """Why a step is not possible, for the reader of the table."""
    if error.is_not_offered:
        return f"this endpoint has no {error.service}:{error.operation}"
    if error.is_denied:
        return f"no permission for {error.service}:{error.operation}"
    return str(error)


STEPS: dict[str, Callable[[Run], None]] = {
    "stack": stack,
    "permissions": permissions,
    "service": service,
    "scale-out": scale_out,
    "scale-in": scale_in,
    "manager": manager,
    "leader": leader,
    "group": group,
    "spot": spot,
    "update": update,
    "warm-pool": warm_pool,
}


def play(run: Run, name: str) -> bool:
    """Runs one step. Returns whether the run can go on: a swarm that is not whole would let every later step fail."""
    run.transcript.heading(f"{name}: {(STEPS[name].__doc__ or '').splitlines()[0]}")
    started = time.time()
    why, can_go_on = "the step has ended without an answer", True
    try:
        STEPS[name](run)
    except NotTried as error:
        why = str(error)
        run.say(f"   not tried: {why}")
    except Useless as error:
        why, can_go_on = str(error), False
        run.failed.append(f"{name}: {error}")
        run.say(f"   the run ends here: {error}")
    except AwsError as error:
        why = _reason(error)
        can_go_on = name != "stack" and (error.is_denied or error.is_not_offered)
        if error.is_not_offered:
            run.say(f"   not tried: {why}")
        else:
            run.failed.append(f"{name}: {error}")
            run.say(f"   error: {error}")
    except (StepFailed, NoAnswer) as error:
        if isinstance(error, StepFailed) and name in MAIN_FACT:
            run.answers.give(MAIN_FACT[name], False, str(error))
        why, can_go_on = f"the step has failed: {error}", False
        run.failed.append(f"{name}: {error}")
        run.say(f"   error: {error}")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        why, can_go_on = f"an answer could not be read ({type(error).__name__}: {error})", False
        run.failed.append(f"{name}: {why}")
        run.say(f"   error: {why}")
    run.answers.step_ended(name, why)
    run.say(f"   {time.time() - started:.0f} s")
    return can_go_on
