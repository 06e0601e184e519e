"""Creates the stack in moto with the main variants of its parameters, and looks at what came of it.

check.py POLICIES also writes what the roles may, for the scenarios: per token store and role the policy named
`skep`, resolved for a stack of the name CLUSTER, in the account and region of the local cloud.

What moto cannot make is in NOT_IN_MOTO, by name. What it makes but does not look at is checked in the
template: hooks, update policies, the table's TTL and recovery, patterns and limits of parameters. The
template's Rules have no check here but cfn-lint's.
"""

import ast
import base64
import json
import pathlib
import re
import shlex
import sys

import yaml
from cfnlint.decode import decode
from moto.cloudformation.parsing import get_model_map

from stack import ROOT, TEMPLATE, moto

# Stands for the cluster, its stack and the beginning of its groups' names.
CLUSTER = "cluster-of-this-stack"
# The local cloud's names for the roles.
ROLES = {"ManagerRole": "skep-manager", "WorkerRole": "skep-worker"}
# Resource types, and why moto has none of them. A type that moto has learned since is a mistake here.
NOT_IN_MOTO = {
    "AWS::AutoScaling::WarmPool": "moto has the API calls for it, but no such resource in CloudFormation",
}
# What the parameters must refuse.
OUT_OF_RANGE = {
    "ClusterName": ["two words", "x" * 101, 'a"b'],
    "ManagerCount": ["0", "2", "4", "7"],
    "WorkerCount": ["0", "-1", "1001"],
    "WorkersOnDemandPercent": ["101"],
    "WorkerInstanceType": ["", "t3", "t3.small,t3.large"],
    "HookTimeout": ["29", "7201"],
    "MetadataHopLimit": ["0", "3"],
    "VpcId": ["vpc", "subnet-1"],
    "VpcPrefix": ["10", "8.8", "172.32", "192.168.0"],
    "Zones": ["1", "4"],
    "TokenPath": ["", "skep", "/skep/", '/s"k'],
    "KmsKey": ["", "alias/skep", "yes"],
    "FileSystem": ["maxio", "yes"],
    "ServicePort": ["0", "65536"],
}
# Replaced by the ids of a VPC that is there already.
EXISTING = {"VpcId": "", "Subnets": ""}

template = json.loads(json.dumps(decode(str(TEMPLATE))[0]))


def main(policies_file=None):
    check_parameters()
    check_groups()
    check_table_settings()
    check_types()
    policies = {}
    with moto() as cloud:
        for what, parameters in {
            "as it is": {},
            "an existing VPC": EXISTING | {"LoadBalancer": "none", "Zones": 2},
            "an existing VPC, balanced": EXISTING | {"LoadBalancer": "internal", "FileSystem": "generalPurpose"},
            "spot": {
                "WorkersOnDemandPercent": 0, "WorkersOnDemandBase": 1, "WorkerInstanceType2": "t3a.medium",
                "WorkerInstanceType3": "m5.large",
            },  # fmt: skip
            "shared files": {"FileSystem": "maxIO", "Zones": 2, "NatGateways": "per-zone"},
            "warm pool": {"WarmPool": 2, "ManagerCount": 1},
            "a key": {"KmsKey": "create", "ManagerCount": 5, "Autolock": "true", "WorkersHealthCheck": "ELB", "NatGateways": "per-zone"},
            "tokens in DynamoDB": {"TokenStore": "dynamodb", "TableName": "bees", "LoadBalancer": "none"},
            "another stack's table": {"CreateTable": "no", "ClusterName": "other"},
        }.items():
            cloud.reset()
            if "VpcId" in parameters:
                parameters = parameters | network(cloud, parameters.get("Zones", 3))
            check_stack(cloud, parameters)
            print(f"ok: {what}")
        check_documented(cloud)
        print("ok: what docs/deploy.md says")
        for store in ("ssm", "dynamodb"):
            cloud.reset()
            named = cloud.create(CLUSTER, TokenStore=store)
            policies[store] = {role: [policy(cloud, named[logical])] for logical, role in ROLES.items()}
    if policies_file:
        path = pathlib.Path(policies_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(policies, indent=1) + "\n")
        print(f"ok: {path}")


# --- The template alone ----------------------------------------------------------------------------


def check_parameters():
    for name, parameter in template["Parameters"].items():
        assert parameter.get("Description"), f"{name} has no description"
        if "AllowedPattern" in parameter:
            assert "ConstraintDescription" in parameter, f"{name} does not say what would be right"
        default = parameter.get("Default")
        assert default is None or allows(parameter, str(default)), f"{name} refuses its default"
    for name, values in OUT_OF_RANGE.items():
        for value in values:
            assert not allows(template["Parameters"][name], value), f"{name} takes {value!r}"


def allows(parameter, value):
    """Whether CloudFormation takes the value."""
    if not re.fullmatch(parameter.get("AllowedPattern", ".*"), value):
        return False
    if value not in map(str, parameter.get("AllowedValues", [value])):
        return False
    low, high = parameter.get("MinValue"), parameter.get("MaxValue")
    return (low is None or float(value) >= low) and (high is None or float(value) <= high)


