# Each wrong input is one clear error with place, exit code 1, and nothing half written.
compile two_programs
manifest() {
  { echo "ujit-lto: 1"; echo "name: m"; echo "objects: [ { path: two_programs.o } ]"; cat; } >m.ujit.yaml
}
wrong() { # TEXT...: link must fail with these
  ujit link m.ujit.yaml -o image.o
  expect 1 "ujit-lto: error: " "$@"
  [ ! -e image.o ] || die "an image was written"
}
echo "entrys: [ entry ]" | manifest
wrong "m.ujit.yaml: line 4, column 1: unknown key 'entrys'" "did you mean 'entries'?"
echo "entries: [ entri ]" | manifest
wrong "m.ujit.yaml: line 4, column 12: entry 'entri' does not exist" "did you mean 'entry'?"
echo "prog-arrays: [ { map: call } ]" | manifest
wrong "line 4" "prog array 'call' does not exist" "did you mean 'calls'?"
echo "prog-arrays: [ { map: counters } ]" | manifest
wrong "map 'counters' must have type prog_array, it has array"
echo "prog-arrays: [ { map: calls, slots: [ { slot: 9, program: leaf } ] } ]" | manifest
wrong "slot 9" "out of range"
echo "prog-arrays: [ { map: calls, slots: [ { slot: 2, program: leav } ] } ]" | manifest
wrong "program 'leav' does not exist"
echo "target: { cpu: pentium-9000 }" | manifest
wrong "pentium-9000"
: | manifest
echo "objects: [ { path: nothing.o } ]" | { echo "ujit-lto: 1"; cat; } >m.ujit.yaml
wrong "nothing.o"
head -c 200 two_programs.o >cut.o
echo "objects: [ { path: cut.o } ]" | { echo "ujit-lto: 1"; cat; } >m.ujit.yaml
wrong "cut.o"
echo "not an object" >text.o
ujit graph text.o
expect 1 "text.o"

: | manifest
ujit link m.ujit.yaml -o /nonexistent/image.o
expect 1 "/nonexistent/image.o: cannot write: No such file or directory"
ujit link m.ujit.yaml -o .
expect 1 "cannot write: Is a directory"
printf 'garbage' >bad.pcap
ujit run m.ujit.yaml --packets bad.pcap
expect 1 "bad.pcap"
ujit link m.ujit.yaml -o image.o --no-opt inlin
expect 1 "there is no optimisation named 'inlin'" "inline, clone"
[ -z "$(ls -d ./*.tmp* 2>/dev/null)" ] || die "temporary files were left"

# Code for another machine is linked but not run.
echo "target: { cpu: bdver4 }" | manifest
printf '\324\303\262\241\2\0\4\0\0\0\0\0\0\0\0\0\0\0\4\0\1\0\0\0' >empty.pcap
ujit link m.ujit.yaml -o image.o
expect 0
grep -qw xop /proc/cpuinfo || {
  ujit run m.ujit.yaml --packets empty.pcap
  expect 1 "the image was linked for CPU 'bdver4' with " "xop" "which this machine lacks"
}
