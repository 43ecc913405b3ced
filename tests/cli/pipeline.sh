# From bare objects to packets: init, link, graph, run, check.
compile two_programs
ujit init two_programs.o -o first.ujit.yaml
expect 0
ujit init two_programs.o -o first.ujit.yaml
expect 1 "exists already"
grep -q "entries: \[ entry \]" first.ujit.yaml || die "the entry was not guessed"
grep -q "map: calls" first.ujit.yaml || die "the prog array is not there"
grep -q "1: leaf" first.ujit.yaml || die "its slot is not there"

mkdir -p folder
ujit init two_programs.o -o folder/second.ujit.yaml
expect 0
grep -q "path: ../two_programs.o" folder/second.ujit.yaml || die "the path is not relative to the manifest"
grep -q "name: verdict, fold: 0x2 }  # 4 bytes" folder/second.ujit.yaml || die "the constant's value is not there"
ujit graph folder/second.ujit.yaml
expect 0

ujit link first.ujit.yaml -o image.o --stats
expect 0 "two_programs: 2 programs, 1 entries" "translate"
[ -s image.o ] || die "no image"
for threads in 1 2; do
  ujit link first.ujit.yaml -o image$threads.o --threads $threads
  expect 0
  cmp image.o image$threads.o || die "another image with $threads threads"
done
ujit link first.ujit.yaml -o image3.o --json
expect 0 '"code_bytes"' '"unfused": 0'
ujit link first.ujit.yaml -o image4.o --no-opt inline --no-opt clone
expect 0
ujit link first.ujit.yaml -o image4.o --no-opt everything
expect 1 "everything"

for input in first.ujit.yaml two_programs.o; do
  ujit graph $input
  expect 0 "entry" "leaf"
  ujit graph $input --format=dot
  expect 0 "digraph"
  ujit graph $input --format=json
  expect 0 '"tail_calls"' '"edges"' '"cycles"'
done
ujit graph first.ujit.yaml --format=dot -o graph.dot
expect 0
[ -s graph.dot ] || die "no drawing"

ujit symbolize image.o+0x0
expect 0 "insn"
ujit symbolize image.o+0xfffffff
expect 1 "image.o"

# Three packets: IPv4, ARP, and one too short for XDP.
{
  printf '\324\303\262\241\002\000\004\000\000\000\000\000\000\000\000\000\377\377\000\000\001\000\000\000'
  printf '\0\0\0\0\0\0\0\0\024\0\0\0\024\0\0\0' ; printf '\0\0\0\0\0\0\0\0\0\0\0\0\010\000xxxxxx'
  printf '\0\0\0\0\0\0\0\0\024\0\0\0\024\0\0\0' ; printf '\0\0\0\0\0\0\0\0\0\0\0\0\010\006xxxxxx'
  printf '\0\0\0\0\0\0\0\0\004\0\0\0\004\0\0\0' ; printf 'abcd'
} >in.pcap
ujit run first.ujit.yaml --packets in.pcap --write-packets out.pcap --dump-maps maps.json
expect 0 "2 packets" "XDP_TX" "XDP_PASS" "refused"
[ -s out.pcap ] || die "no packets"
grep -q '"counters"' maps.json || die "no maps"
ujit run first.ujit.yaml --packets in.pcap --unfused --json
expect 0 '"XDP_TX": 1' '"XDP_PASS": 1' '"mode": "unfused"'
ujit run first.ujit.yaml --packets missing.pcap
expect 1 "missing.pcap"
ujit run first.ujit.yaml --packets in.pcap --entry nobody
expect 1 "nobody" "entry"
ujit check first.ujit.yaml --packets in.pcap
expect 0 "no difference" "interpreter, unfused, fused" "1 packets not checked"
ujit check first.ujit.yaml --packets in.pcap --json --no-kernel
expect 0 '"differences": 0'
