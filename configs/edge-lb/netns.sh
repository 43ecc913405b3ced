#!/bin/sh
# netns.sh MANIFEST COMMAND...: runs a command, as root, in a network namespace of its own where the kernel's FIB
# has the routes of the manifest's `fib:` (one line each). Then bpf_fib_lookup of the running kernel answers as the
# embedded kernel's does, and `ujit-lto check` can compare the two. The namespace goes away with the command.
set -eu
[ $# -ge 2 ] || { echo "usage: netns.sh MANIFEST COMMAND..." >&2; exit 64; }
if [ -z "${EDGE_LB_NETNS:-}" ]; then
  exec env EDGE_LB_NETNS=1 unshare --net "$0" "$@"
fi
manifest=$1
shift

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
gateway=0
sed -n 's/^ *- *{ *prefix: *"\{0,1\}\([^",]*\)"\{0,1\}, *ifindex: *\([0-9]*\), *dmac: *"\([^"]*\)", *smac: *"\([^"]*\)" *} *$/\1 \2 \3 \4/p' \
    "$manifest" | while read -r prefix ifindex dmac smac; do
  link=link$ifindex
  if [ ! -e "/sys/class/net/$link" ] && ! ip link show "$link" >/dev/null 2>&1; then
    ip link add "$link" index "$ifindex" address "$smac" type veth peer name "peer$ifindex" index "$((ifindex + 1000))"
    ip link set "$link" up
    ip link set "peer$ifindex" up
  fi
  gateway=$((gateway + 1))
  case $prefix in
    *:*) via=fe80::$ifindex:$gateway ;;
    *) via=169.254.$ifindex.$gateway ;;
  esac
  ip neigh replace "$via" lladdr "$dmac" nud permanent dev "$link"
  ip route replace "$prefix" via "$via" dev "$link" onlink
done
exec "$@"
