#!/usr/bin/env bash
# Checks the templates without a cloud: their format, every image that they can build, that the README lists every
# variable, and that no key but Docker's is trusted. The booted tests build one of these images.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"
forget_account
export CHECKPOINT_DISABLE=1 # no call home
if ! command -v packer >/dev/null; then
    [ "${CI:-}" != true ] || die "packer is missing"
    say "skipped: packer is missing, and this distribution has no package of it"
    exit
fi

templates=packer
case $(packer version) in
    "Packer v1."[0-6].*)
        templates=target/packer
        packer/for-old-packer.sh "$templates"
        ;;
    *) for template in debian amazon-linux; do packer init "packer/$template"; done ;;
esac

for folder in common debian amazon-linux; do
    packer fmt -check -diff "packer/$folder" || die "packer/$folder: packer fmt would change the above"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
package=$work/skep_0.0.0-1_amd64.deb
touch "$package"
# valid <template> <option>...
valid() {
    packer validate -var skep_package="$package" -var region=eu-central-1 "${@:2}" "$templates/$1" ||
        die "packer/$1 is not valid with ${*:2}"
}
for architecture in x86_64 arm64; do
    for distribution in debian-12 debian-13 ubuntu-24.04; do
        valid debian -var architecture=$architecture -var distribution=$distribution
    done
    valid amazon-linux -var architecture=$architecture
done
for wrong in ssm_agent_version=unknown ssm_agent_version=3.3 ssm_agent_sha256=123; do
    ! packer validate -var skep_package="$package" -var region=eu-central-1 -var $wrong "$templates/debian" >/dev/null 2>&1 ||
        die "packer/debian takes $wrong"
done
valid debian -var ssm_agent_version=3.3.3270.0 -var "ssm_agent_sha256=$(sha256sum "$package" | cut -d ' ' -f 1)"

sed -n 's/^variable "\(.*\)" {$/\1/p' packer/*/*.pkr.hcl | sort -u | while read -r variable; do
    grep -q "\`$variable\`" packer/README.md || die "packer/README.md does not tell the variable $variable"
done

# 20-docker.sh gets another key from a curl that is not curl. Nothing is installed here, even if it accepted the key.
mkdir -m 700 "$work/bin" "$work/gpg"
gpg --batch --quiet --homedir "$work/gpg" --passphrase '' --quick-generate-key somebody@else.invalid 2>/dev/null
gpg --batch --quiet --homedir "$work/gpg" --armor --export >"$work/key"
ln -s /bin/true "$work/bin/apt-get"
ln -s /bin/false "$work/bin/install"
# shellcheck disable=SC2016
printf '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp "%s" "$2"\n' "$work/key" >"$work/bin/curl"
chmod 755 "$work/bin/curl"
refusal=$(PATH="$work/bin:$PATH" DOCKER_SOURCE=docker DOCKER_VERSION='' bash packer/provision/20-docker.sh 2>&1) || true
[[ $refusal == *"not Docker's key"* ]] || die "packer/provision/20-docker.sh does not refuse another key: $refusal"

# 45-shell.sh gets a package from a curl that is not curl, and an apt-get that only says what it is told.
rm "$work/bin/apt-get"
printf '#!/bin/sh\necho "apt-get $*"\n' >"$work/bin/apt-get"
printf '#!/bin/sh\n[ "$*" = "cat amazon-ssm-agent.service" ] || [ "$*" = "enable amazon-ssm-agent.service" ]\n' >"$work/bin/systemctl"
chmod 755 "$work/bin/apt-get" "$work/bin/systemctl"
# agent <version> <checksum>: what the script says, and its exit code
agent() {
    PATH="$work/bin:$PATH" SSM_AGENT_VERSION=$1 SSM_AGENT_SHA256=$2 bash packer/provision/45-shell.sh 2>&1 && echo "exit 0"
}
right=$(sha256sum "$work/key" | cut -d ' ' -f 1)
said=$(agent 1.2.3 "$right") || true
[[ $said == *"--reinstall "*amazon-ssm-agent.deb*"exit 0" ]] || die "45-shell.sh does not install the agent: $said"
for wrong in "${right//[0-9]/0}" "" "${right^^}"; do
    said=$(agent 1.2.3 "$wrong") || true
    [[ $said == *error:* && $said != *--reinstall* && $said != *"exit 0" ]] ||
        die "45-shell.sh installs a package without the right checksum (${wrong:-none}): $said"
done
said=$(agent "" "") || true
[[ $said != *--reinstall* && $said == *"exit 0" ]] || die "45-shell.sh without a version: $said"
# An image without an agent is built, with a warning.
printf '#!/bin/sh\nexit 1\n' >"$work/bin/systemctl"
said=$(agent "" "") || true
[[ $said == *"warning: this image has no agent"*"exit 0" ]] || die "45-shell.sh does not warn: $said"

# ssm-agent.sh gets a version and a package from a curl that is not curl.
cat >"$work/bin/curl" <<'END'
#!/bin/sh
while [ "$1" != -o ]; do shift; done
case $3 in
    */latest/VERSION) printf '%s\n' "$VERSION" >"$2" ;;
    */"$VERSION/debian_$CPU/amazon-ssm-agent.deb") printf package >"$2" ;;
    *) exit 22 ;;
esac
END
wanted=$(printf package | sha256sum | cut -d ' ' -f 1)
for cpu in amd64 arm64; do
    said=$(PATH="$work/bin:$PATH" VERSION=3.3.1.0 CPU=$cpu packer/ssm-agent.sh "$([ $cpu = arm64 ] && echo arm64 || echo x86_64)")
    [ "$said" = "-var ssm_agent_version=3.3.1.0 -var ssm_agent_sha256=$wanted" ] || die "ssm-agent.sh for $cpu: $said"
done
for wrong in "" "<html>" "3.3.1.0 -var x=y"; do
    said=$(PATH="$work/bin:$PATH" VERSION=$wrong CPU=amd64 packer/ssm-agent.sh 2>"$work/complaint") &&
        die "ssm-agent.sh takes the version '$wrong': $said"
    [ "$said" = "-var ssm_agent_version=unknown" ] || die "ssm-agent.sh with the version '$wrong': $said"
done
said=$(PATH="$work/bin:$PATH" VERSION=3.3.1.0 CPU=other packer/ssm-agent.sh 2>&1) && die "ssm-agent.sh without a package: $said"
[[ $said == *"error: "*"cannot be fetched"* ]] || die "ssm-agent.sh without a package: $said"
