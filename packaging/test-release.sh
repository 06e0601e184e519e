#!/usr/bin/env bash
# Makes releases in copies of the sources that are different in every way that must not matter, and compares them. Tests
# what a release refuses, and the repositories' lists. No root, and no compiler: the binary in the packages is a small
# other one, because `make test` builds nothing twice, and the tools need half a minute for the real one. PROFILE: that
# of the real one, of which only the content is checked.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../scripts/lib.sh"

profile=${PROFILE:-release}
for built in "target/$profile/skep" target/debug/skep-packaging; do
    [ -x "$built" ] || die "$built is missing: make package"
done
here=$root
version=$(version_of_sources)
work=$(mktemp -d /tmp/skep-release-XXXXXX)
GNUPGHOME=$work/gnupg
export GNUPGHOME PROFILE=$profile BUILT=1
trap 'gpgconf --kill gpg-agent 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset SOURCE_DATE_EPOCH RELEASE_KEY UNSIGNED
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=skep GIT_AUTHOR_EMAIL=skep@skep.invalid GIT_COMMITTER_NAME=skep GIT_COMMITTER_EMAIL=skep@skep.invalid
export GIT_AUTHOR_DATE='2026-01-31T12:00:00Z' GIT_COMMITTER_DATE='2026-01-31T12:00:00Z'

failures=0
# expect <what> <wanted> <found>
expect() {
    [ "$2" != "$3" ] || return 0
    failures=$((failures + 1))
    say "FAILED: $1"$'\n'"  wanted: $2"$'\n'"  found:  $3"
}
# refuses <what> <part of the message> <command>...
refuses() {
    local output code=0
    output=$("${@:3}" 2>&1) || code=$?
    [[ "$code $output" == "1 "*"error: "*"$2"* ]] || expect "$1" "1 and …$2…" "$code and $output"
}

# sources <directory>: a clone with a released version and what is built
sources() {
    local copy=$1
    mkdir -p "$copy/target/debug" "$copy/target/$profile"
    git -C "$here" ls-files -z --cached --others --exclude-standard | (cd "$here" && xargs -0 cp --parents -t "$copy")
    cp "$here/target/debug/skep-packaging" "$copy/target/debug/"
    cp /usr/bin/true "$copy/target/$profile/skep"
    ln -s "$here/target/tools" "$copy/target/tools"
    sed -i "s/^## Unreleased\$/## $version - 2026-01-31/" "$copy/CHANGELOG.md"
    git -C "$copy" init --quiet --initial-branch main
    git -C "$copy" add --all
    git -C "$copy" commit --quiet --message "Release $version"
}
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "failed: $*"; }; }

# --- Two releases of the same sources are the same ----------------------------------------------------

mkdir -m 700 "$GNUPGHOME"
quietly gpg --batch --quiet --faked-system-time 20260101T000000 --passphrase '' --quick-generate-key test@skep.invalid ed25519 sign never
key=$(gpg --batch --with-colons --list-keys 2>/dev/null | awk -F: '$1 == "fpr" { print $10; exit }')

a=$work/a/skep b=$work/elsewhere/once-more
sources "$a"
sources "$b"
find "$b" -not -path '*/.git/*' -type f -exec touch --date=2001-01-01 {} +
RELEASE_KEY=$key quietly "$a/scripts/release.sh"
(umask 077 && TZ=Asia/Tokyo LC_ALL=C RELEASE_KEY=$key quietly "$b/scripts/release.sh")
files=$a/target/release-files/$version
expect "the same bytes in another directory" "" "$(diff -r "$files" "$b/target/release-files/$version" || true)"
expect "the kinds of files" "asc asc asc cdx.json deb gz rpm sha256 sha256" \
    "$(find "$files" -type f | sed -E 's/.*\.(cdx\.json)$/\1/; t; s/.*\.//' | sort | xargs)"
expect "the checksums are those of all files" "" "$(cd "$files" && sha256sum --quiet --check ./*.sha256 2>&1)"
expect "the checksums list every file" "$(find "$files" -type f ! -name '*.sha256*' | wc -l)" "$(cat "$files"/*.sha256 | wc -l)"
for sums in "$files"/*.sha256; do
    expect "the signature of ${sums##*/} is good" true "$(gpg --batch --quiet --verify "$sums.asc" "$sums" 2>/dev/null && echo true)"
