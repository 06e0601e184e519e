"""moto's server, with what its CloudFormation has otherwise than AWS put right."""

import sys

from moto.cloudformation import parsing
from moto.elbv2.models import FakeLoadBalancer
from moto.server import main

as_moto_has_it = parsing.clean_json


def clean_json(node, resources):
    # moto takes the zones of us-east-1 wherever the stack is.
    if isinstance(node, dict) and "Fn::GetAZs" in node:
        return [resources["AWS::Region"] + zone for zone in "abc"]
    cleaned = as_moto_has_it(node, resources)
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


parsing.clean_json = clean_json
FakeLoadBalancer.create_from_cloudformation_json = create_of_its_type
main(sys.argv[1:])
