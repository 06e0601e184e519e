#!/usr/bin/env bash
# Checks both kinds of UserData without an instance: they write the right settings, at the first and every later run,
# and report a skep that does not start. Real instances run them in the booted tests.
# The placeholders are no variables of this script.
# shellcheck disable=SC2016
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

clippy_build
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# render <file>: for the manager of a cluster, with a directory below $work instead of /etc/skep.
render() {
    sed -e 's/${cluster}/prod-1.a_b/; s/${role}/manager/' -e "s#/etc/skep#$work/etc/skep#g" "userdata/$1"
}

# yaml <expression of the document d>
yaml() {
    render cloud-config.yaml | .venv/bin/python -c "import sys, yaml; d = yaml.safe_load(sys.stdin); print($1, end='')"
}

for file in userdata/cloud-config.yaml userdata/skep.sh; do
    ! grep -q $'\r' "$file" || die "$file: Windows line endings"
    ! sed 's/${cluster}//; s/${role}//' "$file" | grep -F '${' >&2 ||
        die "$file: \${ is for the two placeholders; Fn::Sub and templatefile take everything else for theirs"
done

# Replaces systemctl: UserData runs one command, which succeeds or fails.
mkdir "$work/bin"
cat >"$work/bin/systemctl" <<END
#!/bin/sh
[ "\$*" = "start skep.service" ] && [ ! -e "$work/broken" ]
END
chmod +x "$work/bin/systemctl"
run() { PATH="$work/bin:$PATH" bash "$work/$1" 2>"$work/said"; }

yaml "d['runcmd'][0]" >"$work/cloud-config"
render skep.sh >"$work/skep.sh"
bash -n "$work/cloud-config"
bash -n "$work/skep.sh"

for script in cloud-config skep.sh; do
    for time in first second; do
        run "$script" || die "$script: failed the $time time"
    done
    touch "$work/broken"
    ! run "$script" || die "$script: skep does not start, and it says nothing of it"
    grep -q '^error: skep is not ready' "$work/said" || die "$script: the reason is not said"
    rm "$work/broken"
done

yaml "d['write_files'][0]['content']" >"$work/content"
written=$work/etc/skep/conf.d/50-userdata.toml
[ "$(yaml "d['write_files'][0]['path']")" = "$written" ] || die "both kinds do not write the same file"
cmp "$work/content" "$written" || die "both kinds do not write the same settings"
[ "$(ls "$work/etc/skep/conf.d")" = 50-userdata.toml ] || die "something else was left behind"
target/debug/skep config --config-dir "$work/etc/skep" >"$work/settings" 2>"$work/said" || {
    cat "$work/said" >&2
    die "skep does not take these settings"
}
for setting in cluster:prod-1.a_b role:manager; do
    grep -qE "^${setting%:*} +${setting#*:} +.*50-userdata.toml" "$work/settings" || die "not in force: $setting"
done