done
expect "the key of the signatures is one of the files" "$key" \
    "$(gpg --batch --with-colons --show-keys "$files/skep.asc" 2>/dev/null | awk -F: '$1 == "fpr" { print $10; exit }')"
expect "no name of a directory is in the files" "" \
    "$(mkdir "$work/unpacked" && tar -C "$work/unpacked" -xf "$files"/*.tar.gz && cp "$files"/*.json "$work/unpacked/" &&
        grep -rlaF -e "$here/" -e "$work/" -e "${CARGO_HOME:-$HOME/.cargo}/" "$work/unpacked" "target/$profile/skep" | xargs)"
expect "the archive has the program in its directory" true "$([ -x "$work/unpacked/skep-$version/skep" ] && echo true)"
# What cargo links into the binary, against the list.
expect "the bill of materials lists every crate" "" "$(comm -23 \
    <(cd "$here" && cargo tree --locked --package skep --edges no-build,no-dev,no-proc-macro --prefix none --format '{p}' |
        sed -E 's/^([^ ]+) v([^ ]+).*/\1 \2/' | sort -u) \
    <(python3 -c '
import json, sys
bom = json.load(sys.stdin)
assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.5")
for part in [bom["metadata"]["component"], *bom["components"]]:
    print(part["name"], part["version"])' <"$files"/*.cdx.json | sort -u) | xargs)"
quietly env RELEASE_KEY="$key" "$a/scripts/release.sh"
expect "a repetition changes nothing" "" "$(diff -r "$files" "$b/target/release-files/$version" || true)"

# --- What a release refuses ----------------------------------------------------------------------------

refuses "no key" "no key: name one" "$a/scripts/release.sh"
refuses "a key that gpg does not have" "gpg has no secret key 0123" env RELEASE_KEY=0123 "$a/scripts/release.sh" --sign "$files"
refuses "a tag of another version" "the tag must be v$version" "$a/scripts/release.sh" --check v9.9.9
quietly "$a/scripts/release.sh" --check "v$version"
expect "the notes are the whole section" "$(grep -c '^- ' CHANGELOG.md)" "$("$a/scripts/release.sh" --notes | grep -c '^- ')"

RELEASE_KEY=$key quietly "$a/scripts/release.sh" --verify "$files"
# A part of a fingerprint is none.
refuses "the end of a fingerprint" "is not signed by ${key: -16}" env RELEASE_KEY="${key: -16}" "$a/scripts/release.sh" --verify "$files"
# After a change of the key, earlier releases are verified with the key that they contain, if it is named.
quietly gpg --batch --quiet --passphrase '' --quick-generate-key new@skep.invalid ed25519 sign never
new=$(gpg --batch --with-colons --list-keys new@skep.invalid 2>/dev/null | awk -F: '$1 == "fpr" { print $10; exit }')
refuses "a former key that nobody has named" "is not signed by $new" env RELEASE_KEY="$new" "$a/scripts/release.sh" --verify "$files"
RELEASE_KEY=$new FORMER_KEYS="0123 $key" quietly "$a/scripts/release.sh" --verify "$files"
mkdir -m 700 "$work/empty"
GNUPGHOME=$work/empty RELEASE_KEY=$new FORMER_KEYS=$key quietly "$a/scripts/release.sh" --verify "$files"
cp -r "$files" "$work/foreign"
RELEASE_KEY=$new quietly "$a/scripts/release.sh" --sign "$work/foreign"
refuses "a key that is only in the files" "is not signed by $key" env RELEASE_KEY="$key" "$a/scripts/release.sh" --verify "$work/foreign"
refuses "another key's signature" "is not signed by 0123" env RELEASE_KEY=0123 "$a/scripts/release.sh" --verify "$files"
echo more >"$files/more.deb"
for mode in --verify --sign; do
    refuses "a file without a checksum ($mode)" "no list of checksums has" env RELEASE_KEY="$key" "$a/scripts/release.sh" $mode "$files"
done
rm "$files/more.deb"

echo >>"$a/README.md"
refuses "changes that are not committed" "the tree has changes" "$a/scripts/release.sh" --check
git -C "$a" tag "v$version"
git -C "$a" commit --quiet --all --message "Change the README"
refuses "two releases of one version, by the tag" "$version is released: the tag v$version" "$a/scripts/release.sh" --check
git -C "$a" tag --delete "v$version" >/dev/null
refuses "two releases of one version, by the files" "exists with other content: $version was released before" \
    env UNSIGNED=1 "$a/scripts/release.sh"
expect "the files are still the first ones" "" "$(diff -r "$files" "$b/target/release-files/$version" || true)"
sed -i "s/^## $version - .*/## Unreleased/" "$a/CHANGELOG.md"
refuses "a version without a section" "CHANGELOG.md has no section for $version" "$a/scripts/release.sh" --check
sed -i "s/^## Unreleased\$/## Unreleased\n\n- More.\n\n## $version - 2026-01-31/" "$a/CHANGELOG.md"
refuses "changes without a version" "CHANGELOG.md has changes under" "$a/scripts/release.sh" --check
echo changed >>"$files/skep-$version-$(uname -m).cdx.json"
refuses "to sign wrong checksums" "is not true of the files" env RELEASE_KEY="$key" "$a/scripts/release.sh" --sign "$files"

# --- The repositories ----------------------------------------------------------------------------------

export RELEASE_KEY=$key SITE_URL=https://packages.skep.invalid
good=$b/target/release-files/$version site=$work/site
quietly scripts/repositories.sh "$site" "$good"
expect "apt: the lists are signed" true "$(gpg --batch --quiet --verify "$site"/apt/dists/stable/Release{.gpg,} 2>/dev/null && echo true)"
for arch in amd64 arm64; do
    expect "apt: the signed list names the list for $arch" "$(sha256sum <"$site/apt/dists/stable/main/binary-$arch/Packages" | cut -d' ' -f1)" \
        "$(awk -v name="main/binary-$arch/Packages" '/^[^ ]/ { sums = $1 } sums == "SHA256:" && $3 == name { print $1 }' \
            "$site/apt/dists/stable/Release")"
done
for metadata in "$site"/dnf/*/repodata/repomd.xml; do
    expect "dnf: the list is signed" true "$(gpg --batch --quiet --verify "$metadata"{.asc,} 2>/dev/null && echo true)"
done
expect "dnf: the signed list leads to the package's checksum" "$(sha256sum <"$good"/*.rpm | cut -d' ' -f1)" "$(python3 -c '
import gzip, hashlib, pathlib, sys, xml.etree.ElementTree as tree
repository = pathlib.Path(sys.argv[1]).parent.parent
spaces = {"r": "http://linux.duke.edu/metadata/repo", "c": "http://linux.duke.edu/metadata/common"}
data = tree.parse(sys.argv[1]).find("r:data[@type=\"primary\"]", spaces)
primary = (repository / data.find("r:location", spaces).get("href")).read_bytes()
assert hashlib.sha256(primary).hexdigest() == data.find("r:checksum", spaces).text
package = tree.fromstring(gzip.decompress(primary)).find("c:package", spaces)
assert (repository / package.find("c:location", spaces).get("href")).exists()
print(package.find("c:checksum", spaces).text)' "$site"/dnf/*/repodata/repomd.xml)"
expect "the sites' files name its address" 3 \
    "$(grep -lF "$SITE_URL/" "$site"/{index.html,apt/skep.sources,dnf/skep.repo} | wc -l)"
mkdir "$work/second"
for package in "$good"/*.deb "$good"/*.rpm; do
    cp "$package" "$work/second/another-name.${package##*.}"
    echo >>"$work/second/another-name.${package##*.}"
    refuses "two releases of one version in the repositories" "one version was released twice" \
        scripts/repositories.sh "$work/site-2" "$good" "$work/second"
    expect "nothing is left of a site that failed" "" "$(compgen -G "$work/site-2*" || true)"
    rm "$work"/second/*
done
refuses "a site that exists" "exists" scripts/repositories.sh "$site" "$good"
refuses "directories without packages" "0 .deb and 0 .rpm" scripts/repositories.sh "$work/site-3" "$work/second"
refuses "no key" "no key: name one" env --unset=RELEASE_KEY scripts/repositories.sh "$work/site-3" "$good"
refuses "no address" "SITE_URL" env --unset=SITE_URL scripts/repositories.sh "$work/site-3" "$good"

[ "$failures" -eq 0 ] || die "$failures of the release's checks failed"
say "the release of skep $version is the same when repeated, and refuses what it must"
