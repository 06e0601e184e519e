"""moto's server, with what its CloudFormation has otherwise than AWS put right."""

import re
import sys

from moto.cloudformation import parsing
from moto.cloudformation.models import CloudFormationBackend
from moto.elbv2.models import FakeLoadBalancer
from moto.iam.models import Role, iam_backends
from moto.server import main
from moto.ssm.models import Parameter, ssm_backends

as_moto_has_it = parsing.clean_json
in_base64 = 0


def clean_json(node, resources):
    global in_base64
    # moto takes the zones of us-east-1 wherever the stack is.
    if isinstance(node, dict) and "Fn::GetAZs" in node:
        return [resources["AWS::Region"] + zone for zone in "abc"]
    is_base64 = isinstance(node, dict) and "Fn::Base64" in node
    in_base64 += is_base64
    try:
        cleaned = as_moto_has_it(node, resources)
    finally:
        in_base64 -= is_base64
    # moto resolves no references. CloudFormation does not promise to look for them in base64.
    if isinstance(cleaned, str) and not in_base64:
        parameters = ssm_backends[resources["AWS::AccountId"]][resources["AWS::Region"]]
        return re.sub(r"{{resolve:ssm:([^}$]+)}}", lambda found: parameters.get_parameter(found[1]).value, cleaned)
    # moto leaves the holes of AWS::NoValue in lists.
    if isinstance(node, list):
        return [value for value in cleaned if value is not None]
    return cleaned


create_load_balancer = FakeLoadBalancer.create_from_cloudformation_json.__func__


@classmethod
def create_of_its_type(cls, name, resource, *args, **kwargs):
    # moto makes every load balancer an application's.
    balancer = create_load_balancer(cls, name, resource, *args, **kwargs)
    balancer.type = resource["Properties"]["Type"]
    return balancer


create_role = Role.create_from_cloudformation_json.__func__


@classmethod
def create_with_its_policies(cls, name, resource, account_id, *args, **kwargs):
    # moto attaches no managed policies.
    role = create_role(cls, name, resource, account_id, *args, **kwargs)
    for arn in resource["Properties"].get("ManagedPolicyArns", []):
        iam_backends[account_id]["aws"].attach_role_policy(arn, role.name)
    return role


create_parameter = Parameter.create_from_cloudformation_json.__func__


@classmethod
def create_with_a_name(cls, name, resource, *args, **kwargs):
    # moto gives no names to SSM parameters.
    resource["Properties"].setdefault("Name", name)
    return create_parameter(cls, name, resource, *args, **kwargs)


def execute_with_outputs(self, *args, as_moto_has_it=CloudFormationBackend.execute_change_set, **kwargs):
    # moto keeps the outputs of the time before a change set, and does not show it the exports.
    for stack in self.stacks.values():
        stack.resource_map.cross_stack_resources = self.exports
    as_moto_has_it(self, *args, **kwargs)
    for stack in self.stacks.values():
        stack._parse_template()
        stack.output_map = stack._create_output_map()
        self.exports |= {export.name: export for export in stack.exports}


def hosted_zone_too(self, attribute, as_moto_has_it=FakeLoadBalancer.get_cfn_attribute):
    return "Z3F0SRJ5LGBH90" if attribute == "CanonicalHostedZoneID" else as_moto_has_it(self, attribute)


parsing.clean_json = clean_json
CloudFormationBackend.execute_change_set = execute_with_outputs
Role.create_from_cloudformation_json = create_with_its_policies
FakeLoadBalancer.get_cfn_attribute = hosted_zone_too
Parameter.create_from_cloudformation_json = create_with_a_name
Parameter.has_cfn_attr = classmethod(lambda cls, attribute: attribute == "Value")
Parameter.get_cfn_attribute = lambda self, attribute: getattr(self, attribute.lower())
FakeLoadBalancer.create_from_cloudformation_json = create_of_its_type
main(sys.argv[1:])
