# Shared by the scripts of this folder: where things are kept, and what they need.
#
#   $UJIT_GUEST_CACHE   packages, kernels and images (default: $XDG_CACHE_HOME/ujit-lto/guest)
#   $UJIT_DEBIAN        Debian mirror (default: http://deb.debian.org)

cache=${UJIT_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ujit-lto/guest}
mirror=${UJIT_DEBIAN:-http://deb.debian.org}
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
kernels="6.1 6.12"
PATH=$PATH:/usr/sbin:/sbin

fail() {
  echo "guest: $*" >&2
  exit 2
}

# Prints why guests cannot run here, or nothing.
missing_tools() {
  local tool
  for tool in qemu-system-x86_64 busybox cpio depmod mke2fs xz dpkg-deb apt-get bpftool ip; do
    command -v $tool >/dev/null || { echo "no $tool on this machine (make deps installs it)"; return; }
  done
}

# Runs the rest of the script under a lock of its own on the cache, so that scripts may run at the same time.
lock_cache() {
  mkdir -p "$cache" && exec 9>"$cache/lock" && flock 9 || fail "cannot lock $cache"
}
