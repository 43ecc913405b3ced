# bench: rows side by side, gated by equal results.
compile two_programs
ujit init two_programs.o -o first.ujit.yaml
expect 0
{
  printf '\324\303\262\241\002\000\004\000\000\000\000\000\000\000\000\000\377\377\000\000\001\000\000\000'
  printf '\0\0\0\0\0\0\0\0\024\0\0\0\024\0\0\0' ; printf '\0\0\0\0\0\0\0\0\0\0\0\0\010\000xxxxxx'
  printf '\0\0\0\0\0\0\0\0\024\0\0\0\024\0\0\0' ; printf '\0\0\0\0\0\0\0\0\0\0\0\0\010\006xxxxxx'
} >in.pcap
ujit bench first.ujit.yaml --packets in.pcap --placements 2 --rounds 1 --json bench.json --markdown bench.md
expect 0 "chain" "fused, no inline" "kernel JIT, chain"
grep -q '"median_ns"' bench.json || die "no figures"
grep -q '"own_insns"' bench.json || die "no instructions"
grep -q '^| fused |' bench.md || die "no table"
grep -q 'differs' bench.md && die "a row computes something else"

head -c 24 in.pcap >empty.pcap
ujit bench first.ujit.yaml --packets empty.pcap
expect 1 "empty.pcap: there is no packet"
ujit bench first.ujit.yaml --packets in.pcap --placements 0
expect 64 "placements"
