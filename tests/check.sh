#!/bin/sh
# Runs all tests of build folder $1 and sums up: failures with their output, skipped tests with their reasons,
# and as the last line `N passed, N failed, N skipped`. Exit code 1 if one failed or none ran. The tests that
# concern a kernel also run in Debian's stock kernels under QEMU (UJIT_NO_GUEST=1 leaves that out), and the kernel's
# own test vectors in all modes (UJIT_NO_VECTORS=1).
build=$1
results=$build/tests.xml
rm -f "$results"
ctest --test-dir "$build" -j "$(nproc)" --timeout "${UJIT_TEST_TIMEOUT:-600}" --output-on-failure --output-junit tests.xml \
      --quiet >"$build/tests.log" 2>&1
status=$?
[ -f "$results" ] || { cat "$build/tests.log"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }

guests_failed=0
rm -f "$build"/guest-*.counts # of an earlier run
if [ -n "$UJIT_NO_GUEST" ]; then
  echo "skipped: guest kernels: UJIT_NO_GUEST is set"
else
  BUILD=$build "$(dirname "$0")/guest/check" tests all 2>"$build/guest.errors"
  case $? in
  0) ;;
  2) echo "skipped: guest kernels: $(sed -n 's/^guest: //p' "$build/guest.errors" | head -1)" ;;
  *) guests_failed=1; cat "$build/guest.errors" ;;
  esac
fi
guests=$(cat "$build"/guest-*.counts 2>/dev/null | awk '{ p += $1; f += $2; s += $3 } END { print p + 0, f + 0, s + 0 }')

vectors_failed=0
rm -f "$build/vectors.counts"
if [ -n "$UJIT_NO_VECTORS" ]; then
  echo "skipped: the kernel's test vectors: UJIT_NO_VECTORS is set"
else
  "$(dirname "$0")/vectors/check.sh" "$build" >"$build/vectors.log" 2>&1
  case $? in
  0) grep -E '[0-9]+ passed, .* refused$' "$build/vectors.log"; echo "vectors that are refused, and why: $build/vectors.log" ;;
  2) echo "skipped: the kernel's test vectors: $(tail -1 "$build/vectors.log")" ;;
  *) vectors_failed=1; tail -50 "$build/vectors.log" ;;
  esac
fi
vectors=$(cat "$build/vectors.counts" 2>/dev/null)

awk -v status="$status" -v guests="$guests" -v guests_failed="$guests_failed" \
    -v vectors="$vectors" -v vectors_failed="$vectors_failed" '
  BEGIN {
    split(guests, counts, " "); passed = counts[1]; failed = counts[2]; skipped = counts[3]
    split(vectors, counts, " "); passed += counts[1]; failed += counts[2]
    if (vectors_failed && counts[2] == 0) failed++
  }
  function text(s) { gsub(/&lt;/, "<", s); gsub(/&gt;/, ">", s); gsub(/&quot;/, "\"", s); gsub(/&amp;/, "\\&", s); return s }
  /<testcase / {
    name = $0; sub(/.*<testcase name="/, "", name); sub(/".*/, "", name); name = text(name)
    state = $0; sub(/.* status="/, "", state); sub(/".*/, "", state)
    output = ""; inside = 0
  }
  /<system-out>/ { inside = 1; sub(/.*<system-out>/, "") }
  inside {
    line = $0; ends = sub(/<\/system-out>.*/, "", line)
    output = output text(line) "\n"
    if (ends) inside = 0
  }
  /<\/testcase>/ {
    if (state == "run") passed++
    else if (state == "fail") { failed++; printf "FAILED  %s\n%s\n", name, output }
    else {
      skipped++
      n = split(output, lines, "\n"); reason = "no reason given"
      for (i = 1; i <= n; i++) {
        if (lines[i] ~ /^SKIP: /) reason = substr(lines[i], 7)
        else if (lines[i] ~ /: Skipped$/ && lines[i + 1] != "") reason = lines[i + 1]
      }
      reasons[reason]++; example[reason] = name
    }
  }
  END {
    for (r in reasons) printf "skipped %d (%s%s): %s\n", reasons[r], example[r], (reasons[r] > 1 ? ", ..." : ""), r
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    exit failed > 0 || passed == 0 || guests_failed || (status != 0 && failed == 0)
  }' "$results"
