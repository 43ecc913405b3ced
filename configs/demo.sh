#!/bin/sh
# The main job on the example datapath, as `make demo` shows it: demo.sh BUILD_FOLDER, after a build.
# The build has compiled the objects and generated the traffic in BUILD_FOLDER/edge-lb.
set -eu
tool=$1/ujit-lto
cd "$1/edge-lb"
for name in edge-lb edge-lb-tc; do
  echo "== $name: fuse"
  "$tool" link $name.ujit.yaml --bundle -o $name.ujit --stats
  echo "== $name: tail calls (drawn in $PWD/$name.ujit/graph.svg)"
  "$tool" graph $name.ujit.yaml | sed '/^$/q'
  echo "== $name: 20,000 packets, each program by itself, then fused"
  "$tool" run $name.ujit.yaml --packets edge-lb.pcap --unfused | tail -n 1
  "$tool" run $name.ujit.yaml --packets edge-lb.pcap
  echo "== $name: is it the same?"
  "$tool" check $name.ujit.yaml --packets edge-lb.pcap
done
