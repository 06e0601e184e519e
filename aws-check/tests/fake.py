"""An `aws` command line with a small account behind it, and the `docker`, `skep` and `packer` of its instances.

The name by which it is called chooses the program. The account is a file, which FAKE_WORLD names. Things move on when
they are looked at. `do` in the account says what becomes of a call: {"ssm:send-command": {"at": 2, "error": [code,
message]}} refuses it from the second time on, and with "until" up to that time; "signal" sends aws-check a signal then,
"not_offered" is a service or an operation that the endpoint does not know.
"""

import fcntl
import json
import os
import re
import subprocess
import sys

ACCOUNT = "210987654321"
REGION = "eu-central-1"
BALANCER = "skep-Balan-1A2B3C4D5E6F-0123456789abcdef.elb.eu-central-1.amazonaws.com"


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class World:
    def __init__(self):
        self.path = os.environ["FAKE_WORLD"]
        self.lock = open(self.path + ".lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        with open(self.path) as file:
            self.data = json.load(file)
        for key, value in {
            "stacks": {}, "instances": {}, "roles": {}, "experiments": {}, "commands": {}, "parameters": [], "service": 0,
            "calls": [], "do": {}, "not_offered": [], "next": 1, "images": {}, "pool": [], "stuck": False, "closed": False, "tagged": [],
        }.items():  # fmt: skip
            self.data.setdefault(key, value)

    def save(self):
        with open(self.path + ".new", "w") as file:
            json.dump(self.data, file)
        os.replace(self.path + ".new", self.path)

    def __getattr__(self, name):
        return self.data[name]

    def number(self):
        self.data["next"] += 1
        return self.data["next"]

    # --- instances ---

    def launch(self, group, market="on-demand"):
        name = f"i-{self.number():017x}"
        self.instances[name] = {"group": group, "state": "InService", "market": market, "desired": True}
        return name

    def of(self, group):
        return {name: one for name, one in self.instances.items() if one["group"] == group and one["state"] != "gone"}

    def members(self):
        return {name: one for name, one in self.instances.items() if one["state"] == "InService"}

    # --- stacks ---

    def stack(self, name):
        for one in self.stacks.values():
            if one["id"] == name or one["name"] == name and one["status"] != "DELETE_COMPLETE":
                return one
        raise Refused("ValidationError", f"Stack with id {name} does not exist")

    def event(self, stack, resource, status, reason=None):
        event = {"LogicalResourceId": resource, "ResourceStatus": status}
        if reason:
            event["ResourceStatusReason"] = reason
        stack["events"].append(event)

    def move(self, stack):
        """What happens between two looks."""
        stack["looks"] += 1
        status, name = stack["status"], stack["name"]
        groups = [f"{name}-managers", f"{name}-workers"] if "ManagerCount" in stack["parameters"] else []
        if status == "CREATE_IN_PROGRESS" and stack["looks"] > 1:
            if groups and self.data.get("creation_fails"):
                self.event(stack, "Managers", "CREATE_FAILED", "Received 1 FAILURE signal(s)")
                stack["status"] = "CREATE_FAILED"
                return
            sizes = {"managers": int(stack["parameters"].get("ManagerCount", 3)), "workers": int(stack["parameters"].get("WorkersMin", 2))}
            for logical, group in zip(("Managers", "Workers"), groups):
                self.event(stack, logical, "CREATE_IN_PROGRESS")
                for number in range(sizes[group.rsplit("-", 1)[1]]):
                    self.launch(group, "spot" if number and logical == "Workers" else "on-demand")
                self.event(stack, logical, "CREATE_COMPLETE")
            if groups:
                self.data["parameters"].append(f"/skep/{name}/worker-token/1")
            stack["status"] = "CREATE_COMPLETE"
        elif status == "UPDATE_IN_PROGRESS" and stack["looks"] > 2:
            for group in groups:
                for old, one in self.of(group).items():
                    self.launch(group, one["market"])
                    self.instances[old]["state"] = "gone"
            if stack["parameters"].get("WarmPool", "0") != "0":
                self.data["pool"] = [self.launch("pool")]
                self.instances[self.pool[0]]["state"] = "Warmed:Stopped"
            stack["status"] = "UPDATE_COMPLETE"
        elif status == "DELETE_IN_PROGRESS":
            for logical, group in list(zip(("Managers", "Workers"), groups))[::-1]:
                if self.of(group):
                    self.event(stack, logical, "DELETE_IN_PROGRESS")
                    for one in [*self.of(group), *self.of("interrupted")]:
                        self.instances[one]["state"] = "gone"
                    self.event(stack, logical, "DELETE_COMPLETE")
                    self.data["closed"] = logical == "Managers" and not self.data.get("never_closes")
                    return
            for one in self.of(f"{name}-workers"):
                self.instances[one]["state"] = "gone"
            self.data["pool"] = []
            stack["status"] = "DELETE_COMPLETE"


class Aws:
    """The operations, by the names of the command line."""

    def __init__(self, world):
        self.world = world

    def sts__get_caller_identity(self, **_):
        return {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/jane.doe", "UserId": "AIDAJQABLZS4A3QDU576Q"}

    def cloudformation__create_stack(self, StackName, TemplateBody, Parameters, Tags, **_):
        assert TemplateBody.startswith("AWSTemplateFormatVersion"), TemplateBody[:50]
        if self.world.data.get("race") == StackName:
            # Somebody else was faster.
            self.world.stacks["other"] = {"name": StackName, "id": "other", "status": "CREATE_COMPLETE", "tags": [], "looks": 9, "events": [], "parameters": {}}
            self.world.data["parameters"].append(f"/skep/{StackName}/worker-token/1")
        if any(one["name"] == StackName and one["status"] != "DELETE_COMPLETE" for one in self.world.stacks.values()):
            raise Refused("AlreadyExistsException", f"Stack [{StackName}] already exists")
        known = re.findall(r"^  (\w+):", TemplateBody.split("\nParameters:\n")[1].split("\nResources:\n")[0], re.MULTILINE)
        unknown = [one["ParameterKey"] for one in Parameters if one["ParameterKey"] not in known]
        if unknown:
            raise Refused("ValidationError", f"Parameters: {unknown} do not exist in the template")
        name = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{StackName}/{self.world.number()}"
        self.world.stacks[name] = {
            "name": StackName, "id": name, "status": "CREATE_IN_PROGRESS", "looks": 0, "events": [], "tags": Tags,
            "parameters": {one["ParameterKey"]: one["ParameterValue"] for one in Parameters},
        }  # fmt: skip
        return {"StackId": name}

    def cloudformation__update_stack(self, StackName, Parameters, **_):
        stack = self.world.stack(StackName)
        stack["parameters"] = {one["ParameterKey"]: one["ParameterValue"] for one in Parameters}
        stack.update(status="UPDATE_IN_PROGRESS", looks=0)
        return {"StackId": stack["id"]}

    def cloudformation__cancel_update_stack(self, StackName, **_):
        self.world.stack(StackName)["status"] = "UPDATE_ROLLBACK_COMPLETE"
        return {}

    def cloudformation__delete_stack(self, StackName, **_):
        stack = self.world.stack(StackName)
        if stack["status"] == "UPDATE_IN_PROGRESS":
            raise Refused("ValidationError", f"Stack [{stack['id']}] cannot be deleted while in status UPDATE_IN_PROGRESS")
        stack.update(status="DELETE_IN_PROGRESS", looks=0)
        return {}

    def cloudformation__describe_stacks(self, StackName, **_):
        stack = self.world.stack(StackName)
        self.world.move(stack)
        outputs = [{"OutputKey": key, "OutputValue": value} for key, value in self.world.data.get("outputs", {}).items()]
        if stack["name"].endswith("-network"):
            outputs = [{"OutputKey": key, "OutputValue": key.lower()} for key in ("VpcId", "Subnets", "LoadBalancerSubnets")]
        return {"Stacks": [{"StackName": stack["name"], "StackId": stack["id"], "StackStatus": stack["status"], "Tags": stack["tags"], "Outputs": outputs}]}

    def cloudformation__describe_stack_events(self, StackName, **_):
        return {"StackEvents": self.world.stack(StackName)["events"][::-1]}

    def cloudformation__describe_stack_resources(self, StackName, **_):
        name = self.world.stack(StackName)["name"]
        if name.endswith("-group"):
            resources = [("AWS::AutoScaling::AutoScalingGroup", f"{name}-workers")]
        else:
            resources = [("AWS::ElasticLoadBalancingV2::TargetGroup", "arn:target"), ("AWS::SSM::Parameter", "copy")]
        return {"StackResources": [{"ResourceType": kind, "PhysicalResourceId": id} for kind, id in resources]}

    def autoscaling__describe_auto_scaling_groups(self, AutoScalingGroupNames, **_):
        groups = []
        for name in AutoScalingGroupNames:
            found = self.world.of(name)
            if found:
                members = [{"InstanceId": one, "LifecycleState": of["state"], "InstanceType": "t3.small"} for one, of in found.items()]
                groups.append({"AutoScalingGroupName": name, "DesiredCapacity": sum(of["desired"] for of in found.values()), "Instances": members})
        return {"AutoScalingGroups": groups}

    def autoscaling__describe_auto_scaling_instances(self, InstanceIds, **_):
        found = []
        for name in InstanceIds:
            one = self.world.instances[name]
            nextone = {"Terminating": "Terminating:Proceed" if self.world.data.get("no_wait") else "Terminating:Wait", "Terminating:Wait": "Terminating:Proceed", "Terminating:Proceed": "gone"}
            one["state"] = nextone.get(one["state"], one["state"])
            if one["state"] != "gone":
                found.append({"InstanceId": name, "LifecycleState": one["state"], "InstanceType": "t3.small"})
        return {"AutoScalingInstances": found}

    def autoscaling__set_desired_capacity(self, AutoScalingGroupName, DesiredCapacity, **_):
        while len(self.world.of(AutoScalingGroupName)) < DesiredCapacity:
            if self.world.pool:
                self.world.instances[self.world.data["pool"].pop()].update(group=AutoScalingGroupName, state="InService")
                continue
            name = self.world.launch(AutoScalingGroupName, "spot")
            if self.world.stuck:
                self.world.instances[name]["state"] = "Pending:Wait"
        return {}

    def autoscaling__terminate_instance_in_auto_scaling_group(self, InstanceId, ShouldDecrementDesiredCapacity, **_):
        one = self.world.instances[InstanceId]
        one.update(state="Terminating", desired=False)
        if not ShouldDecrementDesiredCapacity:
            self.world.launch(one["group"])
        return {}

    def autoscaling__describe_warm_pool(self, **_):
        return {"Instances": [{"InstanceId": one, "LifecycleState": "Warmed:Stopped", "InstanceType": "t3.small"} for one in self.world.pool]}

    def ec2__describe_images(self, ImageIds=(), Filters=(), **_):
        if ImageIds and ImageIds[0] not in self.world.images:
            raise Refused("InvalidAMIID.NotFound", f"The image id '{list(ImageIds)}' does not exist")
        images = self.world.images.items()
        return {"Images": [
            {"ImageId": name, "Architecture": one["architecture"], "Tags": [{"Key": key, "Value": value} for key, value in one["tags"].items()], "RootDeviceName": "/dev/xvda", "State": "available",
             "BlockDeviceMappings": [{"Ebs": {"SnapshotId": f"snap-{name}"}}]}
            for name, one in images
            if name in ImageIds or any(of["Name"] == f"tag:{key}" and value in of["Values"] for of in Filters for key, value in one["tags"].items())
        ]}  # fmt: skip

    def ec2__deregister_image(self, ImageId, **_):
        del self.world.images[ImageId]
        return {}

    def ec2__delete_snapshot(self, **_):
        return {}

    def ec2__describe_snapshots(self, **_):
        return {"Snapshots": []}

    def ec2__describe_volumes(self, VolumeIds=None, **_):
        if VolumeIds is None:
            return {"Volumes": [{"VolumeId": "vol-1", "State": "in-use"}]}
        if VolumeIds[0] not in self.world.data.get("volumes_left", []):
            raise Refused("InvalidVolume.NotFound", f"The volume '{VolumeIds[0]}' does not exist.")
        return {"Volumes": [{"VolumeId": VolumeIds[0], "State": "available"}]}

    def ec2__describe_nat_gateways(self, NatGatewayIds, **_):
        return {"NatGateways": [{"NatGatewayId": NatGatewayIds[0], "State": "deleted"}]}

    def logs__describe_log_groups(self, logGroupNamePrefix, **_):
        return {"logGroups": [{"logGroupName": name} for name in [f"{logGroupNamePrefix}-2", *self.world.data.get("logs_left", [])]]}

    def resourcegroupstaggingapi__get_resources(self, TagFilters, **_):
        return {"ResourceTagMappingList": [{"ResourceARN": arn, "Tags": []} for arn in self.world.tagged]}

    def ec2__describe_instances(self, InstanceIds=None, Filters=(), **_):
        if any(one["Name"] == "tag:skep:aws-check-stack" for one in Filters):
            return {"Reservations": []}
        wanted = InstanceIds if InstanceIds is not None else [name for name, one in self.world.instances.items() if one["state"] != "gone"]
        instances = []
        for name in wanted:
            one = {"InstanceId": name, "State": {"Name": "running"}, "Tags": [{"Key": "aws:autoscaling:groupName", "Value": self.world.instances[name]["group"]}]}
            if self.world.instances[name]["market"] == "spot":
                one["InstanceLifecycle"] = "spot"
            instances.append(one)
        return {"Reservations": [{"Instances": instances}]}

    def ec2__get_console_output(self, **_):
        return {"Output": "booting\nskep: error: SWMTKN-1-secretsecret\n"}

    def elbv2__describe_target_health(self, **_):
        states = {"InService": "healthy", "Terminating:Wait": "draining"}
        return {"TargetHealthDescriptions": [
            {"Target": {"Id": name}, "TargetHealth": {"State": states[one["state"]]}} for name, one in self.world.instances.items() if one["state"] in states
        ]}  # fmt: skip

    def ssm__put_parameter(self, Name, Value, **_):
        if Name not in self.world.parameters:
            self.world.data["parameters"].append(Name)
        return {"Version": 1}

    def ssm__describe_parameters(self, **_):
        return {"Parameters": [{"Name": name} for name in self.world.parameters]}

    def ssm__delete_parameters(self, Names, **_):
        self.world.data["parameters"] = [name for name in self.world.parameters if name not in Names]
        return {"DeletedParameters": Names}

    def ssm__send_command(self, InstanceIds, Parameters, **_):
        instance = InstanceIds[0]
        if self.world.instances[instance]["state"] not in ("InService", "interrupted"):
            raise Refused("InvalidInstanceId", "Instances not in a valid state for account")
        command = f"command-{self.world.number()}"
        self.world.save()
        environment = {**os.environ, "FAKE_INSTANCE": instance, "FAKE_UNLOCKED": "1"}
        done = subprocess.run(["sh", "-c", "\n".join(Parameters["commands"])], env=environment, capture_output=True, text=True)
        with open(self.world.path) as file:
            self.world.data = json.load(file)
        self.world.commands[command] = {"Status": "Success", "StandardOutputContent": done.stdout[:24000]}
        return {"Command": {"CommandId": command}}

    def ssm__get_command_invocation(self, CommandId, **_):
        one = self.world.commands[CommandId]
        one["seen"] = one.get("seen", 0) + 1
        if one["seen"] == 1:
            raise Refused("InvocationDoesNotExist", "")
        return one

    def iam__create_role(self, RoleName, Tags, **_):
        self.world.roles[RoleName] = {"tags": Tags, "policies": []}
        return {"Role": {"Arn": f"arn:aws:iam::{ACCOUNT}:role/{RoleName}"}}

    def iam__put_role_policy(self, RoleName, PolicyName, **_):
        self.world.roles[RoleName]["policies"].append(PolicyName)
        return {}

    def _role(self, name):
        if name not in self.world.roles:
            raise Refused("NoSuchEntity", f"The role with name {name} cannot be found.")
        return self.world.roles[name]

    def iam__list_role_tags(self, RoleName, **_):
        return {"Tags": self._role(RoleName)["tags"]}

    def iam__list_role_policies(self, RoleName, **_):
        return {"PolicyNames": self._role(RoleName)["policies"]}

    def iam__delete_role_policy(self, RoleName, PolicyName, **_):
        self._role(RoleName)["policies"].remove(PolicyName)
        return {}

    def iam__delete_role(self, RoleName, **_):
        if self._role(RoleName)["policies"]:
            raise Refused("DeleteConflict", "Cannot delete entity, must delete policies first.")
        del self.world.roles[RoleName]
        return {}

    def fis__list_experiment_templates(self, **_):
        return {"experimentTemplates": [{"id": name, "tags": one["tags"]} for name, one in self.world.experiments.items()]}

    def fis__create_experiment_template(self, targets, tags, **_):
        # The role is not known at first.
        self.world.data["tries"] = self.world.data.get("tries", 0) + 1
        if self.world.data["tries"] == 1:
            raise Refused("ValidationException", "The role cannot be assumed")
        name = f"EXT{self.world.number()}"
        self.world.experiments[name] = {"tags": tags, "victim": targets["spot"]["resourceArns"][0].rsplit("/", 1)[1]}
        return {"experimentTemplate": {"id": name}}

    def fis__delete_experiment_template(self, id, **_):
        del self.world.experiments[id]
        return {}

    def fis__start_experiment(self, experimentTemplateId, **_):
        victim = self.world.experiments[experimentTemplateId]["victim"]
        one = self.world.instances[victim]
        self.world.launch(one["group"], "spot")
        one.update(state="interrupted", group="interrupted", desired=False)
        return {"experiment": {"id": "EXP1"}}

    def fis__get_experiment(self, **_):
        return {"experiment": {"state": {"status": "completed"}}}

    def dynamodb__scan(self, ExpressionAttributeValues, **_):
        assert ExpressionAttributeValues[":item"]["S"].startswith("departure#i-"), ExpressionAttributeValues
        return {"Items": [{"state": {"S": self.world.data.get("departure", "removed")}}]}

    def dynamodb__describe_table(self, **_):
        raise Refused("ResourceNotFoundException", "Requested resource not found")

    def dynamodb__get_item(self, Key, **_):
        assert Key["item"] == {"S": "charter"}, Key
        return {"Item": {"phase": {"S": "closed" if self.world.closed else "open"}}}


def aws(arguments):
    if arguments[:3] == ["configure", "get", "region"]:
        return 1
    if arguments[:2] == ["configure", "export-credentials"]:
        end = World().data.get("credentials_end")
        print(json.dumps({"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "wJalrXUtnFEMI", **({"Expiration": end} if end else {})}))
        return 0
    service, operation = arguments[:2]
    assert arguments[2:4] == ["--output", "json"], arguments
    rest = arguments[4:]
    given = json.loads(rest[rest.index("--cli-input-json") + 1]) if "--cli-input-json" in rest else {}
    assert rest[rest.index("--region") + 1] == REGION, rest
    camel = "".join(part.title() for part in operation.split("-"))
    world = World()
    name = f"{service}:{operation}"
    world.calls.append(name)
    order = world.do.get(name, {})
    count = world.calls.count(name)
    hits = order and order.get("at", 1) <= count <= order.get("until", count)
    world.save()
    try:
        if name in world.not_offered or service in world.not_offered:
            raise Refused("InvalidAction", f"Could not find operation {camel}")
        if hits and "error" in order:
            raise Refused(*order["error"])
        answer = getattr(Aws(world), f"{service}__{operation.replace('-', '_')}")(**given)
    except Refused as refusal:
        sys.stderr.write(f"\nAn error occurred ({refusal.code}) when calling the {camel} operation: {refusal.message}\n")
        return 254
    finally:
        world.save()
        if hits and "signal" in order and count == order.get("at", 1):
            os.kill(os.getppid(), order["signal"])
    print(json.dumps(answer))
    return 0


def docker(arguments):
    data = json.load(open(os.environ["FAKE_WORLD"]))
    nodes = {name: one for name, one in data["instances"].items() if one["state"] == "InService"}
    if arguments[:2] == ["node", "ls"]:
        print("\n".join(nodes))
    elif arguments[:2] == ["node", "inspect"]:
        managers = [name for name, one in nodes.items() if one["group"].endswith("-managers")]
        print(json.dumps([
            {
                "ID": name, "Spec": {"Role": "manager" if name in managers else "worker", "Labels": {
                    "skep.instance": name, "skep.group": nodes[name]["group"],
                    **({} if name in managers or data.get("no_labels") else {"aws-check": "settings"}),
                }},
                "Status": {"State": "ready", "Addr": "10.0.0.1"},
                **({"ManagerStatus": {"Leader": name == managers[0], "Reachability": "reachable"}} if name in managers else {}),
            }
            for name in arguments[2:]
        ]))  # fmt: skip
    elif arguments[:2] == ["service", "create"]:
        data["service"] = int(arguments[arguments.index("--replicas") + 1])
        json.dump(data, open(os.environ["FAKE_WORLD"], "w"))
    elif arguments[:2] == ["service", "inspect"]:
        return 0 if data["service"] else 1
    elif arguments[:2] == ["service", "ps"]:
        print("\n".join(["Running 3 seconds ago"] * data["service"]))
    elif arguments[:1] == ["version"]:
        print("28.5.2")
    else:
        return 9
    return 0


def skep(arguments):
    data = json.load(open(os.environ["FAKE_WORLD"]))
    instance = os.environ["FAKE_INSTANCE"]
    one = data["instances"][instance]
    if arguments == ["--version"]:
        print("skep 0.1.0")
    elif arguments == ["doctor", "--json"]:
        is_manager = one["group"].endswith("-managers")
        rows = f"rows of test#arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance}"
        checks = [("dynamodb:GetItem", "rows of test"), ("dynamodb:GetItem", rows), ("dynamodb:UpdateItem", rows), ("worker token", "/skep/test/worker-token/1"), ("manager token", "this worker cannot read it")]
        checks += [("autoscaling:CompleteLifecycleAction", "group")]
        checks += [] if is_manager else [("charter", "cannot"), ("another worker's rows", "cannot"), ("dynamodb:PutItem", rows)]
        findings = [{"check": check, "verdict": data.get("verdicts", {}).get(check, "ok"), "evidence": evidence} for check, evidence in checks]
        # As long as the real report, which has to come back whole.
        findings += [{"check": "metadata", "verdict": "ok", "evidence": "x" * 400}] * 60
        print(json.dumps({"worst": "ok", "findings": findings}))
    elif arguments == ["status", "--json"]:
        print(json.dumps({"node": {"departure": {"reason": data.get("reason", "spot")} if one["state"] == "interrupted" else None}}))
    else:
        return 9
    return 0


def packer(arguments):
    if arguments == ["version"]:
        print("Packer v1.11.2")
    elif arguments[0] == "build":
        world = World()
        given = dict(one[len("-var=") :].split("=", 1) for one in arguments if one.startswith("-var="))
        world.images["ami-0feedfacefeedface"] = {"architecture": given["architecture"], "tags": json.loads(given["tags"])}
        world.save()
        with open(given["manifest"], "w") as file:
            json.dump({"builds": [{"artifact_id": f"{REGION}:ami-0feedfacefeedface"}]}, file)
    return 0


if __name__ == "__main__":
    sys.exit({"aws": aws, "docker": docker, "skep": skep, "packer": packer}[os.path.basename(sys.argv[0])](sys.argv[1:]))