def check_groups():
    for name in ("Managers", "Workers"):
        group = template["Resources"][name]
        hooks = {
            hook["LifecycleTransition"].removeprefix("autoscaling:EC2_INSTANCE_"): hook["DefaultResult"]
            for hook in group["Properties"]["LifecycleHookSpecificationList"]
        }
        assert hooks == {"LAUNCHING": "ABANDON", "TERMINATING": "CONTINUE"}, f"{name}: {hooks}"
        size = group["Properties"]["DesiredCapacity"]
        update = group["UpdatePolicy"]["AutoScalingRollingUpdate"]
        assert group["CreationPolicy"]["ResourceSignal"]["Count"] == size, name
        assert update["MinInstancesInService"] == size and update["WaitOnResourceSignals"], name
    for size, limits in template["Mappings"]["ManagerLimits"].items():
        assert limits["Max"] == int(size) + 1, f"a batch of one manager above {size}"


def check_table_settings():
    """moto's tables know nothing of these."""
    table = template["Resources"]["Table"]["Properties"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}, table
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}, table


def check_types():
    used = {resource["Type"] for resource in template["Resources"].values()}
    missing = used - get_model_map().keys()
    assert missing == NOT_IN_MOTO.keys(), f"moto lacks {missing}, NOT_IN_MOTO says {list(NOT_IN_MOTO)}"


def expected(parameters):
    """The logical ids of what is to be made."""
    values = {name: str(one.get("Default", "")) for name, one in template["Parameters"].items()}
    values |= {name: str(value) for name, value in parameters.items()}

    def evaluate(node):
        if not isinstance(node, dict):
            return node
        [(function, of)] = node.items()
        return {
            "Ref": lambda: values[of],
            "Condition": lambda: evaluate(template["Conditions"][of]),
            "Fn::Equals": lambda: evaluate(of[0]) == evaluate(of[1]),
            "Fn::Not": lambda: not evaluate(of[0]),
            "Fn::And": lambda: all(map(evaluate, of)),
            "Fn::Join": lambda: evaluate(of[1]),
        }[function]()

    return {
        name
        for name, resource in template["Resources"].items()
        if "Condition" not in resource or evaluate({"Condition": resource["Condition"]})
    }


# --- The stack in moto -----------------------------------------------------------------------------


