#!/bin/sh
# The main job on the example datapath, as `make demo` shows it: demo.sh BUILD_FOLDER, after a build.
# The build has compiled the objects and generated the traffic in BUILD_FOLDER/edge-lb.
set -eu
tool=$1/ujit-lto
here=$(cd "$(dirname "$0")" && pwd)
cd "$1/edge-lb"

# As root, the running kernel takes part, with the manifest's routes in a network namespace of its own.
routes=
if [ "$(id -u)" = 0 ] && unshare --net true 2>/dev/null && command -v ip >/dev/null; then
  routes=$here/edge-lb/netns.sh
fi

for name in edge-lb edge-lb-tc; do
  echo "== $name: fuse"
  "$tool" link $name.ujit.yaml --bundle -o $name.ujit --stats
  echo "== $name: tail calls (drawing: $1/edge-lb/$name.ujit/graph.svg)"
  "$tool" graph $name.ujit.yaml | head -n 4
  echo "== $name: run, one program at a time and fused"
  "$tool" run $name.ujit.yaml --packets edge-lb.pcap --unfused | tail -n 1
  "$tool" run $name.ujit.yaml --packets edge-lb.pcap
  echo "== $name: check"
  ${routes:+$routes $name.ujit.yaml} "$tool" check $name.ujit.yaml --packets edge-lb.pcap
done
