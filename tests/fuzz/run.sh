#!/bin/bash
# run.sh BUILD FUZZ MINUTES [TARGET...]: runs the fuzz targets of folder FUZZ for so many minutes of CPU time each,
# one a CPU at a time, with seeds from build folder BUILD and the sources. Prints a line a target. What was found
# lies in FUZZ/found; inputs that reach new code in FUZZ/corpus, for the next time.
#
# libFuzzer knows wall time only, which on a busy machine is not what was computed: a target runs again for what
# it lacks, until it has had its time. And what it calls a timeout is one if the input takes a minute of CPU time
# when it is run again.
build=$1 fuzz=$2 minutes=$3 source=$(cd "$(dirname "$0")/../.." && pwd)
shift 3
targets=${*:-decode object image manifest text}
seeds=$fuzz/seeds

collect_seeds() {
  for target in decode object image manifest text; do mkdir -p "$seeds/$target" "$fuzz/corpus/$target"; done
  find "$build" -name '*.o' -path '*bpf*' -size -200k -exec cp {} "$seeds/object" \;
  for program in "$source"/tests/bpf/*.bpf.c; do
    clang-19 -O2 -g -target bpf "-I/usr/include/$(uname -m)-linux-gnu" -c "$program" \
        -o "$seeds/object/$(basename "$program" .c).o"
  done
  find "$source/configs" "$source/tests" -name '*.ujit.yaml' -exec cp {} "$seeds/manifest" \;
  find "$source/tests" \( -name '*.case' -o -path '*fuzz/seeds/*.json' -o -path '*kernel-code/*.json' \) \
       -size -200k -exec cp {} "$seeds/text" \;
  for object in "$seeds"/object/*.o; do
    for section in $(llvm-readelf-19 -S --wide "$object" | sed -n 's/.*\] \([^ ]*\) *PROGBITS.* AX .*/\1/p'); do
      llvm-objcopy-19 --dump-section "$section=$seeds/decode/$(basename "$object").$(echo "$section" | tr / _)" \
          "$object" /dev/null
    done
  done
  for object in "$seeds"/object/*.o; do # those that are a pipeline by themselves
    "$build/ujit-lto" init "$object" -o "$seeds/init.ujit.yaml" &&
      "$build/ujit-lto" link "$seeds/init.ujit.yaml" -o "$seeds/image/$(basename "$object").ujit"
    rm -f "$seeds/init.ujit.yaml"
  done >/dev/null 2>&1
}

# statistic NAME TARGET: a final statistic's sum over the target's rounds, and the largest
statistic() {
  sed -n "s/^stat::$1: *//p" "$fuzz/$2.log" | awk '{ sum += $1; if ($1 > peak) peak = $1 } END { print sum + 0, peak + 0 }'
}

# hangs TARGET: is one of its timeouts one? Those that are none are removed.
hangs() {
  for input in "$fuzz/found/$1"-timeout-*; do
    (ulimit -t 60; "$fuzz/${1}_fuzz" -timeout=1000000 "$input") >>"$fuzz/$1.log" 2>&1 || return 0
    rm "$input"
  done
  return 1
}

run() {
  target=$1 cpu=0 status=0
  : >"$fuzz/$target.log"
  while [ $status = 0 ] && left=$(awk -v m="$minutes" -v c="$cpu" 'BEGIN { l = 60 * m - c; printf "%d", l <= 0 ? 0 : l < 5 ? 5 : l }') &&
        [ "$left" -gt 0 ]; do
    TIMEFORMAT='cpu: %U %S'
    { time "$fuzz/${target}_fuzz" -max_total_time="$left" -timeout=60 -rss_limit_mb=2048 -max_len=262144 \
        -print_final_stats=1 -artifact_prefix="$fuzz/found/$target-" "$fuzz/corpus/$target" "$seeds/$target" \
        >>"$fuzz/$target.log" 2>&1; } 2>"$fuzz/$target.time"
    status=$?
    [ $status != 70 ] || hangs "$target" || status=0 # 70: libFuzzer's code for a timeout
    cpu=$(awk -v c="$cpu" '{ print c + $2 + $3 }' "$fuzz/$target.time")
  done
  read -r executions _ <<<"$(statistic number_of_executed_units "$target")"
  read -r _ memory <<<"$(statistic peak_rss_mb "$target")"
  printf '%s: %.1f CPU minutes, %d executions, %s, at most %d MB\n' "$target" \
      "$(awk -v c="$cpu" 'BEGIN { print c / 60 }')" "$executions" \
      "$(sed -n 's/.*\(cov: [0-9]*\) \(ft: [0-9]*\).*/\1 \2/p' "$fuzz/$target.log" | tail -1)" "$memory"
  [ $status = 0 ] || tail -30 "$fuzz/$target.log"
  return $status
}

mkdir -p "$fuzz/found"
collect_seeds
failed=0 running=0
for target in $targets; do
  [ $running -lt "$(nproc)" ] || { wait -n || failed=1; running=$((running - 1)); }
  run "$target" &
  running=$((running + 1))
done
while [ $running -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit $failed
