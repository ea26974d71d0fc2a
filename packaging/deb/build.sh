#!/bin/sh
# Builds the Debian package with dpkg-deb alone: build.sh BINARY OUT_DIR
# BINARY is target/dist/sixfold as a rule; its own verbs write the completions and the manual pages.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 BINARY OUT_DIR" >&2
    exit 2
fi
binary=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
version=$("$binary" --version | cut -d ' ' -f 2)
architecture=$(dpkg --print-architecture)
package="$out/sixfold_${version}-1_${architecture}.deb"

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT INT TERM
chmod 755 "$tree"

install -D -m 755 "$binary" "$tree/usr/bin/sixfold"
# Debug symbols make most of the binary.
if command -v strip >/dev/null 2>&1; then
    strip --strip-debug "$tree/usr/bin/sixfold"
fi
install -D -m 644 "$top/packaging/systemd/sixfold-node.service" "$tree/usr/lib/systemd/system/sixfold-node.service"
install -D -m 644 "$top/packaging/sysctl/90-sixfold.conf" "$tree/usr/lib/sysctl.d/90-sixfold.conf"

"$binary" man "$tree/usr/share/man/man1" >/dev/null
gzip -9n "$tree"/usr/share/man/man1/*.1
mkdir -p "$tree/usr/share/bash-completion/completions" "$tree/usr/share/zsh/vendor-completions" \
    "$tree/usr/share/fish/vendor_completions.d"
"$binary" completions bash >"$tree/usr/share/bash-completion/completions/sixfold"
"$binary" completions zsh >"$tree/usr/share/zsh/vendor-completions/_sixfold"
"$binary" completions fish >"$tree/usr/share/fish/vendor_completions.d/sixfold.fish"

mkdir -p "$tree/usr/share/doc/sixfold"
for page in OPERATIONS GETTING-STARTED GUARANTEES; do
    install -m 644 "$top/docs/$page.md" "$tree/usr/share/doc/sixfold/$page.md"
done
install -m 644 "$top/packaging/container/seccomp.json" "$tree/usr/share/doc/sixfold/seccomp.json"
install -m 644 "$top/LICENSE" "$tree/usr/share/doc/sixfold/copyright"

mkdir -p "$tree/DEBIAN"
for script in postinst prerm postrm; do
    install -m 755 "$here/$script" "$tree/DEBIAN/$script"
done
size=$(du -sk "$tree" | cut -f 1)
cat >"$tree/DEBIAN/control" <<CONTROL
Package: sixfold
Version: ${version}-1
Section: database
Priority: optional
Architecture: ${architecture}
Maintainer: Sixfold <sixfold@localhost>
Installed-Size: ${size}
Depends: libc6 (>= 2.34), libgcc-s1, adduser
Description: log-is-the-database storage engine
 The command line of Sixfold, and its storage node as a service. A volume is held by
 six storage nodes in three availability zones; a commit is answered when four of
 them have it on disk.
CONTROL

mkdir -p "$out"
dpkg-deb --root-owner-group -Z"${SIXFOLD_DEB_COMPRESSION:-xz}" --build "$tree" "$package" >/dev/null
echo "$package"
