# The commands of the README's first five minutes work and print what it says: lines that begin with `$ ` are run,
# what stands below is compared, but for numbers.
ln -s "$(dirname "$UJIT_LTO")" build
[ -f build/edge-lb/edge-lb.pcap ] || skip "the example datapath is not built"
normal() { sed 's/[0-9][0-9.,]*/N/g; s/  */ /g'; }

awk '/^    \$ / { n++; inside = 1; print substr($0, 7) > ("command" n); next }
     /^    / && inside { print substr($0, 5) > ("wanted" n); next }
     /^[^ ]/ { inside = 0 }' "$SOURCE_DIR/README.md"
i=1
while [ -f "command$i" ]; do
  sh -c "$(cat "command$i")" >out 2>err || die "$(cat "command$i") fails"
  touch "wanted$i"
  normal <out | grep . >got
  normal <"wanted$i" | grep . >want
  case $(cat "command$i") in
    *" check "* | *" symbolize "*) ;; # depend on the machine: who takes part, which instructions there are
    *) diff want got >difference || { cat difference; die "$(cat "command$i") prints something else"; } ;;
  esac
  i=$((i + 1))
done
[ "$i" -gt 3 ] || die "the README has no commands"
