"""Creates stacks of the templates in moto with the main variants of their parameters, and looks at what came of it.

check.py POLICIES also writes what the roles may, for the scenarios: per token store and role the policies that are for
skep, resolved for a stack of the name CLUSTER, in the account and region of the local cloud. The set `ssm-with-backups`
also has the permissions for backups.

What moto cannot make is in NOT_IN_MOTO, by name. What it makes but does not look at is checked in the templates: hooks,
update policies, the table's TTL and recovery, patterns and limits of parameters, rules.
"""

import ast
import base64
import json
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import yaml
from cfnlint.decode import decode
from moto.cloudformation.parsing import get_model_map

from stack import REGION, ROOT, TEMPLATES, moto

# Stands for the cluster, its stack and the beginning of its groups' names.
CLUSTER = "cluster-of-this-stack"
# The local cloud's table, and its names for the roles.
TABLE = "skep"
ROLES = {"ManagerRole": "skep-manager", "WorkerRole": "skep-worker"}
# Resource types, and why moto has none of them. A type that moto has learned since is a mistake here.
NOT_IN_MOTO = {
    name: "moto has the API calls for it, but no such resource in CloudFormation"
    for name in ("AWS::AutoScaling::ScalingPolicy", "AWS::AutoScaling::WarmPool")
}
# CloudFormation takes 51,200 from a file; the rest is room for growth.
MOST_BYTES = 49_000
# What the parameters must refuse: every parameter that has limits is here.
OUT_OF_RANGE = {
    "ClusterName": ["two words", "x" * 101, 'a"b'],
    "ImageId": ["", "ami", "ami-xyz", "image", "/", "/skep/image:", "/skep/image:0", "resolve:ssm:/skep/image", "/a}}"],
    "SwarmStack": ["", "a b", "-a", "1a", "a_b"],
    "ManagerCount": ["0", "2", "4", "7"],
    "ManagerInstanceType": ["", "t3", "t3.small,t3.large"],
    "WorkersMin": ["-1", "1001"],
    "WorkersMax": ["0", "1002"],
    "WorkersOnDemandBase": ["-1", "1001"],
    "WorkersOnDemandPercent": ["-1", "101"],
    "WorkersTarget": ["-1", "101"],
    "WorkersHealthCheck": ["", "ec2"],
    "WorkerInstanceType": ["", "t3", "t3.small,t3.large"],
    "WorkerInstanceType2": ["t3", "t3.small,t3.large"],
    "WorkerInstanceType3": ["t3", "t3.small,t3.large"],
    "WarmPool": ["-1", "101"],
    "WarmPoolState": ["stopped", "Hibernated"],
    "RootDevice": ["", "/dev/sda"],
    "VolumeSize": ["7", "16385"],
    "MetadataHopLimit": ["0", "3"],
    "KeyName": ["k" * 256, "a\nb", 'a"b'],
    "PermissionsBoundary": ["boundary", "arn:aws:iam::123456789012:role/a", "arn:aws:iam::1:policy/a"],
    "UpdateBatch": ["0", "101"],
    "HookTimeout": ["29", "7201"],
    "AbandonedNodes": ["", "keep"],
    "Shell": ["yes", "ssm"],
    "SshSecurityGroup": ["10.0.0.0/8", "sg", "0.0.0.0/0"],
    "MetricsSecurityGroup": ["10.0.0.0/8", "sg", "0.0.0.0/0"],
    # The default VPCs, the image's pools, and what is not private.
    "VpcPrefix": ["172.31", "172.20", "172.21", "172.22", "172.23", "10.128", "10.200", "10.255", "10.256", "10.064",
                  "10", "8.8", "172.15", "172.32", "192.168.0", "192.169"],
    "Zones": ["1", "4"],
    "NatGateways": ["none", "2"],
    "CreateTable": ["true", ""],
    "TableName": ["ab", "a b", "x" * 256],
    "TokenStore": ["", "s3"],
    "TokenPath": ["", "skep", "/skep/", '/s"k'],
    "KmsKey": ["", "alias/skep", "yes"],
    "Autolock": ["yes", ""],
    "LogRetentionDays": ["0", "2"],
    "BackupBucket": ["b", "Backups", "back ups", "s3://backups", "backups/skep", "-backups", "b" * 64],
    "BackupPrefix": ["", "/skep", "skep/", "a//b", "../skep", "a/..", 'a"b', "a b", "a*"],
    "BackupKey": ["alias/skep", "create", "arn:aws:kms:eu-central-1:123456789012:alias/skep", "arn:aws:s3:::backups"],
    "BackupRestore": ["yes", ""],
    "LoadBalancer": ["yes", "public"],
    "Ports": ["0", "65536", "80:80", "80, 443", "80-90", "1,2,3,4", "080", ",,,", ",,,80", "80,80", "80,,80", ",80,80",
              "80,8080,80", "44554", "80,44554", "44554,80"],
    "TlsPort": ["0", "65536", "443,444", "https", "44554"],
    "Certificate": ["example.org", "arn:aws:acm:eu-central-1:123456789012:key/1"],
    "FileSystem": ["maxio", "yes"],
}  # fmt: skip
# Each of them breaks a rule.
AGAINST_RULES = [
    {"WarmPool": 1, "WorkersOnDemandPercent": 50},
    {"WarmPool": 1, "WorkerInstanceType2": "t3a.medium"},
    {"WarmPool": 1, "WorkerInstanceType3": "t3a.medium"},
    {"WorkersHealthCheck": "ELB", "LoadBalancer": "none"},
    {"KmsKey": "create", "TokenStore": "dynamodb"},
    {"CreateTable": "no"},
    {"BackupBucket": "backups"},
    {"BackupKey": "arn:aws:kms:eu-central-1:123456789012:key/1"},
    {"BackupRestore": "true"},
    {"TlsPort": 443},
    {"Certificate": "arn:aws:acm:eu-central-1:123456789012:certificate/1"},
]
# A text that every layer between an operator and the node could change.
HOSTILE = """\
# é ${AWS::Region} $(reboot) `id` {{ x }} %s \\n \\
'END'
END
EOF
"quoted" = "\\"'$HOME' <&>|;"

[labels]
\tcolor = 'red'\r
    """
