#!/usr/bin/env bash
# Makes everything that is published of a version for this machine's architecture, in target/release-files:
#
#   release.sh                checks, builds, signs; fails if this version was released with other content
#   release.sh --check [tag]  only checks that the version of Cargo.toml can be released from this tree, with this tag
#   release.sh --notes        prints the version's section of CHANGELOG.md
#   release.sh --sign <dir>   signs the checksums of files that were made elsewhere, after checking them
#   release.sh --verify <dir> checks files of a release by the checksums, and these by the signature of an accepted key
#   release.sh --rehearsal    the same files in target/rehearsal, from any tree, with unreleased changes
#
#   RELEASE_KEY=fingerprint  the key in gpg's keyring that signs. gpg asks its own agent for the secret part.
#   FORMER_KEYS="fingerprint …"  keys that have signed earlier releases: --verify accepts them, too
#   BUILT=1                  builds nothing: packaging/test-release.sh
#   UNSIGNED=1               no signature: another machine signs (.github/workflows/release.yml)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

mode=${1:---release}
case $#:$mode in
    0:--release | [12]:--check | 1:--notes | 2:--sign | 2:--verify | 1:--rehearsal) ;;
    *) die "usage: release.sh [--check [tag] | --notes | --sign <directory> | --verify <directory> | --rehearsal]" ;;
esac
version=$(version_of_sources)
tag=v$version
export LC_ALL=C.UTF-8 TZ=UTC
umask 022
SOURCE_DATE_EPOCH=$(sources_date)
export SOURCE_DATE_EPOCH

# section <version or Unreleased>: its part of CHANGELOG.md
section() { awk -v name="$1" '/^## / { inside = $2 == name; next } inside' CHANGELOG.md | sed '/./,$!d'; }

# check [tag]
check() {
    [ "${1:-$tag}" = "$tag" ] || die "the tag is $1, and the version in Cargo.toml is $version: the tag must be $tag"
    [ -n "$(section "$version")" ] ||
        die "CHANGELOG.md has no section for $version, the version in Cargo.toml: write \"## $version - $(date +%F)\""
    [ -z "$(section Unreleased)" ] ||
        die "CHANGELOG.md has changes under \"## Unreleased\": they would be in $version without standing in its section"
    [ -z "$(git status --porcelain)" ] || die "the tree has changes that are not committed: git status"
    local head tagged
    head=$(git rev-parse HEAD)
    tagged=$(git rev-parse --quiet --verify "$tag^{commit}" || true)
    [ "${tagged:-$head}" = "$head" ] ||
        die "$version is released: the tag $tag is at ${tagged:0:12}, and these sources are ${head:0:12}. Raise the version in Cargo.toml"
}

# compare_with_released <directory>: the same version with other content must never be published.
compare_with_released() {
    local name
    for name in "${made[@]}"; do
        [ ! -e "$1/$name" ] || cmp -s "$1/$name" "$work/$name" ||
            die "$1/$name exists with other content: $version was released before. Raise the version in Cargo.toml, or remove $1 if nothing of it was published"
    done
}

# The name of a machine in the names of the files, as uname and RPM have it.
arch=$(uname -m)

