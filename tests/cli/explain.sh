# link --explain: each tail call and lookup with what became of it, and why not more.
compile two_programs
cat >m.ujit.yaml <<M
ujit-lto: 1
name: two
objects: [ { path: two_programs.o } ]
M
ujit link m.ujit.yaml --explain -o i.o
expect 0 "-> leaf: inlined, slot compared: the prog array is not sealed: its slots may change"
cat >>m.ujit.yaml <<M
prog-arrays: [ { map: calls, edges: sealed } ]
M
ujit link m.ujit.yaml --explain -o i.o
expect 0 "-> leaf: inlined"
grep -q "not sealed" out && die "a sealed array is said not to be"
ujit link m.ujit.yaml --explain --no-opt inline --no-opt clone -o i.o
expect 0 "-> leaf: direct: not inlined: switched off"
ujit link m.ujit.yaml --explain --json -o i.o
expect 0 '"explanations"' '"kind": "tail-call"' '"report"'
ujit link "$SOURCE_DIR/nothing.ujit.yaml" --explain
expect 1

# Each optimisation by its absence, and the lines of the source: exactly, on the example.
ujit link m.ujit.yaml --explain --no-opt loops -o i.o
expect 0 "optimisation inline: fired: without it +" "optimisation loops: switched off"
example=$(dirname "$UJIT_LTO")/edge-lb
[ -f "$example/edge-lb.ujit.yaml" ] || skip "the example datapath is not built"
ujit link "$example/edge-lb.ujit.yaml" --explain --no-opt clone -o i.o
expect 0 \
  "balance.h:100: xdp_backend: insn 125: jmp_table[11] -> xdp_policy: inlined" \
  "balance.h:113: xdp_policy: insn 29: lookup in endpoints (hash): hash and bucket walk in place" \
  "balance.h:25: xdp_policy: insn 5: load from edge_lb_xdp.rodata[9]: a constant" \
  "balance.h:117: xdp_policy: insn 51: index of the tail call: dynamic: index loaded from map endpoints[0], which is not frozen"