# What only workers need: it can be deleted before the managers have left.
NOT_FOR_MANAGERS = {
    "Workers", "WorkersPolicy", "WorkerPool", "WorkerTemplate", "WorkerProfile", "WorkerRole", "WorkerPolicy", "WorkerSettingsText", "Balancer",
    "TargetGroup1", "TargetGroup2", "TargetGroup3", "TargetGroupTls", "Listener1", "Listener2", "Listener3", "ListenerTls",
}  # fmt: skip
BACKUP_KEY = f"arn:aws:kms:{REGION}:123456789012:key/backups"
# Backups, with all of their parameters.
BACKUPS = {"BackupBucket": "of.example", "BackupPrefix": "a/b", "BackupKey": BACKUP_KEY, "BackupRestore": "true"}
# What the scenarios' policies are made with, by the name of the set.
SETS = {
    "ssm": {"TokenStore": "ssm"},
    "dynamodb": {"TokenStore": "dynamodb"},
    "ssm-with-backups": {"TokenStore": "ssm", "BackupBucket": "backups", "BackupKey": BACKUP_KEY},
}
BOUNDARY = "arn:aws:iam::aws:policy/PowerUserAccess"
# Made in moto, which has not AWS's own.
POLICIES = [f"arn:aws:iam::123456789012:policy/{name}" for name in ("pull", "trace")]

templates = {name: json.loads(json.dumps(decode(str(path))[0])) for name, path in TEMPLATES.items()}


def main(policies_file=None):
    check_sizes()
    check_parameters()
    check_rules()
    check_groups()
    check_policies()
    check_order()
    check_target_groups()
    check_table_settings()
    check_types()
    check_agreement()
    print("ok: the templates alone")
    policies = {}
    with moto() as cloud:
        for what, parameters in {
            "three zones": {},
            "two zones": {"Zones": 2},
            "a NAT gateway per zone": {"NatGateways": "per-zone", "VpcPrefix": "192.168"},
        }.items():
            cloud.reset()
            check_network(cloud, parameters)
            print(f"ok: network, {what}")
        for what, parameters in {
            "as it is": {},
            "two zones, not balanced": {"LoadBalancer": "none", "Zones": 2, "WorkersMin": 0},
            "four subnets": {"Zones": 4, "FileSystem": "maxIO"},
            "balanced inside": {"LoadBalancer": "internal", "FileSystem": "generalPurpose"},
            "several ports": {"Ports": "80,8080,9000", "Zones": 2, "FileSystem": "generalPurpose"},
            "ports and TLS": {"Ports": "80,8080", "TlsPort": 443, "Certificate": "new"},
            "positions without a port": {"Ports": ",8080,", "Zones": 2},
            "a port with TLS alone": {"Ports": "80,443", "TlsPort": 443, "Certificate": "new", "Zones": 2},
            "TLS only": {"Ports": "", "TlsPort": 65535, "Certificate": "new"},
            "spot": {
                "WorkersOnDemandPercent": 0, "WorkersOnDemandBase": 1, "WorkerInstanceType2": "t3a.medium",
                "WorkerInstanceType3": "m5.large",
            },  # fmt: skip
            "warm pool": {"WarmPool": 2, "ManagerCount": 1, "WorkersTarget": 100},
            "a key": {"KmsKey": "create", "ManagerCount": 5, "Autolock": "true", "WorkersHealthCheck": "ELB"},
            "another's key": {"KmsKey": "arn:aws:kms:eu-central-1:123456789012:key/1"},
            "tokens in DynamoDB": {"TokenStore": "dynamodb", "TableName": "bees", "LoadBalancer": "none"},
            "another stack's table": {"CreateTable": "no", "TableName": "bees", "ClusterName": "other"},
            "settings": {"ManagerSettings": HOSTILE, "WorkerSettings": "[labels]\ncolor = 'red'"},
            "settings and image in SSM": {
                "ManagerSettings": "/prod/managers", "WorkerSettings": "/prod/workers:1", "ImageId": "/prod/image",
            },  # fmt: skip
            "access": {
                "KeyName": "me@home", "SshSecurityGroup": "new", "MetricsSecurityGroup": "new",
                "PermissionsBoundary": BOUNDARY, "AbandonedNodes": "retain",
            },  # fmt: skip
            "no shell, own policies": {"Shell": "none", "NodePolicies": ",".join(POLICIES)},
            "backups": BACKUPS,
            "backups without a restore, and a key": {
                "BackupBucket": "backups", "BackupKey": BACKUP_KEY, "ClusterName": "bees", "KmsKey": "create",
            },  # fmt: skip
        }.items():
            cloud.reset()
            check_swarm(cloud, parameters)
            print(f"ok: {what}")
        for what, parameters in {
            "as it is": {},
            "spot": {"WorkersOnDemandPercent": 0, "WorkersMin": 0, "WorkerInstanceType2": "g6.xlarge", "WorkersTarget": 80},
            "settings and image in SSM": {"WorkerSettings": "/prod/workers", "ImageId": "/prod/image:1"},
            "everything": {
                "WorkerSettings": HOSTILE, "KeyName": "me", "PermissionsBoundary": BOUNDARY,
                "TargetGroups": "of the swarm", "AbandonedNodes": "retain", "NodePolicies": POLICIES[0],
            },  # fmt: skip
        }.items():
            cloud.reset()
            check_further_group(cloud, parameters)
            print(f"ok: a further group, {what}")
        cloud.reset()
        check_neighbours(cloud)
        print("ok: a second stack, and a name that is taken")
        check_documented(cloud)
        print("ok: what docs/deploy.md says")
        for name, parameters in SETS.items():
            cloud.reset()
            named = cloud.create("skep", CLUSTER, **swarm(cloud, parameters | {"TableName": TABLE}))
            policies[name] = {role: [policy(cloud, named[logical])] for logical, role in ROLES.items()}
            policies[name]["skep-worker"].append(managed(cloud, named["WorkerPolicy"]))
    if policies_file:
        path = pathlib.Path(policies_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(policies, indent=1) + "\n")
        print(f"ok: {path}")


# --- The templates alone ---------------------------------------------------------------------------


def check_sizes():
    for path in TEMPLATES.values():
        size = path.stat().st_size
        assert size < MOST_BYTES, f"{path} has {size} bytes, not below {MOST_BYTES}"
    assert set(TEMPLATES.values()) == set((ROOT / "cloudformation").glob("*.yaml")), "a template without checks"


