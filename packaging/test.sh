#!/usr/bin/env bash
# Installs, upgrades, downgrades, removes and purges the packages of `make package`, in a throw-away Debian that is not
# booted: test.sh [suite] (default: bookworm). The effect of a restart on a running node is not tested here.
#
# The RPM is tested in the same way, with Debian's rpm: its files and scripts are checked, its dependencies are not. apt
# installs the .deb from a repository, too; of the dnf repository only the lists are checked.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

suite=${1:-bookworm}
[ "$(id -u)" -eq 0 ] || exec scripts/as-root "$root/packaging/test.sh" "$@"
shopt -s nullglob
profile=$(cat target/packaging/profile 2>/dev/null || echo release)
packages=$(packages_of "$profile")
debs=("$packages"/*.deb) rpms=("$packages"/*.rpm)
[ "${#debs[@]} ${#rpms[@]}" = "1 1" ] || die "no packages in $packages: make package"

work=$(mktemp -d /tmp/skep-packages-XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
R=$work/root

# --- The throw-away Debian --------------------------------------------------------------------------

base=target/package-test/$suite.tar
if [ ! -s "$base" ]; then
    say "making a Debian $suite (once)"
    mkdir -p "${base%/*}"
    mmdebstrap --quiet --mode=root --variant=apt --include=systemd "$suite" "$work/base.tar"
    mv "$work/base.tar" "$base"
fi

fresh_root() {
    rm -rf --one-file-system "$R"
    mkdir "$R"
    tar -C "$R" -xf "$base"
}

# Runs a command with a /proc that ends with it.
with_proc() { unshare --mount --pid --fork --mount-proc="$R/proc" "$@"; }
inside() { with_proc chroot "$R" "$@"; }
dpkg_inside() { logged inside dpkg --force-confdef --force-confold "$@"; }
# rpm reads packages and runs their scripts from outside.
rpm_inside() { logged with_proc rpm --root "$R" --nodeps --define '_dbpath /var/lib/rpm' "$@"; }
# Shows the package manager's output only if it fails.
logged() {
    "$@" >>"$work/log" 2>&1 || { cat "$work/log" >&2; die "failed: $*"; }
}

# --- Checks -----------------------------------------------------------------------------------------

failures=0
# expect <what> <wanted> <found>
expect() {
    [ "$2" != "$3" ] || return 0
    failures=$((failures + 1))
    say "FAILED: $1"$'\n'"  wanted: $2"$'\n'"  found:  $3"
}

enabled() { inside systemctl is-enabled "$1" 2>/dev/null || true; }
mode_of() { stat -c '%a %U:%G' "$R$1" 2>/dev/null || echo missing; }

expect_installed() {
    local path
    for path in skep{,-autostart,-firewall}.service docker.service.d/10-skep-firewall.conf skep-{certificate,journal-sync,journal-upload}{.socket,@.service}; do
        expect "$1: $path" "644 root:root" "$(mode_of "/usr/lib/systemd/system/$path")"
    done
    expect "$1: binary" "755 root:root" "$(mode_of /usr/bin/skep)"
    expect "$1: configuration" "644 root:root" "$(mode_of /etc/skep/skep.toml)"
    expect "$1: conf.d" "755 root:root" "$(mode_of /etc/skep/conf.d)"
    expect "$1: the packet filter" "644 root:root" "$(mode_of /usr/lib/skep/skep.nft)"
    expect "$1: firewall.d" "755 root:root" "$(mode_of /etc/skep/firewall.d)"
    expect "$1: flush.d" "755 root:root" "$(mode_of /etc/skep/flush.d)"
    expect "$1: hooks.d" "755 root:root" "$(mode_of /etc/skep/hooks.d)"
    expect "$1: man page" "644 root:root" "$(mode_of /usr/share/man/man1/skep.1.gz)"
    expect "$1: completion" "644 root:root" "$(mode_of /usr/share/bash-completion/completions/skep)"
    expect "$1: skep's groups" "docker skep" "$(inside id -Gn skep | tr ' ' '\n' | sort | xargs)"
    expect "$1: skep's home and shell" "/var/lib/skep:/usr/sbin/nologin" \
        "$(inside getent passwd skep | cut -d: -f6,7)"
    expect "$1: it runs" "skep $version" "$(inside /usr/bin/skep --version)"
    expect "$1: it is Docker's credential helper, too" "credentials not found in native keychain" \
        "$(echo index.docker.io | inside /usr/bin/docker-credential-skep get || true)"
    expect "$1: it prints the completions that are installed" "" \
        "$(inside /usr/bin/skep completions bash | diff - "$R/usr/share/bash-completion/completions/skep" || true)"
    expect "$1: the environment of the service" "644 root:root" "$(mode_of "$environment")"
    expect_documents "$1"
    expect "$1: its configuration is accepted" 0 "$(accepts_configuration)"
    expect "$1: the units are sound" "" "$(inside systemd-analyze verify --man=no \
        skep{,-autostart,-firewall}.service skep-{certificate,journal-sync,journal-upload}.socket 2>&1 | grep skep | grep -v /usr/sbin/nft || true)"
}

# expect_documents <what>: every page that a file of the package names is there.
expect_documents() {
    local page named
    named=$(grep -rhoE '(man:[a-z-]+\([0-9]\)|(file://)?/usr/share/doc/skep/[A-Za-z0-9_./-]*[a-z]|docs/[a-z/-]+\.md)' \
        "$R"/usr/lib/systemd/system/skep* "$R"/usr/lib/systemd/system/docker.service.d "$R"/usr/lib/skep \
        "$R/etc/skep" "$R$environment" | sort -u)
    expect "$1: its files name documents" true "$(grep -q ^man: <<<"$named" && grep -q ^file: <<<"$named" && echo true)"
    for page in $named changelog.gz docs/README.md; do
        case $page in
            man:*) page=/usr/share/man/man1/skep.1.gz ;;
            file://*) page=${page#file://} ;;
            /*) ;;
            *) page=/usr/share/doc/skep/$page ;;
        esac
        expect "$1: $page" "644 root:root" "$(mode_of "$page")"
    done
}

# Nothing answers on this port: the check does not need the metadata.
accepts_configuration() {
    local code=0
    inside env AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:9 skep config --cluster x --role worker \
        >/dev/null 2>&1 || code=$?
    echo $code
}

expect_enabled_as_new() {
    expect "$1: autostart" enabled "$(enabled skep-autostart.service)"
    expect "$1: certificate socket" enabled "$(enabled skep-certificate.socket)"
    expect "$1: journal socket" enabled "$(enabled skep-journal-sync.socket)"
    expect "$1: journal-upload socket" enabled "$(enabled skep-journal-upload.socket)"
    expect "$1: the packet filter is left to the image" disabled "$(enabled skep-firewall.service)"
    expect "$1: skep itself is left to autostart and UserData" disabled "$(enabled skep.service)"
}

# Lists all files except the package managers' own and those that end with a boot. The user stays: its files (passwd,
# group and their locks and back-ups) are left out.
files() {
    (cd "$R" && find . -xdev \( -path ./var/lib/dpkg -o -path ./var/lib/rpm -o -path ./var/log -o -path ./var/cache \
        -o -path ./tmp -o -path ./run -o -path ./proc -o -path './etc/passwd*' -o -path './etc/group*' \
        -o -path './etc/*shadow*' -o -path ./etc/.pwd.lock \) -prune -o "$@" -print | sort)
}

# fake_systemctl: from here on systemd seems to run, with all units enabled and active. The calls are listed in
# /tmp/systemctl.
fake_systemctl() {
    mkdir -p "$R/run/systemd/system"
    mv "$R/usr/bin/systemctl" "$R/usr/bin/systemctl.real"
    cat >"$R/usr/bin/systemctl" <<'END'
#!/bin/sh
case " $* " in
    *' is-enabled '*) echo enabled ;;
    *' is-active '*) ;;
    *' start '* | *' stop '* | *' restart '* | *' try-restart '* | *' reload '*) echo "$*" >>/tmp/systemctl ;;
esac
END
    chmod 755 "$R/usr/bin/systemctl" "$R/usr/bin/systemctl.real"
    : >"$R/tmp/systemctl"
}
# calls: the kinds of calls since the last time
calls() {
    grep -oE '\b(start|stop|restart|try-restart|reload)\b' "$R/tmp/systemctl" | sort -u | xargs
    : >"$R/tmp/systemctl"
}
# policy <exit code>: the administrator's policy-rc.d
policy() {
    printf '#!/bin/sh\nexit %s\n' "$1" | install -m 755 /dev/stdin "$R/usr/sbin/policy-rc.d"
}

version=$(dpkg-deb -f "${debs[0]}" Version)
version=${version%-*}

# --- The Debian package -----------------------------------------------------------------------------

# The next version, with another default configuration.
dpkg-deb -R "${debs[0]}" "$work/new"
sed -i 's/^Version:.*/Version: 99.0/' "$work/new/DEBIAN/control"
echo '# new in 99' >>"$work/new/etc/skep/skep.toml"
dpkg-deb -Zgzip -b "$work/new" "$work/skep-99.deb" >/dev/null

test_deb() {
    environment=/etc/default/skep
    fresh_root
    files >"$work/before"
    cp "${debs[0]}" "$R/tmp/skep.deb"
    cp "$work/skep-99.deb" "$R/tmp/"

    expect "deb: conffiles" "/etc/default/skep /etc/skep/skep.toml" "$(dpkg-deb -I "${debs[0]}" conffiles | sort | xargs)"
    dpkg_inside -i /tmp/skep.deb
    expect_installed "deb"
    expect_enabled_as_new "deb"
    expect "deb: copyright" "644 root:root" "$(mode_of /usr/share/doc/skep/copyright)"
    expect "deb: Debian's changelog is of this version" "$version-1" \
        "$(zcat "$R/usr/share/doc/skep/changelog.Debian.gz" | dpkg-parsechangelog -l- -S Version 2>&1)"
    expect "deb: no file differs from the package" "" "$(inside dpkg --verify skep)"

    # An administrator's decisions, which an upgrade must not undo.
    echo 'cluster = "mine"' >"$R/etc/skep/skep.toml"
    echo 'role = "worker"' >"$R/etc/skep/conf.d/50-userdata.toml"
    echo 'SKEP_LOG_LEVEL=debug' >"$R/etc/default/skep"
    install -d -m 700 "$R/var/lib/skep" "$R/var/lib/skep/i-1"
    inside systemctl --quiet disable skep-autostart.service
    inside systemctl --quiet enable skep-firewall.service
    local step
    # An upgrade, the same again, a downgrade, and an upgrade.
    for step in skep-99:99.0 skep-99:99.0 "skep:$version-1" skep-99:99.0; do
        dpkg_inside -i "/tmp/${step%:*}.deb"
        expect_upgraded "deb, now ${step#*:}" "${step#*:}"
    done

    dpkg_inside -r skep
    expect "deb removed: binary" missing "$(mode_of /usr/bin/skep)"
    expect "deb removed: configuration stays" 'cluster = "mine"' "$(cat "$R/etc/skep/skep.toml")"
    expect "deb removed: state stays" "700 root:root" "$(mode_of /var/lib/skep/i-1)"
    dpkg_inside -i /tmp/skep-99.deb
    expect "deb installed again: autostart is as it was" disabled "$(enabled skep-autostart.service)"
    expect "deb installed again: journal socket" enabled "$(enabled skep-journal-sync.socket)"
    expect "deb installed again: journal-upload socket" enabled "$(enabled skep-journal-upload.socket)"

    dpkg_inside -P skep
    files >"$work/after"
    expect "deb purged: nothing is left" "" "$(diff "$work/before" "$work/after" || true)"
    dpkg_inside -i /tmp/skep.deb
    expect_enabled_as_new "deb installed after a purge"
    dpkg_inside -P skep

    # On a machine that runs. policy-rc.d: 101 forbids, and each of the others allows.
    fake_systemctl
    policy 101
    dpkg_inside -i /tmp/skep.deb
    dpkg_inside -i /tmp/skep-99.deb
    expect "deb: policy-rc.d forbids every start" "" "$(calls)"
    dpkg_inside -P skep
    expect "deb: policy-rc.d forbids the stop" "" "$(calls)"
    policy 104
    dpkg_inside -i /tmp/skep.deb
    # The reload of the packet filter is due only if it runs; here every unit seems to.
    expect "deb: an installation does not start skep" "" "$(grep -w 'skep.service' "$R/tmp/systemctl" || true)"
    expect "deb: it starts the sockets" "reload start" "$(calls)"
    dpkg_inside -i /tmp/skep-99.deb
    expect "deb: an upgrade restarts what runs" "reload start try-restart" "$(calls)"
    rm "$R/usr/sbin/policy-rc.d"
    dpkg_inside -r skep
    expect "deb: a removal stops it" stop "$(calls)"
}

# expect_upgraded <what> <version>
expect_upgraded() {
    expect "$1: version" "$2" "$(inside dpkg -s skep | sed -n 's/^Version: //p')"
    expect_installed "$1"
    expect "$1: the configuration is the administrator's" 'cluster = "mine"' "$(cat "$R/etc/skep/skep.toml")"
    expect "$1: so is the environment" SKEP_LOG_LEVEL=debug "$(cat "$R/etc/default/skep")"
    expect "$1: so is autostart" disabled "$(enabled skep-autostart.service)"
    expect "$1: and the packet filter" enabled "$(enabled skep-firewall.service)"
    expect "$1: the state stays" "700 root:root" "$(mode_of /var/lib/skep/i-1)"
}

# --- The apt repository -----------------------------------------------------------------------------

apt_inside() { logged inside env DEBIAN_FRONTEND=noninteractive apt-get --quiet --assume-yes "$@"; }
# refused <what> <part of the message> <apt-get's arguments>...
refused() {
    local output code=0
    output=$(inside env DEBIAN_FRONTEND=noninteractive apt-get --quiet --assume-yes "${@:3}" 2>&1) || code=$?
    [[ "$code" != 0 && $output == *"$2"* ]] || expect "$1" "a failure with …$2…" "$code and $output"
}

# One repository with two versions, in a root whose only source of packages it is.
test_apt() {
    local site=$R/srv/skep key
    environment=/etc/default/skep
    fresh_root
    mkdir -m 700 "$work/gnupg"
    export GNUPGHOME=$work/gnupg
    gpg --batch --quiet --passphrase '' --quick-generate-key test@skep.invalid ed25519 sign never
    key=$(gpg --batch --with-colons --list-keys 2>/dev/null | awk -F: '$1 == "fpr" { print $10; exit }')
    mkdir "$work/packages"
    cp "${debs[0]}" "${rpms[0]}" "$work/skep-99.deb" "$work/packages/"
    RELEASE_KEY=$key SITE_URL=file:///srv/skep logged scripts/repositories.sh "$site" "$work/packages"
    gpgconf --kill gpg-agent

    rm -rf "$R"/etc/apt/sources.list{,.d/*} "$R"/var/lib/apt/lists/*
    cp "$site/apt/skep.sources" "$R/etc/apt/sources.list.d/"
    refused "apt: the list of an unknown key" "is not signed" update
    install -D -m 644 "$site/skep.asc" "$R/etc/apt/keyrings/skep.asc"
    apt_inside update
    local wanted
    # An installation, an upgrade to the newest, and a downgrade.
    for wanted in "skep=$version-1" skep "skep=$version-1"; do
        apt_inside install --no-install-recommends --allow-downgrades "$wanted"
        [ "$wanted" != skep ] || wanted=skep=99.0
        expect "apt: version" "${wanted#skep=}" "$(inside dpkg -s skep | sed -n 's/^Version: //p')"
        expect_installed "apt, $wanted"
    done
    apt_inside purge skep

    inside apt-get clean
    for package in "$site/apt/pool/"*.deb; do echo >>"$package"; done
    refused "apt: another package than the list's" "Hash Sum mismatch" install --no-install-recommends skep
    rm -rf "$R"/var/lib/apt/lists/*
    sed -i 's/^Version: 99.0/Version: 99.1/' "$site"/apt/dists/stable/main/binary-*/Packages
    gzip -9nkf "$site"/apt/dists/stable/main/binary-*/Packages
    refused "apt: another list than the signed one" "Hash Sum mismatch" update
}

# --- The RPM ----------------------------------------------------------------------------------------

test_rpm() {
    local newer=$work/skep-99.rpm floor
    environment=/etc/sysconfig/skep
    fresh_root
    files ! -type d >"$work/before"
    target/tools/bin/cargo-generate-rpm generate-rpm --auto-req disabled --profile "$profile" \
        --payload-compress none -s 'version = "99.0"' --output "$newer"

    expect "rpm: configuration" "/etc/skep/skep.toml /etc/sysconfig/skep" "$(rpm -qpc "${rpms[0]}" | sort | xargs)"
    expect "rpm: no script is missing" "postinstall postuninstall preuninstall" \
        "$(rpm -qp --scripts "${rpms[0]}" | grep -oE '^(pre|post)[a-z]+' | sort | xargs)"
    # Amazon Linux 2023 has glibc 2.34. Only a note: the machine that builds decides this.
    floor=$(rpm -qp --requires "${rpms[0]}" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1)
    [ "$(printf '%s\n' "$floor" GLIBC_2.34 | sort -V | tail -1)" = GLIBC_2.34 ] ||
        say "note: this rpm needs $floor, which Amazon Linux 2023 does not have; build it on Debian 12"

    rpm_inside -i "${rpms[0]}"
    expect_installed "rpm"
    expect_enabled_as_new "rpm"
    echo 'cluster = "mine"' >"$R/etc/skep/skep.toml"
    inside systemctl --quiet disable skep-autostart.service
    rpm_inside -U "$newer"
    expect_installed "rpm upgraded"
    expect "rpm upgraded: the configuration is the administrator's" 'cluster = "mine"' "$(cat "$R/etc/skep/skep.toml")"
    expect "rpm upgraded: so is autostart" disabled "$(enabled skep-autostart.service)"
    rpm_inside -U --oldpackage "${rpms[0]}"
    expect_installed "rpm downgraded"
    expect "rpm downgraded: version" "$version" "$(rpm --root "$R" --define '_dbpath /var/lib/rpm' -q --queryformat '%{version}' skep)"
    expect "rpm downgraded: the configuration is the administrator's" 'cluster = "mine"' "$(cat "$R/etc/skep/skep.toml")"
    expect "rpm downgraded: so is autostart" disabled "$(enabled skep-autostart.service)"
    rpm_inside -e skep
    expect "rpm erased: binary" missing "$(mode_of /usr/bin/skep)"
    # rpm has no purge: the administrator's files stay, and directories that no package owns.
    files ! -type d >"$work/after"
    expect "rpm erased: what is left" "./etc/skep/skep.toml.rpmsave" \
        "$(comm -13 "$work/before" "$work/after" | xargs)"
}

packaging/test-firewall.sh
test_deb
test_apt
test_rpm
[ "$failures" -eq 0 ] || die "$failures of the packages' checks failed on $suite"
say "the packages of skep $version install, upgrade, downgrade, remove and purge as they should on $suite"
