#!/bin/sh
# The kernel's own test vectors (lib/test_bpf.c and the selftests' verifier tests) in all modes, with build folder $1.
# They come out of Debian's kernel source, which is installed if it is not there. What is refused is listed with its
# reason. $build/vectors.counts: vectors that passed, were wrong, were refused. Exit code 2: there is no source to be had.
set -e
build=$(cd "$1" && pwd) here=$(cd "$(dirname "$0")" && pwd)
tarball=/usr/src/linux-source-6.1.tar.xz
if [ ! -f $tarball ]; then
  [ "$(id -u)" = 0 ] && sudo= || sudo=sudo
  echo "installing: linux-source-6.1"
  { $sudo apt-get update -qq &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends linux-source-6.1 >/dev/null; } || exit 2
fi
out=$build/vectors
rm -f "$build/vectors.counts" "$out"/*.log
[ -f "$out/verifier.txt" ] || "$here/extract.sh" $tarball "$out"

cpus=$(nproc) failed=0
for table in verifier test_bpf; do
  pids= i=0
  while [ $i -lt "$cpus" ]; do
    "$build/ujit-vectors" "$out/$table.txt" --shard $i/"$cpus" >"$out/$table.$i.log" 2>&1 &
    pids="$pids $!" i=$((i + 1))
  done
  for pid in $pids; do wait "$pid" || failed=1; done
  grep -hv '^[0-9]* passed' "$out/$table".*.log || true
  cat "$out/$table".*.log | awk -v table=$table '/^[0-9]+ passed/ { p += $1; w += $3; r += $5 }
    END { printf "%s: %d passed, %d wrong, %d refused\n", table, p, w, r }'
done

# What the running kernel's verifier makes of those that it loads: captured and translated, or refused by name.
if [ "$(id -u)" = 0 ]; then
  "$build/ujit-vectors" "$out/verifier.txt" --captured >"$out/captured.log" 2>&1 || failed=1
  grep -v '^[0-9]* passed' "$out/captured.log" || true
  sed -n 's/^\([0-9]* passed.*\)/captured from this kernel: \1/p' "$out/captured.log"
  ! grep -q '^0 passed, 0 wrong, 0 refused' "$out/captured.log" ||
    echo "skipped: captured from this kernel: it loads none of them"
else
  echo "skipped: captured from this kernel: bpf() needs root"
fi
cat "$out"/*.log | awk '/^[0-9]+ passed/ { p += $1; w += $3; r += $5 } END { print p + 0, w + 0, r + 0 }' >"$build/vectors.counts"
exit $failed