def check_parameters():
    limits = {"AllowedPattern", "AllowedValues", "MinValue", "MaxValue"}
    for template in templates.values():
        for name, parameter in template["Parameters"].items():
            assert parameter.get("Description"), f"{name} has no description"
            if "AllowedPattern" in parameter:
                assert "ConstraintDescription" in parameter, f"{name} does not say what would be right"
            default = parameter.get("Default")
            assert default is None or allows(parameter, str(default)), f"{name} refuses its default"
            assert not limits & parameter.keys() or name in OUT_OF_RANGE, f"{name} is not in OUT_OF_RANGE"
            for value in OUT_OF_RANGE.get(name, []):
                assert not allows(parameter, value), f"{name} takes {value!r}"
    for template, name, values in [
        ("network", "VpcPrefix", ["10.0", "10.127", "172.16", "172.19", "172.24", "172.30", "192.168"]),
        ("skep", "Ports", ["", "1", "80,443", "80,8080,65535", "8080,80,808", ",8080", "80,", "80,,9000", ",,9000", ",", ",,"]),
        ("skep", "TlsPort", ["", "443", "4455", "44555", "65535"]),
        ("skep", "ImageId", ["ami-12345678", "/a", "/skep/image:12", "/aws/service/debian/release/12/latest/amd64"]),
    ]:
        for value in values:
            assert allows(templates[template]["Parameters"][name], value), f"{name} refuses {value!r}"


def allows(parameter, value):
    """Whether CloudFormation takes the value."""
    if not re.fullmatch(parameter.get("AllowedPattern", "(?s:.*)"), value):
        return False
    if value not in map(str, parameter.get("AllowedValues", [value])):
        return False
    low, high = parameter.get("MinValue"), parameter.get("MaxValue")
    return (low is None or float(value) >= low) and (high is None or float(value) <= high)


def check_rules():
    assert keeps_rules({}), "the defaults break a rule"
    for parameters in AGAINST_RULES:
        assert not keeps_rules(parameters), f"no rule against {parameters}"


def keeps_rules(parameters):
    evaluate = evaluator("skep", parameters)
    return all(
        evaluate(one["Assert"])
        for rule in templates["skep"]["Rules"].values()
        if evaluate(rule.get("RuleCondition", True))
        for one in rule["Assertions"]
    )


def check_groups():
    for template, name in [("skep", "Managers"), ("skep", "Workers"), ("workers", "Workers")]:
        group = templates[template]["Resources"][name]
        properties = group["Properties"]
        hooks = {
            hook["LifecycleTransition"].removeprefix("autoscaling:EC2_INSTANCE_"): hook["DefaultResult"]
            for hook in properties["LifecycleHookSpecificationList"]
        }
        assert hooks == {"LAUNCHING": "ABANDON", "TERMINATING": "CONTINUE"}, f"{name}: {hooks}"
        size = properties["MinSize"]
        update = group["UpdatePolicy"]["AutoScalingRollingUpdate"]
        assert group["CreationPolicy"]["ResourceSignal"]["Count"] == size, name
        assert update["MinInstancesInService"] == size and update["WaitOnResourceSignals"], name
        # Scaling policies, schedules and operators change the workers' sizes: an update keeps what it does not change.
        keeps = group["UpdatePolicy"].get("AutoScalingScheduledAction", {}).get("IgnoreUnmodifiedGroupSizeProperties")
        assert keeps == (None if name == "Managers" else True), f"{name}: {keeps}"
        # Without it, CloudFormation starts at MinSize, and an update leaves the size as it is.
        assert ("DesiredCapacity" in properties) == (name == "Managers"), f"{name}: an update resets its size"
        retained = properties["InstanceLifecyclePolicy"]["RetentionTriggers"]
        assert retained == {"TerminateHookAbandon": {"Ref": "AbandonedNodes"}}, retained
    for size, limits in templates["skep"]["Mappings"]["ManagerLimits"].items():
        assert limits["Max"] == int(size) + 1, f"a batch of one manager above {size}"
    # Only with both has the pool this size; otherwise it fills the group up to its maximum.
    pool = templates["skep"]["Resources"]["WorkerPool"]["Properties"]
    assert pool["MinSize"] == pool["MaxGroupPreparedCapacity"] == {"Ref": "WarmPool"}, pool


def check_policies():
    """The scaling policies follow the metric that skep sends. moto makes none from a template."""
    sent = (ROOT / "src/manager/capacity/send.rs").read_text(), (ROOT / "src/clients/aws/cloudwatch.rs").read_text()
    for template in ("skep", "workers"):
        policy = templates[template]["Resources"]["WorkersPolicy"]
        assert policy["Condition"] == "Scales" and policy["Properties"]["AutoScalingGroupName"] == {"Ref": "Workers"}, policy
        tracked = policy["Properties"]["TargetTrackingConfiguration"]
        assert tracked["TargetValue"] == {"Ref": "WorkersTarget"}, tracked
        metric = tracked["CustomizedMetricSpecification"]
        [dimension] = metric["Dimensions"]
        assert dimension["Value"] == {"Ref": "Workers"}, dimension
        assert f'("{metric["MetricName"]}", PERCENT,' in sent[0], metric
        assert f'NAMESPACE: &str = "{metric["Namespace"]}"' in sent[1], metric
        assert f'"Dimensions.member.1.Name", "{dimension["Name"]}"' in sent[1], dimension


