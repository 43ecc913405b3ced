# A gate that is passed fails the build with a message, and nothing is written.
compile two_programs
cat >gate.ujit.yaml <<'YAML'
ujit-lto: 1
name: gate
objects: [ { path: two_programs.o } ]
gates: { code-bytes: 1 }
YAML
ujit link gate.ujit.yaml -o image.o
expect 1 "gate.ujit.yaml: gate code-bytes is passed" "the limit is 1"
[ ! -e image.o ] || die "an image was written"
ujit link gate.ujit.yaml --bundle -o gate.ujit
expect 1 "gate code-bytes"
[ ! -e gate.ujit ] || die "a bundle was written"
