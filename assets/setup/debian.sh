# Installs Mesa's software Vulkan, version 25 or newer, on Debian 12 and later.
#
# Debian 12's own Mesa 22.3.6 ends long loops early and returns wrong sums, so it comes from the
# backports suite of whichever mirror is configured already.
set -eu

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
fi
. /etc/os-release
backports="$VERSION_CODENAME-backports"
source=/etc/apt/sources.list.d/qvgen-backports.sources

# The first Debian entry that has the release's own suite names mirror and key.
mirror=
key=
for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] && [ "$file" != "$source" ] || continue
    if [ -z "$mirror" ] && grep -Eq "^Suites:.*\b$VERSION_CODENAME\b" "$file"; then
        mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' "$file" | head -n 1)
        key=$(sed -n 's/^Signed-By: *//p' "$file" | head -n 1)
    fi
done
if [ -z "$mirror" ] && [ -f /etc/apt/sources.list ]; then
    mirror=$(sed -n "s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) $VERSION_CODENAME .*/\2/p" \
        /etc/apt/sources.list | head -n 1)
fi

packages="mesa-vulkan-drivers libvulkan1 libegl1 libgl1-mesa-dri libgles2"
export DEBIAN_FRONTEND=noninteractive
if [ "$VERSION_ID" -ge 13 ]; then
    # Debian 13 has Mesa 25 itself.
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    $as_root apt-get install -y -qq --no-install-recommends $packages
    exit 0
fi
[ -n "$mirror" ] || { echo "no Debian mirror is configured" >&2; exit 1; }
{
    echo "Types: deb"
    echo "URIs: $mirror"
    echo "Suites: $backports"
    echo "Components: main"
    if [ -n "$key" ]; then echo "Signed-By: $key"; fi
} | $as_root tee "$source" >/dev/null
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends -t "$backports" $packages