def check_documented(cloud):
    """The commands of docs/deploy.md, with ids that are there."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    commands = re.findall(r"^\$ aws (cloudformation deploy .*)$", text, re.MULTILINE)
    assert len(commands) == 2, commands
    for command in commands:
        cloud.reset()
        existing = network(cloud, 2)
        command = re.sub(r"ami-\w+", cloud.image, command)
        for name, value in existing.items():
            command = re.sub(rf"{name}=\S+", f"{name}={value}", command)
        cloud.run(*shlex.split(command.replace("cloudformation/skep.yaml", str(TEMPLATE))))
        stack = cloud.aws("cloudformation", "describe-stacks", "--stack-name", "prod")["Stacks"][0]
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    told = text.split("| Parameter | for |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([A-Z]\w+)(?:=[^`]*)?`", told))
    unknown = named - template["Parameters"].keys()
    assert named and not unknown, f"docs/deploy.md tells parameters that there are not: {unknown}"


def network(cloud, zones):
    """A VPC that is there already."""
    vpc = cloud.aws("ec2", "create-vpc", "--cidr-block", "192.168.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        cloud.aws(
            "ec2", "create-subnet", "--vpc-id", vpc, "--cidr-block", f"192.168.{zone}.0/24",
            "--availability-zone", f"eu-central-1{'abc'[zone]}",
        )["Subnet"]["SubnetId"]
        for zone in range(zones)
    ]  # fmt: skip
    return {"VpcId": vpc, "Subnets": ",".join(subnets)}


def check_stack(cloud, parameters):
    named = cloud.create("prod", **parameters)
    wanted = expected(parameters)
    wanted -= {name for name in wanted if template["Resources"][name]["Type"] in NOT_IN_MOTO}
    assert named.keys() == wanted, f"too few, too many: {wanted - named.keys()}, {named.keys() - wanted}"
    values = {name: str(one.get("Default", "")) for name, one in template["Parameters"].items()}
    values |= {name: str(value) for name, value in parameters.items()}
    cluster = values["ClusterName"] or "prod"
    for role in ("manager", "worker"):
        check_group(cloud, role, cluster, values)
        check_user_data(cloud, named[f"{role.title()}Template"], role, cluster, values)
    if values["CreateTable"] == "yes":
        check_table(cloud, values["TableName"])
    if values["LoadBalancer"] != "none":
        target = cloud.aws("elbv2", "describe-target-groups")["TargetGroups"][0]
        assert (target["HealthCheckPort"], target["HealthCheckPath"]) == ("44554", "/"), target
        balancer = cloud.aws("elbv2", "describe-load-balancers")["LoadBalancers"][0]
        assert (balancer["Type"], balancer["Scheme"]) == ("network", values["LoadBalancer"]), balancer
        assert len(balancer["AvailabilityZones"]) == int(values["Zones"]), balancer
    if values["FileSystem"] != "none":
        files = cloud.aws("efs", "describe-file-systems")["FileSystems"][0]
        assert files["PerformanceMode"] == values["FileSystem"] and files["Encrypted"], files
        assert files["NumberOfMountTargets"] == int(values["Zones"]), files
    check_between_nodes_only(cloud, named)


def check_group(cloud, role, cluster, values):
    name = f"prod-{role}s"
    groups = cloud.aws("autoscaling", "describe-auto-scaling-groups", "--auto-scaling-group-names", name)
    [group] = groups["AutoScalingGroups"]
    assert group["DesiredCapacity"] == int(values[f"{role.title()}Count"]), group
    assert len(group["VPCZoneIdentifier"].split(",")) == int(values["Zones"]), group
    tags = {tag["Key"]: tag["Value"] for tag in group["Tags"] if tag["PropagateAtLaunch"]}
    assert (tags["skep:cluster"], tags["skep:role"], tags["Name"]) == (cluster, role, f"prod-{role}"), tags
    balanced = role == "worker" and values["LoadBalancer"] != "none"
    assert len(group.get("TargetGroupARNs", [])) == balanced, group
    assert group["HealthCheckType"] == (values["WorkersHealthCheck"] if role == "worker" else "EC2"), group
    mixed = group.get("MixedInstancesPolicy")
    if role == "worker" and values["WarmPool"] == "0":
        types = [one["InstanceType"] for one in mixed["LaunchTemplate"]["Overrides"]]
        wanted = [values[f"WorkerInstanceType{number}"] for number in ("", 2, 3)]
        assert types == [one for one in wanted if one], types
    else:
        assert not mixed and group["LaunchTemplate"], group


def check_user_data(cloud, template_id, role, cluster, values):
    versions = cloud.aws("ec2", "describe-launch-template-versions", "--launch-template-id", template_id)
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    metadata = data["MetadataOptions"]
    assert metadata["HttpTokens"] == "required" and metadata["InstanceMetadataTags"] == "enabled", metadata
    disk = data["BlockDeviceMappings"][0]["Ebs"]
    assert disk["Encrypted"] and disk["VolumeType"] == "gp3", disk
    text = base64.b64decode(data["UserData"]).decode()
    file = (ROOT / "userdata" / "cloud-config.yaml").read_text()
    file = file.replace("${cluster}", cluster).replace("${role}", role)
    assert text.startswith(file), f"the template's text is not that of userdata/cloud-config.yaml:\n{text}"
    config = yaml.safe_load(text)
    assert config.keys() == yaml.safe_load(file).keys() | {"bootcmd"}, "the file has a bootcmd of its own"
    [command] = config["bootcmd"]
    for line in (f'table = "{values["TableName"]}"', f'store = "{values["TokenStore"]}"', 'path = "/skep"'):
        assert f"\n{line}\n" in command, command
    assert ("\nautolock = true\n" in command) == (role == "manager" and values["Autolock"] == "true"), command
    assert ("\nkms_key = \"arn:aws:kms:" in command) == (values["KmsKey"] != "none"), command
    assert "${" not in text, text


def check_table(cloud, name):
    table = cloud.aws("dynamodb", "describe-table", "--table-name", name)["Table"]
    keys = {key["AttributeName"]: key["KeyType"] for key in table["KeySchema"]}
    assert keys == {"cluster": "HASH", "item": "RANGE"}, keys


def check_between_nodes_only(cloud, named):
    """Nothing of the nodes is open to an address, and the swarm's ports are open to nodes alone."""
    nodes, managers = named["NodeSecurityGroup"], named["ManagerSecurityGroup"]
    groups = cloud.aws("ec2", "describe-security-groups", "--group-ids", nodes, managers)["SecurityGroups"]
    opened = set()
    for group in groups:
        for rule in group["IpPermissions"]:
            assert not rule["IpRanges"] and not rule.get("Ipv6Ranges"), rule
            for pair in rule["UserIdGroupPairs"]:
                if pair["GroupId"] == nodes:
                    opened.add((group["GroupId"], rule["IpProtocol"], rule["FromPort"], rule["ToPort"]))
                else:
                    assert pair["GroupId"] == named["LoadBalancerSecurityGroup"], rule
    assert opened == {
        (nodes, "tcp", 7946, 7946),
        (nodes, "udp", 7946, 7946),
        (nodes, "udp", 4789, 4789),
        (managers, "tcp", 2377, 2377),
    }, opened


def policy(cloud, role):
    answer = cloud.aws("iam", "get-role-policy", "--role-name", role, "--policy-name", "skep")
    # moto writes a document that comes from a stack as Python does, and not as JSON.
    return ast.literal_eval(answer["PolicyDocument"])


if __name__ == "__main__":
    main(*sys.argv[1:])
