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

# A profile is kept beside the manifest, used by every later link, which says so, and refused if it is none.
ujit bench first.ujit.yaml --packets in.pcap --placements 2 --rounds 1 --no-ablations --profile
expect 0 "profile written to first.ujit.profile" "fused, with profile" "fused, nothing inlined" "best form: "
grep -q '"verdict"' first.ujit.profile || die "no verdict"
grep -v '"verdict"' first.ujit.profile >kept # what is fast here depends on the machine
cp kept first.ujit.profile
ujit link first.ujit.yaml -o i.o
expect 0 "note: first.ujit.profile: counts of 2 packets in 2 programs"
ujit link first.ujit.yaml -o i.o --explain
expect 0 " a packet"
ujit link first.ujit.yaml -o one.o --threads 1
ujit link first.ujit.yaml -o two.o --threads 2
cmp one.o two.o || die "the number of threads changes the image"
sed 's/"digest":"../"digest":"--/' kept >first.ujit.profile
ujit link first.ujit.yaml -o i.o
expect 0 "counts of 2 packets in 0 programs; 2 programs are not as they were"
echo '{}' >first.ujit.profile
ujit link first.ujit.yaml -o i.o
expect 1 "first.ujit.profile: not a profile"
cp kept first.ujit.profile
ujit link first.ujit.yaml --bundle -o b.ujit
expect 0
cmp kept b.ujit/manifest.ujit.profile || die "the bundle has no profile"
echo 'fuse: never' >>first.ujit.yaml
ujit link first.ujit.yaml -o i.o
expect 0 "note: linked unfused, as the manifest says"