bill_of_materials() {
    # It writes a file beside each Cargo.toml of the workspace.
    local name=skep-bill-of-materials
    target/tools/bin/cargo-cyclonedx cyclonedx --quiet --manifest-path Cargo.toml --format json --spec-version 1.5 \
        --no-build-deps --target "$(rustc -vV | sed -n 's/^host: //p')" --override-filename "$name"
    # The directory of the build is in skep's own identifiers, which also depend on the directory's name.
    sed -E 's|path\+file://[^#"]*#(skep@)?|path+file:///skep#|g' "$name.json"
    rm "$name.json" ./*/"$name.json"
}

tarball() {
    local top=skep-$version
    mkdir "$work/$top"
    cp "target/${PROFILE:-release}/skep" README.md SECURITY.md CHANGELOG.md LICENSE-* "$work/$top/"
    cp -r systemd target/packaging/{man,completions,skep.toml} "$work/$top/"
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' \
        --mtime="@$SOURCE_DATE_EPOCH" --format=gnu -cf - "$top" | gzip -9n
    rm -r "${work:?}/$top"
}

# Signs with the time of the sources, or of the key if it is younger: the same files have the same signature.
sign() {
    local created moment
    created=$(gpg --batch --with-colons --list-secret-keys "$RELEASE_KEY" 2>/dev/null | awk -F: '$1 == "sec" { print $6 }') ||
        die "gpg has no secret key $RELEASE_KEY"
    created=${created%%$'\n'*}
    moment=$((created > SOURCE_DATE_EPOCH ? created : SOURCE_DATE_EPOCH))
    gpg --batch --yes --quiet --faked-system-time "$moment!" --local-user "$RELEASE_KEY" --armor --detach-sign "$1"
}

# sign_all <directory>: adds the public key to the files, and signs all lists of checksums. The key has a list of its own:
# those of the files are attested as they were built.
sign_all() {
    local sums public
    gpg --batch --list-secret-keys "$RELEASE_KEY" >/dev/null 2>&1 || die "gpg has no secret key $RELEASE_KEY"
    public=$(gpg --batch --armor --export "$RELEASE_KEY")
    printf '%s\n' "$public" >"$1/skep.asc"
    (cd "$1" && sha256sum skep.asc >"skep-$version-key.sha256")
    for sums in "$1"/*.sha256; do sign "$sums"; done
}

# verify_signatures <directory>: each list of checksums has the signature of an accepted key. The release's own key file
# only supplies keys; which of them counts, RELEASE_KEY and FORMER_KEYS say.
verify_signatures() {
    local sums key signer
    keyring=$(mktemp -d)
    trap 'rm -rf "$keyring"' EXIT
    # shellcheck disable=SC2086
    gpg --batch --export $RELEASE_KEY ${FORMER_KEYS:-} 2>/dev/null >"$keyring/known"
    for key in "$keyring/known" "$1"/skep.asc; do
        [ ! -s "$key" ] || gpg --batch --quiet --homedir "$keyring" --import "$key" 2>/dev/null || die "$key is no key"
    done
    for sums in "$1"/*.sha256; do
        signer=$(gpg --batch --homedir "$keyring" --status-fd 1 --verify "$sums.asc" "$sums" 2>/dev/null |
            awk '$2 == "VALIDSIG" { print $3, $NF }') || true
        for key in $RELEASE_KEY ${FORMER_KEYS:-}; do
            [[ " $signer " != *" ${key^^} "* ]] || continue 2
        done
        die "$sums is not signed by $RELEASE_KEY${FORMER_KEYS:+ or $FORMER_KEYS}"
    done
}

# check_sums <directory>: each file is the one that a list of checksums has.
check_sums() {
    local sums file
    compgen -G "$1/*.sha256" >/dev/null || die "$1 has no checksums"
    for sums in "$1"/*.sha256; do
        (cd "$1" && sha256sum --quiet --check "${sums##*/}") >&2 || die "$sums is not true of the files"
    done
    for file in "$1"/*; do
        case $file in
            *.sha256 | *.sha256.asc) ;;
            *) cut -d' ' -f3 "$1"/*.sha256 | grep -qxF "${file##*/}" || die "no list of checksums has $file" ;;
        esac
    done
}

case $mode in
    --notes)
        section "$version"
        exit
        ;;
    --check)
        check "${@:2}"
        say "version $version can be released"
        exit
        ;;
    --sign)
        [ -n "${RELEASE_KEY:-}" ] || die "no key: name one of gpg's keys with RELEASE_KEY=fingerprint"
        check_sums "$2"
        sign_all "$2"
        exit
        ;;
    --verify)
        [ -n "${RELEASE_KEY:-}" ] || die "no key: name one of gpg's keys with RELEASE_KEY=fingerprint"
        verify_signatures "$2"
        check_sums "$2"
        exit
        ;;
    --release)
        check
        [ -n "${RELEASE_KEY:-}${UNSIGNED:-}" ] ||
            die "no key: name one of gpg's keys with RELEASE_KEY=fingerprint, or make unsigned files with UNSIGNED=1"
        out=target/release-files
        ;;
    --rehearsal) out=target/rehearsal ;;
esac

scripts/package.sh ${BUILT:+--no-build}

# Amazon Linux 2023 has glibc 2.34. The machine that builds decides what the binary needs.
glibc=$(objdump -T "target/${PROFILE:-release}/skep" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1)
[ "$mode" = --rehearsal ] || [ "$(printf '%s\n' "$glibc" GLIBC_2.34 | sort -V | tail -1)" = GLIBC_2.34 ] ||
    die "the binary needs $glibc, which Amazon Linux 2023 does not have: build it on Debian 12 or Ubuntu 22.04"

work=$(mktemp -d "$root/target/release-XXXXXX")
trap 'rm -rf "$work" skep-bill-of-materials.json ./*/skep-bill-of-materials.json' EXIT
trap 'exit 130' INT TERM
cp "$(packages_of "${PROFILE:-release}")"/*.{deb,rpm} "$work/"
bill_of_materials >"$work/skep-$version-$arch.cdx.json"
tarball >"$work/skep-$version-$arch-linux.tar.gz"
sums=skep-$version-$arch.sha256
(cd "$work" && sha256sum -- * >".$sums" && mv ".$sums" "$sums")
if [ -n "${RELEASE_KEY:-}" ]; then sign_all "$work"; fi

made=()
for file in "$work"/*; do made+=("${file##*/}"); done
if [ "$mode" = --rehearsal ]; then rm -rf "$out"; else compare_with_released "$out/$version"; fi
mkdir -p "$out/$version"
for file in "${made[@]}"; do mv "$work/$file" "$out/$version/"; done
ls -l "$out/$version" >&2
