# The frame: help, version, wrong usage.
ujit --help
expect 0 "init" "link" "graph" "run" "check" "bench" "symbolize" "doctor"
ujit --version
expect 0 "ujit-lto"
ujit
expect 64 "ujit-lto: error:"
ujit frobnicate
expect 64 "ujit-lto: error:"
ujit link
expect 64 "MANIFEST"
ujit link a --threads many
expect 64 "ujit-lto: error:"
ujit symbolize nonsense
expect 1 "write IMAGE+0xOFFSET"
ujit link missing.ujit.yaml
expect 1 "missing.ujit.yaml: cannot read the manifest: No such file or directory"
