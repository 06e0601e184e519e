#!/usr/bin/env bash
# Makes a static site with an apt and a dnf repository: repositories.sh <site> <directory of packages>...
#
# It takes every .deb and .rpm of the directories: older versions stay available as long as they are among them. The site
# must not exist.
#
#   RELEASE_KEY=fingerprint  the key in gpg's keyring that signs the lists. gpg asks its own agent for the secret part.
#   SITE_URL=https://…       the address at which the site is published
#
# The lists are signed, and hold the checksum of each package. A package has no signature of its own: it stays the file
# that the build made and attested.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -ge 2 ] || die "usage: repositories.sh <site> <directory of packages>..."
finished=$1
shift
[ ! -e "$finished" ] || die "$finished exists"
[ -n "${RELEASE_KEY:-}" ] || die "no key: name one of gpg's keys with RELEASE_KEY=fingerprint"
[[ ${SITE_URL:-} =~ ^(https?|file)://[^[:space:]]+[^/[:space:]]$ ]] || die "SITE_URL is missing, or is no address without a slash at its end"
gpg --batch --list-secret-keys "$RELEASE_KEY" >/dev/null 2>&1 || die "gpg has no secret key $RELEASE_KEY"
for tool in apt-ftparchive createrepo_c rpm; do
    command -v "$tool" >/dev/null || die "$tool is missing: apt install apt-utils createrepo-c rpm"
done
export LC_ALL=C.UTF-8 TZ=UTC
umask 022

mkdir -p "$(dirname "$finished")"
finished=$(realpath "$finished")
site=$(mktemp -d "$finished.XXXXXX")
chmod 755 "$site"
trap 'rm -rf "$site"' EXIT
trap 'exit 130' INT TERM

# put <file> <directory> <name>
put() {
    mkdir -p "$site/$2"
    [ ! -e "$site/$2/$3" ] || cmp -s "$1" "$site/$2/$3" ||
        die "two packages with the name $3 and different contents: one version was released twice ($1)"
    cp "$1" "$site/$2/$3"
}

# The names come from the content, so that a renamed file is no second release of its version.
debs=0 rpms=0
while IFS= read -r -d '' file; do
    case $file in
        *.deb)
            # shellcheck disable=SC2016
            put "$file" apt/pool "$(dpkg-deb --show --showformat '${Package}_${Version}_${Architecture}.deb' "$file")"
            debs=$((debs + 1))
            ;;
        *.rpm)
            put "$file" "dnf/$(rpm -qp --queryformat '%{arch}' "$file")" \
                "$(rpm -qp --queryformat '%{name}-%{version}-%{release}.%{arch}.rpm' "$file")"
            rpms=$((rpms + 1))
            ;;
    esac
done < <(find "$@" -type f \( -name '*.deb' -o -name '*.rpm' \) -print0 | sort -z)
((debs && rpms)) || die "$debs .deb and $rpms .rpm in: $*"

sign() { gpg --batch --yes --quiet --local-user "$RELEASE_KEY" --armor "$@"; }

cd "$site"
gpg --batch --armor --export "$RELEASE_KEY" >skep.asc

# --- apt --------------------------------------------------------------------------------------------

cd apt
for arch in amd64 arm64; do
    list=dists/stable/main/binary-$arch
    mkdir -p "$list"
    apt-ftparchive --arch "$arch" packages pool >"$list/Packages"
    gzip -9nk "$list/Packages"
done
# Written elsewhere first: it must not list itself.
release=$(apt-ftparchive -o APT::FTPArchive::Release::Origin=skep -o APT::FTPArchive::Release::Label=skep \
    -o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Codename=stable \
    -o APT::FTPArchive::Release::Components=main -o APT::FTPArchive::Release::Architectures='amd64 arm64' \
    release dists/stable)
printf '%s\n' "$release" >dists/stable/Release
sign --clearsign --output dists/stable/InRelease dists/stable/Release
sign --detach-sign --output dists/stable/Release.gpg dists/stable/Release
cat >skep.sources <<END
Types: deb
URIs: $SITE_URL/apt
Suites: stable
Components: main
Signed-By: /etc/apt/keyrings/skep.asc
END

# --- dnf --------------------------------------------------------------------------------------------

cd ../dnf
for arch in *; do
    createrepo_c --quiet --no-database "$arch"
    sign --detach-sign --output "$arch/repodata/repomd.xml.asc" "$arch/repodata/repomd.xml"
done
cat >skep.repo <<END
[skep]
name=skep
baseurl=$SITE_URL/dnf/\$basearch
enabled=1
gpgkey=$SITE_URL/skep.asc
# The signed list holds the checksum of each package.
repo_gpgcheck=1
gpgcheck=0
END

# --- The page at the site's address -------------------------------------------------------------------

cd ..
cat >index.html <<END
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>skep: packages</title>
<h1>Packages of skep</h1>
<p>Fingerprint of the <a href="skep.asc">key</a>: $(gpg --batch --with-colons --fingerprint "$RELEASE_KEY" | awk -F: '$1 == "fpr" { print $10; exit }')</p>
<h2>Debian, Ubuntu</h2>
<pre>
sudo curl -fsSo /etc/apt/keyrings/skep.asc $SITE_URL/skep.asc
sudo curl -fsSo /etc/apt/sources.list.d/skep.sources $SITE_URL/apt/skep.sources
sudo apt update
sudo apt install skep
</pre>
<h2>Amazon Linux</h2>
<pre>
sudo curl -fsSo /etc/yum.repos.d/skep.repo $SITE_URL/dnf/skep.repo
sudo dnf install skep
</pre>
</html>
END
mv "$site" "$finished"
say "$finished: $debs .deb, $rpms .rpm"
