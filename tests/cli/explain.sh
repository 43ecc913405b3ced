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
