# doctor answers on every machine, as text and as JSON.
ujit doctor
expect 0 "kernel" "bpf"
ujit doctor --json
expect 0 '"name"' '"ok"' '"reason"'
