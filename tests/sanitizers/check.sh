#!/bin/bash
# Runs the suite in each of the build folders, which sanitizers are built into, and sums up as tests/check.sh does: the
# last line is `N passed, N failed, N skipped`. Guests are left out: what runs in them is native code, which no
# sanitizer sees, and the tools that start it, which run here too. So are the kernel's test vectors, for their time.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/options.sh"
export UJIT_NO_GUEST=1 UJIT_NO_VECTORS=1 UJIT_TEST_TIMEOUT=3000
failed=0 passed_sum=0 failed_sum=0 skipped_sum=0
for build; do
  echo "$build:"
  "$here/../check.sh" "$build" | tee "$build/summary.log"
  [ "${PIPESTATUS[0]}" = 0 ] || failed=1
  read -r passed _ bad _ skipped _ <<<"$(tail -n 1 "$build/summary.log")"
  passed_sum=$((passed_sum + passed)) failed_sum=$((failed_sum + bad)) skipped_sum=$((skipped_sum + skipped))
done

# The compiler of ujit-lto leaves no trace in what ujit-lto makes: the first of the builds is clang's, the other GCC's.
first=$1
shift
same_image() {
  for one in "$first" "$1"; do
    "$one/ujit-lto" link --no-debug -o "$one/same.ujit.o" "$2" >/dev/null || return 1
  done
  cmp "$first/same.ujit.o" "$1/same.ujit.o"
}
for build; do
  for manifest in "$first"/edge-lb/*.ujit.yaml; do
    if same_image "$build" "$manifest"; then
      passed_sum=$((passed_sum + 1))
    else
      echo "FAILED  $build/ujit-lto makes another image of $manifest than $first/ujit-lto"
      failed=1 failed_sum=$((failed_sum + 1))
    fi
  done
done
echo "$passed_sum passed, $failed_sum failed, $skipped_sum skipped"
exit $failed
