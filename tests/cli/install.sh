# install, estimate, list and status: what they say where they cannot do their work, and what they can say
# without changing anything.
compile two_programs
manifest() {
  { echo "ujit-lto: 1"; echo "name: m"; cat; } >m.ujit.yaml
}
fails() { # TEXT...: the last command, with these
  expect 1 "ujit-lto: error: " "$@"
}

# Manifests that say nothing or nonsense about where to attach.
: | manifest
ujit install m.ujit.yaml
fails "objects names files; a manifest with only \`attach\` takes the programs that run there"
echo "attach: [ { program: entry, interface: eth0 } ]" | manifest
ujit install --dry-run m.ujit.yaml
fails "an attach point is an interface and a hook, or a map and a slot"
echo "attach: [ { interface: eth0, hook: xpd } ]" | manifest
ujit install m.ujit.yaml
fails "'xpd' is not a hook" "hooks: xdp"
ujit install nothing.ujit.yaml
fails "nothing.ujit.yaml"
ujit estimate
[ "$code" != 0 ] || die "estimate of nothing"
ujit estimate --interface eth0 m.ujit.yaml
[ "$code" != 0 ] || die "estimate of two things"

# Names of installations.
for word in status watch enable disable uninstall; do
  ujit $word 'no/such'
  fails "cannot be the name of an installation"
done

[ "$(id -u)" = 0 ] || skip "not root"
ujit doctor --json
grep -q '"bpf"' out || die "no bpf in doctor"
ujit list
expect 0
ujit list --json
expect 0 "["
for word in status watch enable disable uninstall; do
  ujit $word nosuch
  fails "nothing named 'nosuch' is installed" "ujit-lto list"
done
ujit estimate --interface nosuch
fails "there is no network interface 'nosuch'"
echo "attach: [ { interface: nosuch, hook: xdp } ]" | manifest
ujit install --dry-run m.ujit.yaml
fails "no interface named 'nosuch'"
echo "attach: [ { interface: lo, hook: xdp-generic } ]" | manifest
ujit install --dry-run m.ujit.yaml
fails "no program is attached at lo xdp-generic"

# The whole of it but for loading.
echo "objects: [ { path: two_programs.o } ]" | manifest
ujit install --dry-run m.ujit.yaml
case $(cat err) in
*"BPF iterators"* | *CAP_* | *BTF*) skip "$(head -1 err)" ;;
esac
expect 0 "m: 2 programs" "leaving"
ujit install --dry-run --json m.ujit.yaml
expect 0 '"module-bytes"' '"would-load"'
ujit estimate m.ujit.yaml
expect 0 "gain" "cost"
ujit estimate --json m.ujit.yaml
expect 0 '"code-bytes"' '"blockers"'
ujit link --from-kernel m.ujit.yaml -o kernel.o
expect 0 "written     kernel.o"
[ -s kernel.o ] || die "no image"
ujit graph --from-kernel m.ujit.yaml
expect 0 "entry"
ujit install m.ujit.yaml
fails "the manifest says nowhere to attach to" "attach:"
ujit list
expect 0 "nothing is installed"
