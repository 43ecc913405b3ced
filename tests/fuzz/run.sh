#!/bin/sh
# Runs each parser's fuzz target, built in folder $2, for $3 minutes, with seeds from build folder $1 and the
# sources. What was found lies in $2/found; inputs that reach new code in $2/corpus, for the next time.
build=$1 fuzz=$2 minutes=$3 source=$(cd "$(dirname "$0")/../.." && pwd)
seeds=$fuzz/seeds
mkdir -p "$fuzz/found" "$seeds/decode" "$seeds/object" "$seeds/image" "$seeds/manifest"
find "$build" -name '*.o' -path '*bpf*' -size -200k -exec cp {} "$seeds/object" \;
find "$build" "$source/configs" -name '*.ujit.yaml' -exec cp {} "$seeds/manifest" \;
for object in "$seeds"/object/*.o; do
  for section in $(llvm-readelf-19 -S --wide "$object" | sed -n 's/.*\] \([^ ]*\) *PROGBITS.* AX .*/\1/p'); do
    llvm-objcopy-19 --dump-section "$section=$seeds/decode/$(basename "$object").$(echo "$section" | tr / _)" "$object" /dev/null
  done
done
for manifest in $(find "$build" -name '*.ujit.yaml'); do
  "$build/ujit-lto" link "$manifest" -o "$seeds/image/$(basename "$manifest" .yaml)" >/dev/null
done
failed=0
for target in decode object image manifest; do
  mkdir -p "$fuzz/corpus/$target"
  printf '%s: ' $target
  "$fuzz/${target}_fuzz" -max_total_time=$((minutes * 60)) -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
      -artifact_prefix="$fuzz/found/$target-" "$fuzz/corpus/$target" "$seeds/$target" >"$fuzz/$target.log" 2>&1 &&
    grep -E '^Done' "$fuzz/$target.log" || { failed=1; tail -30 "$fuzz/$target.log"; }
done
exit $failed