def check_order():
    """CloudFormation deletes a resource as soon as everything that depends on it is gone. So the groups must depend on
    everything that a node needs until it has left."""
    order = {name: dependencies(name) for name in templates}
    swarm = templates["skep"]["Resources"].keys()
    for template, group, not_needed in [
        ("skep", "Managers", NOT_FOR_MANAGERS | {"Managers"}),
        ("skep", "Workers", {"Workers", "WorkersPolicy", "WorkerPool"}),
        ("workers", "Workers", {"Workers", "WorkersPolicy"}),
    ]:
        needed = templates[template]["Resources"].keys() - not_needed
        first = needed - order[template][group]
        assert not first, f"{template}.yaml: deleted while {group} leave: {sorted(first)}"
    assert NOT_FOR_MANAGERS <= swarm, f"NOT_FOR_MANAGERS has {NOT_FOR_MANAGERS - swarm}, which are not in the template"
    # The gateway cannot be detached as long as there are public addresses.
    for name, resource in templates["network"]["Resources"].items():
        if resource["Type"] in ("AWS::EC2::NatGateway", "AWS::EC2::EIP") or name == "PublicRoute":
            assert "InternetGatewayAttachment" in order["network"][name], f"{name} outlives the Internet gateway"
    for template in templates.values():
        for name, resource in template["Resources"].items():
            conditional = [one for one in listed(resource.get("DependsOn", [])) if "Condition" in template["Resources"][one]]
            assert not conditional, f"{name}: whether CloudFormation accepts DependsOn {conditional} is not documented"


def listed(value):
    return [value] if isinstance(value, str) else value


def dependencies(template):
    """By each resource's name, all resources on which it depends, directly or not."""
    resources = templates[template]["Resources"]

    def named(node):
        if isinstance(node, list):
            return {name for one in node for name in named(one)}
        if not isinstance(node, dict):
            return set()
        found = {name for one in node.values() for name in named(one)}
        for function, of in node.items():
            if function == "Ref":
                found.add(of)
            elif function == "Fn::GetAtt":
                found.add(of.split(".")[0] if isinstance(of, str) else of[0])
            elif function == "Fn::Sub":
                found |= set(re.findall(r"\$\{(\w+)[.}]", of if isinstance(of, str) else of[0]))
        return found

    direct = {name: (named(one) | set(listed(one.get("DependsOn", [])))) & resources.keys() for name, one in resources.items()}

    def all_of(name, seen):
        for one in direct[name] - seen:
            seen |= {one} | all_of(one, seen | {one})
        return seen

    return {name: all_of(name, set()) for name in resources}


def check_target_groups():
    """A worker that becomes unhealthy gets no new connections after 10 s, and keeps those that it has for a while."""
    groups = [one["Properties"] for one in templates["skep"]["Resources"].values() if one["Type"].endswith("::TargetGroup")]
    assert len(groups) == 4, groups
    for group in groups:
        attributes = {one["Key"]: one["Value"] for one in group["TargetGroupAttributes"]}
        assert attributes == {
            "deregistration_delay.timeout_seconds": "30",
            "target_health_state.unhealthy.connection_termination.enabled": "false",
            "target_health_state.unhealthy.draining_interval_seconds": "30",
        }, attributes
        interval, timeout = (group[f"HealthCheck{one}Seconds"] for one in ("Interval", "Timeout"))
        # Elastic Load Balancing takes 5 to 300 s and 2 to 120 s, and refuses a time-out above the interval; its default
        # for HTTP is 6 s.
        assert 5 == interval > timeout >= 2, (interval, timeout)
        assert group["UnhealthyThresholdCount"] == group["HealthyThresholdCount"] == 2, group


def check_table_settings():
    """moto's tables know nothing of these."""
    table = templates["skep"]["Resources"]["Table"]["Properties"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}, table
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}, table


def check_types():
    used = {resource["Type"] for template in templates.values() for resource in template["Resources"].values()}
    missing = used - get_model_map().keys()
    assert missing == NOT_IN_MOTO.keys(), f"moto lacks {missing}, NOT_IN_MOTO says {list(NOT_IN_MOTO)}"


def check_agreement():
    """What the templates must have alike. Stacks of both are also compared in moto."""
    swarm, further = templates["skep"], templates["workers"]
    for part in ("Parameters", "Conditions"):
        for name in swarm[part].keys() & further[part].keys():
            assert swarm[part][name] == further[part][name], f"two {part} {name}"
    for path in [
        ("WorkerRole", "Properties", "Policies"),
        ("WorkerSettingsText",),
        ("Workers", "CreationPolicy"),
        ("Workers", "UpdatePolicy"),
        ("Workers", "Properties", "LifecycleHookSpecificationList"),
    ]:
        one, other = swarm["Resources"], further["Resources"]
        for key in path:
            one, other = one[key], other[key]
        assert one == other, f"{path}: {one}, {other}"
    imports = set(re.findall(r"\$\{SwarmStack\}-(\w+)", json.dumps(further)))
    exports = {name: output for name, output in swarm["Outputs"].items() if "Export" in output}
    for name, output in exports.items():
        assert output["Export"] == {"Name": {"Fn::Sub": f"${{AWS::StackName}}-{name}"}}, name
        assert "Condition" not in output, f"{name} is not always there"
    assert imports and imports <= exports.keys(), f"workers.yaml needs {imports - exports.keys()}"


def all_values(template, parameters):
    """All parameters of a stack."""
    values = {name: str(one.get("Default", "")) for name, one in templates[template]["Parameters"].items()}
    return values | {name: str(value) for name, value in parameters.items()}


def evaluator(template, parameters):
    """CloudFormation's functions, as far as conditions and rules need them. A list of values is its text."""
    values = all_values(template, parameters)

    def join(separator, of):
        of = evaluate(of)
        return of if isinstance(of, str) else separator.join(of)

    def evaluate(node):
        if isinstance(node, list):
            return [evaluate(one) for one in node]
        if not isinstance(node, dict):
            return node
        [(function, of)] = node.items()
        return {
            "Ref": lambda: values[of],
            "Condition": lambda: evaluate(templates[template]["Conditions"][of]),
            "Fn::Equals": lambda: str(evaluate(of[0])) == str(evaluate(of[1])),
            "Fn::Not": lambda: not evaluate(of[0]),
            "Fn::And": lambda: all(map(evaluate, of)),
            "Fn::Or": lambda: any(map(evaluate, of)),
            "Fn::Join": lambda: join(*of),
            "Fn::Split": lambda: evaluate(of[1]).split(of[0]),
            "Fn::Select": lambda: evaluate(of[1])[of[0]],
            "Fn::Sub": lambda: re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], of),
        }[function]()

    return evaluate


def expected(template, parameters):
    """The logical ids of what moto is to make."""
    evaluate = evaluator(template, parameters)
    return {
        name
        for name, resource in templates[template]["Resources"].items()
        if ("Condition" not in resource or evaluate({"Condition": resource["Condition"]}))
        and resource["Type"] not in NOT_IN_MOTO
    }


