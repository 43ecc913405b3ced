# Prog-array indices that are configuration, copied to per-CPU state by the first program: they become constants through
# the whole link, behind helpers, for either of two sets, and handed on in cb[].
compile indices_in_state
numbers() { # the bytes of a struct settings whose first indices are $1 ... $4
  for i in $(seq 40); do printf '0, '; done
  for i in "$@" 0 0 0 0; do printf '%d, 0, 0, 0, ' "$i"; done | sed 's/, $//'
}
manifest() { # entry, its second program, lines to add
  cat <<M
ujit-lto: 1
name: indices
objects:
  - path: indices_in_state.o
    constants: [ { name: configured, fold: [ $(numbers 1 2 3 4), $(numbers 1 7 3 4) ] } ]
prog-arrays:
  - { map: programs, slots: [ { slot: 1, program: $2 }, { slot: 3, program: allowed }, { slot: 4, program: denied },
                              { slot: 9, program: unused } ] }
  - { map: policies, slots: [ { slot: 2, program: policy }, { slot: 7, program: policy } ] }
entries: [ $1 ]
$3
M
}
manifest preamble main_program "scratch-maps: [ state_map ]" >copy.ujit.yaml
manifest preamble_by_update main_by_update "scratch-maps: [ copied ]" >update.ujit.yaml
manifest preamble main_program >open.ujit.yaml

for m in copy update; do
  ujit graph $m.ujit.yaml
  expect 0 "cycles: none" "-> policy" "programs[3]  guarded  -> allowed" "programs[4]  guarded  -> denied"
  grep -q -e "-> unused" out && die "an index is not known"
  ujit link $m.ujit.yaml --stats -o $m.o
  expect 0 "0 left"
done
ujit graph copy.ujit.yaml
expect 0 "policies[2]  guarded" "policies[7]  guarded"
# Without the word that nobody else writes the state, the update of the flow table may change it.
ujit graph open.ujit.yaml
expect 0 "-> unused"
ujit link update.ujit.yaml --no-opt inline-updates -o without.o
expect 0
cmp -s update.o without.o && die "updates in place change nothing"

# IPv4 and IPv6, short and long.
packet() { # length, EtherType
  printf "\\0\\0\\0\\0\\0\\0\\0\\0\\$(printf %o "$1")\\0\\0\\0\\$(printf %o "$1")\\0\\0\\0"
  printf '\0\0\0\0\0\0\0\0\0\0\0\0'
  printf "$2"
  for i in $(seq $(($1 - 14))); do printf x; done
}
{
  printf '\324\303\262\241\002\000\004\000\000\000\000\000\000\000\000\000\377\377\000\000\001\000\000\000'
  packet 40 '\010\000'
  packet 80 '\010\000'
  packet 40 '\206\335'
  packet 80 '\206\335'
} >in.pcap
for m in copy update open; do
  ujit run $m.ujit.yaml --packets in.pcap
  expect 0 "TC_ACT_SHOT"
  ujit check $m.ujit.yaml --packets in.pcap
  expect 0 "no difference" "interpreter, unfused, fused"
done
