#!/bin/bash
# Joins a worker to a swarm from UserData, as a typical script does: with curl, the aws command line and docker.
# TABLE, TOKEN_PARAMETER and AWS come from the template.
set -euo pipefail

imds=http://169.254.169.254/latest
token=$(curl -sf -X PUT "$imds/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600')
metadata() { curl -sf -H "X-aws-ec2-metadata-token: $token" "$imds/meta-data/$1"; }

AWS_DEFAULT_REGION=$(metadata placement/region)
export AWS_DEFAULT_REGION
instance=$(metadata instance-id)
address=$(metadata local-ipv4)
cluster=$(metadata tags/instance/skep:cluster)
stack=$(metadata tags/instance/aws:cloudformation:stack-name)
resource=$(metadata tags/instance/aws:cloudformation:logical-id)

join_token=$("$AWS" ssm get-parameter --name "$TOKEN_PARAMETER" --with-decryption \
    --query Parameter.Value --output text)
manager=$("$AWS" dynamodb query --table-name "$TABLE" \
    --key-condition-expression '#cluster = :cluster AND begins_with(#item, :managers)' \
    --expression-attribute-names '{"#cluster": "cluster", "#item": "item"}' \
    --expression-attribute-values "{\":cluster\": {\"S\": \"$cluster\"}, \":managers\": {\"S\": \"member#manager#\"}}" \
    --query 'Items[0].address.S' --output text)

docker swarm join --token "$join_token" --advertise-addr "$address" "$manager:2377"

"$AWS" cloudformation signal-resource --stack-name "$stack" --logical-resource-id "$resource" \
    --unique-id "$instance" --status SUCCESS
