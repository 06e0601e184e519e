#!/usr/bin/env bash
# Checks the templates without a cloud: their format, every image that they can build, and that the README lists every
# variable. The booted tests build one of these images.
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

sed -n 's/^variable "\(.*\)" {$/\1/p' packer/*/*.pkr.hcl | sort -u | while read -r variable; do
    grep -q "\`$variable\`" packer/README.md || die "packer/README.md does not tell the variable $variable"
done