# --- The stacks in moto ----------------------------------------------------------------------------


def check_documented(cloud):
    """The commands of docs/deploy.md, with ids that are there, and its tables of parameters and outputs."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    commands = re.findall(r"^\$ (aws cloudformation (?:create-stack|deploy) .*)$", text, re.MULTILINE)
    # A first deployment must not change a stack that has the name already.
    verbs = {command: command.split()[2] for command in commands}
    files = [f"{verbs[command]} {re.search(r'(?:file://|--template-file )cloudformation/([a-z]+).yaml', command)[1]}" for command in commands]
    assert files == [
        "create-stack network", "create-stack skep", "deploy skep", "deploy skep", "deploy skep", "create-stack workers",
        "create-stack skep", "deploy skep",
    ], files  # fmt: skip
    cloud.reset()
    existing, given = network(cloud, 2), {}
    for command in commands:
        command = re.sub(r"ami-\w+", cloud.image, command)
        command = command.replace("vpc-0123456789abcdef0", existing["VpcId"])
        for number, subnet in enumerate(existing["Subnets"].split(",")):
            command = command.replace(f"subnet-0123456789abcdef{number}", subnet)
        command = re.sub(r"\$\(cat \S+\)", "[labels]\ncolor = 'red'\n", command)
        # The shell takes the output as it is: its backslashes are no quotes.
        output = re.search(r"\$\(aws (.*?)\)", command)
        words = shlex.split(command.replace(output[0], "") if output else command)[1:]
        words += cloud.run(*shlex.split(output[1])).split() if output else []
        words = [re.sub(r"(^|file://)cloudformation/(?=\w+\.yaml)", rf"\1{ROOT}/cloudformation/", word) for word in words]
        name = words[words.index("--stack-name") + 1]
        if words[1] == "create-stack":
            first = words.index("--parameters") + 1 if "--parameters" in words else len(words)
            given[name] = [word for word in words[first:]]
            cloud.run(*words)
            complaint = cloud.fails(*words)
            assert "AlreadyExists" in complaint, complaint
        else:
            # moto cannot update every resource: the command makes a stack with all parameters so far.
            pairs = [word.removeprefix("ParameterKey=").replace(",ParameterValue=", "=") for word in given[name]]
            words[words.index(name)] = name = f"{name}-changed-{len(given)}"
            first = words.index("--parameter-overrides") + 1
            changed = {word.split("=")[0] for word in words[first:]}
            words[first:first] = [pair.replace("\\,", ",") for pair in pairs if pair.split("=")[0] not in changed]
            given[name] = []
            cloud.run(*words)
        stack = cloud.stack(name)
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
    for part in ("Parameters", "Outputs"):
        known = {name for template in templates.values() for name in template[part]}
        told = text.split(f"| {part.removesuffix('s')} | for |")[1].split("\n\n")[0]
        rows = [line.split("|") for line in told.splitlines()[2:]]
        told_of = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
        assert told_of == known, f"docs/deploy.md, {part}: unknown {told_of - known}, missing {known - told_of}"
        named = {name for row in rows for name in re.findall(r"`([A-Z]\w+)(?:=[^`]*)?`", "|".join(row[2:]))}
        unknown = named - {name for template in templates.values() for name in template["Parameters"]} - known
        assert not unknown, f"docs/deploy.md tells what there is not: {unknown}"


def network(cloud, zones):
    """A VPC that is there already."""
    vpc = cloud.aws("ec2", "create-vpc", "--cidr-block", "192.168.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        cloud.aws(
            "ec2", "create-subnet", "--vpc-id", vpc, "--cidr-block", f"192.168.{zone}.0/24",
            "--availability-zone", f"{REGION}{'abc'[zone % 3]}",
        )["Subnet"]["SubnetId"]
        for zone in range(zones)
    ]  # fmt: skip
    return {"VpcId": vpc, "Subnets": ",".join(subnets)}


def check_network(cloud, parameters):
    named = cloud.create("network", "net", **parameters)
    wanted = expected("network", parameters)
    assert named.keys() == wanted, f"too few, too many: {wanted - named.keys()}, {named.keys() - wanted}"
    values = all_values("network", parameters)
    outputs = cloud.outputs("net")
    of_vpc = ("--filters", f"Name=vpc-id,Values={outputs['VpcId']}")
    subnets = cloud.aws("ec2", "describe-subnets", *of_vpc)["Subnets"]
    assert all(one["CidrBlock"].startswith(values["VpcPrefix"] + ".") for one in subnets), subnets
    of_nodes, of_balancer = (outputs[name].split(",") for name in ("Subnets", "LoadBalancerSubnets"))
    assert sorted(of_nodes + of_balancer) == sorted(one["SubnetId"] for one in subnets), outputs
    for some in (of_nodes, of_balancer):
        zones = {one["AvailabilityZone"] for one in subnets if one["SubnetId"] in some}
        assert len(zones) == len(some) == int(values["Zones"]), zones
    endpoints = {one["ServiceName"].split(".")[-1]: one for one in cloud.aws("ec2", "describe-vpc-endpoints", *of_vpc)["VpcEndpoints"]}
    assert endpoints.keys() == {"dynamodb", "s3"}, endpoints
    for endpoint in endpoints.values():
        assert endpoint["VpcEndpointType"] == "Gateway" and len(endpoint["RouteTableIds"]) == int(values["Zones"]), endpoint
    gateways = cloud.aws("ec2", "describe-nat-gateways")["NatGateways"]
    assert len(gateways) == (int(values["Zones"]) if values["NatGateways"] == "per-zone" else 1), gateways
    ways = set()
    # moto keeps no associations of a stack's route tables: these are in the template.
    tables = cloud.aws("ec2", "describe-route-tables", *of_vpc)["RouteTables"]
    routes = {table["RouteTableId"]: table["Routes"] for table in tables}
    for name, resource in templates["network"]["Resources"].items():
        if resource["Type"] != "AWS::EC2::SubnetRouteTableAssociation" or name not in named:
            continue
        subnet, table = (named[resource["Properties"][one]["Ref"]] for one in ("SubnetId", "RouteTableId"))
        [way] = [route for route in routes[table] if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
        assert ("NatGatewayId" if subnet in of_nodes else "GatewayId") in way, f"{subnet}: {way}"
        ways.add(subnet)
    assert ways == {*of_nodes, *of_balancer}, f"without a route: {ways ^ {*of_nodes, *of_balancer}}"
    # In the shorthand of the command line, a comma of a value has a backslash.
    pairs = [word.removeprefix("ParameterKey=").split(",ParameterValue=") for word in outputs["Parameters"].split()]
    assert outputs["Parameters"].count("\\,") == 2 * (int(values["Zones"]) - 1), outputs
    given = {name: value.replace("\\,", ",") for name, value in pairs}
    assert given == {name: outputs[name] for name in ("VpcId", "Subnets", "LoadBalancerSubnets")}, given


def swarm(cloud, parameters):
    """The parameters of a swarm's stack, after making whatever they name."""
    parameters = {"ImageId": cloud.image} | network(cloud, parameters.get("Zones", 3)) | parameters
    parameters.pop("Zones", None)
    # SSM does not take {{ }} in a value.
    texts = {"image": cloud.image, "managers": HOSTILE.replace("{{ x }}", "x"), "workers": "[labels]\n"}
    for name, text in texts.items():
        cloud.aws("ssm", "put-parameter", "--name", f"/prod/{name}", "--type", "String", "--value", text)
    trace = {"Effect": "Allow", "Action": "xray:PutTraceSegments", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": trace})
    for arn in POLICIES:
        cloud.aws("iam", "create-policy", "--policy-name", arn.split("/")[1], "--policy-document", document)
    if "Certificate" in parameters:
        made = cloud.aws("acm", "request-certificate", "--domain-name", "skep.example")
        parameters["Certificate"] = made["CertificateArn"]
    for name in ("SshSecurityGroup", "MetricsSecurityGroup"):
        if name in parameters:
            group = ("--group-name", name, "--description", name, "--vpc-id", parameters["VpcId"])
            parameters[name] = cloud.aws("ec2", "create-security-group", *group)["GroupId"]
    return parameters


def text_of(cloud, value):
    """The value, or that of the SSM parameter that it names."""
    if not value.startswith("/"):
        return value
    return cloud.aws("ssm", "get-parameter", "--name", value)["Parameter"]["Value"]


def check_swarm(cloud, parameters):
    parameters = swarm(cloud, parameters)
    named = cloud.create("skep", "prod", **parameters)
    wanted = expected("skep", parameters)
    assert named.keys() == wanted, f"too few, too many: {wanted - named.keys()}, {named.keys() - wanted}"
    values = all_values("skep", parameters)
    cluster = values["ClusterName"] or "prod"
    outputs = cloud.outputs("prod")
    assert outputs["Table"] == (named["Table"] if values["CreateTable"] == "yes" else values["TableName"]), outputs
    assert (outputs["Cluster"], outputs["Vpc"]) == (cluster, values["VpcId"]), outputs
    for role in ("manager", "worker"):
        check_group(cloud, "prod", role, cluster, values)
        check_instances(cloud, named, role, cluster, outputs["Table"], values)
        check_role(cloud, named, role, values)
    if values["CreateTable"] == "yes":
        check_table(cloud, outputs["Table"])
        assert values["TableName"] in ("", outputs["Table"]), outputs
    if values["LoadBalancer"] != "none":
        check_balancer(cloud, named, values, outputs)
    if values["FileSystem"] != "none":
        files = cloud.aws("efs", "describe-file-systems")["FileSystems"][0]
        assert files["PerformanceMode"] == values["FileSystem"] and files["Encrypted"], files
        assert files["NumberOfMountTargets"] == min(3, len(values["Subnets"].split(","))), files
    check_open_ports(cloud, named, values)


def check_further_group(cloud, parameters):
    """A group of workers.yaml has everything that the swarm's own workers have."""
    of_swarm = swarm(cloud, BACKUPS | {"ClusterName": "bees", "TokenPath": "/tokens"})
    first = cloud.create("skep", "prod", **of_swarm)
    parameters = {"SwarmStack": "prod", "ImageId": cloud.image} | parameters
    if "TargetGroups" in parameters:
        parameters["TargetGroups"] = cloud.outputs("prod")["TargetGroups"]
    named = cloud.create("workers", "gpu", **parameters)
    wanted = expected("workers", parameters)
    assert named.keys() == wanted, f"too few, too many: {wanted - named.keys()}, {named.keys() - wanted}"
    values = all_values("skep", of_swarm) | all_values("workers", parameters)
    inherited = {name: first[name] for name in ("NodeSecurityGroup", "NodePolicy", "WorkerPolicy", "LogGroup")}
    check_group(cloud, "gpu", "worker", "bees", values)
    check_instances(cloud, named | inherited, "worker", "bees", first["Table"], values)
    check_role(cloud, named | inherited, "worker", values)
    of_first, of_further = (json.dumps(policy(cloud, one["WorkerRole"])) for one in (first, named))
    renamed = of_first.replace("prod-workers", "gpu-workers").replace("stack/prod/", "stack/gpu/")
    assert of_further == renamed != of_first, of_further
    complaint = cloud.fails(*cloud.creation("workers", "lost", **parameters | {"SwarmStack": "nowhere"}))
    assert "nowhere-" in complaint, complaint


def check_neighbours(cloud):
    """Two stacks share nothing, and a name that is taken is refused."""
    parameters = swarm(cloud, {})
    first = cloud.create("skep", "prod", **parameters)
    second = cloud.create("skep", "test", **parameters)
    # Rules of security groups have no ids in moto.
    shared = set(first.values()) & set(second.values()) - {None}
    assert not shared, f"two stacks share {shared}"
    before = cloud.stack("prod")
    complaint = cloud.fails(*cloud.creation("skep", "prod", **parameters))
    assert "AlreadyExists" in complaint and cloud.stack("prod") == before, complaint


def check_group(cloud, stack, role, cluster, values):
    name = f"{stack}-{role}s"
    groups = cloud.aws("autoscaling", "describe-auto-scaling-groups", "--auto-scaling-group-names", name)
    [group] = groups["AutoScalingGroups"]
    size = int(values["ManagerCount" if role == "manager" else "WorkersMin"])
    assert (group["MinSize"], group["DesiredCapacity"]) == (size, size), group
    assert group["MaxSize"] == (size + 1 if role == "manager" else int(values["WorkersMax"])), group
    assert group["VPCZoneIdentifier"] == values["Subnets"], group
    tags = {tag["Key"]: tag["Value"] for tag in group["Tags"] if tag["PropagateAtLaunch"]}
    assert (tags["skep:cluster"], tags["skep:role"], tags["Name"]) == (cluster, role, f"{stack}-{role}"), tags
    # A further group has those that it is given.
    balanced = len(list(filter(None, values["TargetGroups"].split(",")))) if stack == "gpu" else len(ports(values))
    assert len(group.get("TargetGroupARNs", [])) == (balanced if role == "worker" else 0), group
    assert group["HealthCheckType"] == (values["WorkersHealthCheck"] if role == "worker" else "EC2"), group
    mixed = group.get("MixedInstancesPolicy")
    if role == "worker" and values["WarmPool"] == "0":
        types = [one["InstanceType"] for one in mixed["LaunchTemplate"]["Overrides"]]
        wanted = [values[f"WorkerInstanceType{number}"] for number in ("", 2, 3)]
        assert types == [one for one in wanted if one], types
    else:
        assert not mixed and group["LaunchTemplate"], group


def check_instances(cloud, named, role, cluster, table, values):
    template_id = named[f"{role.title()}Template"]
    versions = cloud.aws("ec2", "describe-launch-template-versions", "--launch-template-id", template_id)
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    metadata = data["MetadataOptions"]
    assert metadata["HttpTokens"] == "required" and metadata["InstanceMetadataTags"] == "enabled", metadata
    disk = data["BlockDeviceMappings"][0]["Ebs"]
    assert disk["Encrypted"] and disk["VolumeType"] == "gp3", disk
    assert data["ImageId"] == text_of(cloud, values["ImageId"]) == cloud.image, data["ImageId"]
    assert data.get("KeyName", "") == values["KeyName"], data
    groups = [named["NodeSecurityGroup"], named.get("ManagerSecurityGroup")]
    assert data["SecurityGroupIds"] == (groups if role == "manager" else groups[:1]), data
    text = base64.b64decode(data["UserData"]).decode()
    # EC2's limit.
    assert len(text) < 16384, f"{len(text)} bytes of UserData"
    file = (ROOT / "userdata" / "cloud-config.yaml").read_text()
    file = file.replace("${cluster}", cluster).replace("${role}", role)
    assert text.startswith(file), f"the template's text is not that of userdata/cloud-config.yaml:\n{text}"
    config = yaml.safe_load(text)
    assert config.keys() == yaml.safe_load(file).keys() | {"bootcmd"}, "the file has a bootcmd of its own"
    assert "${" not in text and "{{" not in text, text
    written = written_by(config["bootcmd"][0])
    assert written.keys() == {"40-stack.toml", "60-settings.toml"}, written.keys()
    settings = written["40-stack.toml"].decode().splitlines()
    for line in (f'table = "{table}"', f'store = "{values["TokenStore"]}"', f'path = "{values["TokenPath"]}"'):
        assert line in settings, settings
    assert ("autolock = true" in settings) == (role == "manager" and values["Autolock"] == "true"), settings
    sends = "capacity.cloudwatch = true" in settings
    assert sends == (role == "manager" and values["WorkersTarget"] != "0"), settings
    # Only managers store tokens, and so encrypt them.
    has_key = any(line.startswith('kms_key = "arn:aws:kms:') for line in settings)
    assert has_key == (role == "manager" and values["KmsKey"] != "none"), settings
    # Only managers store backups, and the workers' settings do not even name the bucket.
    place = f'to = "s3://{values["BackupBucket"]}/{values["BackupPrefix"]}"'
    line = f'backup = {{ {place}, kms_key = "{values["BackupKey"]}", restore = {values["BackupRestore"]} }}'
    backups = [one for one in settings if "backup" in one]
    assert backups == ([line] if role == "manager" and values["BackupBucket"] else []), settings
    given = text_of(cloud, values[f"{role.title()}Settings"]).encode()
    assert written["60-settings.toml"] == given, f"changed on the way: {written['60-settings.toml']}"


def written_by(command):
    """Runs a bootcmd as cloud-init does, at two boots, and returns the files that it has written to conf.d."""
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            subprocess.run(["sh", "-c", command.replace("/etc/skep", directory)], check=True)
        return {path.name: path.read_bytes() for path in pathlib.Path(directory, "conf.d").iterdir()}


def check_role(cloud, named, role, values):
    """Which policies a role has. tests/deploying looks into those that are for skep."""
    name = named[f"{role.title()}Role"]
    described = cloud.aws("iam", "get-role", "--role-name", name)["Role"]
    boundary = described.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn", "")
    assert boundary == values["PermissionsBoundary"], described
    attached = cloud.aws("iam", "list-attached-role-policies", "--role-name", name)["AttachedPolicies"]
    wanted = {named["NodePolicy"], *filter(None, values["NodePolicies"].split(","))}
    wanted |= {named["WorkerPolicy"]} if role == "worker" else set()
    assert {one["PolicyArn"] for one in attached} == wanted, attached
    assert cloud.aws("iam", "list-role-policies", "--role-name", name)["PolicyNames"] == ["skep"], name
    statements = {one["Sid"]: one for one in managed(cloud, named["NodePolicy"])["Statement"]}
    logs = statements.pop("ContainerLogs")
    assert f":log-group:{named['LogGroup']}" in logs["Resource"], logs
    shell = statements.pop("SessionManager", None)
    assert (shell is not None) == (values["Shell"] == "session-manager") and not statements, statements
    if shell:
        channels = {f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")}
        assert set(shell["Action"]) == channels | {"ssm:UpdateInstanceInformation"}, shell
    documents = [policy(cloud, name)] + ([managed(cloud, named["WorkerPolicy"])] if role == "worker" else [])
    check_backups(documents + [managed(cloud, named["NodePolicy"])], role, values)
    with_key = [one for document in documents for one in document["Statement"] if "kms:" in str(one["Action"])]
    with_key = [one for one in with_key if one["Sid"] != "EncryptBackups"]
    assert len(with_key) == (values["KmsKey"] != "none"), with_key
    for one in with_key:
        assert one["Resource"].startswith("arn:aws:kms:"), one
        assert one["Condition"] == {"StringEquals": {"kms:ViaService": f"ssm.{REGION}.amazonaws.com"}}, one


def check_backups(documents, role, values):
    """Only managers reach the bucket, only the objects of their cluster in it, and the key only by S3."""
    bucket, key = (values[name] for name in ("BackupBucket", "BackupKey"))
    cluster = values["ClusterName"] or "prod"
    wanted = {}
    if bucket and role == "manager":
        beginning = f"{values['BackupPrefix']}/{cluster}/*"
        wanted = {
            "Backups": (["s3:PutObject", "s3:GetObject", "s3:DeleteObject"], f"arn:aws:s3:::{bucket}/{beginning}", None),
            "ListBackups": ("s3:ListBucket", f"arn:aws:s3:::{bucket}", {"StringLike": {"s3:prefix": beginning}}),
            "EncryptBackups": (
                ["kms:GenerateDataKey", "kms:Decrypt"], key, {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com"}},
            ),
        }  # fmt: skip
    statements = [one for document in documents for one in document["Statement"]]
    names = [name for name in (bucket, key) if name]
    about = [one for one in statements if any(name in json.dumps(one) for name in ["s3:", *names])]
    found = {one["Sid"]: (one["Action"], one["Resource"], one.get("Condition")) for one in about}
    assert found == wanted, f"{role}: {found}, not {wanted}"


def ports(values):
    """The load balancer's ports with their protocols."""
    if values["LoadBalancer"] == "none":
        return {}
    plain = {int(port): "TCP" for port in values["Ports"].split(",") if port and port != values["TlsPort"]}
    return plain | ({int(values["TlsPort"]): "TLS"} if values["TlsPort"] else {})


def check_balancer(cloud, named, values, outputs):
    [balancer] = cloud.aws("elbv2", "describe-load-balancers")["LoadBalancers"]
    assert (balancer["Type"], balancer["Scheme"]) == ("network", values["LoadBalancer"]), balancer
    assert len(balancer["AvailabilityZones"]) == len(values["Subnets"].split(",")), balancer
    assert outputs["LoadBalancerName"] == balancer["DNSName"] and outputs["LoadBalancerZone"], outputs
    # moto lacks this attribute, and cfn-lint knows it.
    full_name = templates["skep"]["Outputs"]["LoadBalancerFullName"]["Value"]
    assert full_name == {"Fn::GetAtt": ["Balancer", "LoadBalancerFullName"]}, full_name
    assert outputs["LoadBalancerSecurityGroup"] == named["LoadBalancerSecurityGroup"], outputs
    targets = {one["TargetGroupArn"]: one for one in cloud.aws("elbv2", "describe-target-groups")["TargetGroups"]}
    for target in targets.values():
        # AWS's default is "/"; moto shows none.
        assert (target["HealthCheckPort"], target.get("HealthCheckPath", "/")) == ("44554", "/"), target
        assert (target["Protocol"], target["HealthCheckProtocol"]) == ("TCP", "HTTP"), target
    of_balancer = ("--load-balancer-arn", balancer["LoadBalancerArn"])
    listeners = cloud.aws("elbv2", "describe-listeners", *of_balancer)["Listeners"]
    assert {one["Port"]: one["Protocol"] for one in listeners} == ports(values), listeners
    for listener in listeners:
        [action] = listener["DefaultActions"]
        assert targets[action["TargetGroupArn"]]["Port"] == listener["Port"], listener
        certificates = [one["CertificateArn"] for one in listener.get("Certificates", [])]
        assert certificates == ([values["Certificate"]] if listener["Protocol"] == "TLS" else []), listener
    assert sorted(outputs["TargetGroups"].split(",")) == sorted(targets), outputs
    group_ids = ("--group-ids", named["LoadBalancerSecurityGroup"])
    [group] = cloud.aws("ec2", "describe-security-groups", *group_ids)["SecurityGroups"]
    admitted = {(rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissions"]}
    assert admitted == {(port, port) for port in ports(values)}, group


def check_table(cloud, name):
    table = cloud.aws("dynamodb", "describe-table", "--table-name", name)["Table"]
    keys = {key["AttributeName"]: key["KeyType"] for key in table["KeySchema"]}
    assert keys == {"cluster": "HASH", "item": "RANGE"}, keys


def check_open_ports(cloud, named, values):
    """Nothing of the nodes is open to an address, and nothing to a security group that needs it not."""
    nodes, managers = named["NodeSecurityGroup"], named["ManagerSecurityGroup"]
    groups = cloud.aws("ec2", "describe-security-groups", "--group-ids", nodes, managers)["SecurityGroups"]
    opened = set()
    for group in groups:
        for rule in group["IpPermissions"]:
            assert not rule["IpRanges"] and not rule.get("Ipv6Ranges"), rule
            assert rule["FromPort"] == rule["ToPort"], rule
            for pair in rule["UserIdGroupPairs"]:
                opened.add((group["GroupId"], rule["IpProtocol"], rule["FromPort"], pair["GroupId"]))
    wanted = {
        (nodes, "tcp", 7946, nodes),
        (nodes, "udp", 7946, nodes),
        (nodes, "udp", 4789, nodes),
        (managers, "tcp", 2377, nodes),
        (managers, "tcp", 44554, nodes),
        (nodes, "tcp", 44554, managers),
    }
    if values["LoadBalancer"] != "none":
        wanted |= {(nodes, "tcp", port, named["LoadBalancerSecurityGroup"]) for port in [44554, *ports(values)]}
    for port, name in [(44554, "MetricsSecurityGroup"), (22, "SshSecurityGroup")]:
        if values[name]:
            wanted.add((nodes, "tcp", port, values[name]))
    assert opened == wanted, opened ^ wanted


def policy(cloud, role):
    answer = cloud.aws("iam", "get-role-policy", "--role-name", role, "--policy-name", "skep")
    # moto writes a document that comes from a stack as Python does, and not as JSON.
    return ast.literal_eval(answer["PolicyDocument"])


def managed(cloud, arn):
    version = cloud.aws("iam", "get-policy-version", "--policy-arn", arn, "--version-id", "v1")
    return version["PolicyVersion"]["Document"]


if __name__ == "__main__":
    main(*sys.argv[1:])
