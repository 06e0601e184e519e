#!/usr/bin/env bash
# Makes copies of both templates that Packer 1.6, the one in Debian and Ubuntu, can run: for-old-packer.sh <directory>
#
# The copies leave out only the parts that it does not support: plugins.pkr.hcl, and in build.pkr.hcl the lines from
# `begin:` to `end: unknown to Packer before 1.9`.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 <directory>" >&2; exit 2; }
from=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
to=$(cd "$1" && pwd)
ln -sfn "$from/provision" "$to/provision"
for template in debian amazon-linux; do
    rm -rf "${to:?}/$template"
    mkdir "$to/$template"
    for file in "$from/$template"/*.pkr.hcl; do
        name=$(basename "$file")
        [ "$name" = plugins.pkr.hcl ] ||
            sed '/# begin: unknown to Packer before 1.9/,/# end: unknown to Packer before 1.9/d' "$file" >"$to/$template/$name"
    done
done
